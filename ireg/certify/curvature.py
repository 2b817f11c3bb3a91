"""Identities of curvature."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from itertools import product

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from ireg.certify.identity import RATE, Batches, Identity, flat, minibatches, mlp, network, relative
from ireg.core import diagonal
from ireg.core.functional import ModuleLoss, detached_parameters, functional_loss
from ireg.core.hessian import MeanHessian
from ireg.core.params import by_name
from ireg.core.random import named_generator
from ireg.core.sharpness import batch_sharpness, steepest
from ireg.models import CNN, MLP, ResNet


def _dense(module: nn.Module, batches: Batches) -> Tensor:
    """Compute the Hessian of C (p, p) by torch.func, which nothing here uses."""
    params = detached_parameters(module)

    def value(vector: Tensor) -> Tensor:
        outputs = [torch.func.functional_call(module, by_name(vector, params), (inputs,)) for inputs, _ in batches]
        losses = [cross_entropy(output, labels) for output, (_, labels) in zip(outputs, batches, strict=True)]
        return torch.stack(losses).mean()

    matrix: Tensor = torch.autograd.functional.hessian(value, flat(params))
    return matrix


PIECEWISE_LINEAR: Mapping[str, Callable[[], nn.Module]] = {
    "linear": lambda: MLP(input_shape=(1, 4, 4), num_classes=3, hidden=[]),
    "mlp": lambda: MLP(input_shape=(1, 4, 4), num_classes=3, hidden=[6, 5]),
    "cnn": lambda: CNN(input_shape=(1, 4, 4), num_classes=3, channels=[2, 3], groups=0),
    "resnet": lambda: ResNet(input_shape=(1, 4, 4), num_classes=3, channels=[2, 3], groups=0),
}
"""Those of conf/model, without normalization."""


def _tied() -> nn.Module:
    module = nn.Sequential(nn.Flatten(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 3))
    module[3].weight = module[1].weight
    return module


REFUSED: Mapping[str, Callable[[], nn.Module]] = {
    "tanh": lambda: MLP(input_shape=(1, 4, 4), num_classes=3, hidden=[6, 5], activation="tanh"),
    "layer normalization": lambda: nn.Sequential(
        nn.Flatten(), nn.Linear(16, 6), nn.LayerNorm(6), nn.ReLU(), nn.Linear(6, 3)
    ),
    "tied weights": _tied,
}
"""Networks whose diagonal is not Gauss–Newton's."""


def diagonal_of(make: Callable[[], nn.Module]) -> Identity:
    """Check diag H = diag G for a piecewise linear network.

    The controls are the errors of diag G for networks that are not piecewise linear, and which are refused.
    """
    batches, module = minibatches(), network(make)
    loss = functional_loss(module, cross_entropy)
    result = diagonal.exact_diagonal(loss, detached_parameters(module), batches)
    error = float("nan") if result is None else relative(flat(result), _dense(module, batches).diagonal())
    return Identity(error, {name: _error_of_refused(name) for name in REFUSED})


@cache
def _error_of_refused(name: str) -> float:
    """Return the relative error of Gauss–Newton's diagonal; 0 if the network is not refused."""
    module, batches = network(REFUSED[name]), minibatches()
    loss, params = functional_loss(module, cross_entropy), detached_parameters(module)
    assert isinstance(loss, ModuleLoss)
    if diagonal.exact_diagonal(loss, params, batches) is not None:
        return 0.0
    return relative(flat(diagonal.gauss_newton_diagonal(loss, params, batches)), _dense(module, batches).diagonal())


def sharpness_of_minibatches() -> Identity:
    """Check batch sharpness, the mean of b_k = g_kᵀH_k g_k/‖g_k‖², by steps on quadratics.

    A step changes Ĉ_k by −η‖g_k‖² (1 − η b_k/2).
    """
    generator = named_generator("quadratics")
    roots = torch.randn(4, 5, 5, generator=generator, dtype=torch.float64)
    batches = [root @ root.mT for root in roots]
    start = {"w": torch.randn(5, generator=generator, dtype=torch.float64)}

    def loss(params: Mapping[str, Tensor], matrix: Tensor) -> Tensor:
        return params["w"] @ matrix @ params["w"] / 2

    curvatures, of_mean = [], []
    mean = torch.stack(batches).mean(0)
    for matrix in batches:
        gradient = matrix @ start["w"]
        square = gradient @ gradient
        change = loss({"w": start["w"] - RATE * gradient}, matrix) - loss(start, matrix)
        # The change, solved for b_k.
        curvatures.append(2 / RATE * (1 + change / (RATE * square)))
        of_mean.append(gradient @ mean @ gradient / square)
    result = batch_sharpness(loss, start, batches)
    return Identity(
        relative(result, torch.stack(curvatures).mean()),
        {
            "the Hessian of C for each minibatch's": relative(
                torch.stack(of_mean).mean(), torch.stack(curvatures).mean()
            )
        },
    )


def variance_of_probes() -> Identity:
    """Check that probes vᵀHv have the variance 2 (‖H‖_F² − Σ H_ii²)."""
    module = network(
        lambda: nn.Sequential(nn.Flatten(), nn.Linear(2, 2, bias=False), nn.Tanh(), nn.Linear(2, 2, bias=False))
    )
    batches = [(inputs.flatten(1)[:, :2], labels % 2) for inputs, labels in minibatches()]
    params = detached_parameters(module)
    hessian, matrix = MeanHessian(functional_loss(module, cross_entropy), params, batches), _dense(module, batches)
    signs = torch.tensor([(1.0, *rest) for rest in product((1.0, -1.0), repeat=len(matrix) - 1)], dtype=torch.float64)
    values = torch.stack([hessian.along(by_name(vector, params)) for vector in signs])  # of −v it is that of v
    whole = matrix.square().sum()
    expected = 2 * (whole - matrix.diagonal().square().sum())
    # Every vector of signs is there once, up to the sign of all: the variance itself, not an estimate.
    result = values.var(correction=0)
    return Identity(relative(result, expected), {"with the diagonal": relative(result, 2 * whole)})


def largest_eigenvalue() -> Identity:
    """Check Lanczos' value against the whole H; its error is of second order in the residual of 1 %."""
    module, batches = mlp("tanh"), minibatches()
    hessian = MeanHessian(functional_loss(module, cross_entropy), detached_parameters(module), batches)
    eigenvalues = torch.linalg.eigvalsh(_dense(module, batches))
    result = steepest(hessian, named_generator("identities")).value
    return Identity(
        relative(result, eigenvalues[-1]), {"the second one": relative(result, eigenvalues[-2])}, close=1e-3
    )
