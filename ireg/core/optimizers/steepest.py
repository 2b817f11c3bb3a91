"""Steepest descent in a norm: which norm, how old gradients are, and each parameter's rate.

A step takes off η T(Σ_j a_j g_{t−j}) with Σ a_j = 1, T = ∇φ* and the mean age L = Σ j a_j. On full batches finite steps
then penalize η (½ + L) φ*(∇C), see docs/theory.md, section 19.

| optimizer | φ* | T | L |
|---|---|---|---|
| torch's Muon, m ← βm + (1−β)g | nuclear norm of each matrix | Newton and Schulz | β/(1−β), with Nesterov β²/(1−β) |
| pytorch-optimizer's Lion | ℓ₁ norm | sign | β₁/(1−β₂) |
| pytorch-optimizer's SignSGD, which is Signum with its momentum β | ℓ₁ norm | sign | β/(1−β) |

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
StepMap = Callable[[Tensor], Tensor]


@dataclass(frozen=True, kw_only=True)
class GradientFilter:
    """Filter gradients: c = β₁m + (1 − β₁)g, m ← β₂m + (1 − β₂)g, with weights a_j that add up to 1.

    Attributes:
        mixed: β₁.
        kept: β₂.
        ahead: whether m holds the newest gradient already; otherwise the newest in it is one step old.

    Example:
        >>> lion = GradientFilter(mixed=0.9, kept=0.99, ahead=False)
        >>> round(lion.lag, 6), lion.first  # β₁/(1 − β₂), and a_0 and a_1
        (90.0, (0.09999999999999998, 0.009000000000000008))
    """

    mixed: float
    kept: float
    ahead: bool

    @property
    def lag(self) -> float:
        """The mean age L = Σ_j j a_j of the gradients in c, in steps."""
        return self.mixed * (self.kept if self.ahead else 1.0) / (1 - self.kept)

    @property
    def first(self) -> tuple[float, float]:
        """The weights a_0 and a_1; from there on each is β₂ times the one before."""
        share = self.mixed * (1 - self.kept)
        return 1 - self.mixed + (share if self.ahead else 0.0), share * (self.kept if self.ahead else 1.0)

    def noise(self, num_batches: int, *, independent: bool = False) -> float:
        """Return what of the minibatches' covariance is left in c.

        It is κ of E ξξᵀ = κ (1/m) Σ_k δ_k δ_kᵀ, ξ = Σ_j a_j δ_{k_j}. With A_d = Σ_n a_n a_{n+d} it is A_0 less
        2/(m(m−1)) Σ_{d=1}^{m−1} (m−d) A_d, as two different minibatches of one epoch have the covariance −1/(m−1), and
        two d steps apart are of one epoch for the share 1 − d/m. Of a running mean it is (1−β)/(1+β) (1 − τ_β). Of
        independent minibatches it is A_0, of the population's covariance.

        Args:
            num_batches: m.
            independent: whether each minibatch is a draw of its own.

        Example:
            >>> round(GradientFilter(mixed=1.0, kept=0.5, ahead=True).noise(2), 6)  # (1/3) (1 − ½)
            0.166667
        """
        newest, next_, beta, m = *self.first, self.kept, num_batches
        older = next_ * next_ / (1 - beta * beta)
        if independent:
            return newest * newest + older
        pairs = sum((m - distance) * beta ** (distance - 1) for distance in range(1, m))
        return newest * newest + older - 2 / (m * max(m - 1, 1)) * pairs * (newest * next_ + beta * older)


@dataclass(frozen=True, kw_only=True)
class Steepest:
    """Steps along T of a filter of the gradients, and what finite ones of them penalize.

    Attributes:
        norm: φ*, of one parameter's gradient.
        step_map: T, of one parameter's gradient.
        filter: of the gradients.
        rates: η of each parameter, by name.
        smooth: whether T has derivatives that are not 0; a sign has none.
        decays: by what a step multiplies each parameter in decoupled weight decay, ηλ, by name.
        l2_decays: λ of decay that is added to the gradients, by name.

    Example:
        >>> last = GradientFilter(mixed=0.0, kept=0.0, ahead=False)
        >>> signs = Steepest(norm=absolute, step_map=torch.sign, filter=last, rates={"w": 0.1}, smooth=False)
        >>> signs.penalty({"w": torch.tensor([1.0, -2.0])})  # 0.1 · ½ · 3
        tensor(0.1500, dtype=torch.float64)
    """

    norm: Norm
    step_map: StepMap
    filter: GradientFilter
    rates: Mapping[str, float]
    smooth: bool
    decays: Mapping[str, float] = field(default_factory=dict)
    l2_decays: Mapping[str, float] = field(default_factory=dict)

    @property
    def memory(self) -> Memory:
        """What is remembered of past gradients, with the largest of the effective rates."""
        filtered = self.filter
        scale = filtered.mixed if filtered.ahead or not filtered.kept else filtered.mixed / filtered.kept
        return Memory(effective_rate=max(self.rates.values()), lag=filtered.lag, decay=filtered.kept, tail_scale=scale)

    @property
    def decoupled(self) -> bool:
        """Whether weight decay, if there is any, is not added to the gradients."""
        return not any(self.l2_decays.values())

    def penalty(self, gradient: Params) -> Tensor:
        """Compute (½ + L) Σ η φ*(∇C) over the parameters, 0-d, in double precision."""
        parts = [self.rates[name] * self.norm(wide(value)) for name, value in gradient.items()]
        return (0.5 + self.filter.lag) * torch.stack(parts).sum()

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
            name: (0.5 + self.filter.lag) * self.rates[name] * jvp(self.step_map, (value,), (uphill[name],))[1]
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
    decoupled = {name: _decoupled(group) for name, group in groups.items()}
    decays = {name: float(group.get("weight_decay", 0.0)) for name, group in groups.items()}
    return Steepest(
        norm=found[0].norm,
        step_map=found[0].step_map,
        filter=found[0].filter,
        smooth=found[0].smooth,
        rates={name: float(group["lr"]) * _shape_factor(group, params[name]) for name, group in groups.items()},
        decays={name: rate * decays[name] for name, rate in decoupled.items() if rate is not None},
        l2_decays={name: decays[name] for name, rate in decoupled.items() if rate is None},
    )


@dataclass(frozen=True)
class NewtonSchulz:
    """torch's approximation of the polar factor of a matrix, in the precision of what it is given.

    Attributes:
        coefficients: of a step of the iteration.
        steps: how many.
        eps: the least norm that a matrix is divided by.
    """

    coefficients: tuple[float, float, float] = (3.4445, -4.7750, 2.0315)
    steps: int = 5
    eps: float = 1e-7

    def __call__(self, gradient: Tensor) -> Tensor:
        """Return the factor, in the shape of the matrix."""
        one, three, five = self.coefficients
        tall = gradient.shape[-2] > gradient.shape[-1]
        found = gradient.mT if tall else gradient
        found = found / torch.linalg.matrix_norm(found, keepdim=True).clamp(min=self.eps)
        for _ in range(self.steps):
            square = found @ found.mT
            found = one * found + (three * square + five * square @ square) @ found
        return found.mT if tall else found


@dataclass(frozen=True)
class _Read:
    """What a group says of the direction and the memory of its steps."""

    norm: Norm
    step_map: StepMap
    filter: GradientFilter
    smooth: bool


def _muon(group: Mapping[str, Any]) -> _Read | None:
    beta = fading("muon", float(group["momentum"]))
    step_map = NewtonSchulz(tuple(group["ns_coefficients"]), int(group["ns_steps"]), float(group["eps"]))
    mixed = beta if group["nesterov"] else 1.0
    return _Read(nuclear, step_map, GradientFilter(mixed=mixed, kept=beta, ahead=True), True)


def _lion(group: Mapping[str, Any]) -> _Read | None:
    if any(group.get(changed) for changed in ("use_gc", "adanorm", "cautious")):
        return None
    mixed, kept = (float(beta) for beta in group["betas"])
    return _Read(absolute, torch.sign, GradientFilter(mixed=mixed, kept=fading("lion", kept), ahead=False), False)


def _signum(group: Mapping[str, Any]) -> _Read | None:
    kept = fading("signum", float(group["momentum"]))
    return _Read(absolute, torch.sign, GradientFilter(mixed=1.0, kept=kept, ahead=True), False)


READERS: Mapping[str, Callable[[Mapping[str, Any]], _Read | None]] = {
    "torch.optim.Muon": _muon,
    "pytorch_optimizer.optimizer.lion.Lion": _lion,
    "pytorch_optimizer.optimizer.sgd.SignSGD": _signum,
}
"""What is read from a parameter group, by the class's place: the library needs not be installed."""


def _decoupled(group: Mapping[str, Any]) -> float | None:
    """Return by what a decoupled decay λ is multiplied in a step; None where it is added to the gradients."""
    if not group.get("weight_decouple", True):  # of pytorch-optimizer's
        return None
    return 1.0 if group.get("fixed_decay", False) else float(group["lr"])


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
