"""Minibatches remembered as index tensors."""

from collections.abc import Sequence
from typing import overload

from torch import Tensor

from ireg.core.types import Batch


class IndexedBatches(Sequence[Batch]):
    """The minibatches `(inputs[i], targets[i])` for each index tensor `i`, gathered when asked for.

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
    def __getitem__(self, position: int) -> Batch: ...
    @overload
    def __getitem__(self, position: slice) -> "IndexedBatches": ...
    def __getitem__(self, position: int | slice) -> "Batch | IndexedBatches":
        if isinstance(position, slice):
            return IndexedBatches(self.inputs, self.targets, self.indices[position])
        index = self.indices[position]
        return self.inputs.index_select(0, index), self.targets.index_select(0, index)
