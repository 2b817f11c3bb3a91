"""Lightning's Trainer as a run needs it."""

import logging
import warnings
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import lightning as L
from lightning.fabric.utilities.exceptions import MisconfigurationException as MisconfigurationException
from lightning.pytorch.loggers import Logger
from lightning.pytorch.plugins.environments import LightningEnvironment
from lightning.pytorch.profilers import PassThroughProfiler

from ireg.core.wide import has_float64
from ireg.lit.checkpoints import AtomicCheckpointIO, LastCheckpoint
from ireg.system.errors import UserError


class NoProfiler(PassThroughProfiler):
    """A profiler that measures nothing, with one context for all actions.

    Lightning's own opens and closes an empty context some thirty times a step.
    """

    _nothing = nullcontext("")

    def profile(self, action_name: str) -> AbstractContextManager[str]:  # type: ignore[override]
        """Return a context that does nothing."""
        return self._nothing


class Trainer(L.Trainer):
    """A trainer that leaves SIGTERM to the handlers before it.

    Lightning's own ends the training whatever they do. Slurm's launcher lets a run continue that is to be preempted:
    one that ends before Slurm takes its node is not put back into the queue.
    """

    @property
    def received_sigterm(self) -> bool:
        """Whether training should end at the next step because of SIGTERM: never."""
        return False


def make_trainer(
    arguments: Mapping[str, Any], *, epochs: int, loggers: Sequence[Logger], checkpoint: LastCheckpoint
) -> L.Trainer:
    """Make a trainer that writes an epoch's row to all loggers, and then the checkpoint.

    Args:
        arguments: further arguments of `lightning.Trainer`.
        epochs: number of epochs.
        loggers: where the rows go.
        checkpoint: writes the checkpoints.

    Raises:
        UserError: the device has no such precision.
    """
    _hush()
    ours: dict[str, Any] = {
        "max_epochs": epochs,
        "num_sanity_val_steps": -1,  # all batches: the evaluation of the row before training
        "logger": list(loggers),
        "callbacks": [checkpoint],
        # Under srun Lightning would take over the job's tasks; a run is one process wherever it runs.
        "plugins": [AtomicCheckpointIO(), LightningEnvironment()],
        "enable_progress_bar": False,
        "enable_model_summary": False,
    }
    trainer = Trainer(**{"profiler": NoProfiler(), **arguments, **ours})
    asked, device = arguments.get("precision", trainer.precision), trainer.strategy.root_device
    if asked == "64-true" and not has_float64(device):
        raise UserError(
            f"trainer.precision={asked}: not on {device}; use trainer.precision=32-true, or trainer.accelerator=cpu"
        )
    if trainer.precision != asked:
        raise UserError(f"trainer.precision={asked}: not on {device}; use trainer.precision={trainer.precision}")
    return trainer


def _hush() -> None:
    """Keep Lightning's messages in the log alone, without the notices that every run has."""
    logging.getLogger("lightning").handlers.clear()  # prints each message beside those that go to the log
    warnings.filterwarnings("ignore", message=".*LeafSpec.*is deprecated")  # torch's notice to Lightning's authors
    # Known, see `Classifier.training_step`; the tests train, and would find a change of it.
    warnings.filterwarnings("ignore", message=".*`dataloader_iter`")
    warnings.filterwarnings("ignore", message=".*AMP with fp16 is not supported on CPU")  # refused below
    warnings.filterwarnings("ignore", message=".*log_every_n_steps.*")  # rows are logged by epoch
    warnings.filterwarnings("ignore", message="Checkpoint directory .* exists and is not empty")
