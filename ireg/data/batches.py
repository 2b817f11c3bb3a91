"""Minibatches of examples in memory, without a loop over examples."""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from ireg.core.drawing import EPOCH, INDEPENDENT
from ireg.core.random import named_generator


class Batches:
    """Iterable over `(inputs, labels, indices)` of all examples as they lie, in views without a copy.

    Args:
        inputs: all inputs, examples along the first dimension.
        labels: their labels.
        batch_size: examples in a batch; the last may be smaller.
    """

    def __init__(self, inputs: Tensor, labels: Tensor, *, batch_size: int) -> None:
        self.inputs = inputs
        self.labels = labels
        self.batch_size = batch_size

    def __len__(self) -> int:
        return -(-len(self.labels) // self.batch_size)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        indices = torch.arange(len(self.labels), device=self.labels.device)
        columns = (self.inputs, self.labels, indices)
        return zip(*(column.split(self.batch_size) for column in columns), strict=True)


class ShuffledBatches(Batches):
    """Iterable over `(inputs, labels, indices)` of all examples, in a fresh order each epoch.

    The order is a function of seed and epoch alone, so a run can resume from any epoch as if it had never stopped, and
    looking at the order of an epoch moves no random stream.

    With `steps` an epoch is a window of so many minibatches of the stream that passes over the examples make, one after
    the other: epoch e has those from number e · steps on. The stream is the same whatever `steps` is.

    Args:
        inputs: all inputs, examples along the first dimension.
        labels: their labels.
        batch_size: examples in a batch; the last of a pass may be smaller.
        seed: of the order.
        steps: minibatches of an epoch; None for those of one pass.

    Example:
        >>> data = torch.arange(6.0)[:, None], torch.arange(6)
        >>> passes = ShuffledBatches(*data, batch_size=2, seed=0)
        >>> windows = ShuffledBatches(*data, batch_size=2, seed=0, steps=2)
        >>> bool((windows.indices(1)[1] == passes.indices(1)[0]).all())  # numbers 2 and 3 of three a pass
        True
    """

    sampling = EPOCH

    def __init__(self, inputs: Tensor, labels: Tensor, *, batch_size: int, seed: int, steps: int | None = None) -> None:
        super().__init__(inputs, labels, batch_size=batch_size)
        self.seed = seed
        self.steps = steps
        self.epoch = 0

    def __len__(self) -> int:
        return super().__len__() if self.steps is None else self.steps

    @property
    def sampler(self) -> "ShuffledBatches":
        """The batches themselves: Lightning sets the epoch through this attribute."""
        return self

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch, counted from 0, whose order the next iteration takes."""
        self.epoch = epoch

    def indices(self, epoch: int) -> Sequence[Tensor]:
        """Return the examples' indices of each batch of an epoch."""
        if self.steps is None:
            return self._of_pass(epoch)
        size = super().__len__()  # of a pass
        first, past = epoch * self.steps, (epoch + 1) * self.steps
        passes = range(first // size, (past - 1) // size + 1)
        stream = [batch for number in passes for batch in self._of_pass(number)]
        return stream[first - passes.start * size : past - passes.start * size]

    def _of_pass(self, number: int) -> Sequence[Tensor]:
        """Return the examples' indices of each batch of a pass over them."""
        order = torch.randperm(len(self.labels), generator=named_generator("order of examples", self.seed, number))
        return order.to(self.labels.device).split(self.batch_size)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        for indices in self.indices(self.epoch):
            yield self.inputs.index_select(0, indices), self.labels.index_select(0, indices), indices


class IndependentBatches(ShuffledBatches):
    """Iterable over `(inputs, labels, indices)`, each minibatch drawn independently of the others.

    Each is a random subset of `batch_size` examples, all such with equal chances. A pass has as many as it takes to
    look at as many examples as there are; some of them come several times, others not at all.

    The draw is a function of seed and epoch alone, as the order of `ShuffledBatches` is.
    """

    sampling = INDEPENDENT

    def _of_pass(self, number: int) -> Sequence[Tensor]:
        generator = named_generator("independent minibatches", self.seed, number)
        count, size = len(self.labels), min(self.batch_size, len(self.labels))
        return [subset(count, size, generator).to(self.labels.device) for _ in range(Batches.__len__(self))]


def subset(count: int, size: int, generator: torch.Generator) -> Tensor:
    """Draw `size` of `count` numbers, every subset with the same chance.

    Small subsets take a time that does not grow with `count`.

    Args:
        count: numbers from 0 on.
        size: of the subset, at most `count`.
        generator: random numbers.
    """
    if 2 * size > count:
        return torch.randperm(count, generator=generator)[:size]
    chosen = torch.empty(0, dtype=torch.long)
    while len(chosen) < size:  # what came twice is drawn again; no number differs from another in this
        drawn = torch.randint(count, (size - len(chosen),), generator=generator)
        chosen = torch.cat([chosen, drawn]).unique()
    return chosen
