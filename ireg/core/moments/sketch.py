"""Short random sketches of long vectors, which keep inner products on the mean.

Each weight i has a random sign ε_i, and the bucket i mod n. The sketch of v holds in bucket b the sum of ε_i v_i over
the bucket's weights. Then E ⟨Sv, Sw⟩ = ⟨v, w⟩ over the signs, with a standard deviation of about ‖v‖ ‖w‖/√n. A vector
that is no longer than n is kept whole, and all is exact.

n is a prime, so that a column of a weight matrix is spread over all buckets.

Source: Charikar, Chen & Farach-Colton 2002, "Finding frequent items in data streams"; for inner products Weinberger et
al. 2009, arXiv:0902.2206.
"""

from collections.abc import Iterator
from itertools import accumulate
from typing import NamedTuple

import torch
from torch import Tensor

from ireg.core.types import Params

BUCKETS = (262139, 65521, 16381, 4093, 1021)
"""Numbers in a sketch: as many as memory allows."""
LEAST, LEAST_OF_PARTS = 16381, 1021
"""The smallest of them for all parameters together, and for each of several parts."""
SHARE = 8
"""Sketches take a share of 1/8 of a network, unless they are the smallest."""
AT_ONCE = 2**19
"""Weights that are added up at once: few enough for a CPU's caches."""


class Piece(NamedTuple):
    """Neighbouring weights of a parameter, and where they go in the sketch.

    Attributes:
        place: of the weights in the flattened parameter.
        first: bucket of the first weight.
        rows: how often they fill all buckets; 0 where they fill only some.
    """

    place: slice
    first: int
    rows: int


class Sketch:
    """A sketch of vectors that are given by name, one parameter and one piece of it at a time.

    Args:
        params: the parameters of the vectors, by name.
        generator: of the signs, on the CPU.
        buckets: n.

    Example:
        >>> sketch = Sketch({"w": torch.zeros(3)}, torch.Generator().manual_seed(0), 16381)  # kept whole
        >>> into = sketch.empty(torch.float32)
        >>> for piece in sketch.pieces("w"):
        ...     sketch.add(into, sketch.signed("w", piece, torch.tensor([1.0, 2.0, 2.0])[piece.place]), piece)
        >>> torch.dot(into, into)
        tensor(9.)
    """

    def __init__(self, params: Params, generator: torch.Generator, buckets: int) -> None:
        counts = [value.numel() for value in params.values()]
        self.device = next(iter(params.values())).device
        self.buckets = max(1, min(buckets, sum(counts)))
        self._firsts = dict(zip(params, accumulate([0, *counts]), strict=False))
        # One byte a weight.
        self._signs = {
            name: torch.randint(2, (count,), dtype=torch.int8, generator=generator).mul_(2).sub_(1).to(self.device)
            for name, count in zip(params, counts, strict=True)
        }

    def empty(self, dtype: torch.dtype, count: int | None = None) -> Tensor:
        """Return the sketch of 0, (n,), or of so many, (count, n)."""
        shape = (self.buckets,) if count is None else (count, self.buckets)
        return torch.zeros(shape, dtype=dtype, device=self.device)

    def pieces(self, name: str) -> Iterator[Piece]:
        """Cut a parameter into pieces that `add` takes."""
        first, count = self._firsts[name] % self.buckets, len(self._signs[name])
        place = 0
        while place < count:
            rows = 0 if first else min((count - place) // self.buckets, max(1, AT_ONCE // self.buckets))
            length = rows * self.buckets or min(self.buckets - first, count - place)
            yield Piece(slice(place, place + length), first, rows)
            place, first = place + length, (first + length) % self.buckets

    def signed(self, name: str, piece: Piece, values: Tensor) -> Tensor:
        """Return the values of a piece with their random signs."""
        return values * self._signs[name][piece.place]

    def add(self, sketch: Tensor, signed: Tensor, piece: Piece) -> None:
        """Add a piece's signed values to a sketch, (n,), in place."""
        if piece.rows:
            sketch += signed.view(piece.rows, self.buckets).sum(0)
        else:
            sketch[piece.first : piece.first + len(signed)] += signed


def buckets_for(weights: int, vectors: int, parts: int) -> int:
    """Return the length n of each sketch.

    Args:
        weights: numbers in a vector.
        vectors: how many are sketched.
        parts: into which each vector is cut, with a sketch of each.

    Example:
        >>> buckets_for(20_000_000, 8, 1), buckets_for(20_000_000, 1000, 1), buckets_for(20_000_000, 8, 50)
        (262139, 16381, 4093)
    """
    room = weights // SHARE // (vectors * parts)
    least = LEAST if parts == 1 else LEAST_OF_PARTS
    return next((buckets for buckets in BUCKETS if buckets <= max(room, least)), least)
