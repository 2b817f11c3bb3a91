"""By how much examples are classified as they are labelled."""

from collections.abc import Sequence

import torch
from torch import Tensor

from ireg.core.complex_weights import as_given
from ireg.core.functional import ModuleLoss
from ireg.core.types import Batch, LossFn, Params


@torch.no_grad()
def margins(loss: LossFn, params: Params, batches: Sequence[Batch]) -> Tensor | None:
    """Compute the margin f_y − max_{j≠y} f_j of each example.

    Args:
        loss: of a classifier, a `ModuleLoss`.
        params: where.
        batches: pairs of inputs (n, …) and labels (n,).

    Returns:
        The margins (N,), in the order of the minibatches; None where outputs are not (n, C) for labels (n,).

    Example:
        >>> from torch import nn
        >>> loss = ModuleLoss(nn.Identity(), nn.functional.cross_entropy)
        >>> outputs, labels = torch.tensor([[3.0, 1.0, 2.0], [0.0, 4.0, 1.0]]), torch.tensor([0, 2])
        >>> margins(loss, {}, [(outputs, labels)])
        tensor([ 1., -3.])
    """
    loss = as_given(loss)
    if not isinstance(loss, ModuleLoss):
        return None
    parts = []
    for inputs, labels in batches:
        if not isinstance(labels, Tensor) or labels.is_floating_point() or labels.ndim != 1:
            return None
        outputs = loss.outputs(params, inputs)
        if outputs.ndim != 2 or outputs.shape[1] < 2 or outputs.is_complex():
            return None
        right = outputs.gather(1, labels[:, None])
        others = outputs.scatter(1, labels[:, None], -torch.inf)
        parts.append(right[:, 0] - others.amax(1))
    return torch.cat(parts)
