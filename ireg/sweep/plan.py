"""`sweep.json`: which runs the commands of a sweep have asked for, so that those still to come are known, too."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from ireg.errors import UserError
from ireg.files import making, write_text
from ireg.sweep.lock import locked

FILE_NAME = "sweep.json"


def read_plan(sweep: Path) -> dict[str, list[str]]:
    """The runs of a sweep's folder that were asked for: what was set for each, by its folder's name.

    Raises:
        UserError: the file is there and not valid.
    """
    path = sweep / FILE_NAME
    try:
        return dict(json.loads(path.read_text(encoding="utf-8"))["runs"])
    except FileNotFoundError:
        return {}
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: not a list of runs ({error}); delete it, the next command writes it anew") from error


def add_to_plan(sweep: Path, runs: Mapping[str, Sequence[str]]) -> None:
    """Add runs to those that were asked for; the folder is made.

    Raises:
        UserError: the file is there and not valid, another process has held the folder for a minute, or its file
            system has no locks.
    """
    with making(sweep), locked(sweep, seconds=60):
        everything = read_plan(sweep) | {name: list(overrides) for name, overrides in runs.items()}
        write_text(sweep / FILE_NAME, json.dumps({"runs": everything}, indent=1) + "\n")
