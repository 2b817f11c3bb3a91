"""A random sample of a stream whose length is not known before."""

from collections.abc import Sequence
from typing import Generic, TypeVar

import torch

Item = TypeVar("Item")


class Reservoir(Generic[Item]):
    """A sample of k items of a stream, without replacement.

    Each item of the stream is in the sample with the same chance, and so is each set of k. The memory is that of k
    items. With `size=None` all items are kept.

    Args:
        size: k.
        generator: random numbers; a stream of its own, so that no other is moved.

    Source: Vitter 1985, Random Sampling with a Reservoir, algorithm R.

    Example:
        >>> reservoir = Reservoir(3, torch.Generator().manual_seed(0))
        >>> for item in "abcdefgh":
        ...     place = reservoir.place()
        ...     replaced = None if place is None else reservoir.put(place, item)
        >>> len(reservoir.items), reservoir.seen
        (3, 8)
    """

    def __init__(self, size: int | None, generator: torch.Generator) -> None:
        self.size = size
        self.items: list[Item] = []
        self.seen = 0
        self._generator = generator

    def place(self) -> int | None:
        """Count one more item, and return its place; None if it is left out, and need not be made."""
        self.seen += 1
        if self.size is None or self.seen <= self.size:
            return self.seen - 1
        place = int(torch.randint(self.seen, (), generator=self._generator))
        return place if place < self.size else None

    def put(self, place: int, item: Item) -> Item | None:
        """Put an item at its place, and return the one that it replaces; None if it replaces none."""
        if place == len(self.items):
            self.items.append(item)
            return None
        before, self.items[place] = self.items[place], item
        return before


def sampled(items: Sequence[Item], size: int | None, generator: torch.Generator) -> list[Item]:
    """Draw a sample as a reservoir does.

    Args:
        items: what is drawn from.
        size: of the sample; None for all.
        generator: random numbers.

    Returns:
        The sample, in the order of the reservoir's places.

    Example:
        >>> sampled("abc", None, torch.Generator())
        ['a', 'b', 'c']
    """
    reservoir: Reservoir[Item] = Reservoir(size, generator)
    for item in items:
        place = reservoir.place()
        if place is not None:
            reservoir.put(place, item)
    return reservoir.items
