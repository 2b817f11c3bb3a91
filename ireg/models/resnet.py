"""A residual network for small images."""

from collections.abc import Sequence

from torch import Tensor, nn

from ireg.known_models import require_convolutions
from ireg.models.layers import activation as make_activation
from ireg.models.layers import normalization, require_images


class ResNet(nn.Sequential):
    """Residual network with GroupNorm; by default ResNet-8.

    Each stage has one residual block of two convolutions, and all but the first halve the image. With GroupNorm an
    example's output does not depend on its minibatch.

    Args:
        input_shape: (C, H, W).
        num_classes: number of outputs.
        channels: of the stages.
        groups: of each GroupNorm.
        activation: `relu`, `tanh`, `gelu`, `silu` or `softplus`.

    Raises:
        ValueError: inputs that are no images, no channels, groups that do not divide them, or an unknown activation.

    Source: He et al. 2016, arXiv:1512.03385, section 4.2; GroupNorm instead of BatchNorm: Wu & He 2018,
    arXiv:1803.08494.

    Example:
        >>> sum(p.numel() for p in ResNet(input_shape=(3, 32, 32), num_classes=10).parameters())
        77850
    """

    def __init__(
        self,
        *,
        input_shape: Sequence[int],
        num_classes: int,
        channels: Sequence[int] = (16, 32, 64),
        groups: int = 8,
        activation: str = "relu",
    ) -> None:
        require_images(tuple(input_shape), "ResNet")
        require_convolutions(channels=channels, groups=groups, activation=activation)
        first = channels[0]
        layers: list[nn.Module] = [
            nn.Conv2d(input_shape[0], first, 3, padding=1, bias=False),
            normalization(groups, first),
            make_activation(activation),
        ]
        for before, after in zip((first, *channels), channels, strict=False):
            layers.append(Block(before, after, groups, activation))
        super().__init__(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels[-1], num_classes))


class Block(nn.Module):
    """Two convolutions and their sum with the inputs.

    Where the number of channels changes, the first convolution and a projection of the inputs have stride 2.
    """

    affine_in_each_weight = True  # in itself: its normalization or activation may not be, see `ireg.core.diagonal`

    def __init__(self, before: int, after: int, groups: int, activation: str) -> None:
        super().__init__()
        stride = 1 if before == after else 2
        self.first = nn.Conv2d(before, after, 3, stride=stride, padding=1, bias=False)
        self.second = nn.Conv2d(after, after, 3, padding=1, bias=False)
        self.norms = nn.ModuleList([normalization(groups, after), normalization(groups, after)])
        self.activation = make_activation(activation)
        self.shortcut = nn.Identity() if stride == 1 else nn.Conv2d(before, after, 1, stride=stride, bias=False)

    def forward(self, inputs: Tensor) -> Tensor:
        """Map (N, before, H, W) to (N, after, H/stride, W/stride)."""
        hidden = self.activation(self.norms[0](self.first(inputs)))
        outputs: Tensor = self.activation(self.norms[1](self.second(hidden)) + self.shortcut(inputs))
        return outputs
