"""Steepest descent in a norm: which norm, how old gradients are, and each parameter's rate.

A step takes off η T(Σ_j a_j g_{t−j}) with Σ a_j = 1, T = ∇φ* and the mean age L = Σ j a_j. On full batches finite steps
then penalize η (½ + L) φ*(∇C), see docs/theory.md, section 19.

| optimizer | φ* | L |
|---|---|---|
| torch's Muon, m ← βm + (1−β)g | nuclear norm of each matrix | β/(1−β); β²/(1−β) with Nesterov's step |
| pytorch-optimizer's Lion | ℓ₁ norm | β₁/(1−β₂) |
| pytorch-optimizer's SignSGD, which is Signum with its momentum β | ℓ₁ norm | β/(1−β) |

As Σ a_j = 1, the effective rate is η itself, of Muon that of each matrix. Such a T is the same for any multiple of its
argument and has no slope at 0: there is no curvature at which steps begin to oscillate, and no edge of stability.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.func import jvp
from torch.optim import Optimizer

from ireg.core.optimizers.memory import Memory
from ireg.core.optimizers.momentum import fading
from ireg.core.params import as_reals
from ireg.core.types import Params
from ireg.core.wide import wide

Norm = Callable[[Tensor], Tensor]


@dataclass(frozen=True, kw_only=True)
class Steepest:
    """What finite steps along T of a filter of the gradients penalize.

    Attributes:
        norm: φ*, of one parameter's gradient.
        step_map: T as the optimizer takes it: that of Muon is near ∇φ* only.
        lag: L.
        rates: η of each parameter, by name; as Σ a_j = 1, it is the effective rate.
        decay: r of the tail shares T_d = c rᵈ of past gradients, see `Memory`.
        tail_scale: c of these.
        decays: the share ηw that decoupled decay takes off each parameter a step, by name; empty without decay.
        decoupled: whether weight decay, if there is any, is of this kind.

    Example:
        >>> lion = Steepest(norm=absolute, step_map=torch.sign, lag=9.0, rates={"w": 0.1})
        >>> lion.penalty({"w": torch.tensor([1.0, -2.0])})  # 0.1 · (½ + 9) · 3
        tensor(2.8500, dtype=torch.float64)
    """

    norm: Norm
    step_map: Norm
    lag: float
    rates: Mapping[str, float]
    decay: float = 0.0
    tail_scale: float = 1.0
    decays: Mapping[str, float] = field(default_factory=dict)
    decoupled: bool = True

    @property
    def memory(self) -> Memory:
        """What is remembered of past gradients, with the largest of the effective rates."""
        return Memory(
            effective_rate=max(self.rates.values()), lag=self.lag, decay=self.decay, tail_scale=self.tail_scale
        )

    def penalty(self, gradient: Params) -> Tensor:
        """Compute (½ + L) Σ η φ*(∇C) over the parameters, 0-d, in double precision."""
        parts = [self.rates[name] * self.norm(wide(value)) for name, value in gradient.items()]
        return (0.5 + self.lag) * torch.stack(parts).sum()

    def leading(self, weights: Params, gradient: Params) -> Params:
        """Compute what a step takes off where weights and gradient have been the same for long, ηT(∇C) + ηwω."""
        return {
            name: self.rates[name] * self.step_map(value) + self.decays.get(name, 0.0) * weights[name]
            for name, value in gradient.items()
        }

    def correction(self, gradient: Params, leading: Params, uphill: Params) -> Params:
        """Compute what finite steps add to it, η(½ + L) DT(∇C)[HΔ] + ½ηw Δ.

        Args:
            gradient: ∇C, in double precision as all of these.
            leading: Δ.
            uphill: HΔ.
        """
        return {
            name: (0.5 + self.lag) * self.rates[name] * jvp(self.step_map, (value,), (uphill[name],))[1]
            + self.decays.get(name, 0.0) / 2 * leading[name]
            for name, value in gradient.items()
        }


def absolute(gradient: Tensor) -> Tensor:
    """Return the ℓ₁ norm."""
    return gradient.abs().sum()


def nuclear(gradient: Tensor) -> Tensor:
    """Return the sum of a matrix's singular values."""
    return torch.linalg.matrix_norm(gradient, "nuc")


def polar(matrix: Tensor) -> Tensor:
    """Return the polar factor UVᵀ of a matrix UΣVᵀ, the gradient of its nuclear norm."""
    left, _, right = torch.linalg.svd(matrix, full_matrices=False)
    return left @ right


def polar_along(matrix: Tensor, direction: Tensor) -> Tensor:
    """Return the derivative of the polar factor along a direction E.

    With M = UᵀEV it is U [(M_ij − M_ji)/(σ_i + σ_j)] Vᵀ + (1 − UUᵀ) E V Σ⁻¹ Vᵀ of a matrix UΣVᵀ with at least as many
    rows as columns. It is large where a singular value is near 0, and has no meaning where one vanishes.
    """
    if matrix.shape[0] < matrix.shape[1]:
        return polar_along(matrix.T, direction.T).T
    left, values, right = torch.linalg.svd(matrix, full_matrices=False)
    mixed = left.T @ direction @ right.T
    turned = left @ ((mixed - mixed.T) / (values[:, None] + values)) @ right
    outside = direction - left @ (left.T @ direction)
    return turned + outside @ (right.T / values) @ right


@dataclass(frozen=True)
class NewtonSchulz:
    """Muon's approximation of the polar factor, by steps of Newton and Schulz.

    In the precision of the matrix M. With X = M/‖M‖ each step is X ← aX + (bXXᵀ + c(XXᵀ)²)X. Singular values end near
    1, at about 0.7 to 1.2.

    Attributes:
        coefficients: a, b, c.
        steps: how many.

    Source: Jordan et al. 2024, Muon.
    """

    coefficients: tuple[float, float, float] = (3.4445, -4.7750, 2.0315)
    steps: int = 5

    def __call__(self, matrix: Tensor) -> Tensor:
        """Return the approximation."""
        one, three, five = self.coefficients
        found = matrix / matrix.norm()
        for _ in range(self.steps):
            square = found @ found.T
            found = one * found + (three * square + five * square @ square) @ found
        return found


def steepest_of(optimizer: Optimizer, groups: Mapping[str, Mapping[str, Any]], params: Params) -> Steepest | None:
    """Return what an optimizer penalizes; None where it is not known to descend steepest in a norm.

    Args:
        optimizer: any.
        groups: what each parameter's group said at the last step, by name.
        params: the parameters, by name.

    Raises:
        ValueError: its memory does not fade.
    """
    read = READERS.get(f"{type(optimizer).__module__}.{type(optimizer).__qualname__}")
    if read is None:
        return None
    found = [read(group) for group in groups.values()]
    if found[0] is None or any(one != found[0] for one in found):
        return None  # another map of the step, or groups with memories of their own
    decoupled = all(group.get("weight_decouple", True) and not group.get("fixed_decay") for group in groups.values())
    return Steepest(
        norm=found[0].norm,
        step_map=found[0].step_map,
        lag=found[0].lag,
        rates={name: float(group["lr"]) * _shape_factor(group, params[name]) for name, group in groups.items()},
        decay=found[0].decay,
        tail_scale=found[0].tail_scale,
        decays={name: float(group["lr"]) * float(group.get("weight_decay", 0.0)) for name, group in groups.items()}
        if decoupled
        else {},
        decoupled=decoupled,
    )


def mean_age(mixed: float, kept: float, *, ahead: bool) -> float:
    """Return L of c = β₁m + (1 − β₁)g, m a running mean of decay β₂.

    Args:
        mixed: β₁.
        kept: β₂.
        ahead: whether m holds the newest gradient already; otherwise the newest in it is one step old.
    """
    return mixed * (kept if ahead else 1.0) / (1 - kept)


@dataclass(frozen=True)
class _Kind:
    """What is read from a parameter group; see `Steepest`."""

    norm: Norm
    step_map: Norm
    lag: float
    decay: float
    tail_scale: float


def _kind(norm: Norm, step_map: Norm, mixed: float, kept: float, *, ahead: bool) -> _Kind:
    """Describe T of β₁m + (1 − β₁)g: T_d = β₁ β₂ᵈ, or β₁ β₂ᵈ⁻¹ if m is not ahead."""
    scale = mixed if ahead or not kept else mixed / kept
    return _Kind(norm, step_map, mean_age(mixed, kept, ahead=ahead), kept, scale)


def _muon(group: Mapping[str, Any]) -> _Kind | None:
    beta = fading("muon", float(group["momentum"]))
    first, second, third = (float(value) for value in group["ns_coefficients"])
    step_map = NewtonSchulz((first, second, third), int(group["ns_steps"]))
    return _kind(nuclear, step_map, beta if group["nesterov"] else 1.0, beta, ahead=True)


def _lion(group: Mapping[str, Any]) -> _Kind | None:
    if any(group.get(changed) for changed in ("use_gc", "adanorm", "cautious")):
        return None
    mixed, kept = (float(beta) for beta in group["betas"])
    return _kind(absolute, torch.sign, mixed, fading("lion", kept), ahead=False)


def _signum(group: Mapping[str, Any]) -> _Kind | None:
    return _kind(absolute, torch.sign, 1.0, fading("signum", float(group["momentum"])), ahead=True)


READERS: Mapping[str, Callable[[Mapping[str, Any]], _Kind | None]] = {
    "torch.optim.Muon": _muon,
    "pytorch_optimizer.optimizer.lion.Lion": _lion,
    "pytorch_optimizer.optimizer.sgd.SignSGD": _signum,
}
"""What is read from a parameter group, by the class's place: the library needs not be installed."""


def _shape_factor(group: Mapping[str, Any], value: Tensor) -> float:
    """Return by what torch's Muon multiplies the rate of a matrix."""
    if "adjust_lr_fn" not in group:
        return 1.0
    rows, columns = as_reals(value).shape[:2]
    kind = group["adjust_lr_fn"] or "original"
    if kind == "original":
        return math.sqrt(max(1.0, rows / columns))
    if kind == "match_rms_adamw":
        return 0.2 * math.sqrt(max(rows, columns))
    if kind == "spectral_unclamped":
        return math.sqrt(rows / columns)
    raise ValueError(f"adjust_lr_fn={kind!r}: unknown; known are original, match_rms_adamw, spectral_unclamped")
