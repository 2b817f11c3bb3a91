"""Steepest descent in a norm: which norm, how old gradients are, and each parameter's rate.

A step takes off η T(Σ_j a_j g_{t−j}) with Σ a_j = 1, T = ∇φ* and the mean age L = Σ j a_j. On full batches finite steps
then penalize η (½ + L) φ*(∇C), see docs/theory.md, section 19.

| optimizer | φ* | L |
|---|---|---|
| torch's Muon, m ← βm + (1−β)g | nuclear norm of each matrix | β/(1−β); β²/(1−β) with Nesterov's step |
| pytorch-optimizer's Lion | ℓ₁ norm | β₁/(1−β₂) |
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

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
        lag: L.
        rates: η of each parameter, by name.

    Example:
        >>> lion = Steepest(norm=absolute, lag=9.0, rates={"w": 0.1})
        >>> lion.penalty({"w": torch.tensor([1.0, -2.0])})  # 0.1 · (½ + 9) · 3
        tensor(2.8500, dtype=torch.float64)
    """

    norm: Norm
    lag: float
    rates: Mapping[str, float]

    def penalty(self, gradient: Params) -> Tensor:
        """Compute (½ + L) Σ η φ*(∇C) over the parameters, 0-d, in double precision."""
        parts = [self.rates[name] * self.norm(wide(value)) for name, value in gradient.items()]
        return (0.5 + self.lag) * torch.stack(parts).sum()


def absolute(gradient: Tensor) -> Tensor:
    """Return the ℓ₁ norm."""
    return gradient.abs().sum()


def nuclear(gradient: Tensor) -> Tensor:
    """Return the sum of a matrix's singular values."""
    return torch.linalg.matrix_norm(gradient, "nuc")


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
    if any(one != found[0] for one in found):
        return None  # groups with memories of their own
    norm, lag = found[0]
    rates = {name: float(group["lr"]) * _shape_factor(group, params[name]) for name, group in groups.items()}
    return Steepest(norm=norm, lag=lag, rates=rates)


def mean_age(mixed: float, kept: float, *, ahead: bool) -> float:
    """Return L of c = β₁m + (1 − β₁)g, m a running mean of decay β₂.

    Args:
        mixed: β₁.
        kept: β₂.
        ahead: whether m holds the newest gradient already; otherwise the newest in it is one step old.
    """
    return mixed * (kept if ahead else 1.0) / (1 - kept)


def _muon(group: Mapping[str, Any]) -> tuple[Norm, float]:
    beta = fading("muon", float(group["momentum"]))
    return nuclear, mean_age(beta if group["nesterov"] else 1.0, beta, ahead=True)


def _lion(group: Mapping[str, Any]) -> tuple[Norm, float]:
    mixed, kept = (float(beta) for beta in group["betas"])
    return absolute, mean_age(mixed, fading("lion", kept), ahead=False)


READERS: Mapping[str, Callable[[Mapping[str, Any]], tuple[Norm, float]]] = {
    "torch.optim.Muon": _muon,
    "pytorch_optimizer.optimizer.lion.Lion": _lion,
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
