"""Minibatch gradients of a layer, by kind of layer.

With a_i a layer's input for example i and δ_i = ∂(Σ_k Ĉ_k)/∂z_i its sensitivity, the gradient of the summed loss by its
output z_i, each kind says what the gradient of minibatch k with respect to the layer's parameters is, as a sum over the
examples i ∈ k.
"""

from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.functional import group_norm, layer_norm, rms_norm

Kind = Callable[[Any, Tensor, Tensor], dict[str, Tensor]]
"""From a layer, its inputs and sensitivities (c, examples, …), to gradients (c, *shape) by attribute."""

KINDS: dict[type[nn.Module], Kind] = {}
"""By exact class: a subclass may do anything in its forward."""

Function = TypeVar("Function", bound=Kind)


def kind(*classes: type[nn.Module]) -> Callable[[Function], Function]:
    """Register the minibatch gradients of layers of these classes, for the method `hooks`.

    The function is `(layer, inputs, sensitivities) -> gradients`, for c minibatches of equal size at once: the layer's
    inputs (c, examples, …), the gradients of the minibatches' losses at its outputs (c, examples, …), and, by attribute
    of the layer, the gradients of its parameters, `(c, *shape)`. A class of one's own may have it as its method
    `minibatch_gradients` instead.

    A layer is served if its outputs depend on its one argument and its parameters alone, example by example. For
    settings that the function does not serve it raises a `NotServedError`. The first minibatch of each pass is also
    computed by the loop, and must have the same gradient.

    Args:
        classes: of layers; a subclass is another class.

    Returns:
        A decorator, which returns the function itself.

    Example:
        >>> import ireg
        >>> class Scale(nn.Module):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.factor = nn.Parameter(torch.ones(3))
        ...     def forward(self, inputs):
        ...         return inputs * self.factor
        >>> @kind(Scale)
        ... def scale(layer, inputs, sensitivities):
        ...     return {"factor": (inputs * sensitivities).sum(1)}
        >>> batches = [(x * torch.ones(1, 3), torch.zeros(1, 3)) for x in (1.0, 2.0)]
        >>> loss = nn.functional.mse_loss
        >>> ireg.gradient_moments(Scale(), batches, criterion=loss, method="hooks").sq_norms  # 3 (2x²/3)²
        tensor([ 1.3333, 21.3333])
    """

    def register(function: Function) -> Function:
        for served in classes:
            KINDS[served] = function
        return function

    return register


def kind_of(layer: nn.Module) -> Kind | None:
    """Find the function for a layer by its exact class; None if there is none."""
    cls = type(layer)
    return KINDS.get(cls) or vars(cls).get("minibatch_gradients")


@kind(nn.Linear)
def _linear(layer: nn.Linear, inputs: Tensor, sensitivities: Tensor) -> dict[str, Tensor]:
    """Compute Σ_i δ_i a_iᵀ and Σ_i δ_i; several positions of an example count like several examples."""
    inputs, sensitivities = _rows(inputs, 1), _rows(sensitivities, 1)
    return {"weight": torch.bmm(sensitivities.mT, inputs), "bias": sensitivities.sum(1)}


@kind(nn.Conv1d, nn.Conv2d, nn.Conv3d)
def _convolution(layer: Any, inputs: Tensor, sensitivities: Tensor) -> dict[str, Tensor]:
    """Correlate inputs and sensitivities by torch's own backward pass, a minibatch at a time."""
    if layer.padding_mode != "zeros" or isinstance(layer.padding, str):
        raise NotServedError(f"{type(layer).__name__} with padding={layer.padding!r}, {layer.padding_mode!r}")
    gradients = [
        torch.ops.aten.convolution_backward(
            sensitivity, values, layer.weight, None, layer.stride, layer.padding, layer.dilation, False,
            [0] * len(layer.stride), layer.groups, [False, True, False],
        )[1]
        for values, sensitivity in zip(inputs, sensitivities, strict=True)
    ]  # fmt: skip
    return {"weight": torch.stack(gradients), "bias": _over_all_but_channels(sensitivities)}


@kind(nn.GroupNorm)
def _group_norm(layer: nn.GroupNorm, inputs: Tensor, sensitivities: Tensor) -> dict[str, Tensor]:
    """Compute Σ_i δ_i ⊙ â_i, with â the normalized inputs, and Σ_i δ_i, over all but the channels."""
    normal = group_norm(inputs.flatten(0, 1), layer.num_groups, eps=layer.eps).view_as(inputs)
    return {name: _over_all_but_channels(values) for name, values in _scale_and_shift(normal, sensitivities).items()}


@kind(nn.LayerNorm)
def _layer_norm(layer: nn.LayerNorm, inputs: Tensor, sensitivities: Tensor) -> dict[str, Tensor]:
    """Compute Σ_i δ_i ⊙ â_i and Σ_i δ_i, over all but the dimensions that are normalized."""
    normal = layer_norm(inputs, layer.normalized_shape, eps=layer.eps)
    return _over_positions(_scale_and_shift(normal, sensitivities), len(layer.normalized_shape))


@kind(nn.RMSNorm)
def _rms_norm(layer: nn.RMSNorm, inputs: Tensor, sensitivities: Tensor) -> dict[str, Tensor]:
    """Compute Σ_i δ_i ⊙ â_i over all but the dimensions that are normalized; there is no shift."""
    normal = rms_norm(inputs, layer.normalized_shape, eps=layer.eps)
    return _over_positions({"weight": normal * sensitivities}, len(layer.normalized_shape))


@kind(nn.Embedding)
def _embedding(layer: nn.Embedding, inputs: Tensor, sensitivities: Tensor) -> dict[str, Tensor]:
    """Sum the sensitivities at the places of each token."""
    if layer.max_norm is not None or layer.scale_grad_by_freq:
        raise NotServedError("Embedding with max_norm or scale_grad_by_freq")
    gradient = sensitivities.new_zeros(len(inputs), *layer.weight.shape)
    tokens, sensitivities = inputs.flatten(1), _rows(sensitivities, 1)
    if layer.padding_idx is not None:
        sensitivities = sensitivities.masked_fill((tokens == layer.padding_idx)[..., None], 0)
    for total, token, sensitivity in zip(gradient, tokens, sensitivities, strict=True):
        total.index_add_(0, token, sensitivity)
    return {"weight": gradient}


class NotServedError(ValueError):
    """A method does not serve a network or a layer; `auto` then takes the loop.

    Example:
        >>> import ireg
        >>> class Odd(nn.Linear):
        ...     def minibatch_gradients(self, inputs, sensitivities):
        ...         raise ireg.NotServedError("Odd has no fast method; choose auto or loop")
        >>> batches = 2 * [(torch.ones(1, 3), torch.zeros(1, 2))]
        >>> try:
        ...     ireg.gradient_moments(Odd(3, 2), batches, criterion=nn.functional.mse_loss, method="hooks")
        ... except ireg.NotServedError as error:
        ...     print(error)
        Odd has no fast method; choose auto or loop
    """


def _scale_and_shift(normal: Tensor, sensitivities: Tensor) -> dict[str, Tensor]:
    """Return each example's gradient by scale and shift of the normalized inputs."""
    return {"weight": normal * sensitivities, "bias": sensitivities}


def _over_positions(values: dict[str, Tensor], dimensions: int) -> dict[str, Tensor]:
    """Sum over all but the first and the last dimensions."""
    return {name: value.flatten(1, -1 - dimensions).sum(1) for name, value in values.items()}


def _over_all_but_channels(values: Tensor) -> Tensor:
    """Sum (c, examples, channels, …) to (c, channels)."""
    return values.sum((1, *range(3, values.ndim)))


def _rows(values: Tensor, dimensions: int) -> Tensor:
    """Flatten (c, examples, positions …, *rest) to (c, examples · positions, *rest)."""
    return values.flatten(1, -1 - dimensions)
