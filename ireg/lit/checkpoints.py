"""Checkpoints: written in one step, and taken up again only if they are whole and the run's own."""

import io
import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.pytorch.callbacks import Checkpoint
from torch import Tensor

from ireg.files import replacing
from ireg.lit.loggers import Row, read_rows

log = logging.getLogger(__name__)

LAST, PREVIOUS = "last.ckpt", "previous.ckpt"
KEY = "ireg"
"""What a checkpoint holds beside Lightning's own: which run it is of, and torch's random states."""


class AtomicCheckpointIO(TorchCheckpointIO):
    """Checkpoints that are whole or absent: written beside their place, then renamed; the one before is kept.

    Lightning's own way goes through the system's temporary folder, and a move between file systems is no rename.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None) -> None:
        """Write `checkpoint` to `path` in one step; what was there becomes `previous.ckpt`."""
        path = Path(path)
        # By way of memory: torch's own writer makes a RuntimeError of a full disk.
        content = io.BytesIO()
        torch.save(checkpoint, content)
        with replacing(path) as temporary:
            temporary.write_bytes(content.getbuffer())
            if path.exists():
                os.replace(path, path.with_name(PREVIOUS))


class LastCheckpoint(Checkpoint):
    """The state of training after the last epoch, in `last.ckpt`, and that of the checkpoint before in `previous.ckpt`.

    Lightning's own `ModelCheckpoint` can do more, and looks at every step whether it should.

    Args:
        folder: where the files go.
        run: what tells this run's checkpoints from others', as the hash of its configuration.
        every: write one each so many epochs, and after the last.
    """

    def __init__(self, folder: Path, *, run: str, every: int = 1) -> None:
        self.folder = folder
        self.run = run
        self.every = every
        self._random_states: Mapping[str, Any] | None = None

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Write the file; the epoch's row has been recorded by then."""
        epoch = trainer.current_epoch + 1
        if epoch % self.every == 0 or epoch == trainer.max_epochs or trainer.should_stop:
            for logger in trainer.loggers:
                logger.save()  # no row may be missing that the checkpoint has behind it
            trainer.save_checkpoint(self.folder / LAST, weights_only=False)

    def on_save_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        """Add the run's mark, and the states of the random streams that layers like dropout draw from."""
        checkpoint[KEY] = {"run": self.run, "cpu": torch.get_rng_state(), "cuda": _cuda_states(trainer)}

    def on_load_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        """Keep the random states until training starts."""
        self._random_states = checkpoint[KEY]

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Set the random streams to where they were."""
        if self._random_states is not None:
            torch.set_rng_state(self._random_states["cpu"])
            if self._random_states["cuda"]:
                torch.cuda.set_rng_state_all(self._random_states["cuda"])


def _cuda_states(trainer: L.Trainer) -> list[Tensor]:
    return torch.cuda.get_rng_state_all() if trainer.strategy.root_device.type == "cuda" else []


@dataclass(frozen=True)
class Resumption:
    """Where a run goes on: its checkpoint, or None for the beginning, and the rows up to there, row 0 included."""

    checkpoint: Path | None = None
    rows: Mapping[int, Row] = field(default_factory=dict)


class _UnusableError(Exception):
    """Why a checkpoint cannot be taken up, in words that follow its name."""


def find_resumption(folder: Path, *, run: str, model: Mapping[str, Tensor]) -> Resumption:
    """Where the run of a folder can go on: at its last checkpoint, else at the one before, else at the beginning.

    A checkpoint that is not whole, not this run's, or whose rows are not all there, is named in a warning and set
    aside as `<name>.unusable-<n>`.

    Args:
        folder: the run folder.
        run: the mark that the run's own checkpoints bear, see `LastCheckpoint`.
        model: the state of the network, whose names and shapes a checkpoint must have.

    Raises:
        OSError: a file is there and cannot be read.
    """
    checkpoints = folder / "checkpoints"
    for path in (checkpoints / LAST, checkpoints / PREVIOUS):
        if not path.exists():
            continue
        try:
            epoch = _completed_epochs(path, run, model)
            return Resumption(path, _rows_up_to(epoch, folder / "metrics.csv"))
        except _UnusableError as error:
            aside = _set_aside(path)
            log.warning("%s %s; it is kept as %s, and is not used", path, error, aside.name)
    return Resumption()


def _completed_epochs(path: Path, run: str, model: Mapping[str, Tensor]) -> int:
    """The number of epochs a checkpoint has behind it, if it can be read and is of this run."""
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except OSError:
        raise
    except Exception as error:  # what torch raises depends on where the file is damaged
        raise _UnusableError(f"cannot be read ({str(error).splitlines()[0]})") from error
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
