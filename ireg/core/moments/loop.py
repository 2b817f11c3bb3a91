"""Gradient moments by one backward pass for each minibatch.

It serves every loss, and is the reference of the other methods.
"""

from collections.abc import Sequence

import torch

from ireg.core.complex_weights import with_outputs
from ireg.core.moments.methods import method
from ireg.core.moments.sums import MomentSums, add_up
from ireg.core.types import Batch, LossFn


@method("loop")
def add_by_loop(loss: LossFn, batches: Sequence[Batch], chunk_size: int | None, sums: MomentSums) -> None:
    """Add the moments of one minibatch after the other, by backward passes."""
    weights = {name: value.detach().requires_grad_() for name, value in sums.params.items()}
    for batch in batches:
        with torch.enable_grad():
            value, outputs = with_outputs(loss, weights, batch)
        # A parameter that the loss does not use has gradient zero, not none.
        found = torch.autograd.grad(value, list(weights.values()), allow_unused=True, materialize_grads=True)
        gradients = dict(zip(weights, found, strict=True))
        del found  # so that no gradient outlives its sum, beside the next minibatch's
        norm = add_up([sums.add_gradient(name, gradients.pop(name)) for name in weights])
        outputs, norm = (None if tensor is None else tensor[None] for tensor in (outputs, norm))
        sums.add_minibatches(value[None], outputs, norm)
