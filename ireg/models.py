"""Architectures."""

import math
from collections.abc import Sequence
from itertools import pairwise

from torch import nn


class MLP(nn.Sequential):
    """Fully connected network with ReLU between its layers.

    The output is logits (no softmax).

    Softmax belongs to the loss: `cross_entropy` applies it, and applying it here too would do so twice.

    Args:
        input_shape: of one input; inputs (N, *input_shape) are flattened.
        num_classes: number of outputs.
        hidden: widths of the hidden layers; an empty list makes a linear model.

    Raises:
        ValueError: a width below 1.

    Example:
        >>> sum(p.numel() for p in MLP(input_shape=(1, 28, 28), num_classes=10, hidden=[256] * 4).parameters())
        400906
    """

    def __init__(self, *, input_shape: Sequence[int], num_classes: int, hidden: Sequence[int]) -> None:
        widths = [math.prod(input_shape), *hidden, num_classes]
        if min(widths) < 1:
            raise ValueError(f"widths {widths}: each must be at least 1")
        layers: list[nn.Module] = [nn.Flatten()]
        for inputs, outputs in pairwise(widths):
            layers += [nn.Linear(inputs, outputs), nn.ReLU()]
        super().__init__(*layers[:-1])
