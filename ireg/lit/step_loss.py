"""Minibatches of a LightningModule's optimizer steps, and their loss."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import torch
from lightning.fabric.utilities.apply_func import apply_to_collection
from lightning.pytorch import Trainer
from lightning.pytorch.plugins.precision import DoublePrecision, Precision
from torch import Tensor, nn
from torch.optim import Optimizer

from ireg.core.batches import examples_of
from ireg.core.clipping import NORM, VALUE, Clip
from ireg.measured_loss import Criterion, ModelLoss
from ireg.options import Options
from ireg.system.errors import UserError


class MicroBatches(NamedTuple):
    """The micro-batches of one optimizer step, each with its index.

    The loss of the step is the sum of theirs over `divisor`.
    """

    batches: tuple[tuple[Any, int], ...]
    divisor: int

    @property
    def examples(self) -> int | None:
        """How many examples the step took; None where a micro-batch does not say."""
        counts = examples_of([batch for batch, _ in self.batches])
        return None if counts is None else sum(counts)


class Pairs(Sequence[Any]):
    """The minibatches of steps that have one each.

    Args:
        steps: the steps.
        device: where the minibatches are brought as they are asked for; None leaves them where they are.
    """

    def __init__(self, steps: Sequence[MicroBatches], device: torch.device | None) -> None:
        self.steps = steps
        self.device = device

    def __len__(self) -> int:
        return len(self.steps)

    def __getitem__(self, position: int | slice) -> Any:
        if isinstance(position, slice):
            return Pairs(self.steps[position], self.device)
        pair = self.steps[position].batches[0][0]
        return pair if self.device is None else moved(pair, self.device)


def as_measured(
    trainer: Trainer, options: Options, steps: Sequence[MicroBatches], device: torch.device | None
) -> tuple[Options, Sequence[Any]]:
    """Return the options with the loss by which steps are measured, and the minibatches that it takes.

    With a criterion, steps of one minibatch each are pairs, and the faster methods serve them. Several micro-batches,
    and a mixed precision, take the loss of a whole step.

    Args:
        trainer: its precision is used.
        options: what is asked for.
        steps: the steps.
        device: the module's, where minibatches are kept elsewhere.
    """
    plain = type(trainer.precision_plugin) in (Precision, DoublePrecision)
    single = all(step.divisor == len(step.batches) == 1 for step in steps)
    if options.criterion is not None and plain and single:
        return options, Pairs(steps, device)
    loss = options.loss if options.criterion is None else partial(_by_criterion, options.criterion)
    of_step = loss_of_step(trainer, loss, cached_elsewhere=device is not None)
    return replace(options, criterion=None, loss=of_step), steps


def precision_of(trainer: Trainer, options: Options) -> AbstractContextManager[Any]:
    """Return the trainer's context of a step, where the loss does not enter it itself."""
    return nullcontext() if options.criterion is None else trainer.precision_plugin.train_step_context()


def _by_criterion(criterion: Criterion, module: Any, batch: Any) -> Tensor:
    inputs, targets = batch
    return criterion(module(inputs), targets)


def loss_of_step(trainer: Trainer, given: ModelLoss | None, *, cached_elsewhere: bool) -> ModelLoss:
    """Return the loss of all micro-batches of one optimizer step.

    Lightning divides by `accumulate_grad_batches`, also in a last step that has fewer micro-batches.

    Args:
        trainer: its precision is used.
        given: the loss of a minibatch; None for the module's own step.
        cached_elsewhere: whether minibatches have to be moved to the module's device.
    """
    context = trainer.precision_plugin.train_step_context

    def loss(module: Any, step: MicroBatches) -> Tensor:
        with context():
            values = []
            for batch, number in step.batches:
                batch = moved(batch, module.device) if cached_elsewhere else batch
                values.append(training_step(module, batch, number) if given is None else given(module, batch))
            return torch.stack(values).sum() / step.divisor

    return loss


def training_step(module: Any, batch: Any, number: int) -> Tensor:
    """Compute the loss of a minibatch by the module's own step.

    Raises:
        UserError: the step returns None.
    """
    parameters = inspect.signature(module.training_step).parameters.values()
    takes_number = len(parameters) > 1 or any(p.kind is inspect.Parameter.VAR_POSITIONAL for p in parameters)
    output = module.training_step(batch, number) if takes_number else module.training_step(batch)
    if output is None:
        raise UserError(
            "ImplicitRegularizationMonitor: training_step returns None where it returned a loss in training; give "
            "loss=(module, batch) -> tensor"
        )
    value: Tensor = output["loss"] if isinstance(output, Mapping) else output
    return value


def clip_of(trainer: Trainer) -> Clip | None:
    """Return how Lightning clips gradients; None where it does not."""
    bound = trainer.gradient_clip_val
    if bound is None or bound <= 0:  # Lightning clips only where the bound is above 0
        return None
    return Clip(float(bound), VALUE if trainer.gradient_clip_algorithm == "value" else NORM)


def is_clipped(trainer: Trainer, optimizer: Optimizer) -> bool:
    """Return whether Lightning's clipping, which follows, changes the gradients."""
    clip = clip_of(trainer)
    if clip is None:
        return False
    held = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
    gradients = [gradient for gradient in held if gradient.numel()]
    if not gradients:
        return False
    if clip.by == VALUE:
        return bool(max(float(gradient.abs().max()) for gradient in gradients) > clip.bound)
    return bool(float(nn.utils.get_total_norm(gradients)) > clip.bound)


def moved(value: Any, device: torch.device | str) -> Any:
    """Move the tensors of a minibatch to a device."""
    return apply_to_collection(value, Tensor, lambda tensor: tensor.to(device))
