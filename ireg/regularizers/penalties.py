"""The penalties, each with its formula."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ireg.core.batches import split_batch
from ireg.core.hessian import MeanHessian, third_derivative
from ireg.core.optimizers import overlap
from ireg.core.params import displaced, squared_norm
from ireg.core.repeated import Repeated
from ireg.core.types import Batch, LossFn, Params
from ireg.regularizers.base import Penalized, Regularizer, SharedPart
from ireg.regularizers.differences import (
    add_in_place,
    along_gradient,
    gradient_of,
    linear,
    of_length,
    square_of_gradient,
    with_square,
)


@dataclass(frozen=True, kw_only=True)
class Minibatch(Regularizer):
    """Penalize each minibatch's squared gradient: (λ/4) ‖g_k‖².

    Example:
        >>> from ireg import Objective
        >>> from ireg.regularizers import Minibatch
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
        return with_square(loss, params, value, self.strength, self)


@dataclass(frozen=True, kw_only=True)
class Norm(Regularizer):
    """Penalize each minibatch's gradient norm: ρ ‖g_k‖.

    Where g_k is 0, the penalty's gradient is taken as 0.

    Example:
        >>> from ireg import Objective
        >>> from ireg.regularizers import Norm
        >>> def loss(params, batch):
        ...     return (params["w"] * batch).square().mean() / 2
        >>> weight = torch.tensor(3.0, requires_grad=True)
        >>> Objective(loss, Norm(strength=0.1))({"w": weight}, torch.ones(1)).backward()  # g + ρ H g/|g| = 3 + 0.1
        >>> round(float(weight.grad), 6)
        3.1
    """

    def penalized(self, loss: Repeated, params: Params, value: Tensor, num_batches: int) -> Penalized:
        """Add ρ ‖g_k‖."""
        if self.method == "exact":
            square = square_of_gradient(value, params)
            # The root of 0 has an infinite derivative, and 0 · ∞ is nan: it is taken of 1, and multiplied by 0.
            norm = torch.where(square > 0, square, 1.0).sqrt() * (square > 0)
            return Penalized(value + self.strength * norm, self.strength * norm.detach())
        gradient, norm, change = along_gradient(loss, params, value, self.step)
        return linear(
            params, add_in_place(gradient, change, self.strength / (2 * self.step)), value, self.strength * norm
        )


@dataclass(frozen=True, kw_only=True)
class Micro(Regularizer):
    """Penalize the squared gradients of a minibatch's micro-batches.

    It is (λ/4) (1/c) Σ_j ‖g_kj‖² over c micro-batches of `size` neighbouring examples; the last may be smaller.

    Attributes:
        size: b.

    Raises:
        ValueError: a size below 1.

    Example:
        >>> from ireg import Objective
        >>> from ireg.regularizers import Micro
        >>> def loss(params, batch):  # g = x²w
        ...     return (params["w"] * batch[0]).square().mean() / 2
        >>> objective = Objective(loss, Micro(strength=0.4, size=1))
        >>> batch = torch.tensor([1.0, 2.0]), torch.zeros(2)
        >>> weight = torch.tensor(1.0, requires_grad=True)
        >>> round(float(objective.evaluate({"w": weight}, batch).penalty), 6)  # 0.1 (1² + 4²)/2
        0.85
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
            squares = [square_of_gradient(loss.of(params, part), params) for part in parts]
            penalty = share / 4 * torch.stack(squares).sum()
            return Penalized(value + penalty, penalty.detach())
        gradient, penalty = gradient_of(value, params), torch.zeros_like(value)
        for part in parts:
            _, norm, change = along_gradient(loss, params, loss.of(params, part), self.step, part)
            gradient = add_in_place(gradient, change, share / 2 * float(norm) / (2 * self.step))
            penalty += share / 4 * norm.square()
        return linear(params, gradient, value, penalty)


@dataclass(frozen=True, kw_only=True)
class FullBatch(Regularizer):
    """Penalize the squared gradient of all minibatches: (λ/4) ‖ḡ‖².

    Each step takes a pass over the epoch's minibatches, with dropout off.

    Example:
        >>> from ireg import Objective
        >>> from ireg.regularizers import FullBatch
        >>> def loss(params, batch):  # g = x²w
        ...     return (params["w"] * batch).square().mean() / 2
        >>> batches = [torch.tensor([1.0]), torch.tensor([2.0])]
        >>> objective = Objective(loss, FullBatch(strength=0.4), batches)
        >>> round(float(objective.penalty({"w": torch.tensor(1.0)})), 6)  # 0.1 ((1 + 4)/2)²
        0.625
    """

    of_minibatches: ClassVar[bool] = False
    of_epoch: ClassVar[bool] = True

    def shared(self, loss: LossFn, batches: Sequence[Batch]) -> list[SharedPart]:
        """Return the part (λ/4) ‖ḡ‖²."""
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

    Example:
        >>> from ireg.regularizers import MomentumLike
        >>> MomentumLike(strength=0.4, momentum=0.5).coefficients(2)  # L = 1 and τ = 1/2
        (-0.2, 1.0)
    """

    of_epoch: ClassVar[bool] = True

    momentum: float = 0.9

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.momentum < 1:
            raise ValueError(f"momentum={self.momentum}: must be in [0, 1)")

    def coefficients(self, num_batches: int) -> tuple[float, float]:
        """Compute −τ η_e and (2L + τ) η_e, the coefficients of (1/4) ‖g_k‖² and of (1/4) ‖ḡ‖²."""
        lag, common = self.momentum / (1 - self.momentum), overlap(self.momentum, num_batches)
        return -common * self.strength, (2 * lag + common) * self.strength

    def penalized(self, loss: Repeated, params: Params, value: Tensor, num_batches: int) -> Penalized:
        """Take off τ (η_e/4) ‖g_k‖²."""
        return with_square(loss, params, value, self.coefficients(num_batches)[0], self)

    def shared(self, loss: LossFn, batches: Sequence[Batch]) -> list[SharedPart]:
        """Return the part (2L + τ)(η_e/4) ‖ḡ‖²."""
        return [_FullGradient(loss, batches, self.coefficients(len(batches))[1], self)]


@dataclass(frozen=True, kw_only=True)
class L2(Regularizer):
    """Penalize the squared norm of the weights: (λ/2) ‖ω‖².

    Example:
        >>> from ireg.regularizers import L2
        >>> part, = L2(strength=0.5).shared(lambda params, batch: torch.zeros(()), [])
        >>> part.value_and_gradient({"w": torch.tensor([2.0])})
        (tensor(1.), {'w': tensor([1.])})
    """

    of_minibatches: ClassVar[bool] = False

    def shared(self, loss: LossFn, batches: Sequence[Batch]) -> list[SharedPart]:
        """Return the part (λ/2) ‖ω‖²."""
        return [_Ridge(self.strength)]


@dataclass(frozen=True, kw_only=True)
class SAM(Regularizer):
    """Minimize the loss at the worst point nearby.

    The step takes ∇Ĉ_k at ω + ρ g_k/‖g_k‖. It is the gradient of Ĉ_k + ρ ‖g_k‖ but for O(ρ²), and of no function
    exactly, so that it has no mean flow here.

    Attributes:
        strength: ρ.

    Example:
        >>> from ireg import Objective
        >>> from ireg.regularizers import SAM
        >>> def loss(params, batch):
        ...     return (params["w"] * batch).square().mean() / 2
        >>> weight = torch.tensor(3.0, requires_grad=True)
        >>> Objective(loss, SAM(strength=0.1))({"w": weight}, torch.ones(1)).backward()  # the gradient at 3.1
        >>> round(float(weight.grad), 6)
        3.1
    """

    is_gradient: ClassVar[bool] = False

    def penalized(self, loss: Repeated, params: Params, value: Tensor, num_batches: int) -> Penalized:
        """Take the loss nearby for the loss."""
        gradient = gradient_of(value, params)
        shift = self._shift({name: param.detach() for name, param in params.items()}, gradient)
        nearby = loss.of({name: param + shift[name] if name in shift else param for name, param in params.items()})
        return Penalized(nearby, nearby.detach() - value.detach())

    def _shift(self, params: Params, gradient: Params) -> Params:
        """Compute ρ g/‖g‖, by name."""
        return of_length(gradient, self.strength)


@dataclass(frozen=True, kw_only=True)
class ASAM(SAM):
    """Minimize the loss at the worst point nearby, relative to the weights.

    The step takes ∇Ĉ_k at ω + ρ T²g_k/‖T g_k‖, T = `|ω|` by weight.

    Example:
        >>> from ireg import Objective
        >>> from ireg.regularizers import ASAM
        >>> def loss(params, batch):
        ...     return (params["w"] * batch).square().mean() / 2
        >>> weight = torch.tensor(3.0, requires_grad=True)
        >>> Objective(loss, ASAM(strength=0.1))({"w": weight}, torch.ones(1)).backward()  # the gradient at 3 + 0.1 · 3
        >>> round(float(weight.grad), 6)
        3.3
    """

    def _shift(self, params: Params, gradient: Params) -> Params:
        """Compute ρ T²g/‖Tg‖, by name."""
        scaled = of_length({name: params[name].abs() * part for name, part in gradient.items()}, self.strength)
        return {name: params[name].abs() * value for name, value in scaled.items()}


class _Ridge:
    """(λ/2) ‖ω‖²."""

    def __init__(self, strength: float) -> None:
        self.strength = strength

    def value_and_gradient(self, params: Params) -> tuple[Tensor, Params]:
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

    def value_and_gradient(self, params: Params) -> tuple[Tensor, Params]:
        mean = self._mean(params)
        square = squared_norm(mean)
        product = self._hessian_product(params, mean, float(square) ** 0.5)
        return self.strength / 4 * square, {name: self.strength / 2 * value for name, value in product.items()}

    def _hessian_product(self, params: Params, mean: Params, norm: float) -> Params:
        """Compute Hḡ by name, by double backward or by central differences."""
        if self.how.method == "exact":
            return MeanHessian(self.loss, params, self.batches)(mean)
        if not norm > 0:  # also nan, which is to be seen in the gradient
            return {name: norm * value for name, value in mean.items()}
        step = self.how.step
        ends = [self._mean(displaced(params, mean, length / norm)) for length in (step, -step)]
        return {name: norm / (2 * step) * (ahead - ends[1][name]) for name, ahead in ends[0].items()}

    def product(self, params: Params, direction: Params) -> Params:
        """Compute (λ/2) (H Hv + ∇³C[ḡ, v]), by name."""
        hessian = MeanHessian(self.loss, params, self.batches)
        twice = hessian(hessian(direction))
        third = third_derivative(self.loss, params, self.batches, self._mean(params), direction)
        return {name: self.strength / 2 * (value + third[name]) for name, value in twice.items()}

    def _mean(self, params: Params) -> Params:
        weights = torch.full((len(self.batches),), 1 / len(self.batches), dtype=torch.float64)
        return MeanHessian(self.loss, params, self.batches).gradient(weights)
