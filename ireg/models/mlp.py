"""Fully connected networks."""

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import nn

from ireg.known_models import require_mlp
from ireg.models.layers import activation as make_activation


class MLP(nn.Sequential):
    """Fully connected network with an activation between its layers.

    Args:
        input_shape: of one input; inputs (N, *input_shape) are flattened.
        num_classes: number of outputs.
        hidden: widths of the hidden layers; an empty list makes a linear model.
        activation: `relu`, `tanh`, `gelu`, `silu` or `softplus`.
        bias: whether layers have one. Without, and with ReLU, the network is homogeneous in its weights.
        init_scale: factor of all initial weights; 0 for a linear model alone, which can leave that point.

    Raises:
        ValueError: a width below 1, an unknown activation, or a scale out of its range.

    Example:
        >>> sum(p.numel() for p in MLP(input_shape=(1, 28, 28), num_classes=10, hidden=[256] * 4).parameters())
        400906
    """

    def __init__(
        self,
        *,
        input_shape: Sequence[int],
        num_classes: int,
        hidden: Sequence[int],
        activation: str = "relu",
        bias: bool = True,
        init_scale: float = 1.0,
    ) -> None:
        widths = [math.prod(input_shape), *hidden, num_classes]
        if min(widths) < 1:
            raise ValueError(f"widths {widths}: each must be at least 1")
        require_mlp(hidden=hidden, activation=activation, init_scale=init_scale)
        layers: list[nn.Module] = [nn.Flatten()]
        for inputs, outputs in pairwise(widths):
            layers += [nn.Linear(inputs, outputs, bias=bias), make_activation(activation)]
        super().__init__(*layers[:-1])
        if init_scale != 1.0:
            with torch.no_grad():
                for parameter in self.parameters():
                    parameter.mul_(init_scale)
