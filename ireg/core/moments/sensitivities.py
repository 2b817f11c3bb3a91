"""Inputs and sensitivities of every Linear layer of a stack, from one pass through it."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ireg.core.functional import ModuleLoss
from ireg.core.types import Params

Pullback = Callable[[Tensor], Tensor]
"""From the sensitivities δ at the outputs of a function to those at its inputs."""


class Layer(NamedTuple):
    """One Linear layer, as c minibatches have passed through it.

    Attributes:
        prefix: its name, with a dot at the end.
        inputs: (c, examples, in).
        sensitivities: (c, examples, out).
    """

    prefix: str
    inputs: Tensor
    sensitivities: Tensor


class Buffers:
    """Matrices by name that each pass overwrites, as a CPU pays for the first touch of fresh memory."""

    def __init__(self) -> None:
        self._matrices: dict[str, Tensor] = {}

    def get(self, name: str, rows: int, columns: int, like: Tensor) -> Tensor:
        """Return the matrix (rows, columns) of a name, whose entries are those of an earlier pass, or any.

        Args:
            name: of the matrix.
            rows: how many; more than before make a new matrix.
            columns: the same at each call.
            like: the tensor whose type and device the matrix has.
        """
        matrix = self._matrices.get(name)
        if matrix is None or len(matrix) < rows:
            matrix = self._matrices[name] = like.new_empty(rows, columns)
        return matrix[:rows]


@torch.no_grad()
def sensitivities(
    loss: ModuleLoss,
    leaves: list[tuple[str, nn.Module]],
    params: Params,
    inputs: Tensor,
    targets: Tensor,
    buffers: Buffers,
) -> tuple[Tensor, Tensor, list[Layer]]:
    """Compute losses and outputs of c minibatches, and inputs and sensitivities of each Linear layer.

    With z_i the output of a Linear layer for example i, its sensitivity is ∂(Σ_k Ĉ_k)/∂z_i, Ĉ_k the loss of minibatch
    k. The products are made leaf by leaf in `buffers`, where autograd would take fresh memory for each. Autograd
    differentiates the functions between the layers, one at a time, and the criterion.

    Args:
        loss: its criterion is used, and its module through `leaves`.
        leaves: names with a dot, Linear layers and functions of single examples, in the order of their use.
        params: the parameters.
        inputs: (c, examples, …).
        targets: (c, examples).
        buffers: where the layers' tensors are, until the next pass with the same.

    Returns:
        Losses (c,), outputs (c, examples, …), and the Linear layers, the last first.
    """
    shape, values = inputs.shape[:2], inputs.flatten(0, 1)
    first = next(position for position, (_, leaf) in enumerate(leaves) if isinstance(leaf, nn.Linear))
    for _, function in leaves[:first]:
        values = function(values)
    taken: dict[str, Tensor] = {}
    pullbacks: list[Pullback] = []
    after_linear = False
    for prefix, leaf in leaves[first:]:
        if isinstance(leaf, nn.Linear):
            taken[prefix] = values
            values, pullback = _linear(prefix, params, values, buffers)
        elif type(leaf) is nn.ReLU:
            # What a Linear layer gives, nobody needs after the next function, so that it may be overwritten.
            values, pullback = _relu(values, out=values if after_linear else None)
        else:
            values, pullback = _function(leaf, values)
        after_linear = isinstance(leaf, nn.Linear)
        pullbacks.append(pullback)
    losses, outputs, deltas = _criterion(loss, values.unflatten(0, shape), targets)
    layers: list[Layer] = []
    for (prefix, leaf), pullback in zip(reversed(leaves[first:]), reversed(pullbacks), strict=True):
        if isinstance(leaf, nn.Linear):
            layers.append(Layer(prefix, taken[prefix].unflatten(0, shape), deltas.unflatten(0, shape)))
        if len(layers) < len(taken):
            deltas = pullback(deltas)
    return losses, outputs, layers


def _linear(prefix: str, params: Params, inputs: Tensor, buffers: Buffers) -> tuple[Tensor, Pullback]:
    weight, bias = params[f"{prefix}weight"], params.get(f"{prefix}bias")
    out = buffers.get(f"{prefix}outputs", len(inputs), weight.shape[0], inputs)
    outputs = torch.mm(inputs, weight.mT, out=out) if bias is None else torch.addmm(bias, inputs, weight.mT, out=out)

    def pullback(deltas: Tensor) -> Tensor:
        return torch.mm(deltas, weight, out=buffers.get(f"{prefix}sensitivities", len(deltas), weight.shape[1], deltas))

    return outputs, pullback


def _relu(inputs: Tensor, out: Tensor | None) -> tuple[Tensor, Pullback]:
    """Apply ReLU as `_function` would, without fresh memory, which would take a twentieth of a pass."""
    outputs = torch.clamp_min(inputs, 0, out=out)
    backward = torch.ops.aten.threshold_backward.grad_input  # that of torch's own relu
    return outputs, lambda deltas: backward(deltas, outputs, 0, grad_input=deltas)


def _function(function: nn.Module, inputs: Tensor) -> tuple[Tensor, Pullback]:
    with torch.enable_grad():
        taken = inputs.detach().requires_grad_()
        given = function(taken)
    return given.detach(), lambda deltas: torch.autograd.grad(given, taken, deltas)[0]


def _criterion(loss: ModuleLoss, values: Tensor, targets: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Compute losses (c,), outputs (c, examples, …), and δ at the outputs, (c · examples, …)."""
    outputs = values.clone().requires_grad_()  # a tensor of its own: an observer may keep it
    with torch.enable_grad():
        losses = torch.stack([loss.criterion(*batch) for batch in zip(outputs, targets, strict=True)])
        (deltas,) = torch.autograd.grad(losses.sum(), outputs)
    return losses.detach(), outputs.detach(), deltas.flatten(0, 1)
