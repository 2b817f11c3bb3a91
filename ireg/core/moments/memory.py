"""What one minibatch's backward pass needs in memory, measured by its forward pass."""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

from ireg.core.types import Batch, LossFn, Params


class Kept(NamedTuple):
    """The tensors that a forward pass keeps for the backward pass, parameters aside.

    Attributes:
        tensors: how many.
        size: their bytes.
    """

    tensors: int
    size: int

    @property
    def mean(self) -> float:
        """The bytes of a tensor, on the mean."""
        return self.size / max(1, self.tensors)


def kept_for_backward(loss: LossFn, params: Params, batch: Batch) -> Kept:
    """Measure what the backward pass of one minibatch needs, by the hooks of autograd.

    Args:
        loss: pure function `(params, batch) -> 0-d mean loss`.
        params: where; what is kept of these themselves is not counted.
        batch: the minibatch.

    Returns:
        The number and the bytes of the tensors that are kept.
    """
    own = {value.untyped_storage().data_ptr() for value in params.values()}
    kept: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        # Detached: an output that its own graph holds is a cycle that no garbage collector sees.
        return tensor.detach()

    weights = {name: value.detach().requires_grad_() for name, value in params.items()}
    with torch.enable_grad(), saved_tensors_hooks(pack, lambda tensor: tensor):
        value = loss(weights, batch)  # held, so that no storage's place is given to another
    del value
    return Kept(len(kept), sum(kept.values()))


def bytes_of(params: Params) -> int:
    """Return the bytes of a gradient, which are those of the parameters."""
    return sum(value.numel() * value.element_size() for value in params.values())
