"""Checkpoints as Lightning's training writes them: in one step, after an epoch."""

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.pytorch.callbacks import Checkpoint
from torch import Tensor

from ireg.lit.loggers import MetricsFile
from ireg.runs.checkpoints import KEY, ROWS, rows_digest, with_digest
from ireg.runs.layout import LAST, PREVIOUS
from ireg.system.files import replacing


class AtomicCheckpointIO(TorchCheckpointIO):
    """Checkpoints that are whole or absent, written beside their place and then renamed.

    The one before is kept. Lightning's own writer uses the system's temporary folder, from which a move to another file
    system is no rename.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None) -> None:
        """Write `checkpoint` with its digest to `path` in one step.

        What was there becomes `previous.ckpt`.
        """
        path = Path(path)
        # Through memory: torch's own writer makes a RuntimeError of a full disk.
        content = io.BytesIO()
        torch.save(with_digest(checkpoint), content)
        with replacing(path, durable=True, before=path.with_name(PREVIOUS)) as temporary:
            temporary.write_bytes(content.getbuffer())


class LastCheckpoint(Checkpoint):
    """The state of training after the last epoch, in `last.ckpt`; `previous.ckpt` is the one before.

    Lightning's own `ModelCheckpoint` can do more, and looks at every step whether it should.

    Args:
        folder: where the files go.
        run: the mark of this run's checkpoints, the hash of its configuration.
        every: write one each so many epochs, and after the last.
    """

    def __init__(self, folder: Path, *, run: str, every: int = 1) -> None:
        self.folder = folder
        self.run = run
        self.every = every
        self._random_states: Mapping[str, Any] | None = None

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Write the checkpoint of an epoch, whose row has been recorded by then."""
        epoch = trainer.current_epoch + 1
        if epoch % self.every == 0 or epoch == trainer.max_epochs or trainer.should_stop:
            for logger in trainer.loggers:
                logger.save()  # no row may be missing that the checkpoint has behind it
            trainer.save_checkpoint(self.folder / LAST, weights_only=False)

    def on_save_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        """Add the run's mark, a digest of the rows, and the states of the random streams.

        Layers like dropout draw from these streams.
        """
        checkpoint[KEY] = {"run": self.run, "cpu": torch.get_rng_state(), "cuda": _cuda_states(trainer)}
        for logger in trainer.loggers:
            if isinstance(logger, MetricsFile):
                checkpoint[KEY][ROWS] = rows_digest(logger.table.rows)

    def on_load_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        """Keep the random states until training starts."""
        self._random_states = checkpoint[KEY]

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Restore the states of the random streams."""
        if self._random_states is not None:
            torch.set_rng_state(self._random_states["cpu"])
            if self._random_states["cuda"]:
                torch.cuda.set_rng_state_all(self._random_states["cuda"])


def _cuda_states(trainer: L.Trainer) -> list[Tensor]:
    return torch.cuda.get_rng_state_all() if trainer.strategy.root_device.type == "cuda" else []
