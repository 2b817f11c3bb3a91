"""Estimates of moments from a random sample of the minibatches.

With k of m minibatches drawn without replacement, ḡ_S and s² = Σ_S ‖g_j − ḡ_S‖²/(k − 1) of the sample,

    (1/m) Σ ‖g_k‖² ≈ (1/k) Σ_S ‖g_j‖²,    ‖ḡ‖² ≈ ‖ḡ_S‖² − (1/k − 1/m) s²,

both without bias, in any norm ‖v‖²_P = vᵀPv. The second may be negative. Their sums and differences inherit that: the
variance is estimated by (m − 1)/m · s². Independent minibatches are a sample of infinitely many: 1/m is 0.

Each estimate comes with its values on the sample without one minibatch, which give a standard error (jackknife).

Source: Cochran 1977, Sampling Techniques, sections 2.3 and 2.4; Efron & Stein 1981 for the jackknife. docs/theory.md,
section 9.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ireg.core.moments.sums import MomentSums, flat
from ireg.core.norms import floor, widened
from ireg.core.params import inner_product, sum_type, summable
from ireg.core.types import Params
from ireg.core.wide import in_reach, wide

SMALLEST = 3
"""Minibatches in a sample: without one of them, two must be left to differ."""

STANDARD_ERROR = "_se"
"""Ending of the tag of an estimate's standard error."""


@dataclass(kw_only=True)
class KeptGradients(MomentSums):
    """The gradients of k minibatches themselves, where `MomentSums` has sums."""

    size: int
    rows: Params = field(init=False)

    def __post_init__(self) -> None:
        self.mean, self.square = {}, {}
        self.rows = {
            name: value.new_empty(self.size, *value.shape, dtype=sum_type(value)) for name, value in self.params.items()
        }
        self._filled = dict.fromkeys(self.params, 0)

    def add_gradient(self, name: str, gradient: Tensor) -> None:
        """Keep a copy of one parameter's gradient."""
        self.add_gradients(name, summable(gradient)[None])

    def add_gradients(self, name: str, gradients: Tensor) -> None:
        """Keep a copy of one parameter's gradients of c minibatches, (c, *shape)."""
        first = self._filled[name]
        self._filled[name] += len(gradients)
        self.rows[name][first : self._filled[name]].copy_(summable(gradients))


class SampledGradients:
    """The gradients of k minibatches, drawn at random from an epoch's m.

    The methods' results are estimates with their jackknife values, of shape (1 + k,): first that of the whole sample,
    then that without each of its minibatches. They add up, and scale, like numbers.

    Args:
        rows: by parameter name, the gradients (k, *shape).
        population: m; infinite for independent draws.
        method: how they were computed.
    """

    def __init__(self, rows: Params, population: float, method: str) -> None:
        self.rows = rows
        self.population = population
        self.method = method
        self.size = len(next(iter(rows.values())))
        # By the identity of P, which is kept so that no other can take its place.
        self._products: dict[int, tuple[Params | None, Tensor]] = {}

    def mean_square(self, scale: Params | None) -> Tensor:
        """Estimate (1/m) Σ ‖g_k‖²_P.

        Args:
            scale: P; None for the identity.
        """
        return self._means(self._inner_products(scale).diagonal())

    def mean_square_of_product(self, factor: Params) -> Tensor:
        """Estimate (1/m) Σ ‖f ⊙ g_k‖², in double precision."""
        return self._means(_total([_norms_of_products(rows, factor[name]) for name, rows in self.rows.items()]))

    def square_of_mean(self, scale: Params | None, shift: Callable[[Params], Params] | None = None) -> Tensor:
        """Estimate ‖ḡ + o‖²_P.

        Args:
            scale: P; None for the identity.
            shift: adds o to a gradient; None for o = 0.
        """
        products = self._inner_products(scale)
        if shift is not None:
            offset = shift({name: torch.zeros_like(rows[0]) for name, rows in self.rows.items()})
            scaled = _scaled(offset, scale)
            along = _total([flat(rows) @ scaled[name].flatten() for name, rows in self.rows.items()])
            own = wide(inner_product(offset, scaled))
            if not self._in_range(products) or not bool((along + own).isfinite().all()):
                offset, scaled = widened(offset), _scaled(widened(offset), None if scale is None else widened(scale))
                along = _total([flat(wide(rows)) @ scaled[name].flatten() for name, rows in self.rows.items()])
                own = inner_product(offset, scaled)
            products = products + along[:, None] + along[None, :] + own
        every, own = products.sum(1), products.diagonal()
        # Of the matrix of products: its sum, then its sum without row and column j, whose crossing counts once.
        left = torch.tensor([float(self.size)] + [self.size - 1.0] * self.size, dtype=torch.float64)
        left = left.to(products.device)
        square = torch.cat([every.sum()[None], every.sum() - 2 * every + own]) / left.square()
        variance = (self._means(own) - square) * left / (left - 1)
        return square - (1 / left - 1 / self.population) * variance

    def _means(self, values: Tensor) -> Tensor:
        """Return the mean of k values, then the k means without one of them, (1 + k,)."""
        total = values.sum()
        return torch.cat([total[None] / self.size, (total - values) / (self.size - 1)])

    def _inner_products(self, scale: Params | None) -> Tensor:
        """Return ⟨g_i, g_j⟩_P, (k, k)."""
        if id(scale) not in self._products:
            scaled = _scaled(self.rows, scale)
            products = _total([flat(scaled[name]) @ flat(rows).mT for name, rows in self.rows.items()])
            if not self._in_range(products):
                wider = _scaled(widened(self.rows), None if scale is None else widened(scale))
                products = _total([flat(wider[name]) @ flat(wide(rows)).mT for name, rows in self.rows.items()])
            self._products[id(scale)] = scale, products
        return self._products[id(scale)][1]

    def _in_range(self, products: Tensor) -> bool:
        """Say whether no product has left the range of the gradients' type."""
        one = next(iter(self.rows.values()))
        least = floor(one.dtype, sum(rows[0].numel() for rows in self.rows.values()))
        return bool(products.isfinite().all()) and least <= float(products.diagonal().max())


def standard_error(estimate: Tensor, population: float) -> float:
    """Return an estimate's standard error, by the jackknife.

    It is √((1 − k/m) (k − 1)/k Σ_j (e_j − ē)²) with e_j the estimates without minibatch j; on the mean over all
    samples, the square is the variance of a mean, and at least that of a square of a mean.

    Args:
        estimate: what the methods of `SampledGradients` return, or a linear function of it.
        population: m; infinite for independent draws.

    Raises:
        ValueError: it is one number.
    """
    if estimate.ndim != 1:
        raise ValueError(
            f"an estimate from a sample has shape {tuple(estimate.shape)}; must be a linear function of what "
            "snapshot.gradients return"
        )
    without = wide(estimate[1:])
    size = len(without)
    spread = (without - without.mean()).square().sum() * (size - 1) / size
    return math.sqrt((1 - size / population) * float(spread))


def _norms_of_products(rows: Tensor, factor: Tensor) -> Tensor:
    """Return ‖f ⊙ r_j‖² of k rows, (k,), in double precision."""
    factors = wide(factor).flatten()
    # One buffer for all rows, which stays in a CPU's cache.
    product, norms = torch.empty_like(factors), factors.new_empty(len(rows))
    for row, norm in zip(in_reach(flat(rows)), norms, strict=True):
        torch.mul(row, factors, out=product)
        torch.dot(product, product, out=norm)
    return norms


def _scaled(vectors: Params, scale: Params | None) -> Params:
    """Return Pv by name; None is the identity."""
    return vectors if scale is None else {name: value * scale[name] for name, value in vectors.items()}


def _total(parts: list[Tensor]) -> Tensor:
    """Add up what the parameters contribute, in double precision."""
    return torch.stack([wide(part) for part in parts]).sum(0)
