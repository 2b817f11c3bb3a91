"""Lanczos' method for the largest eigenvalue of a symmetric matrix."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ireg.core.norms import norm_of
from ireg.core.wide import brought

LEAST = 10
"""Products before a small residual ends it: a start near an eigenvector has one, whichever eigenvalue it is of."""


@dataclass(frozen=True)
class Eigenpair:
    """The largest algebraic eigenvalue, as well as it is known.

    An eigenvalue lies within `residual` of `value`, and `value` is never above the largest one (but for rounding).
    Where a product is not finite, or its norm leaves the range of its type, both are nan, and `vector` is the start.

    Attributes:
        value: θ = vᵀAv.
        vector: v, (n,), of norm 1.
        residual: ‖Av − θv‖.
        products: with A, that were computed for it.
        settled: whether the residual is within the tolerance, or is rounding alone.
    """

    value: float
    vector: Tensor
    residual: float
    products: int
    settled: bool


def largest_eigenpair(
    product: Callable[[Tensor], Tensor], start: Tensor, *, tolerance: float, products: int
) -> Eigenpair:
    """Find the largest algebraic eigenvalue by Lanczos' method.

    Every new vector is made orthogonal to all before, twice: once leaves rounding errors that grow.

    Args:
        product: of the matrix with a vector.
        start: the first vector, (n,): random, or the eigenvector of a matrix nearby.
        tolerance: ends when the residual is at most this share of the largest eigenvalue in absolute value.
        products: at most; fewer where the space they span is exhausted.

    Returns:
        The pair. Its value is nan where a product is not finite.

    Raises:
        ValueError: the start is 0, or not finite.

    Source: Golub & Van Loan 2013, "Matrix Computations", section 10.3.

    Example:
        >>> matrix = torch.diag(torch.tensor([1.0, 5.0, -9.0], dtype=torch.float64))
        >>> start = torch.ones(3, dtype=torch.float64)
        >>> pair = largest_eigenpair(lambda v: matrix @ v, start, tolerance=1e-9, products=9)
        >>> round(pair.value, 10), pair.products
        (5.0, 3)
    """
    norm = float(norm_of(start))
    if not 0 < norm < float("inf"):
        raise ValueError(f"start has norm {norm:g}; must be a finite vector that is not 0")
    basis = start[None] / norm
    # The projection of the matrix to the basis, in double precision: small, and its errors would be the result's.
    diagonal: list[float] = []
    beside: list[float] = []
    while True:
        image = product(basis[-1])
        diagonal.append(float(basis[-1] @ image))
        if not math.isfinite(diagonal[-1]) or not math.isfinite(float(norm_of(image))):
            return Eigenpair(math.nan, basis[0], math.nan, len(diagonal), settled=False)
        for _ in range(2):
            image = image - basis.mT @ (basis @ image)
        rest = float(norm_of(image))
        values, vectors = _tridiagonal(diagonal, beside)
        scale = float(values.abs().max())
        # Av − θv lies outside of the basis: its length is that of the rest, times the last entry of v in the basis.
        residual = rest * abs(float(vectors[-1, -1]))
        settled = residual <= tolerance * scale and len(diagonal) >= LEAST
        exhausted = rest <= 1e-9 * max(scale, 1e-300) or len(diagonal) == min(products, len(start))
        if settled or exhausted:
            weights = brought(vectors[:, -1], basis)
            vector = weights @ basis
            within = residual <= max(tolerance, 1e-9) * scale
            return Eigenpair(float(values[-1]), vector / vector.norm(), residual, len(diagonal), settled=within)
        beside.append(rest)
        basis = torch.cat([basis, image[None] / rest])


def _tridiagonal(diagonal: list[float], beside: list[float]) -> tuple[Tensor, Tensor]:
    """Compute eigenvalues and eigenvectors of the projection, on the CPU."""
    matrix = torch.diag(torch.tensor(diagonal, dtype=torch.float64))
    if beside:
        off = torch.diag(torch.tensor(beside, dtype=torch.float64), 1)
        matrix = matrix + off + off.T
    values, vectors = torch.linalg.eigh(matrix)
    return values, vectors
