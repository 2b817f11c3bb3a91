"""Switch off what is known to be noise: dropout, and stochastic depth.

A network may compute another loss in training than in eval mode for many reasons. Only noise is taken out of what is
measured: all else is part of the loss that is descended. Noise is known by the layer's class, or by the function that
draws it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

NAMED_NOISE = {"DropPath", "StochasticDepth", "DropBlock2d", "DropBlock3d", "PatchDropout"}
"""Names of further classes of layers that draw noise in training mode only: those of timm and torchvision."""

_SHARES = ("p", "drop_prob", "prob")
"""What such a layer calls the share that it drops; 0 is no noise."""

_OFF: Mapping[Callable[..., Any], tuple[int, str, Any]] = {
    **{
        function: (2, "training", False)
        for function in (
            F.dropout,
            F.dropout1d,
            F.dropout2d,
            F.dropout3d,
            F.alpha_dropout,
            F.feature_alpha_dropout,
        )
    },
    **{
        function: (2, "train", False)
        for function in (
            torch.dropout,
            torch.dropout_,
            torch.alpha_dropout,
            torch.alpha_dropout_,
            torch.feature_dropout,
            torch.feature_dropout_,
            torch.feature_alpha_dropout,
            torch.feature_alpha_dropout_,
            torch.native_dropout,
        )
    },
    F.rrelu: (3, "training", False),
    F.scaled_dot_product_attention: (4, "dropout_p", 0.0),
    F.multi_head_attention_forward: (10, "dropout_p", 0.0),
}
"""Functions that draw noise: position and name of an argument, and the value that switches the noise off."""


class Silence(TorchFunctionMode):
    """Switch functional dropout off."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func in _OFF:
            position, name, off = _OFF[func]
            args = (*args[:position], off, *args[position + 1 :]) if len(args) > position else args
            kwargs = kwargs if len(args) > position else {**kwargs, name: off}
        return func(*args, **kwargs)


def noise_layers(module: nn.Module) -> list[nn.Module]:
    """List the layers that draw noise in their present mode.

    Example:
        >>> noise_layers(nn.Sequential(nn.Linear(1, 1), nn.Dropout(0.5), nn.Dropout(0.0)))
        [Dropout(p=0.5, inplace=False)]
    """
    return [layer for layer in module.modules() if layer.training and _draws(layer)]


def _draws(layer: nn.Module) -> bool:
    if isinstance(layer, nn.RNNBase | nn.MultiheadAttention):
        return layer.dropout > 0
    if isinstance(layer, nn.RReLU):
        return layer.lower < layer.upper
    if isinstance(layer, nn.modules.dropout._DropoutNd) or type(layer).__name__ in NAMED_NOISE:
        return any(bool(getattr(layer, share, None)) for share in _SHARES)
    return False


@contextmanager
def without_noise(module: nn.Module, *, functional: bool | None = None) -> Iterator[None]:
    """Switch off all known noise of a module for the block.

    Args:
        module: the module; its other layers stay in their modes.
        functional: whether calls of functions like `torch.nn.functional.dropout` are looked at, which costs a
            microsecond a call of any function. By default where a layer is not torch's own.
    """
    layers = noise_layers(module)
    before = [(layer, layer.training, getattr(layer, "dropout", None)) for layer in layers]
    try:
        for layer in layers:
            if isinstance(layer, nn.RNNBase | nn.MultiheadAttention):
                layer.dropout = 0.0  # an RNN on an accelerator has gradients in training mode only
            else:
                layer.training = False
        if _may_call_functions(module) if functional is None else functional:
            with Silence():
                yield
        else:
            yield
    finally:
        for layer, training, dropout in before:
            layer.training = training
            if isinstance(layer, nn.RNNBase | nn.MultiheadAttention):
                layer.dropout = dropout


def _may_call_functions(module: nn.Module) -> bool:
    """Say whether a layer is of a class that is neither torch's nor this package's."""
    return any(not type(layer).__module__.startswith(("torch.nn.", "ireg.")) for layer in module.modules())
