"""The largest eigenvalue of a symmetric matrix by conjugate gradients, with four vectors.

Rayleigh's quotient θ(y) = yᵀAy / yᵀP⁻¹y has as its largest value the largest eigenvalue of P^½AP^½, at y = P^½v with v
the eigenvector. Each step takes one product, along a direction p:

    p ← r + β p,  r = PAy − θy,  β = −rᵀ(A − θP⁻¹)p / pᵀ(A − θP⁻¹)p,

made orthogonal to y, and then the largest value on the plane of y and p (Rayleigh and Ritz). y, p and their products
with A are all that is kept. Inner products are sums in double precision. As AP⁻¹ is never formed, P^½ is not either.

Source: Knyazev 2001, "Toward the optimal preconditioned eigensolver", for the methods of this kind; β is that of
Longsine & McCormick 1980, "Simultaneous Rayleigh-quotient minimization methods for Ax = λBx".
"""

import math
from collections.abc import Callable, Collection, Iterator

import torch
from torch import Tensor

from ireg.core.lanczos import LEAST, Eigenpair
from ireg.core.wide import wide

PIECE = 2**17
"""Entries that are in double precision at once."""
STEPS = 60
"""Products after which the product with y is computed again, and no direction before is used: a restart."""

Into = Callable[[Tensor, Tensor], None]
"""Writes the product of a matrix with the first vector to the second."""


def largest_by_ascent(
    product: Into, start: Tensor, *, tolerance: float, products: int, scale: Collection[Tensor] | None = None
) -> Eigenpair:
    """Find the largest algebraic eigenvalue of P^½AP^½ by conjugate gradients.

    Args:
        product: of A with a vector.
        start: the first v, (n,): random, or the eigenvector of a matrix nearby. It is overwritten.
        tolerance: ends when the residual is at most this share of the largest absolute value that was seen.
        products: at most.
        scale: P, a diagonal ≥ 0, in parts that have n entries together, which are asked for once a sum; None for the
            identity. Entries where it is 0 are left out: v is 0 there.

    Returns:
        The pair, with v of norm 1. It says whether the residual is within the tolerance. Its value is nan where a
        product is not finite.

    Raises:
        ValueError: the start is 0, or not finite.

    Example:
        >>> diagonal = torch.tensor([1.0, 5.0, -9.0], dtype=torch.float64)
        >>> def product(vector, image):
        ...     torch.mul(diagonal, vector, out=image)
        >>> pair = largest_by_ascent(product, torch.ones(3).double(), tolerance=1e-9, products=30)
        >>> round(pair.value, 9), pair.settled
        (5.0, True)
    """
    norm = math.sqrt(sum(float(torch.dot(part, part)) for part in (wide(part) for part in start.split(PIECE))))
    if not 0 < norm < math.inf:
        raise ValueError(f"start has norm {norm:g}; must be a finite vector that is not 0")
    return _Ascent(product, start.div_(norm), scale).run(tolerance, products)


class _Ascent:
    """The vectors y, Ay, p and Ap, and the numbers of them."""

    def __init__(self, product: Into, start: Tensor, scale: Collection[Tensor] | None) -> None:
        self.product, self.scale = product, scale
        self.y = start
        self.image, self.direction, self.along = (torch.zeros_like(start) for _ in range(3))
        self.products = 0
        self.value, self.largest = math.nan, 0.0
        for (y,), p in self._pieces(self.y):
            if p is not None:
                y.mul_(p.sqrt())

    def run(self, tolerance: float, products: int) -> Eigenpair:
        """Go up until the residual is small."""
        beta = 0.0
        self._begin()
        while True:
            residual = self._residual()
            finite = math.isfinite(self.value) and math.isfinite(residual)
            small = residual <= tolerance * self.largest and self.products >= LEAST
            # A residual of rounding alone has no direction.
            exhausted = residual <= 1e-9 * max(self.largest, 1e-300)
            if not finite or small or exhausted or self.products >= products:
                return self._pair(residual, settled=finite and (exhausted or residual <= tolerance * self.largest))
            if self.products % STEPS == STEPS - 1 and self.products + 1 < products:
                self._begin()
                beta = 0.0
            elif self.products > 1:
                beta = self._beta()
            self._turn(beta)
            self.product(self.direction, self.along)
            self.products += 1
            self._rise()

    def _begin(self) -> None:
        """Compute Ay and θ."""
        self.product(self.y, self.image)
        self.products += 1
        self._normalize()

    def _normalize(self) -> None:
        """Give y the norm 1, and compute θ."""
        square = above = 0.0
        for (y, image), p in self._pieces(self.y, self.image):
            square += _over(y, y, p)
            above += _dot(y, image)
        root = math.sqrt(square) if square > 0 else math.nan
        self.y.div_(root)
        self.image.div_(root)
        self.value = above / square if square > 0 else math.nan
        self.largest = max(self.largest, abs(self.value))

    def _residual(self) -> float:
        """Compute the norm of r, which is that of P^½AP^½v − θv."""
        total = 0.0
        for (y, image), p in self._pieces(self.y, self.image):
            r = self._ascent(y, image, p)
            total += _over(r, r, p)
        return math.sqrt(total) if total >= 0 else math.nan

    def _ascent(self, y: Tensor, image: Tensor, p: Tensor | None) -> Tensor:
        """Compute a piece of r, in double precision."""
        scaled = wide(image) if p is None else wide(image) * wide(p)
        return torch.sub(scaled, wide(y), alpha=self.value)

    def _beta(self) -> float:
        """Compute β of the direction before; 0 where it has no curvature."""
        above = below = 0.0
        for (y, image, direction, along), p in self._pieces(self.y, self.image, self.direction, self.along):
            r = self._ascent(y, image, p)
            above += _dot(r, along) - self.value * _over(r, direction, p)
            below += _dot(direction, along) - self.value * _over(direction, direction, p)
        beta = -above / below if below < 0 else 0.0
        return beta if math.isfinite(beta) else 0.0

    def _turn(self, beta: float) -> None:
        """Compute p of norm 1, orthogonal to y."""
        for (y, image, direction), p in self._pieces(self.y, self.image, self.direction):
            direction.copy_(self._ascent(y, image, p).add_(wide(direction), alpha=beta))
        for _ in range(2):  # once leaves what rounding has left of y
            shared = sum(_over(y, direction, p) for (y, direction), p in self._pieces(self.y, self.direction))
            self.direction.sub_(self.y, alpha=shared)
            square = sum(_over(direction, direction, p) for (direction,), p in self._pieces(self.direction))
            self.direction.div_(math.sqrt(square) if square > 0 else math.nan)

    def _rise(self) -> None:
        """Take the largest value on the plane of y and p."""
        beside = last = 0.0
        for (y, direction, along), _ in self._pieces(self.y, self.direction, self.along):
            beside += _dot(y, along)
            last += _dot(direction, along)
        plane = torch.tensor([[self.value, beside], [beside, last]], dtype=torch.float64)
        if not bool(plane.isfinite().all()):
            self.value = math.nan
            return
        values, vectors = torch.linalg.eigh(plane)
        self.largest = max(self.largest, float(values.abs().max()))
        of_y, of_direction = (float(number) for number in vectors[:, 1])
        for vector, other in ((self.y, self.direction), (self.image, self.along)):
            vector.mul_(of_y).add_(other, alpha=of_direction)
        self._normalize()

    def _pair(self, residual: float, *, settled: bool) -> Eigenpair:
        """Return what is known; v is y over P^½."""
        for (y,), p in self._pieces(self.y):
            if p is not None:
                y.mul_(torch.where(p > 0, p, torch.inf).rsqrt_())
        finite = math.isfinite(self.value) and math.isfinite(residual)
        value, residual = (self.value, residual) if finite else (math.nan, math.nan)
        return Eigenpair(value, self.y, residual, self.products, settled=settled)

    def _pieces(self, *vectors: Tensor) -> Iterator[tuple[tuple[Tensor, ...], Tensor | None]]:
        """Yield pieces of the vectors, and P's there."""
        begin = 0
        for part in [None] if self.scale is None else self.scale:
            size = len(vectors[0]) if part is None else part.numel()
            flat = None if part is None else part.reshape(-1)
            for first in range(0, size, PIECE):
                last = min(first + PIECE, size)
                pieces = tuple(vector[begin + first : begin + last] for vector in vectors)
                yield pieces, None if flat is None else flat[first:last]
            begin += size


def _dot(left: Tensor, right: Tensor) -> float:
    return float(torch.dot(wide(left), wide(right)))


def _over(left: Tensor, right: Tensor, p: Tensor | None) -> float:
    """Compute leftᵀP⁻¹right of a piece; where P is 0 both vectors are."""
    if p is None:
        return _dot(left, right)
    return _dot(wide(left) / torch.where(p > 0, wide(p), torch.inf), right)
