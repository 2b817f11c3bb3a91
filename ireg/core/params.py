"""Algebra of parameters by name."""

import math

import torch
from torch import Tensor

from ireg.core.large import computed
from ireg.core.types import Params
from ireg.core.wide import has_float64, wide


def squared_norm(params: Params) -> Tensor:
    """Compute ‖v‖² = Σ v_i² over all entries of all tensors, 0-d.

    Example:
        >>> squared_norm({"a": torch.tensor([3.0]), "b": torch.tensor([[0.0, 4.0]])})
        tensor(25.)
    """
    return inner_product(params, params)


def wide_squared_norm(params: Params) -> Tensor:
    """Compute ‖v‖², 0-d float64, where squares may leave the range of their type.

    It is c² Σ (v_i/c)² with c = max |v_i|.

    Example:
        >>> wide_squared_norm({"a": torch.tensor([3e-30]), "b": torch.tensor([[0.0, 4e-30]])})
        tensor(2.5000e-59, dtype=torch.float64)
    """
    parts = {name: as_reals(summable(value)) for name, value in params.items() if value.numel()}
    largest = float(torch.stack([value.abs().max() for value in parts.values()]).max()) if parts else 0.0
    if not 0 < largest < math.inf:  # 0, infinity and nan are their own squares, and no scale
        return torch.tensor(largest, dtype=torch.float64)
    if largest < 1 / torch.finfo(torch.float32).max:  # some devices multiply by its reciprocal
        parts = {name: wide(value) for name, value in parts.items()}
    rest = squared_norm(computed(parts, lambda name: parts[name] / largest))
    return torch.tensor(largest * largest * float(rest), dtype=torch.float64)


def add_scaled(params: Params, other: Params, factor: float) -> Params:
    """Compute v + c w by name; v itself where c is 0.

    Args:
        params: v, by name.
        other: w, by the same names.
        factor: c.
    """
    if factor == 0.0:
        return params
    return {name: torch.add(value, other[name], alpha=factor) for name, value in params.items()}


def displaced(params: Params, direction: Params, factor: float | Tensor) -> Params:
    """Compute ω + c v for the weights that v names; the others stay.

    Args:
        params: ω, by name.
        direction: v, of some or all of these names.
        factor: c.

    Example:
        >>> displaced({"a": torch.tensor([1.0]), "b": torch.tensor([2.0])}, {"a": torch.tensor([3.0])}, 2.0)
        {'a': tensor([7.]), 'b': tensor([2.])}
    """
    names = list(direction)
    moved = torch._foreach_add([params[name] for name in names], list(direction.values()), alpha=float(factor))
    return {**params, **dict(zip(names, moved, strict=True))}


def inner_product(left: Params, right: Params) -> Tensor:
    """Compute ⟨v, w⟩ over all entries of all tensors, 0-d.

    Of complex numbers it is the real part, Re Σ v̄_i w_i: that of their real and imaginary parts.

    Raises:
        KeyError: `right` lacks a name of `left`.
    """
    return torch.stack([torch.dot(_vector(value), _vector(right[name])) for name, value in left.items()]).sum()


def by_name(vector: Tensor, like: Params) -> Params:
    """Cut a vector (p,) into tensors of the names and shapes of others, in their order.

    Example:
        >>> by_name(torch.tensor([1.0, 2.0, 3.0]), {"a": torch.zeros(1), "b": torch.zeros(2)})
        {'a': tensor([1.]), 'b': tensor([2., 3.])}
    """
    parts = vector.split([value.numel() for value in like.values()])
    return {name: part.view(value.shape) for (name, value), part in zip(like.items(), parts, strict=True)}


def sum_type(value: Tensor) -> torch.dtype:
    """Return the type in which numbers like this are summed.

    Sums and squares of half types lose digits and range; those of integers overflow.

    Returns:
        Single precision for half types and shorter ones, double precision for integers where the device has it, else
        the tensor's type.
    """
    if value.is_complex():
        return torch.complex64 if value.dtype == torch.complex32 else value.dtype
    if value.is_floating_point():
        return torch.float32 if value.dtype.itemsize < torch.float32.itemsize else value.dtype
    return torch.float64 if has_float64(value.device) else torch.float32


def dense(value: Tensor) -> Tensor:
    """Return the numbers of a tensor, which may be sparse or quantized."""
    if value.is_quantized:
        return value.dequantize()
    return value.to_dense() if value.layout != torch.strided else value


def summable(value: Tensor) -> Tensor:
    """Make a tensor dense, and of the type of sums."""
    numbers = dense(value)
    return numbers.to(sum_type(numbers))


def as_reals(value: Tensor) -> Tensor:
    """View complex numbers as their real and imaginary parts, (…, 2); real numbers stay as they are.

    Example:
        >>> as_reals(torch.tensor([1 + 2j]))
        tensor([[1., 2.]])
    """
    return torch.view_as_real(value.resolve_conj()) if value.is_complex() else value


def _vector(value: Tensor) -> Tensor:
    return as_reals(summable(value)).flatten()


def same_values(value: Tensor, other: Tensor) -> bool:
    """Say whether two tensors of one type are equal to the last bit."""
    return torch.equal(_bits(value), _bits(other))


def _bits(value: Tensor) -> Tensor:
    return dense(value).reshape(-1).view(torch.uint8)
