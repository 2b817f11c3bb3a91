"""A small convolutional network."""

from collections.abc import Sequence

from torch import nn

from ireg.known_models import require_convolutions
from ireg.models.layers import activation as make_activation
from ireg.models.layers import normalization, require_images


class CNN(nn.Sequential):
    """Convolutions of 3 × 3 that halve the image, and a linear layer.

    Args:
        input_shape: (C, H, W).
        num_classes: number of outputs.
        channels: of the convolutions; each has stride 2.
        groups: of the GroupNorm after each convolution; 0 for none.
        activation: `relu`, `tanh`, `gelu`, `silu` or `softplus`.

    Raises:
        ValueError: inputs that are no images, no channels, groups that do not divide them, or an unknown activation.

    Example:
        >>> sum(p.numel() for p in CNN(input_shape=(1, 28, 28), num_classes=10).parameters())
        20586
    """

    def __init__(
        self,
        *,
        input_shape: Sequence[int],
        num_classes: int,
        channels: Sequence[int] = (16, 32),
        groups: int = 4,
        activation: str = "relu",
    ) -> None:
        require_images(tuple(input_shape), "CNN")
        require_convolutions(channels=channels, groups=groups, activation=activation)
        before, height, width = input_shape
        layers: list[nn.Module] = []
        for after in channels:
            layers += [
                nn.Conv2d(before, after, 3, stride=2, padding=1),
                normalization(groups, after),
                make_activation(activation),
            ]
            before, height, width = after, (height + 1) // 2, (width + 1) // 2
        super().__init__(*layers, nn.Flatten(), nn.Linear(before * height * width, num_classes))
