"""Weight decay for matrices alone."""

from collections.abc import Callable, Iterable
from typing import Any

from torch import nn
from torch.optim import Optimizer


def in_decay_groups(optimizer: Callable[..., Optimizer], parameters: Iterable[nn.Parameter]) -> Optimizer:
    """Make an optimizer that decays weights of two or more dimensions, and no others.

    Matrices, kernels and embeddings are in the first parameter group. Biases, and scales and shifts of normalizations,
    are in the second, whose weight decay is 0.

    Args:
        optimizer: makes one from parameter groups.
        parameters: of a model.

    Example:
        >>> from functools import partial
        >>> import torch
        >>> made = in_decay_groups(partial(torch.optim.AdamW, weight_decay=0.1), nn.Linear(3, 2).parameters())
        >>> [(group["weight_decay"], [tuple(value.shape) for value in group["params"]]) for group in made.param_groups]
        [(0.1, [(2, 3)]), (0.0, [(2,)])]
    """
    held = list(parameters)
    groups: list[dict[str, Any]] = [
        {"params": [value for value in held if value.ndim > 1]},
        {"params": [value for value in held if value.ndim <= 1], "weight_decay": 0.0},
    ]
    return optimizer([group for group in groups if group["params"]])
