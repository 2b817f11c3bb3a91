"""Derivatives of networks against differences, up to the third.

Double backward needs second derivatives, terms of curvature third ones. A kernel may have wrong ones without a word.
"""

from collections.abc import Callable, Mapping

import torch
from torch import nn
from torch.nn.functional import cross_entropy

from ireg.core.functional import functional_loss, twice_differentiable
from ireg.core.random import named_generator
from ireg.core.types import Batch, LossFn, Params
from ireg.models import CNN, GPT, MLP, ResNet, ViT
from ireg.objective import sequence_cross_entropy

STEP = 1e-5
"""Of the central differences, along a direction with numbers of size 1: rounding and curvature leave about 1e-8."""
CLOSE = 1e-5
"""Largest error that passes, as a share of the derivative."""

NETWORKS: Mapping[str, Callable[[], nn.Module]] = {
    "mlp": lambda: MLP(input_shape=(1, 14, 14), num_classes=3, hidden=[8], activation="tanh"),
    "linear": lambda: MLP(input_shape=(1, 14, 14), num_classes=3, hidden=[]),
    "cnn": lambda: CNN(input_shape=(1, 14, 14), num_classes=3, channels=[4, 4], groups=2, activation="gelu"),
    "cnn, no normalization": lambda: CNN(input_shape=(1, 14, 14), num_classes=3, groups=0, activation="softplus"),
    "resnet": lambda: ResNet(input_shape=(1, 14, 14), num_classes=3, channels=[4, 8], groups=2, activation="gelu"),
    "vit": lambda: ViT(input_shape=(1, 14, 14), num_classes=3, width=8, heads=2),
    "gpt": lambda: GPT(input_shape=(6,), num_classes=5, width=8, blocks=2, heads=2),
}
"""Small ones of each architecture, with smooth functions: at a kink differences are not derivatives."""


def derivative_errors(loss: LossFn, params: Params, batch: Batch) -> tuple[float, float, float]:
    """Compare the first three derivatives of a loss along a random direction with differences.

    Each derivative by automatic differentiation stands against the central difference of the one below.

    Args:
        loss: pure function `(params, batch) -> 0-d mean loss`.
        params: where, in float64.
        batch: the minibatch.

    Returns:
        The three errors, each as a share of the derivative, or of 1 where that is less.

    Raises:
        ValueError: the parameters are not in float64, in which alone differences are exact enough.

    Example:
        >>> def loss(params, batch):
        ...     return (params["w"] ** 4).sum()
        >>> max(derivative_errors(loss, {"w": torch.ones(2, dtype=torch.float64)}, None)) < 1e-5
        True
    """
    for name, value in params.items():
        if value.dtype != torch.float64:
            raise ValueError(f"{name} is {value.dtype}; must be float64: differences need its digits")
    generator = named_generator("derivatives")
    direction = {
        name: torch.randn(value.shape, generator=generator, dtype=value.dtype).to(value.device)
        for name, value in params.items()
    }

    def derivatives(place: float) -> list[float]:
        step = torch.tensor(place, dtype=torch.float64, requires_grad=True)
        with torch.enable_grad(), twice_differentiable():
            value = loss({name: start + step * direction[name] for name, start in params.items()}, batch)
            result = [float(value.detach())]
            for _ in range(3):
                # The derivative of a constant is 0, and has no graph.
                value = (
                    torch.autograd.grad(value, step, create_graph=True, materialize_grads=True)[0]
                    if value.requires_grad
                    else torch.zeros_like(step)
                )
                result.append(float(value.detach()))
        return result

    here, above, below = derivatives(0.0), derivatives(STEP), derivatives(-STEP)
    differences = [(more - less) / (2 * STEP) for more, less in zip(above, below, strict=True)]
    first, second, third = (
        abs(here[order] - differences[order - 1]) / max(1.0, abs(here[order])) for order in (1, 2, 3)
    )
    return first, second, third


def of_networks(networks: Mapping[str, Callable[[], nn.Module]] = NETWORKS) -> dict[str, tuple[float, float, float]]:
    """Compute the errors of each network at its own initial weights, on images or on text.

    Returns:
        By name, the errors of the first, second and third derivative, see `derivative_errors`.
    """
    generator = named_generator("derivatives of networks")
    images = torch.randn(4, 1, 14, 14, generator=generator, dtype=torch.float64)
    labelled = images, torch.tensor([0, 1, 2, 1])
    text = torch.randint(0, 5, (4, 7), generator=named_generator("derivatives of language models"))
    errors = {}
    with torch.random.fork_rng(devices=[]):
        for name, make in networks.items():
            torch.manual_seed(0)
            network = make().double()
            params = {key: value.detach() for key, value in network.named_parameters()}
            if isinstance(network, GPT):
                loss, batch = functional_loss(network, sequence_cross_entropy), (text[:, :-1], text[:, 1:])
            else:
                loss, batch = functional_loss(network, cross_entropy), labelled
            errors[name] = derivative_errors(loss, params, batch)
    return errors
