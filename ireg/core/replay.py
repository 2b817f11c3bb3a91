"""Compare the gradient of a minibatch that is computed again with that of training."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from ireg.core.functional import gradient
from ireg.core.params import as_reals, dense
from ireg.core.types import Batch, LossFn, Params

TOLERANCE: Mapping[torch.dtype, float] = {
    torch.float64: 1e-8,
    torch.float32: 1e-3,
    torch.float16: 3e-2,
    torch.bfloat16: 3e-2,
}
"""By how much of its norm a gradient may differ where nothing but the order of operations does."""


@dataclass(frozen=True)
class Difference:
    """How far two gradients are from each other.

    Attributes:
        relative: ‖g − g'‖/‖g'‖ over all parameters, g' that of training; infinite where g' is 0 and g is not.
        tolerance: what rounding may make of it.
        most: the name of the parameter with the largest part of it; empty where there is none.
        factor: c for which c g' is nearest to g; nan where g' is 0.
        rest: ‖g − c g'‖/‖g‖: 0 where the gradients differ by a factor alone.
    """

    relative: float
    tolerance: float
    most: str
    factor: float
    rest: float

    @property
    def is_small(self) -> bool:
        """Whether it is no more than rounding."""
        return self.relative <= self.tolerance

    @property
    def is_factor(self) -> bool:
        """Whether one is a multiple of the other."""
        return self.rest <= self.tolerance


def difference(replayed: Params, expected: Params, lowest: torch.dtype | None = None) -> Difference:
    """Compare two gradients by name.

    Args:
        replayed: g; a name that is missing is a gradient of 0.
        expected: g'; only its names are compared.
        lowest: the least precise type that the passes compute in; by default that of the gradients.

    Returns:
        How far they are from each other; 0 where they are equal to the last bit.

    Example:
        >>> one, half = {"w": torch.tensor([3.0, 4.0])}, {"w": torch.tensor([1.5, 2.0])}
        >>> result = difference(half, one)
        >>> result.relative, result.factor, result.is_factor, result.is_small
        (0.5, 0.5, True, False)
    """
    types = [value.dtype for value in expected.values()] + ([] if lowest is None else [lowest])
    tolerance = max((TOLERANCE.get(kind, 0.0) for kind in types), default=0.0)
    if all(name in replayed and torch.equal(replayed[name], value) for name, value in expected.items()):
        return Difference(relative=0.0, tolerance=tolerance, most="", factor=1.0, rest=0.0)  # as it should be
    products: dict[str, tuple[float, float, float]] = {}
    for name, value in expected.items():
        other = replayed.get(name)
        right = _wide(value)
        left = torch.zeros_like(right) if other is None else _wide(other)
        left, right = _comparable(left, right)
        off = left - right
        products[name] = _dot(off, off), _dot(right, right), _dot(left, right)
    away, size, along = (math.fsum(part) for part in zip(*products.values(), strict=True))
    relative = math.sqrt(away / size) if size else (math.inf if away else 0.0)
    factor = along / size if size else math.nan
    rest = _rest(replayed, expected, factor) if 0 < factor < math.inf and relative > 0 else math.inf
    return Difference(
        relative=math.inf if math.isnan(relative) else relative,
        tolerance=tolerance,
        most=max(products, key=lambda name: products[name][0]) if away else "",
        factor=factor,
        rest=rest,
    )


def _rest(replayed: Params, expected: Params, factor: float) -> float:
    """Compute ‖g − c g'‖/‖g‖; infinite where g is 0."""
    pairs = [(_wide(replayed[name]), _wide(value)) for name, value in expected.items() if name in replayed]
    squares = [
        (_dot(off, off), _dot(left, left)) for left, off in ((left, left - factor * right) for left, right in pairs)
    ]
    away, size = (math.fsum(part) for part in zip(*squares, strict=True))
    return math.sqrt(away / size) if size else math.inf


def replayed_gradient(loss: LossFn, weights: Params, batch: Batch) -> Params:
    """Compute a minibatch's gradient at weights that are given, by name.

    Args:
        loss: pure function `(params, batch) -> 0-d mean loss`.
        weights: all parameters; those of floating-point or complex types are differentiated.
        batch: the minibatch.
    """
    moved = {name: value for name, value in weights.items() if value.is_floating_point() or value.is_complex()}
    return {name: dense(value).detach() for name, value in gradient(loss, moved, batch).items()}


def _wide(value: Tensor) -> Tensor:
    """Flatten a gradient on the CPU in double precision, whatever range and types its device has."""
    return as_reals(dense(value).detach()).cpu().double().flatten()


def _comparable(left: Tensor, right: Tensor) -> tuple[Tensor, Tensor]:
    """Leave out entries that are the same and not finite: their difference is no number."""
    same = (left == right) | (left.isnan() & right.isnan())
    if bool(right.isfinite().all()):
        return left, right
    keep = right.isfinite() | ~same
    return left[keep], right[keep]


def _dot(left: Tensor, right: Tensor) -> float:
    return float(torch.dot(left, right))
