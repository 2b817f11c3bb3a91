"""What must hold of the arguments of our networks, as plain functions that import no torch.

The constructors in `ireg.models` call them, and a command calls the same before torch is imported, which takes seconds.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from inspect import signature
from typing import Any

ACTIVATIONS = {"relu": "ReLU", "tanh": "Tanh", "gelu": "GELU", "silu": "SiLU", "softplus": "Softplus"}
"""Classes of `torch.nn` by the name that `activation` takes."""


def require_activation(name: str) -> None:
    """Check the name of an activation.

    Raises:
        ValueError: it is not one of `ACTIVATIONS`.

    Example:
        >>> require_activation("rellu")
        Traceback (most recent call last):
        ValueError: activation=rellu: must be one of relu, tanh, gelu, silu, softplus
    """
    if name not in ACTIVATIONS:
        raise ValueError(f"activation={name}: must be one of {', '.join(ACTIVATIONS)}")


def require_channels(channels: Sequence[int]) -> None:
    """Check the channels of a network of convolutions.

    Raises:
        ValueError: there are none, or a number is below 1.
    """
    if not channels or min(channels) < 1:
        raise ValueError(f"channels={list(channels)}: must be at least one number above 0")


def require_groups(groups: int, channels: int) -> None:
    """Check the groups of a GroupNorm.

    Args:
        groups: how many, or 0 for no normalization.
        channels: how many.

    Raises:
        ValueError: the groups do not divide the channels.
    """
    if groups < 0 or (groups and channels % groups):
        raise ValueError(f"groups={groups}: must be 0, or divide each number of channels, as {channels}")


def require_heads(heads: int, width: int) -> None:
    """Check that the heads of an attention divide its width.

    Args:
        heads: how many.
        width: of the hidden vectors.

    Raises:
        ValueError: they do not.
    """
    if heads < 1 or width % heads:
        raise ValueError(f"heads={heads}: must divide width={width}")


def require_mlp(*, hidden: Sequence[int], activation: str, init_scale: float) -> None:
    """Check the arguments of `ireg.models.MLP`.

    Raises:
        ValueError: an unknown activation, or a scale out of its range.
    """
    if not 0 <= init_scale < float("inf") or (init_scale == 0 and hidden):
        raise ValueError(f"init_scale={init_scale:g}: must be a finite number above 0, or 0 for a linear model")
    require_activation(activation)


def require_convolutions(*, channels: Sequence[int], groups: int, activation: str) -> None:
    """Check the arguments of `ireg.models.CNN` and `ireg.models.ResNet`.

    Raises:
        ValueError: no channels, groups that do not divide them, or an unknown activation.
    """
    require_channels(channels)
    for number in channels:
        require_groups(groups, number)
    require_activation(activation)


def require_vit(*, width: int, heads: int) -> None:
    """Check the arguments of `ireg.models.ViT` that the images' size says nothing of.

    Raises:
        ValueError: heads that do not divide the width.
    """
    require_heads(heads, width)


def require_gpt(*, width: int, blocks: int, heads: int, dropout: float) -> None:
    """Check the arguments of `ireg.models.GPT`.

    Raises:
        ValueError: heads that do not divide the width, no block, or a probability out of its range.
    """
    require_heads(heads, width)
    if blocks < 1:
        raise ValueError(f"blocks={blocks}: must be at least 1")
    if not 0 <= dropout < 1:
        raise ValueError(f"dropout={dropout:g}: must be at least 0 and below 1")


@dataclass(frozen=True, kw_only=True)
class KnownModel:
    """One of our networks.

    Attributes:
        check: takes some of the constructor's arguments by their names, and raises a ValueError for wrong ones.
        matrices_alone: says of the constructor's arguments whether all weights are matrices.
        characters: whether its inputs are blocks of characters, and not images.
    """

    check: Callable[..., None]
    matrices_alone: Callable[[Mapping[str, Any]], bool] = lambda _: False
    characters: bool = False

    @property
    def arguments(self) -> tuple[str, ...]:
        """The names of what `check` takes."""
        return tuple(signature(self.check).parameters)


MODELS: Mapping[str, KnownModel] = {
    "ireg.models.MLP": KnownModel(check=require_mlp, matrices_alone=lambda given: not given["bias"]),
    "ireg.models.CNN": KnownModel(check=require_convolutions),
    "ireg.models.ResNet": KnownModel(check=require_convolutions),
    "ireg.models.ViT": KnownModel(check=require_vit),
    "ireg.models.GPT": KnownModel(check=require_gpt, characters=True),
}
"""By import path."""
