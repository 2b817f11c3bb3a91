"""What is minimized."""

from collections.abc import Callable, Mapping
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

Criterion = Callable[..., Tensor]
"""The loss of a minibatch of outputs (n, C) and labels (n,): their mean, or as `reduction` says, `sum` or `none`."""


def squared_error(outputs: Tensor, labels: Tensor, *, reduction: Literal["mean", "sum", "none"] = "mean") -> Tensor:
    """Compute the squared error of outputs against the labels as unit vectors.

    It is ½ Σ_c (f_c − [c = y])² of an example, as in Cohen et al. 2021, arXiv:2103.00065.

    Args:
        outputs: f, (n, C).
        labels: y, (n,).
        reduction: `mean` over the examples, their `sum`, or `none`: the values (n,).

    Raises:
        ValueError: another reduction.

    Example:
        >>> squared_error(torch.tensor([[1.0, 0.0], [0.0, 2.0]]), torch.tensor([0, 0]))  # (0 + ½ (1 + 4))/2
        tensor(1.2500)
    """
    meant = labels[..., None] == torch.arange(outputs.shape[-1], device=outputs.device)
    values = (outputs - meant.to(outputs)).square().sum(-1) / 2
    if reduction == "none":
        return values
    if reduction == "sum":
        return values.sum()
    if reduction == "mean":
        return values.mean()
    raise ValueError(f"reduction={reduction!r}: must be one of mean, sum, none")


squared_error.hessian_by_outputs = "identity"  # type: ignore[attr-defined]  # see `ireg.core.diagonal`

CRITERIA: Mapping[str, Criterion] = {"cross_entropy": cross_entropy, "squared_error": squared_error}
"""By the value of the key `loss`."""
