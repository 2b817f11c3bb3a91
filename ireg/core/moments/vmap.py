"""Gradient moments of several minibatches of equal size at once, by `torch.func`."""

from collections.abc import Sequence

from torch import Tensor
from torch.func import grad_and_value, vmap

from ireg.core.batches import stacks
from ireg.core.complex_weights import with_outputs
from ireg.core.moments.kinds import NotServedError
from ireg.core.moments.memory import bytes_of, kept_for_backward
from ireg.core.moments.methods import method
from ireg.core.moments.sums import MomentSums, add_up
from ireg.core.types import Batch, LossFn, Params

VMAP_MEMORY = 2**28
"""Bytes of minibatch gradients, and of what their backward passes need, unless `chunk_size` is given."""
BACKWARD = 2.5
"""Peak of backward passes by `vmap`, over what the forward pass keeps for them; measured with ResNet-8."""


@method("vmap")
def add_by_vmap(loss: LossFn, batches: Sequence[Batch], chunk_size: int | None, sums: MomentSums) -> None:
    """Add the moments of neighbouring minibatches of equal size, several at once."""
    size = chunk_size or max(1, VMAP_MEMORY // _bytes_each(loss, sums.params, batches[0]))

    has_outputs = False

    def evaluated(params: Params, batch: Batch) -> tuple[Tensor, Tensor]:
        nonlocal has_outputs
        value, outputs = with_outputs(loss, params, batch)
        has_outputs = outputs is not None
        return value, value if outputs is None else outputs  # vmap knows no None

    gradient = vmap(grad_and_value(evaluated, has_aux=True), in_dims=(None, 0))
    for number, stacked_batch in enumerate(stacks(batches, size)):
        try:
            gradients, (values, outputs) = gradient(sums.params, stacked_batch)
        except RuntimeError as error:  # of a forward pass that vmap does not serve, as one that changes a buffer
            if number:
                raise
            name = type(getattr(loss, "module", loss)).__name__
            raise NotServedError(f"{name} by vmap: {str(error).splitlines()[0]}; choose auto or loop") from error
        norms = [sums.add_gradients(name, stacked) for name, stacked in gradients.items()]
        sums.add_minibatches(values, outputs if has_outputs else None, add_up(norms))


def _bytes_each(loss: LossFn, params: Params, batch: Batch) -> int:
    return max(1, bytes_of(params) + int(BACKWARD * kept_for_backward(loss, params, batch).size))
