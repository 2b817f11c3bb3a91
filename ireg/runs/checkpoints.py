"""Checkpoints as they are read.

They are used only if they are whole and the run's own.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ireg.runs.layout import CHECKPOINTS, LAST, METRICS, PREVIOUS
from ireg.runs.metrics import Row, read_rows

if TYPE_CHECKING:  # torch takes a while to import
    from torch import Tensor

log = logging.getLogger(__name__)

KEY = "ireg"
"""What a checkpoint holds beside Lightning's own: which run it is of, and torch's random states."""


class DamagedCheckpointError(Exception):
    """Error of a file that is no checkpoint, or not whole.

    The text follows its name.
    """


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint onto the CPU; it cannot run code (`weights_only`).

    Raises:
        DamagedCheckpointError: the file is no checkpoint, or not whole.
        OSError: it cannot be read.
    """
    import torch

    try:
        content: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except OSError:
        raise
    except Exception as error:  # what torch raises depends on where the file is damaged
        raise DamagedCheckpointError(f"cannot be read ({str(error).splitlines()[0]})") from error
    return content


@dataclass(frozen=True)
class Resumption:
    """Where a run resumes: its checkpoint, or None, and its rows.

    The rows are those up to there, row 0 included.
    """

    checkpoint: Path | None = None
    rows: Mapping[int, Row] = field(default_factory=dict)


class _UnusableError(Exception):
    """Say why a checkpoint cannot be used.

    The words follow its name.
    """


def find_resumption(folder: Path, *, run: str, model: Mapping[str, Tensor]) -> Resumption:
    """Find where a run can resume.

    It is the last checkpoint, the one before, or the beginning.

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
    for path in (checkpoints / LAST, checkpoints / PREVIOUS):
        if not path.exists():
            continue
        try:
            epoch = _completed_epochs(path, run, model)
            return Resumption(path, _rows_up_to(epoch, folder / METRICS))
        except _UnusableError as error:
            aside = _set_aside(path)
            log.warning("%s %s; it is kept as %s, and is not used", path, error, aside.name)
    return Resumption()


def _completed_epochs(path: Path, run: str, model: Mapping[str, Tensor]) -> int:
    """Return the number of epochs that a checkpoint has behind it.

    None if it cannot be read or is of another run.
    """
    try:
        content = read_checkpoint(path)
    except DamagedCheckpointError as error:
        raise _UnusableError(str(error)) from error
    try:
        found, epoch, state = content[KEY]["run"], int(content["epoch"]) + 1, content["state_dict"]
        shapes = {name: tuple(value.shape) for name, value in state.items()}
    except (KeyError, TypeError, AttributeError) as error:
        raise _UnusableError("is not a checkpoint of a run") from error
    if found != run:
        raise _UnusableError("is of a run with another configuration")
    if shapes != {name: tuple(value.shape) for name, value in model.items()}:
        raise _UnusableError("is of another network")
    return epoch


def _rows_up_to(epoch: int, path: Path) -> dict[int, Row]:
    try:
        rows = read_rows(path) if path.exists() else {}
    except ValueError as error:
        raise _UnusableError(f"cannot be taken up without its rows, and {path.name} is damaged ({error})") from error
    kept = {number: row for number, row in rows.items() if number <= epoch}
    if list(kept) != list(range(epoch + 1)):
        raise _UnusableError(f"has {epoch} epochs behind it, whose rows are not all in {path.name}")
    return kept


def _set_aside(path: Path) -> Path:
    number = 1
    while (aside := path.with_name(f"{path.name}.unusable-{number}")).exists():
        number += 1
    os.replace(path, aside)
    return aside
