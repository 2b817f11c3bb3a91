"""Minibatches remembered as index tensors, and several of them stacked."""

import copy
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass
from itertools import groupby, islice
from typing import Any, TypeVar, overload

import torch
from torch import Tensor

from ireg.core.types import Batch, Pair


class IndexedBatches(Sequence[Pair]):
    """Minibatches by index tensors, gathered when asked for.

    For each index tensor `i` the minibatch is `(inputs[i], targets[i])`.

    Memory is that of the indices and of one minibatch, however many minibatches there are.

    Args:
        inputs: all examples' inputs, examples along the first dimension.
        targets: their targets.
        indices: one 1-d integer tensor for each minibatch; the minibatches may differ in size.
    """

    def __init__(self, inputs: Tensor, targets: Tensor, indices: Sequence[Tensor]) -> None:
        self.inputs = inputs
        self.targets = targets
        self.indices = list(indices)

    def __len__(self) -> int:
        return len(self.indices)

    @overload
    def __getitem__(self, position: int) -> Pair: ...
    @overload
    def __getitem__(self, position: slice) -> "IndexedBatches": ...
    def __getitem__(self, position: int | slice) -> "Pair | IndexedBatches":
        if isinstance(position, slice):
            return IndexedBatches(self.inputs, self.targets, self.indices[position])
        index = self.indices[position]
        return self.inputs.index_select(0, index), self.targets.index_select(0, index)


def stacks(batches: Sequence[Pair], size: int) -> Iterator[Pair]:
    """Stack up to `size` neighbouring minibatches of equal shape.

    All minibatches come once, in their order; a smaller one among them ends a stack. The next stack may overwrite the
    inputs of this one.

    Args:
        batches: pairs of inputs (examples, …) and targets (examples, …).
        size: minibatches in a stack, at most.

    Yields:
        Inputs (c, examples, …) and targets (c, examples, …) of c minibatches.

    Example:
        >>> pairs = [(torch.zeros(n, 2), torch.zeros(n)) for n in (4, 4, 4, 3)]
        >>> [tuple(targets.shape) for _, targets in stacks(pairs, 2)]
        [(2, 4), (1, 4), (1, 3)]
    """
    if isinstance(batches, IndexedBatches):  # gathered at once, not one after the other and then copied
        buffer = batches.inputs.new_empty(0)  # used again and again: a CPU pays for the first touch of fresh memory
        for indices in _runs(batches.indices, size):
            index = torch.cat(indices)
            if len(buffer) < len(index):
                buffer = batches.inputs.new_empty(len(index), *batches.inputs.shape[1:])
            gathered = torch.index_select(batches.inputs, 0, index, out=buffer[: len(index)])
            shape = (len(indices), len(indices[0]))
            yield gathered.unflatten(0, shape), batches.targets.index_select(0, index).unflatten(0, shape)
        return
    for same in _runs(batches, size):
        inputs, targets = zip(*same, strict=True)
        yield torch.stack(inputs), torch.stack(targets)


Item = TypeVar("Item", Tensor, Pair)


def _runs(items: Iterable[Item], size: int) -> Iterator[list[Item]]:
    """Yield up to `size` neighbours of equal shape at a time."""

    def shape(item: Tensor | Pair) -> torch.Size:
        return item.shape if isinstance(item, Tensor) else item[0].shape

    for _, same in groupby(items, key=shape):
        while run := list(islice(same, size)):
            yield run


def copied(batch: Batch) -> Batch:
    """Copy a minibatch of any structure; of a view, the view alone.

    A tensor that requires a gradient is copied to one that does, without its history.
    """
    if isinstance(batch, Tensor):
        return batch.detach().clone().requires_grad_(batch.requires_grad)
    if isinstance(batch, tuple) and hasattr(batch, "_fields"):
        return type(batch)(*(copied(item) for item in batch))
    if type(batch) in (list, tuple):
        return type(batch)(copied(item) for item in batch)
    if type(batch) in (dict, OrderedDict):
        return type(batch)((key, copied(value)) for key, value in batch.items())
    return copy.deepcopy(batch)


def size_of(value: Any) -> int:
    """Return the bytes of a minibatch's tensors, whatever holds them.

    Example:
        >>> size_of({"x": torch.zeros(2, 3), "names": ["one", "two"]})
        24
    """
    if isinstance(value, Tensor):
        return value.numel() * value.element_size()
    if isinstance(value, Mapping):
        return sum(map(size_of, value.values()))
    if is_dataclass(value):
        return sum(size_of(getattr(value, field.name)) for field in fields(value))
    if isinstance(value, Sequence) and not isinstance(value, str | bytes):
        return sum(map(size_of, value))
    return 0


def examples_of(batches: Sequence[Batch]) -> list[int] | None:
    """Return how many examples each minibatch has.

    It is the first dimension of its first tensor, of a language model's (sequences, tokens) the sequences. A minibatch
    of a class of one's own says it by an attribute `examples`.

    Returns:
        One number for each minibatch; None where one has no tensor with a dimension.

    Example:
        >>> examples_of([{"weight": torch.tensor(1.0), "x": torch.zeros(4, 2)}, {"x": torch.zeros(3, 2)}])
        [4, 3]
    """
    if isinstance(batches, IndexedBatches):  # without gathering them
        return [len(index) for index in batches.indices]
    found = [_examples_in(batch) for batch in batches]
    known = [count for count in found if count is not None]
    return known if len(known) == len(found) else None


def _examples_in(value: Any) -> int | None:
    if isinstance(value, Tensor):
        return len(value) if value.ndim else None
    if hasattr(value, "examples"):
        return None if value.examples is None else int(value.examples)
    parts: Iterable[Any] = ()
    if isinstance(value, Mapping):
        parts = value.values()
    elif is_dataclass(value):
        parts = (getattr(value, field.name) for field in fields(value))
    elif isinstance(value, Sequence) and not isinstance(value, str | bytes):
        parts = value
    return next((count for part in parts if (count := _examples_in(part)) is not None), None)


def split_batch(batch: Batch, size: int) -> list[Pair]:
    """Split a pair of inputs and targets into parts of neighbouring examples.

    Args:
        batch: the pair, examples along the first dimension.
        size: examples in a part; the last may be smaller.

    Raises:
        ValueError: the minibatch is no pair of tensors.

    Example:
        >>> import torch
        >>> [len(targets) for _, targets in split_batch((torch.zeros(5, 2), torch.zeros(5)), 2)]
        [2, 2, 1]
    """
    if not (isinstance(batch, tuple | list) and len(batch) == 2 and all(isinstance(part, Tensor) for part in batch)):
        raise ValueError(f"a minibatch is a {type(batch).__name__}; micro-batches need pairs of tensors")
    inputs, targets = batch
    return list(zip(inputs.split(size), targets.split(size), strict=True))
