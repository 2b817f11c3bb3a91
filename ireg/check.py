"""Compare what is measured with the gradient that training has computed.

Training has computed the right gradient already: the one its optimizer got. A minibatch of one step is computed again,
at the weights of that step and with its random numbers. If the gradient is another one, the loss that would be measured
is not the loss that trains, whatever the reason.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass

import torch
import torch.distributed as distributed
from torch import Tensor, nn
from torch.optim import Optimizer

from ireg.core.batches import copied
from ireg.core.clipping import Clipping, clipping_of
from ireg.core.functional import copied_buffers, leaves_like, measuring, weights_kept
from ireg.core.noise import noise_layers
from ireg.core.own_passes import OwnPasses
from ireg.core.params import dense
from ireg.core.replay import Difference, difference, replayed_gradient
from ireg.core.sharded import held, part_of
from ireg.core.streams import Streams
from ireg.core.types import Batch, LossFn, Params
from ireg.core.witness import StepRecord, as_recorded, in_modes, modes_of

CHANGED = (
    "it was changed between the backward pass and the step, and what changed it is not part of the loss: let the loss, "
    "or hooks of the parameters, do it"
)

DRAWN = (
    "the loss draws random numbers that are others than in the step; draw them within the model's forward pass, or "
    "hand them over with the minibatch"
)

REPLAY, NOISE = "check/replay", "check/noise"
"""Tags of the marks of a measurement, see the catalogue."""

CHECKS = ("each", "first", "off")
"""Steps that are computed again: the first of each window, the first of all, or none."""

SEEDS = (1, 2)
"""Seeds of two evaluations, which are equal where nothing is drawn."""


def require_check(check: str) -> None:
    """Check that a value is one of `CHECKS`.

    Raises:
        ValueError: it is not.
    """
    if check not in CHECKS:
        raise ValueError(f"check={check!r}: must be one of {', '.join(CHECKS)}")


@dataclass(frozen=True)
class Finding:
    """The result of computing a step's gradient again.

    Attributes:
        difference: of the two gradients.
        cause: what makes them differ, and what to do, in half a sentence each; empty where they do not.
        clipping: where the step's gradient was clipped after the backward pass, how.
        drawn: whether the loss draws random numbers that cannot be those of the step.
    """

    difference: Difference
    cause: str = ""
    clipping: Clipping | None = None
    drawn: bool = False

    def text(self, optimizer: Optimizer, when: str) -> str:
        """Describe the difference in one line: by how much, where and why.

        Args:
            optimizer: that got the gradient.
            when: which step it is of.
        """
        where = f", most in {self.difference.most}" if self.difference.most else ""
        return (
            f"the gradient of {when}, computed again, differs by {self.difference.relative:.2g} of its norm from the "
            f"one that {type(optimizer).__name__} got{where}: {self.cause}; check='off' measures nevertheless"
        )


class Replay:
    """Compute a step's gradient again, and find out why it differs.

    Args:
        module: that trains, without wrappers.
        loss: of its parameters and a minibatch, as it is measured.
        optimizer: of the module.
        streams: that the module and the loss draw from.
        wrapped: whether the gradients of other ranks are part of the loss.
        compiled: a compiled model, and the loss of a minibatch by its own passes; None where it is not compiled.
        called: what the loss calls; by default the module.
    """

    def __init__(
        self,
        module: nn.Module,
        loss: LossFn,
        optimizer: Optimizer,
        streams: Streams,
        *,
        wrapped: bool = False,
        compiled: tuple[nn.Module, Callable[[Batch], Tensor]] | None = None,
        called: nn.Module | None = None,
    ) -> None:
        self.module = module
        self.loss = loss
        self.optimizer = optimizer
        self.streams = streams
        self.wrapped = wrapped
        self.compiled = compiled
        self.called = module if called is None else called

    def compare(self, record: StepRecord, batch: Batch, before: Batch | None = None) -> Finding:
        """Compare the gradient of a step with that of its minibatch.

        Args:
            record: of the step.
            batch: its minibatch.
            before: the minibatch before it, if there is one.

        Returns:
            The difference of the two gradients, and its cause.
        """
        record = record.whole()
        moved = {id(parameter) for group in self.optimizer.param_groups for parameter in group["params"]}
        names = {name for name, parameter in self.module.named_parameters() if id(parameter) in moved}
        expected = {name: value for name, value in record.gradient.items() if name in names}
        lowest = record.autocast[1] if record.autocast is not None else None

        def compared(gradient: Params, with_: Params) -> Difference:
            return difference(gradient, with_, lowest)

        with self.streams.kept():
            gradient = self._gradient(record, batch)
            off = compared(gradient, expected)
            if not off.is_small and not isinstance(
                self.loss, OwnPasses
            ):  # activations that are computed again want the step's weights in the module, too
                with self._weights_of(record):
                    gradient = self._gradient(record, batch)
                off = min(off, compared(gradient, expected), key=lambda difference: difference.relative)
            if off.is_small:
                return Finding(off)
            if self.compiled is not None and noise_layers(self.module):
                # A compiled forward pass draws other masks from the same random numbers.
                again = compared(self._compiled_gradient(record, batch), expected)
                if again.is_small:
                    return Finding(again)
            if not self.wrapped and (ranks := number_of_ranks()) > 1:
                return Finding(
                    off,
                    f"a step has the minibatches of {ranks} ranks; give the model as DistributedDataParallel wraps it, "
                    "on all ranks",
                )
            arrived = {name: value for name, value in record.arrived.items() if name in expected}
            if arrived.keys() == expected.keys() and (plain := compared(gradient, arrived)).is_small:
                clipping = clipping_of(arrived, expected)
                if clipping is not None:
                    return Finding(plain, clipping=clipping)
                return Finding(off, CHANGED)
            cause = self._cause(record, batch, before, expected, off)
            return Finding(off, cause, drawn=cause == DRAWN)

    def noise(self, batch: Batch, mode: Callable[[nn.Module], AbstractContextManager[None]]) -> float:
        """Return the difference of a loss between two seeds, as a share of it; 0 where nothing is drawn.

        Args:
            batch: the minibatch.
            mode: how the module computes the loss, see `ireg.measurement.MODES`.
        """
        weights = leaves_like(self.module)
        values = []
        streams = self.streams
        with streams.kept(), torch.enable_grad(), mode(self.module):
            state = streams.state()
            for seed in SEEDS:
                streams.restore(state)
                if seed != SEEDS[0]:  # a generator of one's own has no seed here: what it draws next is another
                    self._value(weights, batch)
                streams.seed(seed)
                values.append(self._value(weights, batch))
        one, other = values
        if one == other or not math.isfinite(one + other):  # a training that has diverged says so elsewhere
            return 0.0
        return abs(one - other) / max(abs(one), abs(other))

    def _value(self, weights: Params, batch: Batch) -> float:
        """Compute the loss, with copies of the buffers: what a pass does to them is no noise."""
        with copied_buffers(self.module):
            return float(self.loss(weights, batch).detach())

    def _gradient(self, record: StepRecord, batch: Batch, *, seed: int | None = None, flipped: bool = False) -> Params:
        """Compute the gradient with the step's noise or that of a seed, and modes flipped if asked for."""
        modes = record.modes or modes_of(self.module)
        if flipped:
            modes = dict.fromkeys(modes, not modes[""])
        with (
            in_modes(self.module, modes),
            measuring(self.module, dropout=True),
            as_recorded(self.module, record if seed is None else record.without_streams(), self.streams, self.called),
        ):
            if seed is not None:
                self.streams.seed(seed)
            return replayed_gradient(self.loss, record.weights, batch)

    @contextmanager
    def _weights_of(self, record: StepRecord) -> Iterator[None]:
        """Give the module itself the weights of a step within the block."""
        with weights_kept(self.module):
            with torch.no_grad():
                for name, value in self.module.named_parameters():
                    held(value).copy_(part_of(record.weights[name], value))
            yield

    def _compiled_gradient(self, record: StepRecord, batch: Batch) -> Params:
        """Compute the gradient by the compiled model itself, with the weights of the step."""
        assert self.compiled is not None
        wrapper, loss = self.compiled
        moved = {name: value for name, value in self.module.named_parameters() if value.requires_grad}
        with (
            self._weights_of(record),
            in_modes(self.module, record.modes),
            copied_buffers(self.module),
            as_recorded(wrapper, record, self.streams),
            torch.enable_grad(),
        ):
            gradients = torch.autograd.grad(
                loss(copied(batch)), list(moved.values()), allow_unused=True, materialize_grads=True
            )
        return {name: dense(value) for name, value in zip(moved, gradients, strict=True)}

    def _cause(
        self,
        record: StepRecord,
        batch: Batch,
        before: Batch | None,
        expected: Params,
        off: Difference,
    ) -> str:
        """Say what makes the gradients differ, and what to do."""
        again = self._gradient(record, batch, seed=SEEDS[0])
        other = self._gradient(record, batch, seed=SEEDS[1])
        was = record.modes.get("", self.module.training)
        if before is not None and difference(self._gradient(record, before), expected).is_small:
            return "it is that of the minibatch before; call update(batch) after optimizer.step()"
        if off.is_factor:
            return (
                f"the step's is {1 / off.factor:.4g} times that of the loss; let the loss return exactly what "
                "backward() is called on, all of a step's micro-batches included"
            )
        if not difference(again, other).is_small:
            return DRAWN
        if difference(self._gradient(record, batch, flipped=True), expected).is_small:
            modes = ("training", "eval") if was else ("eval", "training")
            return f"the model was in {modes[1]} mode in the step, and is in {modes[0]} mode where it is measured"
        hooks = [name for name, value in self.module.named_parameters() if _has_hooks(value)]
        if hooks:
            return f"{hooks[0]} has hooks that are called once its gradient is there; what they do is not in the loss"
        return (
            "the loss is another function than the one that was trained, or the minibatch another one; give exactly "
            "what the step has seen, and the loss that backward() is called on"
        )


def _has_hooks(parameter: Tensor) -> bool:
    return bool(getattr(parameter, "_post_accumulate_grad_hooks", None))


def number_of_ranks() -> int:
    """Return how many processes train together; 1 where none is known."""
    known = distributed.is_available() and distributed.is_initialized()
    return distributed.get_world_size() if known else 1
