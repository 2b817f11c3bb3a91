"""The diagonal of the Hessian of C, where it is known exactly.

A network that is piecewise linear, and uses each weight once, is affine in each single weight. The second derivative of
its outputs f by one weight is then 0, and diag H is diag G, that of the Gauss–Newton matrix:

    G_ii = Σ_n w_n Σ_c (∂(s_c·f_n)/∂ω_i)²,  Σ_c s_c s_cᵀ the Hessian of the loss by the outputs,

w_n the weight of example n in C. That is s_c = √p_c (e_c − p) for softmax with cross-entropy, p the probabilities, e_c
for half the squared error and √(2/C) e_c for torch's mean over C outputs: as many backward passes as there are outputs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ireg.core.batches import stacks
from ireg.core.functional import ModuleLoss, detached_parameters
from ireg.core.hessian import EXAMPLES_AT_ONCE
from ireg.core.moments import gradient_moments
from ireg.core.moments.linear import leaves_of
from ireg.core.moments.needs import Need
from ireg.core.norms import floor
from ireg.core.stack_pass import Leaves, backward
from ireg.core.types import Batch, LossFn, Params
from ireg.core.wide import brought, wide

Roots = Callable[[Tensor], Iterator[Tensor]]
"""Outputs (n, C) to the vectors s_c, each (n, C)."""

_STACKED = (nn.Flatten, nn.Identity, nn.Dropout, nn.ReLU, nn.LeakyReLU, nn.Linear)
_PIECEWISE_LINEAR = (
    *_STACKED, nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d, nn.AdaptiveAvgPool1d,
    nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d, nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d, nn.ZeroPad2d,
)  # fmt: skip


def exact_diagonal(loss: LossFn, params: Params, batches: Sequence[Batch]) -> Params | None:
    """Compute diag H where it is known exactly.

    Known are `Sequential` networks of Linear layers, convolutions, poolings and piecewise linear functions, and modules
    that declare `affine_in_each_weight = True`: theirs are such layers, each used once, and sums.

    Args:
        loss: of such a network, with cross-entropy or mean squared error; dropout is off.
        params: where; the diagonal is of these.
        batches: the minibatches, pairs.

    Returns:
        The diagonal by name, ≥ 0, in double precision where squares leave the range of the weights' type. None where it
        is not known to be exact.

    Example:
        >>> loss = ModuleLoss(nn.Linear(1, 1, bias=False).double(), nn.functional.mse_loss)
        >>> batch = torch.tensor([[2.0]]).double(), torch.tensor([[0.0]]).double()
        >>> diagonal = exact_diagonal(loss, {"weight": torch.ones(1, 1).double()}, [batch])
        >>> round(float(diagonal["weight"]), 6)  # of (2w)²: 2 · 2²
        8.0
    """
    if not isinstance(loss, ModuleLoss) or not isinstance(batches[0], tuple):
        return None
    if _roots(loss) is None or not is_affine_in_each_weight(loss.module):
        return None
    return gauss_newton_diagonal(loss, params, batches)


def gauss_newton_diagonal(loss: ModuleLoss, params: Params, batches: Sequence[Batch]) -> Params:
    """Compute diag G, by name.

    Args:
        loss: of any module, with a criterion whose s_c are known.
        params: where; the diagonal is of these.
        batches: the minibatches, pairs.

    Returns:
        The diagonal by name, ≥ 0, in double precision where squares leave the range of the weights' type.

    Raises:
        ValueError: the criterion is another one.
    """
    roots = _roots(loss)
    if roots is None:
        raise ValueError("the criterion's second derivative by the outputs is not known; use cross_entropy or mse_loss")
    total = {name: torch.zeros_like(value) for name, value in params.items()}
    leaves = leaves_of(loss.module, batches[0][0].ndim)
    if leaves is None or not all(type(leaf) in _STACKED for _, leaf in leaves):
        _add_by_examples(loss, params, batches, roots, total)
        return total
    lost = _add_by_layers(loss, params, batches, leaves, roots, total)
    size = torch.stack([value.sum() for value in total.values()]).sum()
    if not float(lost) <= float(size) < math.inf:
        total = {name: torch.zeros_like(wide(value)) for name, value in params.items()}
        _add_by_layers(loss, params, batches, leaves, roots, total)
    return total


def _add_by_layers(
    loss: ModuleLoss, params: Params, batches: Sequence[Batch], leaves: Leaves, roots: Roots, total: Params
) -> Tensor:
    """Add the minibatches' parts of diag G, layer by layer, in the type of the totals.

    Returns:
        The sum of the diagonal, 0-d, below which squares that are lost would show.
    """
    weights = {**detached_parameters(loss.module), **params}
    largest = []
    for inputs, targets in stacks(batches, max(1, EXAMPLES_AT_ONCE // len(batches[0][1]))):
        weight = 1 / (len(batches) * targets.shape[1])
        largest.append(_add_diagonal(leaves, weights, inputs.flatten(0, 1), roots, weight, total))
    count = sum(value.numel() for value in total.values())
    return (1 + torch.stack(largest).max()) * floor(largest[0].dtype, count)


def _roots(loss: ModuleLoss) -> Roots | None:
    return _ROOTS.get(getattr(loss.criterion, "hessian_by_outputs", loss.criterion))


def is_affine_in_each_weight(module: nn.Module) -> bool:
    """Say whether a network is affine in each single weight."""
    # A weight in two places may be multiplied with its own copy: then outputs are of second order in it.
    held = [id(value) for _, value in module.named_parameters(remove_duplicate=False)]
    return len(held) == len(set(held)) and all(_is_known(layer) for layer in module.modules())


def _is_known(layer: nn.Module) -> bool:
    if layer._forward_hooks or layer._forward_pre_hooks:  # which may change what goes through
        return False
    if isinstance(layer, nn.Dropout):
        return not layer.training
    container = isinstance(layer, nn.Sequential) and type(layer).forward is nn.Sequential.forward
    declared = bool(getattr(layer, "affine_in_each_weight", False))
    return container or declared or type(layer) in (*_PIECEWISE_LINEAR, nn.ModuleList)


def _of_cross_entropy(outputs: Tensor) -> Iterator[Tensor]:
    """Yield √p_c (e_c − p) for each output c."""
    probabilities = outputs.softmax(1)
    for number in range(probabilities.shape[1]):
        root = -probabilities * probabilities[:, number : number + 1].sqrt()
        root[:, number] += probabilities[:, number].sqrt()
        yield root


def _of_mean_squared_error(outputs: Tensor) -> Iterator[Tensor]:
    """Yield √(2/C) e_c for each output c."""
    for root in _of_identity(outputs):
        yield root * (2 / outputs.shape[1]) ** 0.5


def _of_identity(outputs: Tensor) -> Iterator[Tensor]:
    """Yield e_c for each output c."""
    for number in range(outputs.shape[1]):
        root = torch.zeros_like(outputs)
        root[:, number] = 1
        yield root


_ROOTS: dict[Any, Roots] = {
    nn.functional.cross_entropy: _of_cross_entropy,
    nn.functional.mse_loss: _of_mean_squared_error,
    "identity": _of_identity,
}
"""By criterion, or by what a criterion declares as its `hessian_by_outputs`."""


def _add_by_examples(loss: ModuleLoss, params: Params, batches: Sequence[Batch], roots: Roots, total: Params) -> None:
    """Add the minibatches' parts of diag G, example by example."""
    along = ModuleLoss(loss.module, _along)
    for inputs, _ in batches:
        with torch.no_grad():
            outputs = loss.outputs(params, inputs)
        for root in roots(outputs):
            examples = list(zip(inputs.split(1), root.split(1), strict=True))
            moments = gradient_moments(along, params, examples, needs=Need.SQUARE)
            assert moments.square is not None
            for name, square in moments.square.items():
                total[name].add_(square, alpha=1 / len(batches))


def _along(outputs: Tensor, root: Tensor) -> Tensor:
    """Return s·f of a minibatch of one example, 0-d."""
    return (outputs * root).sum()


@torch.no_grad()
def _add_diagonal(
    leaves: Leaves,
    params: Params,
    inputs: Tensor,
    roots: Roots,
    weight: float,
    total: Params,
) -> Tensor:
    """Add one minibatch's part of diag G, layer by layer, and return the largest a², 0-d.

    A weight's gradient of one example is δ aᵀ, so that its squares are those of δ times those of a. They are summed
    over the examples, and over the outputs c.
    """
    numbers = partial(brought, like=next(iter(total.values())))
    values = inputs
    taken = []
    for prefix, leaf in leaves:
        taken.append((prefix, leaf, values))
        if isinstance(leaf, nn.Linear):
            values = nn.functional.linear(values, params[f"{prefix}weight"], params.get(f"{prefix}bias"))
        else:
            values = leaf(values)
    first = next(position for position, (_, leaf) in enumerate(leaves) if isinstance(leaf, nn.Linear))
    squares = {prefix: numbers(values).square() for prefix, leaf, values in taken if isinstance(leaf, nn.Linear)}
    for deltas in roots(values):
        for position in range(len(taken) - 1, first - 1, -1):
            prefix, leaf, values = taken[position]
            if not isinstance(leaf, nn.Linear):
                deltas = backward(leaf, values, deltas)
                continue
            squared = numbers(deltas).square().mul_(weight)
            if f"{prefix}weight" in total:
                total[f"{prefix}weight"].addmm_(squared.mT, squares[prefix])
            if f"{prefix}bias" in total:
                total[f"{prefix}bias"] += squared.sum(0)
            if position > first:
                deltas = deltas @ params[f"{prefix}weight"]
    return torch.stack([value.max() for value in squares.values() if value.numel()]).max()
