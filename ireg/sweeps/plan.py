"""`sweep.json`: which runs a sweep was asked for, so that those still to come are known, too."""

import json
import os
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from ireg.analysis.write import require_own_tables
from ireg.runs.damage import DamagedRecordError
from ireg.runs.lock import locked
from ireg.system.errors import UserError
from ireg.system.files import below, making, set_aside, write_text
from ireg.system.reading import read_text

FILE_NAME = "sweep.json"


def read_plan(sweep: Path) -> dict[str, list[str]]:
    """Return what was set for each run that a sweep's folder was asked for, by its folder's name.

    Raises:
        DamagedRecordError: the file is there and not valid JSON.
        UserError: it is valid, and no list of runs.
    """
    path = sweep / FILE_NAME
    try:
        text = read_text(path)
        content = json.loads(text)
    except FileNotFoundError:
        return {}
    except (ValueError, RecursionError) as error:
        raise DamagedRecordError(f"{path}: not readable as JSON ({error})") from error
    try:
        if list(content) != ["runs"] or not all(map(_is_list_of_texts, content["runs"].values())):
            raise ValueError("something else")
        if wrong := [name for name in content["runs"] if not _is_within(name)]:
            raise ValueError(f"{wrong[0]!r} is no folder within the sweep's")
    except (ValueError, AttributeError, TypeError) as error:
        raise UserError(
            f"{path}: not a list of runs ({error}); delete it, and the next command writes it again, "
            "or choose another folder with name=… or hydra.sweep.dir=…"
        ) from error
    return dict(content["runs"])


def _is_list_of_texts(given: object) -> bool:
    return isinstance(given, list) and all(isinstance(part, str) for part in given)


def _is_within(name: str) -> bool:
    """Say whether a run's name is a place within the sweep's folder: one of plain names."""
    parts = name.split("/")
    return all(part not in ("", os.curdir, os.pardir) and part.isprintable() for part in parts)


def add_to_plan(sweep: Path, runs: Mapping[str, Sequence[str]]) -> None:
    """Add runs to those that were asked for, and make the folder.

    A file that is damaged is kept under another name, and begun again.

    Raises:
        UserError: the file is there and of another program, another process has held the folder for a minute, its file
            system has no locks, or it holds files of others that the sweep would replace.
    """
    with suppress(DamagedRecordError):
        read_plan(sweep)  # before anything is written there, a lock too
    require_own_tables(sweep)
    _require_own_description(sweep)
    with making(sweep), locked(sweep, seconds=60):
        everything = _plan_or_none(sweep) | {name: list(overrides) for name, overrides in runs.items()}
        write_text(sweep / FILE_NAME, json.dumps({"runs": everything}, indent=1) + "\n")


def _plan_or_none(sweep: Path) -> dict[str, list[str]]:
    try:
        return read_plan(sweep)
    except DamagedRecordError as error:
        aside = set_aside(sweep / FILE_NAME)
        print(f"{error}; it is kept as {aside.name}, and begun again", file=sys.stderr)
        return {}


def _require_own_description(sweep: Path) -> None:
    """Refuse another program's `multirun.yaml`, and links where Hydra and its launchers write."""
    path = below(sweep, "multirun.yaml")
    below(sweep, ".submitit")
    if path.is_file() and not (sweep / FILE_NAME).exists() and "ireg.sweeps" not in read_text(path, errors="replace"):
        raise UserError(
            f"{path} is of another program's sweep, and would be replaced; choose another folder with name=… or "
            "hydra.sweep.dir=…, or move it"
        )


def short_names(names: Sequence[str], plan: Mapping[str, Sequence[str]]) -> dict[str, str]:
    """Name each run by what was set for it alone, or by its folder where that is not known of all."""
    if len(names) < 2 or not set(names) <= set(plan):
        return {name: name for name in names}
    common = set.intersection(*(set(plan[name]) for name in names))
    parts = {name: [part for part in plan[name] if part not in common] for name in names}
    return {name: " ".join(part.removeprefix("optimizer=") for part in parts[name]) or name for name in names}
