"""Checkpoints as they are read: they are used only if they are whole and the run's own."""

from __future__ import annotations

import io
import logging
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ireg.runs.digest import digest
from ireg.runs.layout import CHECKPOINTS, LAST, METRICS, PREVIOUS
from ireg.runs.metrics import TIME, TIMES, Row, read_rows
from ireg.system.files import set_aside
from ireg.system.reading import LARGEST_CHECKPOINT, NotReadError, read_bytes

if TYPE_CHECKING:  # torch takes a while to import
    from torch import Tensor

log = logging.getLogger(__name__)

KEY = "ireg"
"""What a checkpoint holds beside Lightning's own: which run it is of, torch's random states, and two digests."""

HELD_OUT_WRONG = "held_out_wrong"
"""Where a checkpoint holds, by epoch, which held-out examples are wrong."""

DIGEST, ROWS = "digest", "rows"
"""Where these are: of the checkpoint's content, and of the rows that it has behind it."""


class DamagedCheckpointError(Exception):
    """Error of a file that is no checkpoint, or not whole; its text follows the file's name."""


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint onto the CPU, as data that cannot run code (`weights_only`).

    Every byte of it is checked: torch itself does not look at the checksums of its files.

    Raises:
        DamagedCheckpointError: the file is no checkpoint, or not whole, or not as it was written.
        OSError: it cannot be opened or read.
    """
    import torch

    file = io.BytesIO(_bytes(path))  # what is raised from here on is not the file system's
    try:
        with zipfile.ZipFile(file) as members:
            damaged = members.testzip()
        file.seek(0)
        content = torch.load(file, map_location="cpu", weights_only=True) if damaged is None else None
    except MemoryError:
        raise
    except Exception as error:  # what torch raises depends on where the file is damaged
        raise DamagedCheckpointError(f"cannot be read ({_first_line(error)})") from error
    if damaged is not None:
        raise DamagedCheckpointError(f"cannot be read (wrong checksum of {damaged})")
    if not isinstance(content, dict):
        raise DamagedCheckpointError("is not a checkpoint of a run")
    if _is_changed(content):
        raise DamagedCheckpointError("is not as it was written")
    return content


def _bytes(path: Path) -> bytes:
    try:
        return read_bytes(path, largest=LARGEST_CHECKPOINT)
    except IsADirectoryError as error:
        raise DamagedCheckpointError("is not a file") from error
    except NotReadError as error:
        raise DamagedCheckpointError(str(error.strerror)) from error


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def _is_changed(content: Mapping[str, Any]) -> bool:
    """Say whether a checkpoint's content has another digest than noted; earlier versions noted none."""
    own = content.get(KEY)
    if not isinstance(own, dict) or DIGEST not in own:
        return False
    return own[DIGEST] != digest(_without_digest(content))


def with_digest(content: Mapping[str, Any]) -> dict[str, Any]:
    """Return a checkpoint's content with its digest."""
    return {**content, KEY: {**content.get(KEY, {}), DIGEST: digest(_without_digest(content))}}


def _without_digest(content: Mapping[str, Any]) -> dict[str, Any]:
    return {**content, KEY: {key: value for key, value in content.get(KEY, {}).items() if key != DIGEST}}


@dataclass(frozen=True)
class Resumption:
    """Where a run resumes: its checkpoint, and its rows up to there, row 0 included.

    Attributes:
        checkpoint: the file; None where the run begins.
        rows: by epoch.
    """

    checkpoint: Path | None = None
    rows: Mapping[int, Row] = field(default_factory=dict)


class _UnusableError(Exception):
    """Error of a checkpoint that cannot be used; its text follows the file's name, and says why."""


def find_resumption(folder: Path, *, run: str, model: Mapping[str, Tensor]) -> Resumption:
    """Find where a run can resume: after the last checkpoint, after the one before, or at the beginning.

    A checkpoint that is not whole, not this run's, or whose rows are not all there, is named in a warning and set
    aside as `<name>.unusable-<n>`.

    Args:
        folder: the run folder.
        run: the mark that the run's own checkpoints bear, see `LastCheckpoint`.
        model: the state of the network, whose names and shapes a checkpoint must have.

    Raises:
        OSError: a file is there and cannot be read.
    """
    checkpoints = folder / CHECKPOINTS
    resumption = None
    unusable = _set_aside_what_is_no_place(checkpoints)
    for path in (checkpoints / LAST, checkpoints / PREVIOUS):
        if not path.exists() or (resumption is not None and path.is_file()):
            continue
        try:
            epoch, rows = _completed_epochs(path, run, model)
            resumption = Resumption(path, _rows_up_to(epoch, rows, folder / METRICS))
        except (_UnusableError, DamagedCheckpointError) as error:
            _set_aside(path, str(error))
            unusable = True
    if unusable and resumption is None:
        log.warning("%s: no checkpoint can be used; the run begins again", folder)
    return resumption or Resumption()


def _completed_epochs(path: Path, run: str, model: Mapping[str, Tensor]) -> tuple[int, str | None]:
    """Return a checkpoint's number of epochs, and its rows' digest.

    The digest is None where an earlier version wrote the checkpoint.

    Raises:
        DamagedCheckpointError: it is no checkpoint, or not whole.
        _UnusableError: it is another run's.
    """
    content = read_checkpoint(path)
    try:
        mark, epoch, state = content[KEY]["run"], int(content["epoch"]) + 1, content["state_dict"]
        shapes = {name: tuple(value.shape) for name, value in state.items()}
        rows = content[KEY].get(ROWS)
    except (KeyError, TypeError, AttributeError, ValueError, OverflowError) as error:
        raise _UnusableError("is not a checkpoint of a run") from error
    if mark != run:
        raise _UnusableError("is of a run with another configuration")
    if shapes != {name: tuple(value.shape) for name, value in model.items()}:
        raise _UnusableError("is of another network")
    return epoch, rows


def _rows_up_to(epoch: int, expected: str | None, path: Path) -> dict[int, Row]:
    """Return the rows up to an epoch.

    Raises:
        _UnusableError: they are not all there, or not those that the checkpoint was written with.
    """
    try:
        rows = read_rows(path) if path.exists() else {}
    except ValueError as error:
        raise _UnusableError(f"cannot be taken up without its rows, and {path.name} is damaged ({error})") from error
    kept = {number: row for number, row in rows.items() if number <= epoch}
    if epoch < 1 or len(kept) != epoch + 1 or list(kept) != list(range(epoch + 1)):
        raise _UnusableError(f"has {epoch} epochs behind it, whose rows are not all in {path.name}")
    if (expected is not None and rows_digest(kept) != expected) or any(TIME not in row for row in kept.values()):
        raise _UnusableError(f"cannot be taken up without its rows, and {path.name} is not as it was written")
    return kept


def rows_digest(rows: Mapping[int, Row]) -> str:
    """Compute a digest of rows, whose cells may come in any order.

    Of times it has the tags alone: a run that is repeated has the same digest.
    """

    def cells(row: Row) -> list[tuple[str, float | None]]:
        return sorted((tag, None if tag.startswith(TIMES) else float(value)) for tag, value in row.items())

    return digest([[epoch, cells(rows[epoch])] for epoch in sorted(rows)])


def _set_aside_what_is_no_place(checkpoints: Path) -> bool:
    """Set aside what is there in place of the folder of checkpoints; say whether there was such."""
    if not checkpoints.exists() or checkpoints.is_dir():
        return False
    _set_aside(checkpoints, "is not a folder")
    return True


def _set_aside(path: Path, why: str) -> None:
    aside = set_aside(path)
    log.warning("%s %s; it is kept as %s, and is not used", path, why, aside.name)
