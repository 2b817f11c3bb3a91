"""Clipping of gradients: as a map of the step, and how to know it from other changes.

A clipped gradient is T(g) = ∇φ*(g). By norm φ* is ½‖g‖² within the bound c and c‖g‖ − ½c² beyond, by value the sum of
the same of each entry: Huber's function. So finite steps of clipped SGD penalize η (½ + L) φ*(∇C) on full batches.

Derived and certified here (docs/theory.md, section 19).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from ireg.core.norms import largest_power, norm, widened
from ireg.core.params import as_reals, dense
from ireg.core.ramp import Make
from ireg.core.types import Params

NORM, VALUE = "norm", "value"

SAME = 1e-5
"""Relative difference of two numbers that are the same but for rounding in single precision."""
DIGITS = 3
"""Significant digits of a bound that somebody has chosen."""


@dataclass(frozen=True)
class Clip:
    """How gradients are clipped before each step.

    Attributes:
        bound: c, in the unit of the gradient.
        by: `norm` multiplies the whole gradient, of all parameters, so that its norm is at most c; `value` cuts off
            each entry at ±c.

    Raises:
        ValueError: a bound that is no finite number above 0, or another kind.

    Example:
        >>> clip, gradient = Clip(1.0), {"w": torch.tensor([3.0, 4.0])}
        >>> clip.acts(gradient), float(clip.potential(gradient))  # c ‖g‖ − ½c²
        (True, 4.5)
        >>> float(Clip(3.5, by="value").potential(gradient))  # ½ 3² + (3.5 · 4 − ½ 3.5²)
        12.375
    """

    bound: float
    by: str = NORM

    def __post_init__(self) -> None:
        if not 0 < self.bound < math.inf:
            raise ValueError(f"clip: bound={self.bound}: must be a finite number above 0")
        if self.by not in (NORM, VALUE):
            raise ValueError(f"clip: by={self.by!r}: must be one of {NORM}, {VALUE}")

    def acts(self, gradient: Params) -> bool:
        """Say whether a gradient is beyond the bound."""
        return self._size(gradient) > self.bound

    def _size(self, gradient: Params) -> float:
        if self.by == NORM:
            return float(norm(gradient))
        return max((float(value.abs().max()) for value in widened(gradient).values() if value.numel()), default=0.0)

    def potential(self, gradient: Params, shares: Params | None = None) -> Tensor | None:
        """Compute φ*(g), 0-d, in double precision.

        Args:
            gradient: g.
            shares: factors s of the weights' rates, by name: Σ s_i φ*(g_i).

        Returns:
            The value. None by norm with shares, since what a step then takes off is the gradient of no function.
        """
        values = widened(gradient)
        if self.by == VALUE:
            parts = {name: _huber(value.abs(), self.bound) for name, value in values.items()}
            parts = parts if shares is None else {name: value * shares[name] for name, value in parts.items()}
            return torch.stack([value.sum() for value in parts.values()]).sum()
        return None if shares is not None else _huber(norm(values), self.bound)

    def made(self, make: Make) -> Make:
        """Return what makes the same optimizer, with gradients clipped before each of its steps."""

        def clipped(parameters: list[nn.Parameter]) -> Optimizer:
            optimizer = make(parameters)
            optimizer.register_step_pre_hook(self._before_step)
            return optimizer

        return clipped

    def _before_step(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        held = [value for group in optimizer.param_groups for value in group["params"] if value.grad is not None]
        if self.by == NORM:
            nn.utils.clip_grad_norm_(held, self.bound)
        else:
            nn.utils.clip_grad_value_(held, self.bound)


def _huber(size: Tensor, bound: float) -> Tensor:
    """Return ½s² of sizes s up to the bound c, and c s − ½c² beyond."""
    within = size.clamp(max=bound)
    return within * (size - within / 2)


@dataclass(frozen=True)
class Clipping:
    """How a gradient was clipped.

    Attributes:
        factor: by what it was multiplied; 1 where entries were cut off at a bound.
        norm: its norm before.
        clip: how others are clipped then; None where the bound is of the largest entry, for all together.
    """

    factor: float
    norm: float
    clip: Clip | None = None


def clipping_of(before: Params, after: Params) -> Clipping | None:
    """Find out whether gradients were clipped, by norm or by value.

    A gradient that is clipped by its norm is multiplied by one factor, which makes its norm (2 or ∞) the bound. A bound
    that somebody has chosen has few digits; a factor that makes another norm is no clipping. In half precision digits
    say nothing, and a factor below 1 is taken for clipping.

    Args:
        before: the gradient as the backward pass left it, by name.
        after: the same as the optimizer got it.

    Returns:
        How the gradient was clipped; None where it was not clipped, or changed otherwise.

    Example:
        >>> before = {"w": torch.tensor([3.0, 4.0])}
        >>> clipping = clipping_of(before, {"w": torch.tensor([0.6, 0.8])})
        >>> round(clipping.factor, 6), clipping.norm
        (0.2, 5.0)
        >>> clipping_of(before, {"w": torch.tensor([3.0, 3.5])})
        Clipping(factor=1.0, norm=5.0, clip=Clip(bound=3.5, by='value'))
        >>> clipping_of(before, {"w": 0.777777 * before["w"]}), clipping_of(before, {"w": 2 * before["w"]})
        (None, None)
    """
    left, right = (torch.cat([_flat(value) for value in values]) for values in zip(*_pairs(before, after), strict=True))
    scale = largest_power({"": left})  # of two, which changes no digit
    left, right = left / scale, right / scale
    size = float(left.norm())
    if not 0 < size < math.inf:
        return None
    factor = float(torch.dot(left, right)) / size**2
    half = any(value.dtype in (torch.float16, torch.bfloat16) for value in after.values())
    if 0 < factor < 1 and float((right - factor * left).norm()) <= (0.03 if half else SAME) * factor * size:
        bounds = size * factor * scale, float(left.abs().max()) * factor * scale
        if not half and not any(map(_is_chosen, bounds)):
            return None
        by_norm = half or _is_chosen(bounds[0])
        return Clipping(factor, size * scale, Clip(_rounded(bounds[0])) if by_norm else None)
    bound = float(right.abs().max())
    if bound > 0 and torch.equal(left.clamp(-bound, bound), right):
        return Clipping(1.0, size * scale, Clip(_rounded(bound * scale), VALUE))
    return None


def _pairs(before: Params, after: Params) -> list[tuple[Tensor, Tensor]]:
    return [(before[name], value) for name, value in after.items()]


def _flat(value: Tensor) -> Tensor:
    return as_reals(dense(value)).cpu().double().flatten()


def _is_chosen(bound: float) -> bool:
    """Say whether a number has few significant digits, as a bound that somebody has chosen."""
    return bound > 0 and math.isclose(bound, _chosen(bound), rel_tol=SAME / 2)


def _chosen(bound: float) -> float:
    """Return the nearest number with few significant digits."""
    return float(f"{bound:.{DIGITS - 1}e}")


def _rounded(bound: float) -> float:
    """Return a bound without the rounding of single precision."""
    return _chosen(bound) if _is_chosen(bound) else bound
