"""Products with the Hessian of C, the mean over an epoch's minibatches.

For any loss they are computed by double backward, minibatch by minibatch. Where no example's output depends on
another's, neighbouring minibatches of equal size are one: the mean over their examples is the mean of their losses. For
stacks of Linear layers they are computed forward over reverse, layer by layer, see `ireg.core.stack_pass`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from typing import cast

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge, get_gradient_edge

from ireg.core.batches import stacks
from ireg.core.functional import ModuleLoss, couples_examples, twice_differentiable
from ireg.core.large import is_large
from ireg.core.norms import is_ordinary, largest_power, widened
from ireg.core.params import inner_product
from ireg.core.stack_pass import StackPass, stack_of
from ireg.core.types import Batch, LossFn, Pair, Params
from ireg.core.wide import brought

SAME = {torch.float64: 1e-10, torch.float32: 1e-5, torch.float16: 1e-2, torch.bfloat16: 1e-1}
"""Relative difference of two losses that are the same but for rounding."""
EXAMPLES_AT_ONCE = 512
"""Examples in one pass: measured on a CPU, where more are not faster."""


def _aligned(piece: Tensor) -> Tensor:
    """Return a piece of a long vector as it can be seen as complex numbers: from an even place on."""
    return piece.clone() if piece.storage_offset() % 2 else piece


def hessian_product(
    loss: LossFn,
    params: Params,
    batches: Iterable[tuple[float, Batch]],
    direction: Params,
    total: Params | None = None,
) -> Params:
    """Compute a weighted sum of Hessian products, Σ_k w_k ∇²Ĉ_k v.

    A parameter that the loss does not use, or that enters linearly, has products 0. Beside the sum, the memory is that
    of one minibatch's activations and of one gradient.

    Args:
        loss: pure function `(params, batch) -> 0-d mean loss`.
        params: where; neither they nor any `.grad` are changed.
        batches: the weight w_k of each minibatch, and the minibatch.
        direction: v, by name.
        total: zeros by name, to which the sum is added; by default new ones.

    Returns:
        The sum by name, in the shapes and types of the parameters.

    Source: Pearlmutter 1994, "Fast exact multiplication by the Hessian".

    Example:
        >>> def loss(params, batch):
        ...     return (batch * params["w"] ** 3).sum()
        >>> w, v = {"w": torch.tensor([1.0, 2.0])}, {"w": torch.tensor([1.0, 1.0])}
        >>> hessian_product(loss, w, [(0.5, torch.tensor([1.0, 1.0]))], v)
        {'w': tensor([3., 6.])}
    """
    leaves = {name: value.detach().requires_grad_() for name, value in params.items()}
    total = _zeros(params) if total is None else total
    for weight, batch in batches:
        with torch.enable_grad(), twice_differentiable():
            gradients = edges_of_gradients(loss(leaves, batch), leaves)
            if not gradients:  # every gradient is constant
                continue
            products = torch.autograd.grad(
                list(gradients.values()),
                list(leaves.values()),
                [_aligned(direction[name]) for name in gradients],
                allow_unused=True,
                materialize_grads=True,
            )
            del gradients
        for name, product in zip(leaves, products, strict=True):
            total[name] += weight * product
        del products
    return total


def edges_of_gradients(value: Tensor, leaves: Params) -> dict[str, GradientEdge]:
    """Return where a loss's gradients are in its graph, by name, without those that are constant.

    To differentiate them once more takes the graph alone: their numbers, as much memory as the weights, are not kept.

    Args:
        value: the loss, 0-d.
        leaves: the weights, by name.
    """
    if not value.requires_grad:  # nothing enters it
        return {}
    gradients = torch.autograd.grad(
        value, list(leaves.values()), create_graph=True, allow_unused=True, materialize_grads=True
    )
    return edges_of(leaves, gradients)


def edges_of(leaves: Params, gradients: Sequence[Tensor]) -> dict[str, GradientEdge]:
    """Return where gradients are in their graph, by name, without those that are constant.

    Args:
        leaves: the weights, by name.
        gradients: by them, in their order.
    """
    return {
        # `grad` takes leaves beside edges, though its types do not say so.
        name: cast(GradientEdge, gradient) if gradient.is_leaf else get_gradient_edge(gradient)
        for name, gradient in zip(leaves, gradients, strict=True)
        if gradient.requires_grad
    }


def third_derivative(loss: LossFn, params: Params, batches: Sequence[Batch], first: Params, second: Params) -> Params:
    """Compute ∇³C[v, w], the derivative of Hv along w, minibatch by minibatch.

    Args:
        loss: pure function `(params, batch) -> 0-d mean loss`.
        params: where; neither they nor any `.grad` are changed.
        batches: the minibatches, of which C is the mean.
        first: v, by name.
        second: w, by name.

    Returns:
        The derivative by name, in the shapes and types of the parameters.

    Example:
        >>> def loss(params, batch):
        ...     return (params["w"] ** 3).sum()
        >>> one = {"w": torch.tensor([1.0])}
        >>> third_derivative(loss, one, [None], one, one)
        {'w': tensor([6.])}
    """
    weighted = [(1 / len(batches), batch) for batch in batches]
    return hessian_product(lambda at, batch: _derivative_along(loss, at, batch, first), params, weighted, second)


def _derivative_along(loss: LossFn, leaves: Params, batch: Batch, direction: Params) -> Tensor:
    """Compute the gradient times a direction, 0-d, with a graph unless the gradient is constant."""
    value = loss(leaves, batch)
    if not value.requires_grad:  # nothing enters it
        return torch.zeros_like(value)
    gradients = torch.autograd.grad(
        value, list(leaves.values()), create_graph=True, allow_unused=True, materialize_grads=True
    )
    return torch.stack(
        [(gradient * direction[name]).sum() for name, gradient in zip(leaves, gradients, strict=True)]
    ).sum()


def require_dense(params: Params) -> None:
    """Check that there are second derivatives by these weights.

    Raises:
        ValueError: a weight is sparse.
    """
    for name, value in params.items():
        if value.layout != torch.strided:
            raise ValueError(
                f"{name} is sparse, and torch has no second derivatives by it; leave curvature and theory out"
            )


class MeanHessian:
    """The Hessian H of C at a point, as products with vectors.

    Attributes:
        products: how many have been computed.

    Args:
        loss: pure function `(params, batch) -> 0-d mean loss`.
        params: where, and by which parameters; neither they nor any `.grad` are changed.
        batches: the minibatches; sizes may differ.

    Raises:
        ValueError: a parameter is sparse.

    Example:
        >>> def loss(params, batch):
        ...     return (batch * params["w"] ** 3).sum()
        >>> hessian = MeanHessian(loss, {"w": torch.tensor([1.0])}, [torch.tensor([1.0]), torch.tensor([3.0])])
        >>> hessian({"w": torch.tensor([1.0])})  # 6 w (1 + 3)/2
        {'w': tensor([12.])}
    """

    def __init__(self, loss: LossFn, params: Params, batches: Sequence[Batch]) -> None:
        require_dense(params)
        self.loss = loss
        self.params = params
        self.batches = batches
        self.products = 0
        self._separable = False
        self._leaves = stack_of(loss, batches[0])
        if isinstance(loss, ModuleLoss) and isinstance(batches[0], tuple) and not couples_examples(loss.module):
            self._separable = self._leaves is not None or _has_loss_of_examples(loss, params, batches)

    def __call__(self, direction: Params, total: Params | None = None) -> Params:
        """Compute H v, by name.

        Args:
            direction: v, by name.
            total: zeros by name, to which the product is added; by default new ones.
        """
        self.products += 1
        total = _zeros(self.params) if total is None else total
        if self._leaves is not None:
            return self._by_layers(direction, total)
        return hessian_product(self.loss, self.params, self._merged(), direction, total)

    def along(self, direction: Params) -> Tensor:
        """Compute vᵀ H v, 0-d.

        Args:
            direction: v, by name.

        Returns:
            The number, in double precision where it, or H v, leaves the range of the weights' type.
        """
        plain = inner_product(direction, self(direction))
        if is_ordinary(plain.abs(), sum(value.numel() for value in direction.values())):
            return plain
        scale = largest_power(direction)  # of two, which changes no digit
        scaled = {name: value / scale for name, value in direction.items()}
        return inner_product(widened(scaled), widened(self(scaled))) * scale**2

    def gradient(self, weights: Tensor) -> Params:
        """Compute Σ_k c_k g_k, the gradient of a weighted sum of minibatch losses, by name.

        Args:
            weights: c, (m,).
        """
        leaves = {name: value.detach().requires_grad_() for name, value in self.params.items()}
        total = _zeros(self.params)
        taken = 0
        for losses in self._losses(leaves):
            chosen = brought(weights[taken : taken + len(losses)], losses)
            taken += len(losses)
            gradients = torch.autograd.grad(
                losses @ chosen, list(leaves.values()), allow_unused=True, materialize_grads=True
            )
            for name, gradient in zip(total, gradients, strict=True):
                total[name] += gradient
        return total

    def _losses(self, params: Params) -> Iterator[Tensor]:
        """Yield the losses (c,) of c minibatches, with their graph."""
        if not self._separable:
            for batch in self.batches:
                with torch.enable_grad():
                    yield self.loss(params, batch)[None]
            return
        assert isinstance(self.loss, ModuleLoss)
        for inputs, targets in self._stacks():
            with torch.enable_grad():
                outputs = self.loss.outputs(params, inputs.flatten(0, 1)).unflatten(0, targets.shape[:2])
                yield torch.stack([self.loss.criterion(*pair) for pair in zip(outputs, targets, strict=True)])

    def _merged(self) -> Iterator[tuple[float, Batch]]:
        """Yield each minibatch's weight in C and the minibatch, neighbours as one where C stays the same."""
        count = len(self.batches)
        if not self._separable:
            yield from ((1 / count, batch) for batch in self.batches)
            return
        for inputs, targets in self._stacks():
            yield len(targets) / count, (inputs.flatten(0, 1), targets.flatten(0, 1))

    def _stacks(self) -> Iterator[Pair]:
        return stacks(self.batches, 1 if is_large(self.params) else max(1, EXAMPLES_AT_ONCE // len(self.batches[0][1])))

    def _by_layers(self, direction: Params, total: Params) -> Params:
        assert isinstance(self.loss, ModuleLoss)
        assert self._leaves is not None
        for pair in self._stacks():
            passed = StackPass(self.loss, self._leaves, self.params, pair)
            passed.add_products(direction, total, 1 / len(self.batches))
        return total


def _zeros(params: Params) -> Params:
    return {name: torch.zeros_like(value) for name, value in params.items()}


def _has_loss_of_examples(loss: ModuleLoss, params: Params, batches: Sequence[Batch]) -> bool:
    """Say whether two minibatches, taken as one, have the mean of their losses.

    They have not where a layer that nobody knows makes examples of a minibatch depend on each other.
    """
    for first, second in pairwise(batches):
        if isinstance(second, tuple) and first[0].shape == second[0].shape:
            both = tuple(torch.cat(parts) for parts in zip(first, second, strict=True))
            with torch.no_grad():
                one, other, together = (float(loss(params, batch)) for batch in (first, second, both))
            tolerance = SAME.get(next(iter(params.values())).dtype, 0.0)
            return math.isclose((one + other) / 2, together, rel_tol=tolerance) or not math.isfinite(together)
    return True
