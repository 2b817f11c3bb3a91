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
    """Return the layers of a loss, None if it is no stack."""
    if not isinstance(loss, ModuleLoss) or not isinstance(batch, tuple):
        return None
    return leaves_of(loss.module, batch[0].ndim)


def stack_passes(loss: LossFn, params: Params, batches: Sequence[Batch]) -> Iterator[StackPass] | None:
    """Yield passes of a few minibatches each.

    They are for what each minibatch has of its own. None where the loss is no such stack.
    """
    leaves = stack_of(loss, batches[0])
    if leaves is None:
        return None
    assert isinstance(loss, ModuleLoss)
    size = max(value.numel() for value in params.values())
    pairs = stacks(batches, max(1, min(MINIBATCHES_AT_ONCE, MEMORY // size)))
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
        slopes = self._of_criterion(None)
        self._slopes = {len(leaves) - 1: slopes}  # at the outputs of each leaf
        for position in range(len(leaves) - 1, self._first, -1):
            prefix, leaf = leaves[position]
            if isinstance(leaf, nn.Linear):
                slopes = slopes @ self._params[f"{prefix}weight"]
            else:
                slopes = backward(leaf, self._inputs[position], slopes)
            self._slopes[position - 1] = slopes

    @torch.no_grad()
    def gradients(self, names: Params) -> Params:
        """Return each minibatch's gradient by the named parameters, (c, *shape)."""
        found = {}
        for position, prefix in self._layers():
            inputs, slopes = self._by_minibatch(self._inputs[position]), self._by_minibatch(self._slopes[position])
            if f"{prefix}weight" in names:
                found[f"{prefix}weight"] = slopes.mT @ inputs
            if f"{prefix}bias" in names:
                found[f"{prefix}bias"] = slopes.sum(1)
        return {name: found[name] for name in names}

    @torch.no_grad()
    def products(self, direction: Params) -> Iterator[tuple[str, Tensor]]:
        """Yield ∇²Ĉ_k v_k of each minibatch, (c, *shape), by name.

        Args:
            direction: v, by name: one for all minibatches, or one for each, (c, *shape).
        """
        for position, prefix, turned, bent in self._turned(direction):
            inputs, slopes = self._by_minibatch(self._inputs[position]), self._by_minibatch(self._slopes[position])
            turned = self._by_minibatch(turned)
            if f"{prefix}weight" in direction:
                product = turned.mT @ inputs
                if bent is not None:
                    product.baddbmm_(slopes.mT, self._by_minibatch(bent))
                yield f"{prefix}weight", product
            if f"{prefix}bias" in direction:
                yield f"{prefix}bias", turned.sum(1)

    @torch.no_grad()
    def add_products(self, direction: Params, total: Params, weight: float = 1.0) -> None:
        """Add w Σ_k ∇²Ĉ_k v_k to what is there, in place.

        Args:
            direction: as of `products`.
            total: by the names of the direction.
            weight: w.
        """
        for position, prefix, turned, bent in self._turned(direction):
            if f"{prefix}weight" in total:
                total[f"{prefix}weight"].addmm_(turned.mT, self._inputs[position], alpha=weight)
                if bent is not None:
                    total[f"{prefix}weight"].addmm_(self._slopes[position].mT, bent, alpha=weight)
            if f"{prefix}bias" in total:
                total[f"{prefix}bias"].add_(turned.sum(0), alpha=weight)

    def _turned(self, direction: Params) -> Iterator[tuple[int, str, Tensor, Tensor | None]]:
        """Yield R{δ} and R{a} of each Linear layer, the last first."""
        bends: list[Tensor | None] = []
        bent: Tensor | None = None  # R{a}; None is 0
        for position, (prefix, leaf) in enumerate(self._leaves):
            bends.append(bent)
            bent = self._forward(position, prefix, leaf, bent, direction)
        assert bent is not None
        turned = self._of_criterion(bent)
        for position in range(len(self._leaves) - 1, self._first - 1, -1):
            prefix, leaf = self._leaves[position]
            if not isinstance(leaf, nn.Linear):
                turned = _turned_back(leaf, self._inputs[position], bends[position], self._slopes[position], turned)
                continue
            yield position, prefix, turned, bends[position]
            if position > self._first:
                turned = turned @ self._params[f"{prefix}weight"]
                if f"{prefix}weight" in direction:
                    turned = self._add_times(turned, self._slopes[position], direction[f"{prefix}weight"])

    def _forward(
        self, position: int, prefix: str, leaf: nn.Module, bent: Tensor | None, direction: Params
    ) -> Tensor | None:
        """R{·} of a leaf's outputs."""
        values = self._inputs[position]
        if not isinstance(leaf, nn.Linear):
            return None if bent is None else _turned_forward(leaf, values, bent)
        weight, bias = f"{prefix}weight", f"{prefix}bias"
        turned = values.new_zeros(len(values), leaf.out_features) if bent is None else bent @ self._params[weight].mT
        if weight in direction:
            turned = self._add_times(turned, values, direction[weight].mT)
        if bias in direction:
            shift = direction[bias]
            turned += shift if shift.ndim == 1 else shift.repeat_interleave(self.size[1], 0)
        return turned

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

    def _of_criterion(self, bent: Tensor | None) -> Tensor:
        """δ at the outputs, or R{δ} where these turn by R{·}."""
        with torch.enable_grad():
            leaves = self._outputs.detach().requires_grad_()
            # One by one: a criterion need not be one that vmap serves.
            pairs = zip(leaves.unflatten(0, self.size), self._targets, strict=True)
            losses = torch.stack([self._criterion(outputs, targets) for outputs, targets in pairs])
            (slopes,) = torch.autograd.grad(losses.sum(), leaves, create_graph=bent is not None)
        if bent is None:
            return slopes
        if not slopes.requires_grad:  # a criterion that is linear in the outputs
            return torch.zeros_like(slopes)
        (turned,) = torch.autograd.grad(slopes, leaves, bent, allow_unused=True, materialize_grads=True)
        return turned


def _of_active(slopes: Tensor, values: Tensor) -> Tensor:
    """What a ReLU lets through, in one kernel."""
    passed: Tensor = torch.ops.aten.threshold_backward(slopes, values, 0.0)
    return passed


def backward(leaf: nn.Module, values: Tensor, slopes: Tensor) -> Tensor:
    """δ at the inputs of a function."""
    if type(leaf) is nn.ReLU:
        return _of_active(slopes, values)
    with torch.enable_grad():
        leaves = values.detach().requires_grad_()
        (down,) = torch.autograd.grad(leaf(leaves), leaves, slopes)
    return down


def _turned_forward(leaf: nn.Module, values: Tensor, bent: Tensor) -> Tensor:
    """R{f(z)} = f'(z) R{z}, for functions that act on single numbers."""
    if type(leaf) is nn.ReLU:
        return _of_active(bent, values)
    if isinstance(leaf, _LINEAR):
        return leaf(bent)
    with torch.enable_grad():
        leaves = values.detach().requires_grad_()
        (turned,) = torch.autograd.grad(leaf(leaves), leaves, bent)
    return turned


def _turned_back(leaf: nn.Module, values: Tensor, bent: Tensor | None, slopes: Tensor, turned: Tensor) -> Tensor:
    """R{f'(z) δ} = f''(z) R{z} δ + f'(z) R{δ}."""
    if type(leaf) is nn.ReLU:
        return _of_active(turned, values)
    with torch.enable_grad():
        leaves = values.detach().requires_grad_()
        outputs = leaf(leaves)
        (down,) = torch.autograd.grad(outputs, leaves, slopes, create_graph=True)
    (bend,) = torch.autograd.grad(outputs, leaves, turned, retain_graph=True)
    if bent is not None and down.requires_grad:
        (second,) = torch.autograd.grad(down, leaves, bent, allow_unused=True, materialize_grads=True)
        bend = bend + second
    return bend
