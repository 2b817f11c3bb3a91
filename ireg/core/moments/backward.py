"""Gradient moments by the model's own forward and backward passes, as training makes them."""

from collections.abc import Sequence

import torch

from ireg.core.moments.methods import method
from ireg.core.moments.sums import MomentSums, add_up
from ireg.core.own_passes import passes_of
from ireg.core.types import Batch, LossFn


@method("backward")
def add_by_backward(loss: LossFn, batches: Sequence[Batch], chunk_size: int | None, sums: MomentSums) -> None:
    """Add the moments of one minibatch after the other, by the model's own passes.

    Raises:
        ValueError: the loss is a function of parameters alone.
    """
    passes = passes_of(loss)
    with passes.opened(sums.params):
        for batch in batches:
            value, outputs, gradients = passes.passes(batch)
            parts = [
                sums.add_gradient(name, gradients.pop(name) if name in gradients else torch.zeros_like(weight))
                for name, weight in sums.params.items()
            ]
            norm = add_up(parts)
            sums.add_minibatches(
                value[None], None if outputs is None else outputs[None], None if norm is None else norm[None]
            )
