"""The gradient of a gradient's norm: by double backward, and by central differences."""

from __future__ import annotations

import torch
from torch import Tensor

from ireg.core.params import displaced, squared_norm
from ireg.core.repeated import Repeated, with_gradient
from ireg.core.types import Batch, Params
from ireg.regularizers.base import Penalized, Regularizer


def gradient_of(value: Tensor, params: Params, *, create_graph: bool = False) -> Params:
    """Compute the gradient by the parameters that the loss uses, by name.

    Args:
        value: the loss, 0-d; its graph is used up unless another is made on top of it.
        params: leaves of the graph; those that the loss does not use are left out.
        create_graph: whether the gradient gets a graph of its own.
    """
    used = {name: param for name, param in params.items() if param.requires_grad}
    gradients = torch.autograd.grad(value, list(used.values()), create_graph=create_graph, allow_unused=True)
    return {name: part for name, part in zip(used, gradients, strict=True) if part is not None}


def square_of_gradient(value: Tensor, params: Params) -> Tensor:
    """Compute ‖g‖², 0-d, with its graph."""
    return squared_norm(gradient_of(value, params, create_graph=True))


def with_square(loss: Repeated, params: Params, value: Tensor, strength: float, how: Regularizer) -> Penalized:
    """Add (λ/4) ‖g‖² to the loss of a minibatch.

    Args:
        loss: of the minibatch.
        params: leaves of the graph of `value`.
        value: Ĉ_k, with its graph.
        strength: λ.
        how: the penalty, with the method and the step of its derivatives.
    """
    if how.method == "exact":
        penalty = strength / 4 * square_of_gradient(value, params)
        return Penalized(value + penalty, penalty.detach())
    gradient, norm, change = along_gradient(loss, params, value, how.step)
    factor = strength / 2 * float(norm) / (2 * how.step)
    return linear(params, add_in_place(gradient, change, factor), value, strength / 4 * norm.square())


def along_gradient(
    loss: Repeated, params: Params, value: Tensor, step: float, batch: Batch | None = None
) -> tuple[Params, Tensor, Params]:
    """Return g, ‖g‖, and g(ω + hv) − g(ω − hv) with v = g/‖g‖.

    The last, over 2h, is the Hessian product H g/‖g‖ with an error of O(h²); forward differences have O(h).

    Args:
        loss: of the minibatch.
        params: ω, leaves of the graph of `value`.
        value: the loss at ω, 0-d; its graph is used up.
        step: h.
        batch: a part of the minibatch, whose loss `value` is; None for the whole.
    """
    gradient = gradient_of(value, params)
    norm = torch.stack(torch._foreach_norm(list(gradient.values()))).norm()
    if not float(norm) > 0:  # also nan, which is to be seen in the gradient
        return gradient, norm, {name: norm * part for name, part in gradient.items()}
    length = step / float(norm)
    there = displaced({name: param.detach() for name, param in params.items()}, gradient, length)
    leaves = [there[name].requires_grad_() for name in gradient]

    def gradients() -> tuple[Tensor, ...]:
        with torch.enable_grad():
            moved = loss.of(there, batch)
        return torch.autograd.grad(moved, leaves, allow_unused=True, materialize_grads=True)

    ahead = gradients()
    with torch.no_grad():  # in place: fresh memory of the weights' size costs more than the sum
        torch._foreach_add_(leaves, list(gradient.values()), alpha=-2 * length)
        behind = gradients()
        torch._foreach_sub_(ahead, behind)
    return gradient, norm, dict(zip(gradient, ahead, strict=True))


def add_in_place(gradient: Params, other: Params, factor: float) -> Params:
    """Compute v + c w in the place of w.

    Args:
        gradient: v, by name.
        other: w, by the same names in the same order; it is changed.
        factor: c.
    """
    values = list(other.values())
    torch._foreach_mul_(values, factor)
    torch._foreach_add_(values, list(gradient.values()))
    return other


def linear(params: Params, gradient: Params, value: Tensor, penalty: Tensor) -> Penalized:
    """Return the loss and its penalty, as a total whose gradient is given.

    Args:
        params: leaves of the graph.
        gradient: of the total, by name.
        value: the loss, 0-d.
        penalty: 0-d, detached.
    """
    return Penalized(with_gradient(value.detach() + penalty, gradient, params), penalty)


def of_length(direction: Params, length: float) -> Params:
    """Scale a direction to a length; 0 stays 0."""
    norm = squared_norm(direction).sqrt()
    # A norm that is nan stays nan, which is to be seen in the gradient.
    factor = torch.where(norm > 0, length / norm, norm)
    return {name: factor * value for name, value in direction.items()}
