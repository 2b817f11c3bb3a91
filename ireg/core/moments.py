"""Moments of the minibatch gradients at fixed parameters: one pass over the minibatches for whatever is needed."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.func import grad_and_value, vmap

from ireg.core import linear_stack
from ireg.core.batches import stacks
from ireg.core.functional import ModuleLoss
from ireg.core.sums import EVERYTHING, GradientMoments, MomentSums, Need, Observer, add_up
from ireg.core.types import Batch, LossFn, Params

VMAP_MEMORY = 2**28
"""Bytes of stacked minibatch gradients that `vmap` holds at once, unless `chunk_size` is given."""


def gradient_moments(
    loss: LossFn,
    params: Params,
    batches: Sequence[Batch],
    *,
    needs: Need = EVERYTHING,
    method: str = "auto",
    chunk_size: int | None = None,
    observer: Observer | None = None,
) -> GradientMoments:
    """Moments of the gradients of `loss` at `params` over `batches`, of those only that are needed.

    With g_k the gradient of the mean loss of minibatch k: the m values ‖g_k‖², (1/m) Σ g_k and (1/m) Σ g_k ⊙ g_k, each
    minibatch with the same weight 1/m whatever its size, so that ḡ is the gradient of C = (1/m) Σ Ĉ_k (Smith et al.
    2021, arXiv:2101.12176). Memory does not grow with the number of minibatches, but for two numbers each.

    The methods compute the same and differ in time and in the models they can serve:

    - `loop`: one minibatch after the other, by backward passes; serves everything, the reference.
    - `vmap`: several minibatches of equal size at once, by `torch.func`; not for models that `vmap` cannot serve.
    - `ghost` and `layers`: for stacks of Linear layers, one pass over many minibatches and then layer by layer, see
      `ireg.core.linear_stack`; `ghost` forms no g_k unless their squares are needed.
    - `auto`: `ghost` or `layers`, whichever is less work, where the model allows them and there are several
      minibatches; else `vmap` on an accelerator, else `loop`.

    Args:
        loss: pure function `(params, batch) -> 0-d mean loss`; `ghost`, `layers` and `observer` want one made by
            `functional_loss`.
        params: where the gradients are taken; neither they nor any `.grad` are changed.
        batches: the minibatches; sizes may differ.
        needs: what to compute.
        method: one of the above.
        chunk_size: minibatches held at once by `vmap` (default: as many as fit into `VMAP_MEMORY` bytes), `ghost` and
            `layers` (default: those of `EXAMPLES_AT_ONCE` examples).
        observer: called with each minibatch's outputs on the way.

    Raises:
        ValueError: no minibatches, an unknown method, a chunk size below 1, or a loss that `method` cannot serve.
    """
    if len(batches) == 0:
        raise ValueError("gradient moments need at least one minibatch, got none")
    if chunk_size is not None and chunk_size < 1:
        raise ValueError(f"chunk_size={chunk_size}: must be at least 1")
    if method == "auto":
        method = choose_method(loss, batches, needs)
    if method not in METHODS:
        raise ValueError(f"method={method!r}: unknown; choose one of auto, {', '.join(METHODS)}")
    sums = MomentSums(params=params, needs=needs, observer=observer)
    METHODS[method](loss, batches, chunk_size, sums)
    return sums.moments(method)


def choose_method(loss: LossFn, batches: Sequence[Batch], needs: Need) -> str:
    """What `auto` stands for.

    A single minibatch leaves nothing to batch, and by the loop its ‖g‖² is ‖ḡ‖² to the last bit.
    """
    inputs, targets = batches[0]
    if len(batches) > 1 and isinstance(loss, ModuleLoss) and linear_stack.serves(loss.module, inputs.ndim):
        pays = Need.SQUARE not in needs and linear_stack.products_pay(loss.module, len(targets), needs)
        return "ghost" if pays else "layers"
    return "loop" if inputs.device.type == "cpu" else "vmap"


def _loop(loss: LossFn, batches: Sequence[Batch], chunk_size: int | None, sums: MomentSums) -> None:
    """One minibatch after the other, by backward passes."""
    weights = {name: value.detach().requires_grad_() for name, value in sums.params.items()}
    for batch in batches:
        with torch.enable_grad():
            value, outputs = _evaluate(loss, weights, batch)
        # A parameter that the loss does not use has gradient zero, not none.
        gradients = torch.autograd.grad(value, list(weights.values()), allow_unused=True, materialize_grads=True)
        norm = add_up([sums.add_gradient(name, gradient) for name, gradient in zip(weights, gradients, strict=True)])
        outputs, norm = (None if tensor is None else tensor[None] for tensor in (outputs, norm))
        sums.add_minibatches(value[None], outputs, norm)


def _vmap(loss: LossFn, batches: Sequence[Batch], chunk_size: int | None, sums: MomentSums) -> None:
    """Several neighbouring minibatches of equal size at once, by `torch.func`."""
    bytes_each = sum(value.numel() * value.element_size() for value in sums.params.values())
    size = chunk_size or max(1, VMAP_MEMORY // max(1, bytes_each))

    def evaluate(params: Params, batch: Batch) -> tuple[Tensor, Tensor]:
        value, outputs = _evaluate(loss, params, batch)
        return value, value if outputs is None else outputs  # vmap knows no None

    gradient = vmap(grad_and_value(evaluate, has_aux=True), in_dims=(None, 0))
    for stacked_batch in stacks(batches, size):
        gradients, (values, outputs) = gradient(sums.params, stacked_batch)
        norms = [sums.add_gradients(name, stacked) for name, stacked in gradients.items()]
        sums.add_minibatches(values, outputs if isinstance(loss, ModuleLoss) else None, add_up(norms))


def _evaluate(loss: LossFn, params: Params, batch: Batch) -> tuple[Tensor, Tensor | None]:
    return loss.with_outputs(params, batch) if isinstance(loss, ModuleLoss) else (loss(params, batch), None)


METHODS: dict[str, Callable[[LossFn, Sequence[Batch], int | None, MomentSums], None]] = {
    "loop": _loop,
    "vmap": _vmap,
    "ghost": linear_stack.add_by_ghost_norms,
    "layers": linear_stack.add_by_layers,
}
