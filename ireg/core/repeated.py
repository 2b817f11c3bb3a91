"""Several evaluations of one minibatch's loss, all alike."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from ireg.core.functional import copied_buffers, loss_and_outputs, twice_differentiable
from ireg.core.types import Batch, LossFn, Params


class Repeated:
    """The loss of a minibatch, evaluated once as training does, then again.

    What is evaluated again has the random numbers of the first evaluation, so that dropout has the same masks. It
    changes neither the network's buffers nor the random stream: training sees one evaluation.

    Args:
        loss: pure function `(params, batch) -> 0-d mean loss`.
        batch: the minibatch.

    Example:
        >>> def loss(params, batch):
        ...     return (params["w"] * batch * torch.rand(1)).sum()
        >>> repeated = Repeated(loss, torch.tensor([1.0]))
        >>> value, _ = repeated.first({"w": torch.tensor([2.0])})
        >>> bool(repeated.of({"w": torch.tensor([2.0])}) == value)
        True
    """

    def __init__(self, loss: LossFn, batch: Batch) -> None:
        self.loss = loss
        self.batch = batch
        self._module: nn.Module | None = getattr(loss, "module", None)
        self._state: list[Tensor] = []

    def first(self, params: Params) -> tuple[Tensor, Tensor | None]:
        """Evaluate the loss, 0-d, as training does, and the outputs; None where the loss has none."""
        self._device = _cuda_device(params)
        self._state = _random_state(self._device)
        with torch.enable_grad(), twice_differentiable():
            return loss_and_outputs(self.loss, params, self.batch)

    def of(self, params: Params, batch: Batch | None = None) -> Tensor:
        """Evaluate the loss again, 0-d, elsewhere or of a part of the minibatch.

        Args:
            params: where.
            batch: which; by default the whole minibatch.
        """
        with self._as_at_first(), torch.enable_grad(), twice_differentiable():
            return self.loss(params, self.batch if batch is None else batch)

    @contextmanager
    def _as_at_first(self) -> Iterator[None]:
        after = _random_state(self._device)
        _set_random_state(self._state, self._device)
        try:
            if self._module is None:
                yield
            else:
                with copied_buffers(self._module):
                    yield
        finally:
            _set_random_state(after, self._device)


def with_gradient(value: Tensor, gradients: Params, params: Params) -> Tensor:
    """Return a value whose gradient by the parameters is given.

    Args:
        value: 0-d, without a graph.
        gradients: the gradient by name; its tensors must not be changed afterwards.
        params: leaves of the graph; those that have no gradient are left out.

    Example:
        >>> weight = torch.tensor([1.0, 2.0], requires_grad=True)
        >>> total = with_gradient(torch.tensor(5.0), {"w": torch.tensor([3.0, 4.0])}, {"w": weight})
        >>> total.backward()
        >>> total.item(), weight.grad
        (5.0, tensor([3., 4.]))
    """
    total: Tensor = _WithGradient.apply(value, list(gradients.values()), *(params[name] for name in gradients))
    return total


class _WithGradient(torch.autograd.Function):
    """A number whose gradients are given."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, gradients: list[Tensor], *leaves: Tensor) -> Tensor:
        ctx.gradients = gradients
        return value.clone()

    @staticmethod
    def backward(ctx: Any, outer: Tensor) -> tuple[Tensor | None, ...]:
        if ctx.gradients is None:
            raise RuntimeError("the gradients have been taken already; evaluate the objective again")
        # Handed over, not kept: autograd copies what somebody else still holds, which is a pass over the weights. So is
        # the factor, which is 1 in the outermost backward pass. On a CPU to look is free.
        gradients, ctx.gradients = ctx.gradients, None
        one = outer.device.type == "cpu" and float(outer) == 1.0
        return (None, None, *(gradients if one else torch._foreach_mul(gradients, outer)))


def _cuda_device(params: Params) -> torch.device | None:
    device = next(iter(params.values())).device
    return device if device.type == "cuda" else None


def _random_state(device: torch.device | None) -> list[Tensor]:
    states = [torch.get_rng_state()]
    return states if device is None else [*states, torch.cuda.get_rng_state(device)]


def _set_random_state(states: list[Tensor], device: torch.device | None) -> None:
    torch.set_rng_state(states[0])
    if device is not None:
        torch.cuda.set_rng_state(states[1], device)
