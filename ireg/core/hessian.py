"""Products with the Hessian of C, the mean over an epoch's minibatches.

For any loss they are computed by double backward, minibatch by minibatch. Where no example's output depends on
another's, neighbouring minibatches of equal size are one: the mean over their examples is the mean of their losses. For
stacks of Linear layers the product is computed forward over reverse, layer by layer: with R{·} the derivative along v
(Pearlmutter 1994), a layer z = W a + b with sensitivity δ takes

    R{z} = W R{a} + V a + v_b,   R{δ_a} = Wᵀ R{δ} + Vᵀ δ,   R{g_W} = R{δ} aᵀ + δ R{a}ᵀ:

eight products of the size of a layer where a gradient takes three, fewer in the first layer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

import torch
from torch import Tensor, nn

from ireg.core.batches import stacks
from ireg.core.functional import ModuleLoss, couples_examples, detached_parameters, twice_differentiable
from ireg.core.moments.linear import leaves_of
from ireg.core.params import inner_product
from ireg.core.types import Batch, LossFn, Pair, Params

_LINEAR = (nn.Flatten, nn.Identity, nn.Dropout)
"""Functions that hand on what they are given; dropout is off."""

EXAMPLES_AT_ONCE = 1024
"""Examples in one pass: measured on a CPU, where more are not faster."""


def hessian_product(loss: LossFn, params: Params, batches: Iterable[tuple[float, Batch]], direction: Params) -> Params:
    """Compute a weighted sum of Hessian products, Σ_k w_k ∇²Ĉ_k v.

    A parameter that the loss does not use, or that enters linearly, has products 0.

    Args:
        loss: pure function `(params, batch) -> 0-d mean loss`.
        params: where; neither they nor any `.grad` are changed.
        batches: the weight w_k of each minibatch, and the minibatch.
        direction: v, by name.

    Source: Pearlmutter 1994, "Fast exact multiplication by the Hessian".

    Example:
        >>> def loss(params, batch):
        ...     return (batch * params["w"] ** 3).sum()
        >>> w, v = {"w": torch.tensor([1.0, 2.0])}, {"w": torch.tensor([1.0, 1.0])}
        >>> hessian_product(loss, w, [(0.5, torch.tensor([1.0, 1.0]))], v)
        {'w': tensor([3., 6.])}
    """
    leaves = {name: value.detach().requires_grad_() for name, value in params.items()}
    total = {name: torch.zeros_like(value) for name, value in params.items()}
    for weight, batch in batches:
        with torch.enable_grad(), twice_differentiable():
            slopes = torch.autograd.grad(
                loss(leaves, batch), list(leaves.values()), create_graph=True, allow_unused=True, materialize_grads=True
            )
            along = [(slope * direction[name]).sum() for name, slope in zip(leaves, slopes, strict=True)]
            slope_along = torch.stack(along).sum()
        if not slope_along.requires_grad:  # every gradient is constant
            continue
        bends = torch.autograd.grad(slope_along, list(leaves.values()), allow_unused=True, materialize_grads=True)
        for name, bend in zip(leaves, bends, strict=True):
            total[name] += weight * bend
    return total


class MeanHessian:
    """The Hessian H of C at a point, as products with vectors.

    Attributes:
        products: how many have been computed.

    Args:
        loss: pure function `(params, batch) -> 0-d mean loss`.
        params: where, and by which parameters; neither they nor any `.grad` are changed.
        batches: the minibatches; sizes may differ.

    Example:
        >>> def loss(params, batch):
        ...     return (batch * params["w"] ** 3).sum()
        >>> hessian = MeanHessian(loss, {"w": torch.tensor([1.0])}, [torch.tensor([1.0]), torch.tensor([3.0])])
        >>> hessian({"w": torch.tensor([1.0])})  # 6 w (1 + 3)/2
        {'w': tensor([12.])}
    """

    def __init__(self, loss: LossFn, params: Params, batches: Sequence[Batch]) -> None:
        self.loss = loss
        self.params = params
        self.batches = batches
        self.products = 0
        self._separable = False
        self._leaves: list[tuple[str, nn.Module]] | None = None
        if isinstance(loss, ModuleLoss) and isinstance(batches[0], tuple):
            self._separable = not couples_examples(loss.module)
            self._leaves = leaves_of(loss.module, batches[0][0].ndim)

    def __call__(self, direction: Params) -> Params:
        """H v.

        Args:
            direction: v, by name.
        """
        self.products += 1
        if self._leaves is not None:
            return self._by_layers(direction)
        return hessian_product(self.loss, self.params, self._merged(), direction)

    def along(self, direction: Params) -> Tensor:
        """vᵀ H v, 0-d."""
        return inner_product(direction, self(direction))

    def gradient(self, weights: Tensor) -> Params:
        """Compute the gradient of a weighted sum of minibatch losses.

        It is Σ_k c_k g_k.

        Args:
            weights: c, (m,).
        """
        leaves = {name: value.detach().requires_grad_() for name, value in self.params.items()}
        total = {name: torch.zeros_like(value) for name, value in self.params.items()}
        taken = 0
        for losses in self._losses(leaves):
            chosen = weights[taken : taken + len(losses)].to(losses)
            taken += len(losses)
            slopes = torch.autograd.grad(
                losses @ chosen, list(leaves.values()), allow_unused=True, materialize_grads=True
            )
            for name, slope in zip(total, slopes, strict=True):
                total[name] += slope
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
                yield torch.vmap(self.loss.criterion)(outputs, targets)

    def _merged(self) -> Iterator[tuple[float, Batch]]:
        """Yield minibatches and their weights in C.

        Neighbours of equal size are one, where that is the same.
        """
        count = len(self.batches)
        if not self._separable:
            yield from ((1 / count, batch) for batch in self.batches)
            return
        for inputs, targets in self._stacks():
            yield len(targets) / count, (inputs.flatten(0, 1), targets.flatten(0, 1))

    def _stacks(self) -> Iterator[Pair]:
        return stacks(self.batches, max(1, EXAMPLES_AT_ONCE // len(self.batches[0][1])))

    @torch.no_grad()
    def _by_layers(self, direction: Params) -> Params:
        loss, leaves = self.loss, self._leaves
        assert isinstance(loss, ModuleLoss)
        assert leaves is not None
        params = {**detached_parameters(loss.module), **self.params}
        total = {name: torch.zeros_like(value) for name, value in self.params.items()}
        for inputs, targets in self._stacks():
            weight = len(targets) / len(self.batches)
            pair = (inputs.flatten(0, 1), targets.flatten(0, 1))
            _add_product(loss.criterion, leaves, params, direction, pair, weight, total)
        return total


def _add_product(
    criterion: Callable[[Tensor, Tensor], Tensor],
    leaves: list[tuple[str, nn.Module]],
    params: Params,
    direction: Params,
    pair: Pair,
    weight: float,
    total: Params,
) -> None:
    """Add the weighted product of one large minibatch, layer by layer."""
    inputs, targets = pair
    values: Tensor = inputs  # a
    bent: Tensor | None = None  # R{a}; None is 0
    taken: list[tuple[str, nn.Module, Tensor, Tensor | None]] = []
    for prefix, leaf in leaves:
        taken.append((prefix, leaf, values, bent))
        values, bent = _forward(prefix, leaf, values, bent, params, direction)
    assert bent is not None
    slopes, turned = _of_criterion(lambda outputs: criterion(outputs, targets), values, bent)
    slopes, turned = slopes * weight, turned * weight  # δ and R{δ}
    first = next(position for position, (_, leaf) in enumerate(leaves) if isinstance(leaf, nn.Linear))
    for position in range(len(taken) - 1, first - 1, -1):
        prefix, leaf, values, bent = taken[position]
        if not isinstance(leaf, nn.Linear):
            slopes, turned = _backward(leaf, values, bent, slopes, turned)
            continue
        name, bias = f"{prefix}weight", f"{prefix}bias"
        if name in total:
            total[name].addmm_(turned.mT, values)
            if bent is not None:
                total[name].addmm_(slopes.mT, bent)
        if bias in total:
            total[bias] += turned.sum(0)
        if position > first:
            turned = turned @ params[name]
            if name in direction:
                turned = turned.addmm_(slopes, direction[name])
            slopes = slopes @ params[name]


def _forward(
    prefix: str, leaf: nn.Module, values: Tensor, bent: Tensor | None, params: Params, direction: Params
) -> tuple[Tensor, Tensor | None]:
    """Return what a layer or function makes of a and R{a}."""
    if not isinstance(leaf, nn.Linear):
        if bent is None:
            return leaf(values), None
        if type(leaf) is nn.ReLU:
            return leaf(values), bent * (values > 0)
        if isinstance(leaf, _LINEAR):
            return leaf(values), leaf(bent)
        with torch.enable_grad():
            leaves = values.detach().requires_grad_()
            outputs = leaf(leaves)
        (turned,) = torch.autograd.grad(outputs, leaves, bent)  # f'(z) R{z}, as f takes single numbers
        return outputs.detach(), turned
    weight, bias = params[f"{prefix}weight"], params.get(f"{prefix}bias")
    outputs = values @ weight.mT if bias is None else torch.addmm(bias, values, weight.mT)
    turned = torch.zeros_like(outputs) if bent is None else bent @ weight.mT
    if f"{prefix}weight" in direction:
        turned = turned.addmm_(values, direction[f"{prefix}weight"].mT)
    if f"{prefix}bias" in direction:
        turned += direction[f"{prefix}bias"]
    return outputs, turned


def _backward(
    leaf: nn.Module, values: Tensor, bent: Tensor | None, slopes: Tensor, turned: Tensor
) -> tuple[Tensor, Tensor]:
    """Return δ and R{δ} at the inputs of a function."""
    if type(leaf) is nn.ReLU:
        active = values > 0
        return slopes * active, turned * active
    # R{f'(z) δ} = f''(z) R{z} δ + f'(z) R{δ}, for functions of single numbers, and for those that only reorder them
    with torch.enable_grad():
        leaves = values.detach().requires_grad_()
        outputs = leaf(leaves)
        (down,) = torch.autograd.grad(outputs, leaves, slopes, create_graph=True)
    (bend,) = torch.autograd.grad(outputs, leaves, turned, retain_graph=True)
    if bent is not None and down.requires_grad:
        (second,) = torch.autograd.grad(down, leaves, bent, allow_unused=True, materialize_grads=True)
        bend = bend + second
    return down.detach(), bend


def _of_criterion(criterion: Callable[[Tensor], Tensor], outputs: Tensor, bent: Tensor) -> tuple[Tensor, Tensor]:
    """Return δ and R{δ} at the outputs."""
    with torch.enable_grad():
        leaves = outputs.detach().requires_grad_()
        (slopes,) = torch.autograd.grad(criterion(leaves), leaves, create_graph=True)
    if not slopes.requires_grad:  # a criterion that is linear in the outputs
        return slopes, torch.zeros_like(slopes)
    (turned,) = torch.autograd.grad(slopes, leaves, bent, allow_unused=True, materialize_grads=True)
    return slopes.detach(), turned
