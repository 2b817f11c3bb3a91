"""Norms of vectors whose squares leave the range of their type.

In single precision the square of 10²⁰ is infinite and that of 10⁻²⁵ is 0. Each norm here takes the plain sum of squares
first. Where that is not finite, or so small that squares may have been lost, it is computed again in double precision,
from numbers divided by the largest: ‖v‖ = c ‖v/c‖ with c = max |v_i|. Ordinary results are those of the plain sum, to
the last bit.

Source: Blue 1978, "A portable Fortran program to find the Euclidean norm of a vector", for the scaling.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from ireg.core.large import computed
from ireg.core.params import as_reals, dense, inner_product, squared_norm, sum_type
from ireg.core.types import Params
from ireg.core.wide import in_reach, wide

COMMON = 1e-20
"""A sum of squares that no number of them makes too small."""
SMALL = 2.0**-400
"""From here to its reciprocal, sums of squares keep their digits in double precision."""


def floor(dtype: torch.dtype, count: int) -> float:
    """Return the sum of squares below which their rounding shows.

    It is n times the smallest normal number of the type: each square that is smaller has lost digits, or is 0.

    Args:
        dtype: in which the squares are summed.
        count: n, their number.
    """
    return count * float(torch.finfo(dtype).tiny)


def is_ordinary(value: Tensor, count: int) -> bool:
    """Say whether a sum of n squares has all its digits.

    Args:
        value: the sum, 0-d, in the type in which it was made.
        count: n.

    Example:
        >>> [is_ordinary(torch.tensor(1e-25) ** power, 1) for power in (1, 2)]
        [True, False]
    """
    return floor(value.dtype, count) <= float(value) < math.inf


def square(params: Params) -> Tensor:
    """Compute ‖v‖², 0-d, by `squared_norm` where its range allows, else in double precision.

    Example:
        >>> square({"a": torch.tensor([3e-25, 4e-25])})
        tensor(2.5000e-49, dtype=torch.float64)
    """
    plain = squared_norm(params)
    if _has_digits(plain, params):
        return plain
    scale, rest = _scaled(params)
    return _number(rest * scale * scale, plain)


def norm(params: Params) -> Tensor:
    """Compute ‖v‖, 0-d, by `squared_norm` where its range allows, else in double precision.

    It is infinite only where double precision cannot hold it, and nan only where an entry is.

    Example:
        >>> norm({"a": torch.tensor([3e30, 4e30])})
        tensor(5.0000e+30, dtype=torch.float64)
    """
    plain = squared_norm(params)
    if _has_digits(plain, params):
        return plain.sqrt()
    scale, rest = _scaled(params)
    return _number(math.sqrt(rest) * scale, plain)


def norm_of(tensor: Tensor) -> Tensor:
    """Compute a tensor's Frobenius norm, 0-d, by torch's where its range allows, else in float64."""
    plain = tensor.norm()
    if is_ordinary(plain.square(), tensor.numel()):
        return plain
    scale, rest = _scaled({"": tensor})
    return _number(math.sqrt(rest) * scale, plain)


def inner(left: Params, right: Params) -> Tensor:
    """Compute ⟨v, w⟩, 0-d, in double precision where squares of v or w leave the range of their type."""
    plain = inner_product(left, right)
    if math.isfinite(plain) and all(_has_digits(squared_norm(v), v) for v in (left, right)):
        return plain
    return inner_product(widened(left), widened(right))


def in_range(vector: Params, *others: Params) -> tuple[Params, ...]:
    """Divide vectors by one number where squares of the first leave the range of their type.

    The number is a power of two near the first one's largest entry, so that ratios do not change.

    Args:
        vector: the first, by name.
        others: what is divided by the same number.

    Returns:
        All of them; as they are where the squares stay in the range.
    """
    if _has_digits(squared_norm(vector), vector):
        return vector, *others
    scale = largest_power(vector)
    return tuple({name: value / scale for name, value in params.items()} for params in (vector, *others))


def weighted_square(scale: Params, vector: Params) -> Tensor:
    """Compute vᵀPv, 0-d, in the vector's type where its range allows, else in double precision.

    Args:
        scale: P, a diagonal ≥ 0, by name.
        vector: v, by name.
    """
    plain = inner_product(scale, computed(vector, lambda name: vector[name].square()))
    if all(_has_digits(value, vector) for value in (plain, squared_norm(vector))):
        return plain
    return inner_product(widened(scale), {name: value.square() for name, value in widened(vector).items()})


def weighted_sum(scale: Params, squares: Params) -> Tensor:
    """Compute Σ P_i s_i, 0-d, of a diagonal P ≥ 0 and squares s ≥ 0.

    Args:
        scale: P, by name.
        squares: s, by name.

    Returns:
        The sum, in double precision where the squares are, or where their type's range does not hold it.
    """
    if all(squares[name].dtype == sum_type(value) for name, value in scale.items()):
        plain = inner_product(scale, squares)
        if _has_digits(plain, squares):
            return plain
    return inner_product(widened(scale), widened(squares))


def ratio(upper: Params, lower: Params) -> Tensor:
    """Compute ‖v‖/‖w‖, 0-d."""
    squares = squared_norm(upper), squared_norm(lower)
    if all(_has_digits(value, upper) for value in squares) and is_ordinary(squares[0] / squares[1], 1):
        return (squares[0] / squares[1]).sqrt()
    return wide(norm(upper)) / wide(norm(lower))


def cosine(left: Params, right: Params) -> Tensor:
    """Compute ⟨v, w⟩/(‖v‖ ‖w‖), 0-d."""
    product = squared_norm(left) * squared_norm(right)
    if _has_digits(product, left) and all(_has_digits(squared_norm(v), v) for v in (left, right)):
        return inner_product(left, right) / product.sqrt()
    one, other = unit(left), unit(right)
    return inner_product(one, other) / (squared_norm(one) * squared_norm(other)).sqrt()


def power_near(tensor: Tensor) -> float:
    """Return the number to divide a tensor by before it is squared.

    It is 1 where squares stay in the range of double precision, else a power of two near the largest entry.
    """
    largest = float(tensor.abs().max())
    return 1.0 if SMALL < largest < 1 / SMALL else _power(largest)


def largest_power(params: Params) -> float:
    """Return a power of two near the largest entry; 1 where that is 0, infinite or nan."""
    return _power(_largest(params))


def unit(params: Params) -> Params:
    """Divide a vector by a power of two near its largest entry, in double precision."""
    scale = largest_power(params)
    return {name: value / scale for name, value in widened(params).items()}


def multiplied(values: Sequence[Tensor]) -> Tensor:
    """Multiply numbers in double precision, so that no part of the product leaves its range.

    Args:
        values: 0-d tensors in double precision, in any order.

    Example:
        >>> multiplied([torch.tensor(value, dtype=torch.float64) for value in (1e-200, 1e-200, 1e200, 1e200)])
        tensor(1.0000, dtype=torch.float64)
    """
    factors = torch.stack(list(values))
    # Apart, neither the product of the fractions nor the sum of the exponents leaves its range.
    fraction, exponent = 1.0, 0
    for part, power in map(math.frexp, factors.tolist()):
        fraction, more = math.frexp(fraction * part)
        exponent += power + more
    return _number(_ldexp(fraction, exponent), factors)


def widened(params: Params) -> Params:
    """Return the vector in double precision, complex numbers as their real and imaginary parts."""
    return {name: wide(as_reals(dense(value))) for name, value in params.items()}


def _scaled(params: Params) -> tuple[float, float]:
    """Return a power of two c near the largest entry, and ‖v/c‖²."""
    largest = _largest(params)
    if not 0 < largest < math.inf:  # 0, infinity and nan are no scale
        return 1.0, largest
    scale = _power(largest)
    parts = [(wide(as_reals(dense(value))) / scale).flatten() for value in params.values()]
    return scale, math.fsum(float(torch.dot(part, part)) for part in parts)


def _largest(params: Params) -> float:
    parts = [as_reals(dense(value)).abs().max() for value in params.values() if value.numel()]
    return float(torch.stack([wide(part) for part in parts]).max()) if parts else 0.0


def _power(value: float) -> float:
    """Return a power of two near a number, whose reciprocal is none of the smallest numbers."""
    return 2.0 ** max(-1000, min(1000, math.frexp(value)[1])) if 0 < value < math.inf else 1.0


def _ldexp(fraction: float, exponent: int) -> float:
    """Return the fraction times a power of two; infinity beyond double precision."""
    try:
        return math.ldexp(fraction, exponent)
    except OverflowError:
        return math.copysign(math.inf, fraction)


def _has_digits(value: Tensor, params: Params) -> bool:
    """Say whether a sum of squares of entries has all its digits.

    They are counted only where that matters: it takes longer than to look.
    """
    return COMMON < float(value) < math.inf or is_ordinary(value, sum(entry.numel() for entry in params.values()))


def _number(value: float, like: Tensor) -> Tensor:
    """Make a number a tensor in double precision, on the device of another where that has it."""
    return torch.tensor(value, dtype=torch.float64, device=in_reach(like.new_zeros(())).device)
