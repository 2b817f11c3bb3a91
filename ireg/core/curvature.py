"""Hessian products by double backward."""

from collections.abc import Iterable

import torch

from ireg.core.functional import twice_differentiable
from ireg.core.types import Batch, LossFn, Params


def hessian_product(loss: LossFn, params: Params, batches: Iterable[tuple[float, Batch]], direction: Params) -> Params:
    """Compute a weighted sum of Hessian products, Σ_k w_k ∇²Ĉ_k v.

    A parameter that the loss does not use, or that enters linearly, has products 0.

    Args:
        loss: pure function `(params, batch) -> 0-d mean loss`.
        params: where; neither they nor any `.grad` are changed.
        batches: the weight w_k of each minibatch, and the minibatch.
        direction: v, by name.

    Source: Pearlmutter 1994, "Fast exact multiplication by the Hessian".

    Example:
        >>> def loss(params, batch):
        ...     return (batch * params["w"] ** 3).sum()
        >>> w, v = {"w": torch.tensor([1.0, 2.0])}, {"w": torch.tensor([1.0, 1.0])}
        >>> hessian_product(loss, w, [(0.5, torch.tensor([1.0, 1.0]))], v)
        {'w': tensor([3., 6.])}
    """
    leaves = {name: value.detach().requires_grad_() for name, value in params.items()}
    total = {name: torch.zeros_like(value) for name, value in params.items()}
    for weight, batch in batches:
        with torch.enable_grad(), twice_differentiable():
            slopes = torch.autograd.grad(
                loss(leaves, batch), list(leaves.values()), create_graph=True, allow_unused=True, materialize_grads=True
            )
            along = [(slope * direction[name]).sum() for name, slope in zip(leaves, slopes, strict=True)]
            slope_along = torch.stack(along).sum()
        if not slope_along.requires_grad:  # every gradient is constant
            continue
        bends = torch.autograd.grad(slope_along, list(leaves.values()), allow_unused=True, materialize_grads=True)
        for name, bend in zip(leaves, bends, strict=True):
            total[name] += weight * bend
    return total
