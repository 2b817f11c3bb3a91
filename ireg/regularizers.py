"""Explicit penalties on gradient, weights, and the loss nearby.

With C = (1/m) Σ Ĉ_k, g_k = ∇Ĉ_k of minibatch k of m, ḡ = ∇C:

| class | penalty R | source |
|---|---|---|
| `Minibatch` | (λ/4) (1/m) Σ ‖g_k‖² | Smith et al. 2021, arXiv:2101.12176 |
| `Micro` | the same of micro-batches of b examples | Geiping et al. 2022, arXiv:2109.14119 |
| `FullBatch` | (λ/4) ‖ḡ‖² | Barrett & Dherin 2021, arXiv:2009.11162 |
| `Norm` | ρ (1/m) Σ ‖g_k‖ | Zhao et al. 2022, arXiv:2202.03599 |
| `MomentumLike` | (η_e/4) [2L ‖ḡ‖² − τ (1/m) Σ ‖g_k − ḡ‖²] | docs/theory.md, section 14 |
| `L2` | (λ/2) ‖ω‖² | |
| `SAM` | (1/m) Σ Ĉ_k(ω + ρ g_k/‖g_k‖) − C | Foret et al. 2021, arXiv:2010.01412 |
| `ASAM` | (1/m) Σ Ĉ_k(ω + ρ ω²g_k/‖ωg_k‖) − C | Kwon et al. 2021, arXiv:2102.11600 |

The strength is an absolute number. It does not follow a learning rate that changes.

SGD at rate η with `Minibatch(strength=λ)` follows C + ((η + λ)/4) (1/m) Σ ‖g_k‖². So r epochs at the rate η₀/r with
λ = η₀ (1 − 1/r) follow the mean path of one epoch at η₀ without penalty, to second order: `python -m ireg.verify`.

Micro-batches are also those of Novack et al. 2022, arXiv:2211.15853.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, NamedTuple, Protocol

import torch
from torch import Tensor

from ireg.core.batches import split_batch
from ireg.core.hessian import MeanHessian, third_derivative
from ireg.core.optimizers import overlap
from ireg.core.params import displaced, squared_norm
from ireg.core.repeated import Repeated, with_slopes
from ireg.core.types import Batch, LossFn, Params

METHODS = ("exact", "differences")
"""How the gradient of a gradient's norm is computed."""


class Penalized(NamedTuple):
    """The objective of a minibatch.

    `total` is 0-d with a graph: its gradient by the parameters is what is descended. `penalty` is R_k, detached.
    """

    total: Tensor
    penalty: Tensor


@dataclass(frozen=True, kw_only=True)
class Regularizer:
    """A penalty that is added to the loss.

    It has a part of each minibatch, and a part that all minibatches share. Either may be nothing.

    Attributes:
        strength: λ or ρ of the table above.
        method: `exact` by double backward, which sees no kinks of ReLU; `differences` by central differences of the
            gradient, which do.
        step: length of the displacement by which differences are taken, ‖δω‖ to either side.

    Raises:
        ValueError: a strength that is no finite number of at least 0, an unknown method, or a step that is not above 0.
    """

    strength: float
    method: str = "exact"
    step: float = 0.01

    is_gradient: ClassVar[bool] = True
    """Whether what is descended is the gradient of a function, so that it has a mean flow."""
    of_minibatches: ClassVar[bool] = True
    """Whether it has a part of each minibatch."""
    of_epoch: ClassVar[bool] = False
    """Whether it has a part that is a function of all the epoch's minibatches."""

    def __post_init__(self) -> None:
        if not 0 <= self.strength < math.inf:
            raise ValueError(f"strength={self.strength}: must be a finite number of at least 0")
        if self.method not in METHODS:
            raise ValueError(f"method={self.method!r}: must be one of {', '.join(METHODS)}")
        if not 0 < self.step < math.inf:
            raise ValueError(f"step={self.step}: must be a finite number > 0")

    def penalized(self, loss: Repeated, params: Params, value: Tensor, num_batches: int) -> Penalized:
        """Add the penalty's part of a minibatch to its loss.

        Args:
            loss: of the minibatch.
            params: leaves of the graph of `value`.
            value: Ĉ_k, with its graph.
            num_batches: m.
        """
        return Penalized(value, torch.zeros_like(value.detach()))

    def shared(self, loss: LossFn, batches: Sequence[Batch]) -> list[SharedPart]:
        """Return the parts that are functions of the weights alone.

        Args:
            loss: of a minibatch.
            batches: of the epoch.
        """
        return []


class SharedPart(Protocol):
    """A penalty that is the same for all minibatches."""

    def value_and_slope(self, params: Params) -> tuple[Tensor, Params]:
        """R, 0-d, and ∇R by name."""

    def product(self, params: Params, direction: Params) -> Params:
        """∇²R v, by name."""


@dataclass(frozen=True, kw_only=True)
class Minibatch(Regularizer):
    """Penalize each minibatch's squared gradient: (λ/4) ‖g_k‖².

    Example:
        >>> from ireg.objective import Objective
        >>> def loss(params, batch):
        ...     return (params["w"] * batch).square().mean() / 2
        >>> objective = Objective(loss, Minibatch(strength=0.4))
        >>> weight = torch.tensor(3.0, requires_grad=True)
        >>> objective({"w": weight}, torch.ones(1)).backward()  # g + (λ/2) H g = 3 + 0.2 · 3
        >>> round(float(weight.grad), 6)
        3.6
    """

    def penalized(self, loss: Repeated, params: Params, value: Tensor, num_batches: int) -> Penalized:
        """Add (λ/4) ‖g_k‖²."""
        return _with_square(loss, params, value, self.strength, self)


@dataclass(frozen=True, kw_only=True)
class Norm(Regularizer):
    """Penalize each minibatch's gradient norm: ρ ‖g_k‖.

    Where g_k is 0, the penalty's gradient is taken as 0.
    """

    def penalized(self, loss: Repeated, params: Params, value: Tensor, num_batches: int) -> Penalized:
        """Add ρ ‖g_k‖."""
        if self.method == "exact":
            square = _square(value, params)
            norm = torch.where(square > 0, square, 1.0).sqrt() * (square > 0)
            return Penalized(value + self.strength * norm, self.strength * norm.detach())
        slopes, norm, bent = _along_gradient(loss, params, value, self.step)
        return _linear(
            params, _add_in_place(slopes, bent, self.strength / (2 * self.step)), value, self.strength * norm
        )


@dataclass(frozen=True, kw_only=True)
class Micro(Regularizer):
    """Penalize the squared gradients of a minibatch's micro-batches.

    It is (λ/4) (1/c) Σ_j ‖g_kj‖² over c micro-batches of `size` neighbouring examples; the last may be smaller.

    Attributes:
        size: b.

    Raises:
        ValueError: a size below 1.
    """

    size: int

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.size < 1:
            raise ValueError(f"size={self.size}: must be at least 1")

    def penalized(self, loss: Repeated, params: Params, value: Tensor, num_batches: int) -> Penalized:
        """Add the mean over the micro-batches."""
        parts = split_batch(loss.batch, self.size)
        share = self.strength / len(parts)
        if self.method == "exact":
            squares = [_square(loss.of(params, part), params) for part in parts]
            penalty = share / 4 * torch.stack(squares).sum()
            return Penalized(value + penalty, penalty.detach())
        slopes, penalty = _slopes(value, params), torch.zeros_like(value.detach())
        for part in parts:
            _, norm, bent = _along_gradient(loss, params, loss.of(params, part), self.step, part)
            slopes = _add_in_place(slopes, bent, share / 2 * float(norm) / (2 * self.step))
            penalty += share / 4 * norm.square()
        return _linear(params, slopes, value, penalty)


@dataclass(frozen=True, kw_only=True)
class FullBatch(Regularizer):
    """Penalize the squared gradient of all minibatches: (λ/4) ‖ḡ‖².

    Each step takes a pass over the epoch's minibatches, with dropout off.
    """

    of_minibatches: ClassVar[bool] = False
    of_epoch: ClassVar[bool] = True

    def shared(self, loss: LossFn, batches: Sequence[Batch]) -> list[SharedPart]:
        """(λ/4) ‖ḡ‖²."""
        return [_FullGradient(loss, batches, self.strength, self)]


@dataclass(frozen=True, kw_only=True)
class MomentumLike(Regularizer):
    """Let SGD descend what momentum does: (η_e/4) [2L ‖ḡ‖² − τ Var].

    With plain SGD at the rate η_e = η/(1 − β) the mean path is that of momentum β at the rate η, to second order. As
    Var = (1/m) Σ ‖g_k‖² − ‖ḡ‖², it is a part of each minibatch, −τ (η_e/4) ‖g_k‖², and a part of all, (2L + τ)(η_e/4)
    ‖ḡ‖². Each step takes a pass over the epoch's minibatches, with dropout off.

    Attributes:
        strength: η_e.
        momentum: β, so that L = β/(1 − β), and τ is that of m minibatches.

    Raises:
        ValueError: a momentum outside of [0, 1).
    """

    of_epoch: ClassVar[bool] = True

    momentum: float = 0.9

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.momentum < 1:
            raise ValueError(f"momentum={self.momentum}: must be in [0, 1)")

    def coefficients(self, num_batches: int) -> tuple[float, float]:
        """Return those of (1/4) ‖g_k‖² and of (1/4) ‖ḡ‖².

        They are −τ η_e and (2L + τ) η_e.
        """
        lag, common = self.momentum / (1 - self.momentum), overlap(self.momentum, num_batches)
        return -common * self.strength, (2 * lag + common) * self.strength

    def penalized(self, loss: Repeated, params: Params, value: Tensor, num_batches: int) -> Penalized:
        """Take off τ (η_e/4) ‖g_k‖²."""
        return _with_square(loss, params, value, self.coefficients(num_batches)[0], self)

    def shared(self, loss: LossFn, batches: Sequence[Batch]) -> list[SharedPart]:
        """(2L + τ)(η_e/4) ‖ḡ‖²."""
        return [_FullGradient(loss, batches, self.coefficients(len(batches))[1], self)]


@dataclass(frozen=True, kw_only=True)
class L2(Regularizer):
    """Penalize the squared norm of the weights: (λ/2) ‖ω‖².

    Example:
        >>> part, = L2(strength=0.5).shared(lambda params, batch: torch.zeros(()), [])
        >>> part.value_and_slope({"w": torch.tensor([2.0])})
        (tensor(1.), {'w': tensor([1.])})
    """

    of_minibatches: ClassVar[bool] = False

    def shared(self, loss: LossFn, batches: Sequence[Batch]) -> list[SharedPart]:
        """(λ/2) ‖ω‖²."""
        return [_Ridge(self.strength)]


@dataclass(frozen=True, kw_only=True)
class SAM(Regularizer):
    """Minimize the loss at the worst point nearby.

    The step takes ∇Ĉ_k at ω + ρ g_k/‖g_k‖. It is the gradient of Ĉ_k + ρ ‖g_k‖ but for O(ρ²), and of no function
    exactly, so that it has no mean flow here.

    Attributes:
        strength: ρ.
    """

    is_gradient: ClassVar[bool] = False

    def penalized(self, loss: Repeated, params: Params, value: Tensor, num_batches: int) -> Penalized:
        """Take the loss nearby for the loss."""
        slopes = _slopes(value, params)
        shift = self._shift({name: param.detach() for name, param in params.items()}, slopes)
        nearby = loss.of({name: param + shift[name] if name in shift else param for name, param in params.items()})
        return Penalized(nearby, nearby.detach() - value.detach())

    def _shift(self, params: Params, slopes: Params) -> Params:
        """ρ g/‖g‖."""
        return _of_length(slopes, self.strength)


@dataclass(frozen=True, kw_only=True)
class ASAM(SAM):
    """Minimize the loss at the worst point nearby, relative to the weights.

    The step takes ∇Ĉ_k at ω + ρ T²g_k/‖T g_k‖, T = |ω| by weight.
    """

    def _shift(self, params: Params, slopes: Params) -> Params:
        """ρ T²g/‖Tg‖."""
        scaled = _of_length({name: params[name].abs() * slope for name, slope in slopes.items()}, self.strength)
        return {name: params[name].abs() * value for name, value in scaled.items()}


class _Ridge:
    """(λ/2) ‖ω‖²."""

    def __init__(self, strength: float) -> None:
        self.strength = strength

    def value_and_slope(self, params: Params) -> tuple[Tensor, Params]:
        return self.strength / 2 * squared_norm(params), self.product(params, params)

    def product(self, params: Params, direction: Params) -> Params:
        return {name: self.strength * value for name, value in direction.items()}


class _FullGradient:
    """(λ/4) ‖ḡ‖², with ∇ = (λ/2) Hḡ."""

    def __init__(self, loss: LossFn, batches: Sequence[Batch], strength: float, how: Regularizer) -> None:
        if not batches:
            raise ValueError("a penalty on the full batch needs the epoch's minibatches; give Objective(batches=…)")
        self.loss = loss
        self.batches = batches
        self.strength = strength
        self.how = how

    def value_and_slope(self, params: Params) -> tuple[Tensor, Params]:
        mean = self._mean(params)
        square = squared_norm(mean)
        bent = self._bent(params, mean, float(square) ** 0.5)
        return self.strength / 4 * square, {name: self.strength / 2 * value for name, value in bent.items()}

    def _bent(self, params: Params, mean: Params, norm: float) -> Params:
        """Hḡ."""
        if self.how.method == "exact":
            return MeanHessian(self.loss, params, self.batches)(mean)
        if not norm > 0:  # also nan, which is to be seen in the gradient
            return {name: norm * value for name, value in mean.items()}
        step = self.how.step
        ends = [self._mean(displaced(params, mean, length / norm)) for length in (step, -step)]
        return {name: norm / (2 * step) * (ahead - ends[1][name]) for name, ahead in ends[0].items()}

    def product(self, params: Params, direction: Params) -> Params:
        """(λ/2) (H Hv + ∇³C[ḡ, v])."""
        hessian = MeanHessian(self.loss, params, self.batches)
        twice = hessian(hessian(direction))
        third = third_derivative(self.loss, params, self.batches, self._mean(params), direction)
        return {name: self.strength / 2 * (value + third[name]) for name, value in twice.items()}

    def _mean(self, params: Params) -> Params:
        weights = torch.full((len(self.batches),), 1 / len(self.batches), dtype=torch.float64)
        return MeanHessian(self.loss, params, self.batches).gradient(weights)


def _slopes(value: Tensor, params: Params, *, create_graph: bool = False) -> Params:
    """The gradient by the parameters that the loss uses.

    The graph of the value is used up, or another is made on top of it.
    """
    used = {name: param for name, param in params.items() if param.requires_grad}
    slopes = torch.autograd.grad(value, list(used.values()), create_graph=create_graph, allow_unused=True)
    return {name: slope for name, slope in zip(used, slopes, strict=True) if slope is not None}


def _square(value: Tensor, params: Params) -> Tensor:
    """‖g‖², with its graph."""
    return squared_norm(_slopes(value, params, create_graph=True))


def _with_square(loss: Repeated, params: Params, value: Tensor, strength: float, how: Regularizer) -> Penalized:
    """Add (λ/4) ‖g‖² to the loss of a minibatch."""
    if how.method == "exact":
        penalty = strength / 4 * _square(value, params)
        return Penalized(value + penalty, penalty.detach())
    slopes, norm, bent = _along_gradient(loss, params, value, how.step)
    factor = strength / 2 * float(norm) / (2 * how.step)
    return _linear(params, _add_in_place(slopes, bent, factor), value, strength / 4 * norm.square())


def _along_gradient(
    loss: Repeated, params: Params, value: Tensor, step: float, batch: Batch | None = None
) -> tuple[Params, Tensor, Params]:
    """Return g, ‖g‖, and twice H g/‖g‖ times h by central differences.

    The last is g(ω + hv) − g(ω − hv) with v = g/‖g‖. The error of H g/‖g‖ is O(h²), of forward differences O(h).
    """
    slopes = _slopes(value, params)
    norm = torch.stack(torch._foreach_norm(list(slopes.values()))).norm()
    if not float(norm) > 0:  # also nan, which is to be seen in the gradient
        return slopes, norm, {name: norm * slope for name, slope in slopes.items()}
    length = step / float(norm)
    there = displaced({name: param.detach() for name, param in params.items()}, slopes, length)
    leaves = [there[name].requires_grad_() for name in slopes]

    def gradients() -> tuple[Tensor, ...]:
        with torch.enable_grad():
            moved = loss.of(there, batch)
        return torch.autograd.grad(moved, leaves, allow_unused=True, materialize_grads=True)

    ahead = gradients()
    with torch.no_grad():  # in place: fresh memory of the weights' size costs more than the sum
        torch._foreach_add_(leaves, list(slopes.values()), alpha=-2 * length)
        behind = gradients()
        torch._foreach_sub_(ahead, behind)
    return slopes, norm, dict(zip(slopes, ahead, strict=True))


def _add_in_place(slopes: Params, other: Params, factor: float) -> Params:
    """Return v + c w, in the place of w."""
    values = list(other.values())
    torch._foreach_mul_(values, factor)
    torch._foreach_add_(values, list(slopes.values()))
    return other


def _linear(params: Params, slopes: Params, value: Tensor, penalty: Tensor) -> Penalized:
    """Return a total of this value with these slopes."""
    return Penalized(with_slopes(value.detach() + penalty, slopes, params), penalty)


def _of_length(direction: Params, length: float) -> Params:
    """The direction at this length; 0 stays 0."""
    norm = squared_norm(direction).sqrt()
    factor = torch.where(norm > 0, length / norm, norm)
    return {name: factor * value for name, value in direction.items()}
