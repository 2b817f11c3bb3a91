"""Tell clipping of a gradient from other changes."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ireg.core.norms import largest_power
from ireg.core.params import as_reals, dense
from ireg.core.types import Params

SAME = 1e-5
"""Relative difference of two numbers that are the same but for rounding in single precision."""
DIGITS = 3
"""Significant digits of a bound that somebody has chosen."""


@dataclass(frozen=True)
class Clipping:
    """How a gradient was clipped.

    Attributes:
        factor: by what it was multiplied; 1 where entries were cut off at a bound.
        norm: its norm before.
    """

    factor: float
    norm: float


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
        Clipping(factor=1.0, norm=5.0)
        >>> clipping_of(before, {"w": 0.777777 * before["w"]}), clipping_of(before, {"w": 2 * before["w"]})
        (None, None)
    """
    left, right = (torch.cat([_flat(value) for value in values]) for values in zip(*_pairs(before, after), strict=True))
    scale = largest_power({"": left})  # of two, which changes no digit
    left, right = left / scale, right / scale
    norm = float(left.norm())
    if not 0 < norm < math.inf:
        return None
    factor = float(torch.dot(left, right)) / norm**2
    half = any(value.dtype in (torch.float16, torch.bfloat16) for value in after.values())
    if 0 < factor < 1 and float((right - factor * left).norm()) <= (0.03 if half else SAME) * factor * norm:
        bounds = norm * factor * scale, float(left.abs().max()) * factor * scale
        return Clipping(factor, norm * scale) if half or any(map(_is_chosen, bounds)) else None
    bound = float(right.abs().max())
    if bound > 0 and torch.equal(left.clamp(-bound, bound), right):
        return Clipping(1.0, norm * scale)
    return None


def _pairs(before: Params, after: Params) -> list[tuple[Tensor, Tensor]]:
    return [(before[name], value) for name, value in after.items()]


def _flat(value: Tensor) -> Tensor:
    return as_reals(dense(value)).cpu().double().flatten()


def _is_chosen(bound: float) -> bool:
    """Say whether a number has few significant digits, as a bound that somebody has chosen."""
    return bound > 0 and math.isclose(bound, float(f"{bound:.{DIGITS - 1}e}"), rel_tol=SAME / 2)
