"""Minibatches of a LightningModule's optimizer steps, and their loss."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from lightning.fabric.utilities.apply_func import apply_to_collection
from lightning.pytorch import Trainer
from torch import Tensor, nn
from torch.optim import Optimizer

from ireg.measurement import ModelLoss
from ireg.system.errors import UserError

UNITS = {"KiB": 2**10, "MiB": 2**20, "GiB": 2**30}


class Window(NamedTuple):
    """The micro-batches of one optimizer step, each with its index.

    The sum of their losses is divided by `divisor`.
    """

    batches: tuple[tuple[Any, int], ...]
    divisor: int


def window_loss(trainer: Trainer, given: ModelLoss | None, *, cached_elsewhere: bool) -> ModelLoss:
    """Return the loss of what one optimizer step has seen.

    Lightning divides by the full window, in the last one, too.

    Args:
        trainer: its precision is used.
        given: the loss of a minibatch; None for the module's own step.
        cached_elsewhere: whether minibatches have to be moved to the module's device.
    """
    context = trainer.precision_plugin.train_step_context

    def loss(module: Any, window: Window) -> Tensor:
        with context():
            values = []
            for batch, number in window.batches:
                batch = moved(batch, module.device) if cached_elsewhere else batch
                values.append(training_step(module, batch, number) if given is None else given(module, batch))
            return torch.stack(values).sum() / window.divisor

    return loss


def training_step(module: Any, batch: Any, number: int) -> Tensor:
    """The loss of the module's own step."""
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


def is_clipped(trainer: Trainer, optimizer: Optimizer) -> bool:
    """Whether Lightning's clipping, which follows, changes the gradients.

    Lightning clips where the bound is above 0 only.
    """
    bound = trainer.gradient_clip_val
    if bound is None or bound <= 0:
        return False
    held = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
    gradients = [gradient for gradient in held if gradient.numel()]
    if not gradients:
        return False
    if trainer.gradient_clip_algorithm == "value":
        return bool(max(float(gradient.abs().max()) for gradient in gradients) > bound)
    return bool(float(nn.utils.get_total_norm(gradients)) > bound)


def _mapped(value: Any, function: Callable[[Tensor], Any]) -> Any:
    """Apply a function to the tensors of a minibatch of any structure."""
    return apply_to_collection(value, Tensor, function)


def moved(value: Any, device: torch.device | str) -> Any:
    """Move the tensors of a minibatch to a device."""
    return _mapped(value, lambda tensor: tensor.to(device))


def size_of(value: Any) -> int:
    """Bytes of a minibatch's tensors."""
    sizes: list[int] = []
    _mapped(value, lambda tensor: sizes.append(tensor.numel() * tensor.element_size()))
    return sum(sizes)


def as_bytes(size: int | str) -> int:
    """A number of bytes, also written like 512MiB."""
    if isinstance(size, int):
        return size
    for unit, factor in UNITS.items():
        number = size.removesuffix(unit).strip()
        if size.endswith(unit) and number.isdecimal():
            return int(number) * factor
    raise ValueError(f"max_cache={size!r}: must be a number of bytes, or like 512MiB or 1GiB")
