"""A sample's gradients, kept: exact, in the memory of k networks."""

from collections.abc import Collection
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ireg.core.moments.sample import SampledGradients, Shift
from ireg.core.moments.sums import MomentSums, flat
from ireg.core.norms import floor, widened
from ireg.core.params import inner_product, sum_type, summable
from ireg.core.types import Params
from ireg.core.wide import in_reach, wide

KEPT_MEMORY = 2**26
"""Bytes of a sample's gradients up to which they are kept; larger ones are summed up as they come."""


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


class KeptSample(SampledGradients):
    """Estimates from the gradients of k minibatches, which are all kept.

    Args:
        rows: by parameter name, the gradients (k, *shape).
        population: m; infinite for independent draws.
        method: how they were computed.
    """

    def __init__(self, rows: Params, population: float, method: str) -> None:
        super().__init__(len(next(iter(rows.values()))), population, method)
        self.rows = rows
        # By the identity of P, which is kept so that no other can take its place.
        self._products: dict[int, tuple[Params | None, Tensor]] = {}

    def of(self, names: Collection[str]) -> "KeptSample":
        """Return the same of some of the parameters."""
        return KeptSample({name: self.rows[name] for name in names}, self.population, self.method)

    def square_of_mean(self, scale: Params | None, shift: Shift | None = None) -> Tensor:
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
        square = self._squares(every.sum(), every, own)
        return self._without_noise(square, square, self._means(own))

    def _norms(self, scale: Params | None) -> Tensor:
        return self._inner_products(scale).diagonal()

    def _norms_of_products(self, factor: Params) -> Tensor:
        return _total([_norms_of_products(rows, factor[name]) for name, rows in self.rows.items()])

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
