"""Moments of the minibatch gradients at fixed parameters."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby

import torch
from torch import Tensor
from torch.func import grad, vmap

from ireg.core.types import Batch, LossFn, Params

VMAP_MEMORY = 2**28
"""Bytes of stacked minibatch gradients that `vmap` holds at once, unless `chunk_size` is given."""


@dataclass(frozen=True, kw_only=True)
class GradientMoments:
    """Moments of the m minibatch gradients g_k = ∇Ĉ_k(ω).

    Attributes:
        mean: ḡ = (1/m) Σ g_k = ∇C(ω), by parameter name.
        square: (1/m) Σ g_k ⊙ g_k, by parameter name.
        sq_norms: ‖g_k‖², shape (m,), in the order of the minibatches.
    """

    mean: Params
    square: Params
    sq_norms: Tensor

    @property
    def num_batches(self) -> int:
        """The number m of minibatches."""
        return len(self.sq_norms)

    @property
    def sq_norm_mean(self) -> Tensor:
        """(1/m) Σ ‖g_k‖², 0-d."""
        return self.sq_norms.mean()


def squared_norm(params: Params) -> Tensor:
    """‖v‖² = Σ v_i² over all entries of all tensors, 0-d.

    Example:
        >>> squared_norm({"a": torch.tensor([3.0]), "b": torch.tensor([[0.0, 4.0]])})
        tensor(25.)
    """
    return inner_product(params, params)


def inner_product(left: Params, right: Params) -> Tensor:
    """⟨v, w⟩ = Σ v_i w_i over all entries of all tensors, 0-d.

    Raises:
        KeyError: `right` lacks a name of `left`.
    """
    return torch.stack([torch.dot(value.flatten(), right[name].flatten()) for name, value in left.items()]).sum()


def gradient_moments(
    loss: LossFn, params: Params, batches: Sequence[Batch], *, method: str = "auto", chunk_size: int | None = None
) -> GradientMoments:
    """Moments of the gradients of `loss` at `params` over `batches`.

    With g_k the gradient of the mean loss of minibatch k: (1/m) Σ g_k, (1/m) Σ g_k ⊙ g_k and the m values ‖g_k‖²,
    each minibatch with the same weight 1/m whatever its size, so that ḡ is the gradient of C = (1/m) Σ Ĉ_k
    (Smith et al. 2021, arXiv:2101.12176).

    Args:
        loss: pure function `(params, batch) -> 0-d mean loss`.
        params: where the gradients are taken; neither they nor any `.grad` are changed.
        batches: the minibatches; sizes may differ.
        method: `loop` (one minibatch after the other; the reference), `vmap` (several minibatches at once), or
            `auto`: `vmap` on an accelerator, `loop` on the CPU, where it is faster.
        chunk_size: minibatches that `vmap` holds at once; by default as many as fit into `VMAP_MEMORY` bytes.

    Raises:
        ValueError: no minibatches, an unknown method, or a chunk size below 1.
    """
    if len(batches) == 0:
        raise ValueError("gradient moments need at least one minibatch, got none")
    if chunk_size is not None and chunk_size < 1:
        raise ValueError(f"chunk_size={chunk_size}: must be at least 1")
    if method == "auto":
        method = "loop" if next(iter(params.values())).device.type == "cpu" else "vmap"
    if method not in METHODS:
        raise ValueError(f"method={method!r}: unknown; choose one of auto, {', '.join(METHODS)}")
    mean = {name: torch.zeros_like(value) for name, value in params.items()}
    square = {name: torch.zeros_like(value) for name, value in params.items()}
    sq_norms = []
    for gradients in METHODS[method](loss, params, batches, chunk_size):
        norms = []
        for name, stacked in gradients.items():  # (c, *shape of the parameter)
            rows = stacked.flatten(1)
            if len(rows) == 1:  # in place: three passes over memory instead of five
                mean[name].add_(stacked[0])
                square[name].addcmul_(stacked[0], stacked[0])
                norms.append(torch.dot(rows[0], rows[0])[None])
            else:
                squares = stacked.square()
                mean[name].add_(stacked.sum(0))
                square[name].add_(squares.sum(0))
                norms.append(squares.flatten(1).sum(1))
        sq_norms.append(torch.stack(norms).sum(0))
    for total in (*mean.values(), *square.values()):
        total.div_(len(batches))
    return GradientMoments(mean=mean, square=square, sq_norms=torch.cat(sq_norms))


def _loop(loss: LossFn, params: Params, batches: Sequence[Batch], chunk_size: int | None) -> Iterable[Params]:
    """Gradients of one minibatch at a time, each with a leading dimension of 1."""
    weights = {name: value.detach().requires_grad_() for name, value in params.items()}
    for batch in batches:
        with torch.enable_grad():
            value = loss(weights, batch)
        # A parameter that the loss does not use has gradient zero, not none.
        gradients = torch.autograd.grad(value, list(weights.values()), allow_unused=True, materialize_grads=True)
        yield {name: gradient[None] for name, gradient in zip(weights, gradients, strict=True)}


def _vmap(loss: LossFn, params: Params, batches: Sequence[Batch], chunk_size: int | None) -> Iterable[Params]:
    """Gradients of up to `chunk_size` neighbouring minibatches of equal shape at once, stacked."""
    bytes_each = sum(value.numel() * value.element_size() for value in params.values())
    chunk_size = chunk_size or max(1, VMAP_MEMORY // bytes_each)
    gradient = vmap(grad(loss), in_dims=(None, 0))
    for _, same in groupby(batches, key=lambda batch: batch[0].shape):
        waiting: list[Batch] = []
        for batch in same:
            waiting.append(batch)
            if len(waiting) == chunk_size:
                yield gradient(params, _stack(waiting))
                waiting = []
        if waiting:
            yield gradient(params, _stack(waiting))


def _stack(batches: Sequence[Batch]) -> Batch:
    inputs, targets = zip(*batches, strict=True)
    return torch.stack(inputs), torch.stack(targets)


METHODS: dict[str, Callable[[LossFn, Params, Sequence[Batch], int | None], Iterable[Params]]] = {
    "loop": _loop,
    "vmap": _vmap,
}
