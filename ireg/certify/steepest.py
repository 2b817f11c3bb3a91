"""Steepest descent in any norm, with memory: the constant ½ + L of its modified loss, by slopes.

A step takes off ηT(m), m a filter of past gradients whose weights add up to 1, of mean age L, and T = ∇φ* of a convex
function. On full batches the weights follow ω̇ = −T(∇C̃) to first order, with the modified loss

    C̃ = C + η (½ + L) φ*(∇C).

So Muon, whose T is the polar factor of each matrix, regularizes the gradient's nuclear norm, and Lion, whose T is the
sign, its ℓ₁ norm. Both are smoothed here, since differences need a smooth step: as torch's own Muon rounds to bfloat16,
all of these are classes in double precision.

Derived and certified here (docs/theory.md, section 19). Sources: Chen et al. 2023, arXiv:2310.05898, for Lion as
descent by ∇φ*; Jordan et al. 2024 for Muon.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from ireg.certify.any_optimizer import MODIFIED, PLAIN, accuracy
from ireg.certify.exchange import Order
from ireg.core.optimizers.steepest import GradientFilter, NewtonSchulz

SMOOTHING = 0.1
"""Of the maps that are not smooth, as a gradient's size."""
BOUND = 0.05
"""The norm at which a matrix's gradient is clipped: below its own at all points."""
AS = 2
"""The order of the modified flow's error."""


def identity(value: Tensor) -> Tensor:
    """Return the value: φ* = ½ ‖·‖²."""
    return value


def sign(value: Tensor) -> Tensor:
    """Return the smoothed sign of each number: φ* is the ℓ₁ norm."""
    return value / (value.square() + SMOOTHING**2).sqrt()


def normalized(value: Tensor) -> Tensor:
    """Return the value over its smoothed norm: φ* is the Euclidean norm."""
    return value / (value.square().sum() + SMOOTHING**2).sqrt()


def polar(value: Tensor) -> Tensor:
    """Return the smoothed polar factor of a matrix, M (MᵀM + s²)^−½: φ* is the nuclear norm."""
    values, vectors = torch.linalg.eigh(value.T @ value)
    return value @ (vectors / (values + SMOOTHING**2).sqrt()) @ vectors.T


newton_schulz = NewtonSchulz()


def clipped(value: Tensor) -> Tensor:
    """Return the value with its norm no larger than the bound."""
    return value * (BOUND / value.norm()).clamp(max=1)


class Steepest(Optimizer):
    """Steps along T of a filter of the gradients.

    Args:
        params: matrices.
        lr: η.
        step_map: T.
        betas: of the mean that a step takes, and of the mean that is kept: c = β₁m + (1 − β₁)g, m ← β₂m + (1 − β₂)g.
            Lion's are two; Muon and momentum have c = m after it is updated, which is `ahead`.
        ahead: whether m is updated before a step.
        nesterov: whether the step then mixes g and m once more.
    """

    def __init__(
        self,
        params: Iterable[nn.Parameter],
        lr: float,
        step_map: Callable[[Tensor], Tensor],
        betas: tuple[float, float],
        *,
        ahead: bool = True,
        nesterov: bool = False,
    ) -> None:
        super().__init__(params, {"lr": lr})
        self.step_map, self.betas, self.ahead, self.nesterov = step_map, betas, ahead, nesterov

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """Take a step; a closure is not called."""
        mixed, kept = self.betas
        for group in self.param_groups:
            for parameter in group["params"]:
                gradient = parameter.grad
                mean = self.state[parameter].setdefault("mean", torch.zeros_like(parameter))
                if self.ahead:
                    mean.lerp_(gradient, 1 - kept)
                    taken = gradient.lerp(mean, mixed) if self.nesterov else mean
                else:
                    taken = gradient.lerp(mean, mixed)
                parameter.sub_(self.step_map(taken), alpha=group["lr"])
                if not self.ahead:
                    mean.lerp_(gradient, 1 - kept)


@dataclass(frozen=True, kw_only=True)
class Norm:
    """One optimizer of the family.

    Attributes:
        step_map: T.
        betas: see `Steepest`.
        ahead: see `Steepest`.
        nesterov: see `Steepest`.
        parts: see `ireg.certify.any_optimizer.accuracy`.
    """

    step_map: Callable[[Tensor], Tensor]
    betas: tuple[float, float]
    ahead: bool = True
    nesterov: bool = False
    parts: int = 1

    @property
    def filter(self) -> GradientFilter:
        """The weights of past gradients in a step."""
        mixed, kept = self.betas
        return GradientFilter(mixed=mixed if self.nesterov or not self.ahead else 1.0, kept=kept, ahead=self.ahead)

    @property
    def lag(self) -> float:
        """The mean age L of the gradients in a step."""
        return self.filter.lag

    def made(self, rate: float) -> Callable[[list[nn.Parameter]], Optimizer]:
        """Return what makes the optimizer."""
        return lambda parameters: Steepest(
            parameters, rate, self.step_map, self.betas, ahead=self.ahead, nesterov=self.nesterov
        )


NORMS: Mapping[str, Norm] = {
    "momentum": Norm(step_map=identity, betas=(0.0, 0.8)),
    "signum, smoothed": Norm(step_map=sign, betas=(0.0, 0.8)),
    "lion, smoothed": Norm(step_map=sign, betas=(0.7, 0.8), ahead=False),
    "normalized, smoothed": Norm(step_map=normalized, betas=(0.0, 0.8)),
    "muon, smoothed": Norm(step_map=polar, betas=(0.8, 0.8), nesterov=True),
    "muon, by Newton and Schulz": Norm(step_map=newton_schulz, betas=(0.8, 0.8), nesterov=True, parts=4),
    "momentum of clipped means": Norm(step_map=clipped, betas=(0.0, 0.8)),
}


def wrong_constants(lag: float) -> dict[str, float]:
    """Return the constants that must be rejected, as multiples of ½ + L."""
    right = 0.5 + lag
    return {"½": 0.5 / right, "L": lag / right, "1 + 2L": 2.0}


def certify_norm(name: str) -> Order:
    """Certify ½ + L for one optimizer; the plain flow, without it, and other constants are controls."""
    norm = NORMS[name]
    found = accuracy(norm.made, name, factors=wrong_constants(norm.lag), parts=norm.parts)
    if found.reason:
        raise ArithmeticError(f"{name}: {found.reason}")
    controls = {key: value for key, value in found.slopes.items() if key in (PLAIN, *wrong_constants(norm.lag))}
    return Order(order=AS, slope=found.slopes[MODIFIED], controls=controls)


def all_norms() -> dict[str, Order]:
    """Certify all of the family, by name."""
    return {name: certify_norm(name) for name in NORMS}
