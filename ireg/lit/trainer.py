"""Lightning's Trainer as a run needs it."""

import logging
import warnings
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import lightning as L
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.fabric.utilities.exceptions import MisconfigurationException as MisconfigurationException
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.plugins.environments import LightningEnvironment
from lightning.pytorch.profilers import PassThroughProfiler

from ireg.files import replacing
from ireg.lit.loggers import MetricsFile, Row, TensorBoard


class AtomicCheckpointIO(TorchCheckpointIO):
    """Checkpoints that are whole or absent: written beside their place, then renamed.

    Lightning's own way goes through the system's temporary folder, and a move between file systems is no rename.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None) -> None:
        """Write `checkpoint` to `path` in one step."""
        with replacing(Path(path)) as temporary:
            super().save_checkpoint(checkpoint, temporary, storage_options)


class LastCheckpoint(Checkpoint):
    """The state of training after the last epoch, in `last.ckpt`.

    Lightning's own `ModelCheckpoint` can do more, and looks at every step whether it should.

    Args:
        folder: where the file goes.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Write the file; the epoch's row has been recorded by then."""
        trainer.save_checkpoint(self.folder / "last.ckpt")


class NoProfiler(PassThroughProfiler):
    """No profiler: where Lightning's own opens and closes an empty context some thirty times a step, none is made."""

    _nothing = nullcontext("")

    def profile(self, action_name: str) -> AbstractContextManager[str]:  # type: ignore[override]
        """A context that does nothing."""
        return self._nothing


def make_trainer(
    folder: Path,
    arguments: Mapping[str, Any],
    *,
    epochs: int,
    listener: Callable[[int, Row], None],
    hyperparameters: Mapping[str, Any],
) -> L.Trainer:
    """A trainer that writes its results into a run folder.

    Args:
        folder: where metrics.csv, TensorBoard's events and checkpoints/last.ckpt go.
        arguments: further arguments of `lightning.Trainer`.
        epochs: number of epochs.
        listener: called with epoch and row after each row is in metrics.csv.
        hyperparameters: columns of TensorBoard's HPARAMS tab.
    """
    _hush()
    ours: dict[str, Any] = {
        "max_epochs": epochs,
        "num_sanity_val_steps": -1,  # all batches: the evaluation of the row before training
        "logger": [MetricsFile(folder / "metrics.csv", listener), TensorBoard(folder, hyperparameters)],
        "callbacks": [LastCheckpoint(folder / "checkpoints")],
        # Under srun Lightning would take over the job's tasks; a run is one process wherever it runs.
        "plugins": [AtomicCheckpointIO(), LightningEnvironment()],
        "enable_progress_bar": False,
        "enable_model_summary": False,
    }
    return L.Trainer(**{"profiler": NoProfiler(), **arguments, **ours})


def _hush() -> None:
    """Keep Lightning's messages in the log alone, and leave out notices that are on every run and mean nothing."""
    logging.getLogger("lightning").handlers.clear()  # prints each message beside those that go to the log
    warnings.filterwarnings("ignore", message=".*LeafSpec.*is deprecated")  # torch's notice to Lightning's authors
    # Known, see `Classifier.training_step`; the tests train, and would find a change of it.
    warnings.filterwarnings("ignore", message=".*`dataloader_iter`")
    warnings.filterwarnings("ignore", message=".*log_every_n_steps.*")  # rows are logged by epoch
    warnings.filterwarnings("ignore", message="Checkpoint directory .* exists and is not empty")
