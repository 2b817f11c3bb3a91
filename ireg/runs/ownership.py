"""Whose the files of a run's folder are: a run replaces and removes only what runs of `ireg` wrote."""

import re
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from ireg.config.schema import REQUIRED
from ireg.runs.checkpoints import KEY, DamagedCheckpointError, read_checkpoint
from ireg.runs.layout import CHECKPOINTS, EVENTS, HELD_OUT, LABELS, LAST, LOG, METRICS, PREVIOUS, STATUS
from ireg.runs.status import FINISHED, flat, read_status, values
from ireg.system.errors import UserError
from ireg.system.files import below
from ireg.system.reading import read_text

_WRITTEN = (METRICS, LABELS, HELD_OUT, f"{CHECKPOINTS}/*.ckpt", EVENTS)
"""What a run writes once it has a status."""


_HYDRA = ("config.yaml", "hydra.yaml", "overrides.yaml")
"""What Hydra writes into `.hydra`."""


class FilesOfOthersError(UserError):
    """A folder without a status holds files like a run's."""


def files_of_others(folder: Path) -> list[str]:
    """List the files with names that a run needs, in a folder without a status.

    What a run leaves that ends before it has a status is not listed: empty files, and Hydra's `.hydra` and log. Beside
    the configuration of a run that has lost its status nothing is listed.
    """
    if _is_configuration(folder / ".hydra" / _HYDRA[0]):
        return []
    hydra = [*(f".hydra/{name}" for name in _HYDRA), LOG]
    files = [path.relative_to(folder).as_posix() for pattern in _WRITTEN for path in sorted(folder.glob(pattern))]
    return [*files, *(name for name in (*hydra, ".lock") if _has_content(folder / name))]


def _has_content(path: Path) -> bool:
    return path.is_file() and path.stat().st_size > 0


def _is_configuration(path: Path) -> bool:
    """Say whether a file is a run's configuration: one of Hydra's with the keys that a run's has."""
    if not path.is_file():
        return False
    keys = {line.partition(":")[0] for line in read_text(path, errors="replace").splitlines()}
    return keys >= REQUIRED


def _has_checkpoint(folder: Path) -> bool:
    """Say whether a folder has a checkpoint of a run's."""
    paths = [path for name in (LAST, PREVIOUS) if (path := folder / CHECKPOINTS / name).is_file()]
    for path in paths:
        with suppress(DamagedCheckpointError, OSError):
            if KEY in read_checkpoint(path):
                return True
    return False


def event_files(folder: Path, starts: Iterable[Mapping[str, Any]]) -> list[Path]:
    """List the event files that these starts of a run wrote, by the host and the process in their names.

    Args:
        folder: the run's.
        starts: of its status, each with `host` and `pid`.
    """
    writers = "|".join(re.escape(f"{start.get('host')}.{start.get('pid')}") for start in starts)
    own = re.compile(rf"events\.out\.tfevents\.\d+\.({writers})\.\d+")
    return [path for path in sorted(folder.glob(EVENTS)) if own.fullmatch(path.name)]


def finished(folder: Path, config: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the status of a folder where this run is finished; refuse one where it cannot be done.

    Args:
        folder: the run's, which need not exist.
        config: the run's configuration.

    Returns:
        The status; None where the run is still to be done.

    Raises:
        DamagedRecordError: its status cannot be read.
        FilesOfOthersError: it has no status, and holds files of others that the run needs the names of.
        UserError: it belongs to a run of another configuration, has a name that is not UTF-8, or a link where the run
            would write.
    """
    _require_utf8(folder)
    for place in (".lock", LOG, CHECKPOINTS, ".hydra", *(f".hydra/{name}" for name in _HYDRA)):
        below(folder, *place.split("/"))
    others = files_of_others(folder)  # looked for first: a process that begins meanwhile writes its status before any
    status = read_status(folder)
    if status is None:
        if others and _has_checkpoint(folder):  # which imports torch, and is asked only here
            others = []
        others += [STATUS] if (folder / STATUS).exists() else []
        if others:
            raise FilesOfOthersError(
                f"{folder} has no status of a run, and holds files that a run would replace or be mixed with "
                f"({', '.join(others[:3])}); move them, or choose another folder with name=…, hydra.run.dir=… or --into"
            )
        return None
    if values(status["config"]) != values(config):
        raise UserError(
            f"{folder} holds a run of another configuration ({_difference(status['config'], config)}); "
            "choose another folder with name=… or delete this one"
        )
    return status if status["state"] in FINISHED else None


def _require_utf8(folder: Path) -> None:
    """Refuse a folder that TensorBoard cannot write to, before anything is trained."""
    try:
        str(folder).encode()
    except UnicodeEncodeError:
        raise UserError(
            f"{folder}: the name is not UTF-8, and TensorBoard cannot write there; choose another place with "
            "hydra.run.dir=…, under -m with hydra.sweep.dir=…"
        ) from None


def _difference(old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
    """Name the first three keys whose values differ, as `key: old there, new here`."""
    before, after = values(old), values(new)
    keys = [key for key in sorted({*before, *after}) if before.get(key) != after.get(key)]
    there, here = flat(old), flat(new)
    return "; ".join(f"{key}: {there.get(key, 'nothing')} there, {here.get(key, 'nothing')} here" for key in keys[:3])
