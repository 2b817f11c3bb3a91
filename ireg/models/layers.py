"""What several architectures are made of."""

import torch
from torch import Tensor, nn

from ireg.known_models import ACTIVATIONS, require_activation, require_groups


def activation(name: str) -> nn.Module:
    """Make an activation by its name, one of `ireg.known_models.ACTIVATIONS`.

    Raises:
        ValueError: an unknown name.
    """
    require_activation(name)
    made: nn.Module = getattr(nn, ACTIVATIONS[name])()
    return made


def normalization(groups: int, channels: int) -> nn.Module:
    """Make GroupNorm over channels; the identity for 0 groups.

    Args:
        groups: how many, or 0.
        channels: how many.

    Raises:
        ValueError: the groups do not divide the channels.
    """
    require_groups(groups, channels)
    return nn.GroupNorm(groups, channels) if groups else nn.Identity()


def require_images(input_shape: tuple[int, ...], architecture: str) -> None:
    """Check that inputs are images.

    Args:
        input_shape: of one input.
        architecture: its name, for the message.

    Raises:
        ValueError: their shape is not (C, H, W).
    """
    if len(input_shape) != 3:
        raise ValueError(f"input_shape={input_shape}: {architecture} takes images (C, H, W); use model=mlp")


class LayerNorm(nn.Module):
    """Normalization over the last dimension, with scale and shift.

    Written out: on a CPU the third derivative of torch's own is wrong.

    Args:
        width: of the last dimension.
        eps: added to the variance.
    """

    def __init__(self, width: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.eps = eps
        self.weight, self.bias = nn.Parameter(torch.ones(width)), nn.Parameter(torch.zeros(width))

    def forward(self, inputs: Tensor) -> Tensor:
        """Map (…, width) to the same."""
        return self.normalized(inputs) * self.weight + self.bias

    def normalized(self, inputs: Tensor) -> Tensor:
        """Give the last dimension mean 0 and variance 1."""
        centered = inputs - inputs.mean(-1, keepdim=True)
        return centered * (centered.square().mean(-1, keepdim=True) + self.eps).rsqrt()

    def minibatch_gradients(self, inputs: Tensor, sensitivities: Tensor) -> dict[str, Tensor]:
        """Compute Σ_i δ_i ⊙ â_i and Σ_i δ_i, with â the normalized inputs, see `ireg.core.moments.kinds`."""
        gradients = {"weight": self.normalized(inputs) * sensitivities, "bias": sensitivities}
        return {name: value.flatten(1, -2).sum(1) for name, value in gradients.items()}


class Shift(nn.Module):
    """A tensor that is learned, and added to every example.

    Args:
        shape: of an example.
        scale: standard deviation of its initial values.
    """

    def __init__(self, *shape: int, scale: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(scale * torch.randn(*shape))

    def forward(self, inputs: Tensor) -> Tensor:
        """Map (N, *shape) to the same."""
        return inputs + self.weight

    def minibatch_gradients(self, inputs: Tensor, sensitivities: Tensor) -> dict[str, Tensor]:
        """Compute Σ_i δ_i, see `ireg.core.moments.kinds`."""
        return {"weight": sensitivities.sum(1)}
