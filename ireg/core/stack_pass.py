"""A stack of Linear layers, and its derivatives along directions.

With R{·} the derivative along v (Pearlmutter 1994), a layer z = W a + b with sensitivity δ takes

    R{z} = W R{a} + V a + v_b,   R{δ_a} = Wᵀ R{δ} + Vᵀ δ,   R{g_W} = R{δ} aᵀ + δ R{a}ᵀ:

six products of the size of a layer where a gradient takes three, fewer in the first layer.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from ireg.core.batches import stacks
from ireg.core.functional import ModuleLoss, detached_parameters
from ireg.core.large import is_large
from ireg.core.moments.linear import leaves_of
from ireg.core.types import Batch, LossFn, Pair, Params

Leaves = list[tuple[str, nn.Module]]
"""Layers and functions by the prefix of their parameters, in the order of use."""

MINIBATCHES_AT_ONCE = 8
"""Where each has gradients and products of its own: measured on a CPU, where more are not faster."""
MEMORY = 2**25
"""Weights of a layer times minibatches at once, at most."""

_LINEAR = (nn.Flatten, nn.Identity, nn.Dropout)
"""Functions that hand on what they are given; dropout is off."""


def stack_of(loss: LossFn, batch: Batch) -> Leaves | None:
    """Return the layers of a loss; None if it is no stack of Linear layers and functions of examples.

    Args:
        loss: of a minibatch.
        batch: one minibatch, whose inputs' number of dimensions counts.
    """
    if not isinstance(loss, ModuleLoss) or not isinstance(batch, tuple):
        return None
    return leaves_of(loss.module, batch[0].ndim)


def stack_passes(loss: LossFn, params: Params, batches: Sequence[Batch]) -> Iterator[StackPass] | None:
    """Return passes of a few minibatches each, for what each minibatch has of its own.

    Args:
        loss: of a stack of Linear layers; others have no passes.
        params: where.
        batches: the minibatches.

    Returns:
        The passes, each made when it is asked for; None where the loss is no such stack.
    """
    leaves = stack_of(loss, batches[0])
    if leaves is None:
        return None
    assert isinstance(loss, ModuleLoss)
    size = max(value.numel() for value in params.values())
    pairs = stacks(batches, 1 if is_large(params) else max(1, min(MINIBATCHES_AT_ONCE, MEMORY // size)))
    return (StackPass(loss, leaves, params, pair) for pair in pairs)


class StackPass:
    """A forward and a backward pass of c minibatches of equal size.

    It keeps inputs a and sensitivities δ of each layer. The sensitivities are those of Σ_k Ĉ_k, each Ĉ_k the mean loss
    of its minibatch.

    Args:
        loss: of the stack.
        leaves: of `stack_of`.
        params: where; what they lack has the module's own value.
        pair: inputs (c, n, …) and targets (c, n, …).
    """

    @torch.no_grad()
    def __init__(self, loss: ModuleLoss, leaves: Leaves, params: Params, pair: Pair) -> None:
        inputs, targets = pair
        self.size = targets.shape[:2]
        self._criterion = loss.criterion
        self._targets = targets
        self._params = {**detached_parameters(loss.module), **params}
        self._leaves = leaves
        self._first = next(position for position, (_, leaf) in enumerate(leaves) if isinstance(leaf, nn.Linear))
        self._inputs: list[Tensor] = []  # of each leaf
        values = inputs.flatten(0, 1)
        for prefix, leaf in leaves:
            self._inputs.append(values)
            if isinstance(leaf, nn.Linear):
                values = nn.functional.linear(
                    values, self._params[f"{prefix}weight"], self._params.get(f"{prefix}bias")
                )
            else:
                values = leaf(values)
        self._outputs = values
        deltas = self._of_criterion(None)
        self._deltas = {len(leaves) - 1: deltas}  # at the outputs of each leaf
        for position in range(len(leaves) - 1, self._first, -1):
            prefix, leaf = leaves[position]
            if isinstance(leaf, nn.Linear):
                deltas = deltas @ self._params[f"{prefix}weight"]
            else:
                deltas = backward(leaf, self._inputs[position], deltas)
            self._deltas[position - 1] = deltas

    @torch.no_grad()
    def gradients(self, names: Params) -> Params:
        """Compute each minibatch's gradient by the named parameters, (c, *shape), by name."""
        gradients = {}
        for position, prefix in self._layers():
            inputs, deltas = self._by_minibatch(self._inputs[position]), self._by_minibatch(self._deltas[position])
            if f"{prefix}weight" in names:
                gradients[f"{prefix}weight"] = deltas.mT @ inputs
            if f"{prefix}bias" in names:
                gradients[f"{prefix}bias"] = deltas.sum(1)
        return {name: gradients[name] for name in names}

    @torch.no_grad()
    def products(self, direction: Params) -> Iterator[tuple[str, Tensor]]:
        """Yield ∇²Ĉ_k v_k of each minibatch, (c, *shape), by name.

        Args:
            direction: v, by name: one for all minibatches, or one for each, (c, *shape).
        """
        for position, prefix, backward_tangent, tangent in self._tangents(direction):
            inputs, deltas = self._by_minibatch(self._inputs[position]), self._by_minibatch(self._deltas[position])
            backward_tangent = self._by_minibatch(backward_tangent)
            if f"{prefix}weight" in direction:
                product = backward_tangent.mT @ inputs
                if tangent is not None:
                    product.baddbmm_(deltas.mT, self._by_minibatch(tangent))
                yield f"{prefix}weight", product
            if f"{prefix}bias" in direction:
                yield f"{prefix}bias", backward_tangent.sum(1)

    @torch.no_grad()
    def add_products(self, direction: Params, total: Params, weight: float = 1.0) -> None:
        """Add w Σ_k ∇²Ĉ_k v_k to totals, in place.

        Args:
            direction: as of `products`.
            total: by the names of the direction.
            weight: w.
        """
        for position, prefix, backward_tangent, tangent in self._tangents(direction):
            if f"{prefix}weight" in total:
                total[f"{prefix}weight"].addmm_(backward_tangent.mT, self._inputs[position], alpha=weight)
                if tangent is not None:
                    total[f"{prefix}weight"].addmm_(self._deltas[position].mT, tangent, alpha=weight)
            if f"{prefix}bias" in total:
                total[f"{prefix}bias"].add_(backward_tangent.sum(0), alpha=weight)

    def _tangents(self, direction: Params) -> Iterator[tuple[int, str, Tensor, Tensor | None]]:
        """Yield R{δ} and R{a} of each Linear layer, the last first."""
        tangents: list[Tensor | None] = []
        tangent: Tensor | None = None  # R{a}; None is 0
        for position, (prefix, leaf) in enumerate(self._leaves):
            tangents.append(tangent)
            tangent = self._forward(position, prefix, leaf, tangent, direction)
        assert tangent is not None
        backward_tangent = self._of_criterion(tangent)
        for position in range(len(self._leaves) - 1, self._first - 1, -1):
            prefix, leaf = self._leaves[position]
            if not isinstance(leaf, nn.Linear):
                backward_tangent = _backward_tangent(
                    leaf, self._inputs[position], tangents[position], self._deltas[position], backward_tangent
                )
                continue
            yield position, prefix, backward_tangent, tangents[position]
            if position > self._first:
                backward_tangent = backward_tangent @ self._params[f"{prefix}weight"]
                if f"{prefix}weight" in direction:
                    backward_tangent = self._add_times(
                        backward_tangent, self._deltas[position], direction[f"{prefix}weight"]
                    )

    def _forward(
        self, position: int, prefix: str, leaf: nn.Module, tangent: Tensor | None, direction: Params
    ) -> Tensor | None:
        """Compute R{·} of a leaf's outputs; None is 0."""
        values = self._inputs[position]
        if not isinstance(leaf, nn.Linear):
            return None if tangent is None else _forward_tangent(leaf, values, tangent)
        weight, bias = f"{prefix}weight", f"{prefix}bias"
        outputs = (
            values.new_zeros(len(values), leaf.out_features) if tangent is None else tangent @ self._params[weight].mT
        )
        if weight in direction:
            outputs = self._add_times(outputs, values, direction[weight].mT)
        if bias in direction:
            shift = direction[bias]
            outputs += shift if shift.ndim == 1 else shift.repeat_interleave(self.size[1], 0)
        return outputs

    def _add_times(self, total: Tensor, values: Tensor, matrix: Tensor) -> Tensor:
        """Add values times one matrix, or times each minibatch's."""
        if matrix.ndim == 2:
            return total.addmm_(values, matrix)
        return self._by_minibatch(total).baddbmm_(self._by_minibatch(values), matrix).flatten(0, 1)

    def _by_minibatch(self, values: Tensor) -> Tensor:
        return values.unflatten(0, self.size)

    def _layers(self) -> Iterator[tuple[int, str]]:
        for position, (prefix, leaf) in enumerate(self._leaves):
            if isinstance(leaf, nn.Linear):
                yield position, prefix

    def _of_criterion(self, tangent: Tensor | None) -> Tensor:
        """Compute δ at the outputs, or R{δ} there, where R{·} of the outputs is given."""
        with torch.enable_grad():
            leaves = self._outputs.detach().requires_grad_()
            # One by one: a criterion need not be one that vmap serves.
            pairs = zip(leaves.unflatten(0, self.size), self._targets, strict=True)
            losses = torch.stack([self._criterion(outputs, targets) for outputs, targets in pairs])
            (deltas,) = torch.autograd.grad(losses.sum(), leaves, create_graph=tangent is not None)
        if tangent is None:
            return deltas
        if not deltas.requires_grad:  # a criterion that is linear in the outputs
            return torch.zeros_like(deltas)
        (backward_tangent,) = torch.autograd.grad(deltas, leaves, tangent, allow_unused=True, materialize_grads=True)
        return backward_tangent


def _of_active(vectors: Tensor, values: Tensor) -> Tensor:
    """Set to 0 what a ReLU of these values does not let through, in one kernel."""
    passed: Tensor = torch.ops.aten.threshold_backward(vectors, values, 0.0)
    return passed


def backward(leaf: nn.Module, values: Tensor, deltas: Tensor) -> Tensor:
    """Compute δ at the inputs of a function.

    Args:
        leaf: the function, of each example.
        values: its inputs, (n, …).
        deltas: δ at its outputs, (n, …).
    """
    if type(leaf) is nn.ReLU:
        return _of_active(deltas, values)
    with torch.enable_grad():
        leaves = values.detach().requires_grad_()
        (down,) = torch.autograd.grad(leaf(leaves), leaves, deltas)
    return down


def _forward_tangent(leaf: nn.Module, values: Tensor, tangent: Tensor) -> Tensor:
    """Compute R{f(z)} = f'(z) R{z} of a function that acts on single numbers."""
    if type(leaf) is nn.ReLU:
        return _of_active(tangent, values)
    if isinstance(leaf, _LINEAR):
        return leaf(tangent)
    with torch.enable_grad():
        leaves = values.detach().requires_grad_()
        # A backward pass in place of a forward one: the Jacobian is diagonal, and so its own transpose.
        (outputs,) = torch.autograd.grad(leaf(leaves), leaves, tangent)
    return outputs


def _backward_tangent(
    leaf: nn.Module, values: Tensor, tangent: Tensor | None, deltas: Tensor, backward_tangent: Tensor
) -> Tensor:
    """Compute R{f'(z) δ} = f''(z) R{z} δ + f'(z) R{δ} of a function that acts on single numbers."""
    if type(leaf) is nn.ReLU:
        return _of_active(backward_tangent, values)
    with torch.enable_grad():
        leaves = values.detach().requires_grad_()
        outputs = leaf(leaves)
        (down,) = torch.autograd.grad(outputs, leaves, deltas, create_graph=True)
    (inputs,) = torch.autograd.grad(outputs, leaves, backward_tangent, retain_graph=True)
    if tangent is not None and down.requires_grad:
        (second,) = torch.autograd.grad(down, leaves, tangent, allow_unused=True, materialize_grads=True)
        inputs = inputs + second
    return inputs
