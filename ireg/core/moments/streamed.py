"""Sums over a sample's gradients, as they come: exact values, in the memory of one network.

The value of an estimate needs Σ g_j and ‖g_j‖²_P alone. The jackknife also needs ⟨g_j, G⟩_P with G = Σ g_j, since

    ‖G − g_j‖² = ‖G‖² − 2⟨g_j, G⟩ + ‖g_j‖².

Its parts ⟨g_j, g_i⟩ with i ≠ j come of random sketches of P^½ g_j, of n numbers each, see `ireg.core.moments.sketch`.
Values have no error of it. A standard error is off by about √(r/n) of itself where the gradients' noise lies in r
directions: by 1 % for r = 26 and n = 262,139. Where r is not far below n, standard errors come out too large.

The metrics P must be known before the pass; another one takes another pass.
"""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ireg.core.moments.sample import SampledGradients, Shift
from ireg.core.moments.sketch import Piece, Sketch, buckets_for
from ireg.core.moments.sums import MomentSums
from ireg.core.norms import floor, largest_power, square, weighted_square
from ireg.core.params import sum_type
from ireg.core.types import Params
from ireg.core.wide import has_float64, wide

Scales = Sequence[Params | None]


@dataclass(frozen=True, kw_only=True)
class Foreseen:
    """What a pass over a sample is made for.

    Attributes:
        scales: the metrics P in which norms and products are taken; None is the identity.
        factors: f of the norms ‖f ⊙ g_j‖².
        parts: names of parameters whose estimates are asked for apart; by default all together.
    """

    scales: Scales = (None,)
    factors: Sequence[Params] = ()
    parts: Sequence[Collection[str]] | None = None


@dataclass(kw_only=True)
class StreamedSums(MomentSums):
    """Σ g_j, and of each g_j its norms and its sketches.

    Attributes:
        size: k.
        foreseen: which norms and sketches.
        sketches: how vectors are sketched, by the part of the parameters.
        norms: ‖g_j‖²_P by parameter, (k,), for each metric.
        products: ‖f/c ⊙ g_j‖² by parameter, (k,), for each factor; c is a power of two near the largest entry of f
            for the parameter, so that single precision holds the squares.
        powers: c by parameter, for each factor.
        sketched: of P^½ g_j, (k, n) for each part, for each metric.
    """

    size: int
    foreseen: Foreseen
    sketches: Sequence[tuple[Collection[str], Sketch]]
    norms: list[Params] = field(init=False)
    products: list[Params] = field(init=False)
    sketched: list[list[Tensor]] = field(init=False)

    def __post_init__(self) -> None:
        self.mean, self.square = self._zeros(), {}
        self._part = {name: number for number, (names, _) in enumerate(self.sketches) for name in names}
        self._filled = dict.fromkeys(self.params, 0)
        self.powers = [
            {name: largest_power({name: factor[name]}) for name in self.params} for factor in self.foreseen.factors
        ]
        one = next(iter(self.params.values()))
        kind = torch.float64 if has_float64(one.device) else torch.float32
        self.norms, self.products = (
            [{name: torch.zeros(self.size, dtype=kind, device=one.device) for name in self.params} for _ in asked]
            for asked in (self.foreseen.scales, self.foreseen.factors)
        )
        numbers = torch.float64 if self.wide else sum_type(one)
        self.sketched = [
            [sketch.empty(numbers, self.size) for _, sketch in self.sketches] for _ in self.foreseen.scales
        ]

    def add_gradient(self, name: str, gradient: Tensor) -> None:
        """Add one parameter's gradient."""
        self.add_gradients(name, gradient[None])

    def add_gradients(self, name: str, gradients: Tensor) -> None:
        """Add one parameter's gradients of c minibatches, (c, *shape)."""
        _, sketch = self.sketches[self._part[name]]
        # Of a large model they are computed whenever they are asked for.
        scales = [None if scale is None else scale[name] for scale in self.foreseen.scales]
        factors = [factor[name] for factor in self.foreseen.factors]
        for gradient in gradients:
            place, row = self._filled[name], self._numbers(gradient).flatten()
            self._filled[name] += 1
            self.mean[name] += row.view_as(self.mean[name])
            for piece in sketch.pieces(name):
                signed = sketch.signed(name, piece, row[piece.place])
                self._add_weighted(name, place, sketch, piece, signed, scales)
                self._add_products(name, place, piece, row[piece.place], factors)

    def _add_weighted(
        self, name: str, place: int, sketch: Sketch, piece: Piece, signed: Tensor, scales: Sequence[Tensor | None]
    ) -> None:
        """Add norms and sketches of a piece of one parameter's gradient of the minibatch at a place."""
        for number, scale in enumerate(scales):
            weighted = signed if scale is None else signed * self.root(scale, piece)
            self.norms[number][name][place] += torch.dot(weighted, weighted)
            sketch.add(self.sketched[number][self._part[name]][place], weighted, piece)

    def _add_products(self, name: str, place: int, piece: Piece, values: Tensor, factors: Sequence[Tensor]) -> None:
        """Add norms of products of the piece with factors."""
        for number, factor in enumerate(factors):
            product = values * (self._numbers(factor.flatten()[piece.place]) / self.powers[number][name])
            self.products[number][name][place] += torch.dot(product, product)

    def root(self, scale: Tensor, piece: Piece) -> Tensor:
        """Return P^½ of a piece."""
        return self._numbers(scale.flatten()[piece.place]).sqrt()

    def has_left_range(self) -> bool:
        """Say whether norms are not finite, or all so small that squares may have been lost.

        So it is of each part that is foreseen, but for one on which the loss does not depend.
        """
        if self.wide or not self.norms:
            return False
        norms = torch.stack([_total(norms, self.params) for norms in self.norms])
        if not bool(norms.isfinite().all() and (norms.amax(1) >= self._least(self.params)).all()):
            return True
        return any(self._has_lost(part) for part in self.foreseen.parts or ())

    def _has_lost(self, part: Collection[str]) -> bool:
        largest = torch.stack([_total(norms, part).amax() for norms in self.norms])
        return bool((largest < self._least(part)).any()) and any(bool(self.mean[name].any()) for name in part)

    def _least(self, names: Collection[str]) -> float:
        """Return the squared norm below which squares of some parameters may have been lost."""
        count = sum(self.params[name].numel() for name in names)
        return floor(sum_type(next(iter(self.params.values()))), count)


class StreamedSample(SampledGradients):
    """Estimates from sums over the gradients of k minibatches.

    Args:
        stream: from what is foreseen to the sums of a pass, and how gradients were computed. It is called again for a
            metric that was not foreseen.
        foreseen: what the first pass is made for.
        population: m; infinite for independent draws.
    """

    def __init__(
        self, stream: Callable[[Foreseen], tuple[StreamedSums, str]], foreseen: Foreseen, population: float
    ) -> None:
        sums, method = stream(foreseen)
        super().__init__(sums.size, population, method)
        self._stream = stream
        self._sums = [sums]
        self.names: Collection[str] = list(sums.params)

    def of(self, names: Collection[str]) -> "StreamedSample":
        """Return the same of some of the parameters.

        Raises:
            ValueError: they are no part, or several, of those that were foreseen: there is no sketch of them.
        """
        covered = [name for held, _ in self._sums[0].sketches if set(held) <= set(names) for name in held]
        if set(covered) != set(names):
            raise ValueError(f"{', '.join(names)} were not foreseen as a part; name them in Foreseen.parts")
        part = object.__new__(StreamedSample)
        part.__dict__.update(self.__dict__)  # with the passes, which both may add to
        part.names = names
        return part

    def square_of_mean(self, scale: Params | None, shift: Shift | None = None) -> Tensor:
        """Estimate ‖ḡ + o‖²_P.

        Args:
            scale: P; None for the identity.
            shift: adds o to a gradient; None for o = 0.
        """
        sums, number = self._pass_with(scale)
        own, total = self._norms(scale), wide(self._mean_square(sums, scale, None)) * self.size**2
        sketched = [sums.sketched[number][part] for part in self._parts_of(sums)]
        crossed = [_between(rows, rows.sum(0)) - wide(rows).square().sum(1) for rows in sketched]
        along = _centered(own + torch.stack(crossed).sum(0), total)
        noisy = self._squares(total, along, own)
        if shift is None or not self._moves(sums, shift):
            return self._without_noise(noisy, noisy, self._means(own))
        moved = wide(self._mean_square(sums, scale, shift)) * self.size**2
        offset, offset_square = self._offset(sums, scale, shift)
        with_offset = (moved - total - self.size**2 * offset_square) / (2 * self.size)  # ⟨G, o⟩
        along_offset = [_between(rows, row) for rows, row in zip(sketched, offset, strict=True)]
        by_offset = _centered(torch.stack(along_offset).sum(0), with_offset)
        # ⟨g_j + o, G + ko⟩ and ‖g_j + o‖².
        shifted_along = along + self.size * by_offset + with_offset + self.size * offset_square
        squares = self._squares(moved, shifted_along, own + 2 * by_offset + offset_square)
        return self._without_noise(squares, noisy, self._means(own))

    def _norms(self, scale: Params | None) -> Tensor:
        sums, number = self._pass_with(scale)
        return _total(sums.norms[number], self.names)

    def _norms_of_products(self, factor: Params) -> Tensor:
        for sums in self._sums:
            for number, known in enumerate(sums.foreseen.factors):
                if known is factor:
                    products, powers = sums.products[number], sums.powers[number]
                    return _total({name: products[name] * powers[name] ** 2 for name in self.names}, self.names)
        self._sums.append(self._stream(Foreseen(scales=(), factors=(factor,)))[0])
        return self._norms_of_products(factor)

    def _pass_with(self, scale: Params | None) -> tuple[StreamedSums, int]:
        """Return the sums of the pass that has a metric, and its number there; take a pass if none has."""
        for sums in self._sums:
            for number, known in enumerate(sums.foreseen.scales):
                if known is scale:
                    return sums, number
        self._sums.append(self._stream(Foreseen(scales=(scale,)))[0])
        return self._pass_with(scale)

    def _parts_of(self, sums: StreamedSums) -> list[int]:
        """Return the numbers of the parts that these names make up."""
        return [number for number, (names, _) in enumerate(sums.sketches) if set(names) <= set(self.names)]

    def _mean_square(self, sums: StreamedSums, scale: Params | None, shift: Shift | None) -> Tensor:
        """Compute ‖ḡ_S + o‖²_P, one parameter after the other."""
        parts = []
        for name in self.names:
            mean = {name: sums.mean[name] / self.size}
            mean = mean if shift is None else shift(mean)
            parts.append(_norm(mean, scale))
        return torch.stack([wide(part) for part in parts]).sum()

    def _moves(self, sums: StreamedSums, shift: Shift) -> bool:
        """Say whether a shift adds anything: without weight decay it gives back what it gets."""
        given = {name: sums.mean[name] for name in self.names}
        return shift(given) is not given

    def _offset(self, sums: StreamedSums, scale: Params | None, shift: Shift) -> tuple[list[Tensor], Tensor]:
        """Return the sketches of P^½ o by part, and ‖o‖²_P."""
        sketches, norm = [], []
        for part in self._parts_of(sums):
            names, sketch = sums.sketches[part]
            into = sketch.empty(sums.sketched[0][part].dtype)
            for name in names:
                offset = shift({name: torch.zeros_like(sums.mean[name])})
                norm.append(_norm(offset, scale))
                metric = None if scale is None else scale[name]
                for piece in sketch.pieces(name):
                    signed = sketch.signed(name, piece, offset[name].flatten()[piece.place])
                    sketch.add(into, signed if metric is None else signed * sums.root(metric, piece), piece)
            sketches.append(into)
        return sketches, torch.stack([wide(part) for part in norm]).sum()


def sketches_of(
    params: Params, size: int, parts: Sequence[Collection[str]] | None, generator: torch.Generator
) -> list[tuple[Collection[str], Sketch]]:
    """Make the sketches of each part of the parameters, with signs of their own.

    Args:
        params: all parameters.
        size: the number k of gradients.
        parts: names that make up all parameters; None for all together.
        generator: of the signs.
    """
    together = [list(params)] if parts is None else [list(names) for names in parts]
    weights = sum(value.numel() for value in params.values())
    buckets = buckets_for(weights, size, len(together))
    return [(names, Sketch({name: params[name] for name in names}, generator, buckets)) for names in together]


def _norm(vector: Params, scale: Params | None) -> Tensor:
    """Return ‖v‖²_P, 0-d, of a vector of some of P's names."""
    if scale is None:
        return square(vector)
    return weighted_square({name: scale[name].to(value.dtype) for name, value in vector.items()}, vector)


def _between(rows: Tensor, row: Tensor) -> Tensor:
    """Return the inner products of k rows with one, (k,), in double precision."""
    return wide(rows) @ wide(row)


def _centered(estimates: Tensor, total: Tensor) -> Tensor:
    """Move k estimates, (k,), so that their sum is what it is known to be."""
    return estimates + (total - estimates.sum()) / len(estimates)


def _total(by_name: Params, names: Collection[str]) -> Tensor:
    """Add up what the parameters contribute, (k,), in double precision."""
    return torch.stack([wide(by_name[name]) for name in names]).sum(0)
