"""Minibatches of examples in memory, without a loop over examples."""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from ireg.core.random import named_generator


class Batches:
    """Iterable over `(inputs, labels, indices)` of all examples as they lie.

    The batches are views, nothing is copied.

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
    """Iterable over `(inputs, labels, indices)`, in a fresh order each epoch.

    Each epoch has all examples.

    The order is a function of seed and epoch alone, so a run can resume from any epoch as if it had never stopped, and
    looking at the order of an epoch moves no random stream.

    Args:
        inputs: all inputs, examples along the first dimension.
        labels: their labels.
        batch_size: examples in a batch; the last may be smaller.
        seed: of the order.
    """

    def __init__(self, inputs: Tensor, labels: Tensor, *, batch_size: int, seed: int) -> None:
        super().__init__(inputs, labels, batch_size=batch_size)
        self.seed = seed
        self.epoch = 0

    @property
    def sampler(self) -> "ShuffledBatches":
        """Itself: Lightning sets the epoch through this attribute."""
        return self

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch, counted from 0, whose order the next iteration takes."""
        self.epoch = epoch

    def indices(self, epoch: int) -> Sequence[Tensor]:
        """The examples' indices of each batch of an epoch."""
        order = torch.randperm(len(self.labels), generator=named_generator("order of examples", self.seed, epoch))
        return order.to(self.labels.device).split(self.batch_size)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        for indices in self.indices(self.epoch):
            yield self.inputs.index_select(0, indices), self.labels.index_select(0, indices), indices
