"""What the callback refuses before it trains, and how it says so."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.strategies import DDPStrategy, ModelParallelStrategy, SingleDeviceStrategy

from ireg.core.drawing import EPOCH, INDEPENDENT, sampling_of
from ireg.core.sharded import sharding_modules
from ireg.options import Options
from ireg.system.errors import UserError
from ireg.window import require_windows

SPEAKER = "ImplicitRegularizationMonitor"
"""How each line begins."""

SAID = {
    EPOCH: "each minibatch once an epoch",
    INDEPENDENT: "of a stream, or with replacement",
}
"""How minibatches are drawn, in words."""


@contextmanager
def user_errors() -> Iterator[None]:
    """Raise an error of the arguments as one of the user's, with the name of the callback."""
    try:
        yield
    except UserError:
        raise
    except ValueError as error:
        raise UserError(f"{SPEAKER}: {error}") from error


def require_measurable(trainer: Trainer, module: LightningModule, *, own_step: bool) -> None:
    """Refuse a training that cannot be measured.

    Args:
        trainer: of the module.
        module: that is trained.
        own_step: whether the loss is the module's own step.

    Raises:
        UserError: weights that are spread in an unknown way, manual optimization of the module's own loss, float16
            weights, or a `training_step` that takes the iterator of the loader.
    """
    strategy = trainer.strategy
    for wrong, text in (
        (type(strategy) not in (DDPStrategy, ModelParallelStrategy) and not isinstance(strategy, SingleDeviceStrategy),
         f"strategy={type(strategy).__name__}: spreads the weights as no method here can measure; use "
         "strategy='ddp', or ModelParallelStrategy with fully_shard in configure_model"),
        (not module.automatic_optimization and own_step, "automatic_optimization=False: what a step is stands in the "
         "module alone; give loss or criterion, use automatic optimization, or ireg.Monitor in the training_step"),
        (trainer.precision == "16-true", "precision=16-true: gradients leave its range; use bf16-mixed, 16-mixed or "
         "32-true"),
        (own_step and "dataloader_iter" in inspect.signature(module.training_step).parameters,
         "training_step takes the iterator of the loader; take (batch, batch_idx), or use ireg.Monitor"),
    ):  # fmt: skip
        if wrong:
            raise UserError(f"{SPEAKER}: {text}")


def require_optimizers(trainer: Trainer, module: LightningModule) -> None:
    """Refuse optimizers that cannot be measured.

    Raises:
        UserError: there is none, or one that evaluates the loss several times a step; or a module that is sharded
            itself.
    """
    for wrong, text in (
        (not trainer.optimizers, "0 optimizers: nothing moves; return one or several"),
        (module in sharding_modules(module), "fully_shard(self) shards the LightningModule itself, of which a copy is "
         "measured; shard the network within it, as by fully_shard(self.network)"),
        (any(isinstance(optimizer, torch.optim.LBFGS) for optimizer in trainer.optimizers),
         "LBFGS evaluates the loss several times a step; use another"),
    ):  # fmt: skip
        if wrong:
            raise UserError(f"{SPEAKER}: {text}")


def with_sampling(options: Options, trainer: Trainer, *, by_steps: bool, warn: Callable[[str, str], None]) -> Options:
    """Return the options with the sampling of the loader, where they leave it open.

    Args:
        options: of the callback.
        trainer: whose loader is looked at.
        by_steps: whether rows are of steps.
        warn: is called once with a key and a line where the loader does not say.

    Raises:
        UserError: a term has no estimate from minibatches that are drawn so, or the penalty does not exist.
    """
    if options.sampling is not None:
        return options
    sampling = sampling_of(trainer.train_dataloader)
    if sampling is None:
        endless = by_steps and math.isinf(trainer.num_training_batches)
        sampling, other = (INDEPENDENT, EPOCH) if endless else (EPOCH, INDEPENDENT)
        warn(
            "sampling",
            f"how {type(trainer.train_dataloader).__name__} draws its minibatches is not known: the terms are "
            f"those of sampling={sampling!r}, {SAID[sampling]}; {SAID[other]}, give sampling={other!r}",
        )
    with user_errors():
        return replace(options, sampling=sampling)


def require_epochs_end(trainer: Trainer) -> None:
    """Refuse windows of steps of an epoch that has no end.

    Raises:
        UserError: the loader has no length.
    """
    if math.isinf(trainer.num_training_batches):
        raise UserError(
            f"{SPEAKER}: sampling={EPOCH!r}, and {type(trainer.train_dataloader).__name__} has no length, so that no "
            f"epoch ends; use sampling={INDEPENDENT!r}"
        )


def require_whole_windows(options: Options, population: int | None) -> None:
    """Refuse terms or a penalty that cannot be estimated from a window's minibatches.

    Args:
        options: of the callback.
        population: number of an epoch's optimizer steps; None where a window has them all.

    Raises:
        UserError: a term or a penalty needs all of the epoch's minibatches.
    """
    if population is not None:
        with user_errors():
            require_windows(options, population)
