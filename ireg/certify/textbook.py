"""The formulas of docs/theory.md by the plainest computation, the judge of what is logged.

Nothing of the package is used here. Gradients are those of `.backward()`, Hessians are whole matrices.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from ireg.certify.steps import PAST, Division, Filter

Pair = tuple[Tensor, Tensor]
Criterion = Callable[[Tensor, Tensor], Tensor]
Function = Callable[[Tensor], Tensor]
"""From the weights as one vector (p,) to a number."""


def minibatch_losses(
    module: nn.Module, names: Sequence[str], batches: Sequence[Pair], criterion: Criterion
) -> list[Function]:
    """Return Ĉ_k of each minibatch as functions of the named weights.

    Args:
        module: the network; it is copied.
        names: of the weights that are the functions' argument, in this order; others stay as they are.
        batches: of inputs and targets.
        criterion: from outputs and targets to the mean loss.
    """
    twin = copy.deepcopy(module)
    values = {name: value.detach() for name, value in twin.named_parameters()}

    def loss(vector: Tensor, pair: Pair) -> Tensor:
        parts = vector.split([values[name].numel() for name in names])
        given = {name: part.view_as(values[name]) for name, part in zip(names, parts, strict=True)}
        outputs = torch.func.functional_call(twin, values | given, (pair[0],))
        return criterion(outputs, pair[1])

    return [lambda vector, pair=pair: loss(vector, pair) for pair in batches]  # type: ignore[misc]


def backward_gradients(
    module: nn.Module, names: Sequence[str], batches: Sequence[Pair], criterion: Criterion
) -> Tensor:
    """Compute g_k by the module's own forward and backward pass.

    Args:
        module: the network; it is copied.
        names: of the weights.
        batches: of inputs and targets.
        criterion: from outputs and targets to the mean loss.

    Returns:
        g_k, (m, p); 0 for weights that do not enter.
    """
    rows = []
    for inputs, targets in batches:
        twin = copy.deepcopy(module)
        twin.zero_grad()
        criterion(twin(inputs), targets).backward()
        parameters = dict(twin.named_parameters())
        rows.append(torch.cat([_gradient(parameters[name]).flatten() for name in names]))
    return torch.stack(rows)


def _gradient(parameter: Tensor) -> Tensor:
    return torch.zeros_like(parameter) if parameter.grad is None else parameter.grad


def gradient(function: Function, point: Tensor, *, create_graph: bool = False) -> Tensor:
    """Compute ∇f at a point.

    Args:
        function: f.
        point: (p,).
        create_graph: whether the gradient has its graph; the point must require a gradient then.

    Returns:
        The gradient, (p,).
    """
    if create_graph:
        return torch.autograd.grad(function(point), point, create_graph=True)[0]
    result: Tensor = torch.autograd.functional.jacobian(function, point)
    return result


def hessians(functions: Sequence[Function], point: Tensor) -> Tensor:
    """Compute ∇²f of each function at a point (p,), (m, p, p)."""
    return torch.stack([torch.autograd.functional.hessian(function, point) for function in functions])


def mean_flow(
    point: Tensor,
    gradients: Tensor,
    curvatures: Tensor,
    memory: Filter,
    pair: tuple[float, float],
    divided: Division | None,
    decoupled: float,
) -> dict[str, Tensor]:
    """Compute u, M, V, F and ∇Q by name: docs/theory.md, section 7.

    Args:
        point: ω, (p,).
        gradients: g_k, (m, p), with all that is descended.
        curvatures: H_k, (m, p, p), likewise.
        memory: of gradients.
        pair: the coefficients of the own regularizer's two parts.
        divided: how the optimizer divides; None for P = 1.
        decoupled: decoupled weight decay.

    Returns:
        `leading`, `memory` and `squares` (∇Q), (p,) each; where the optimizer divides `lag`, too, and `fluctuation`
        where there are several minibatches.
    """
    m, mean, hessian = len(gradients), gradients.mean(0), curvatures.mean(0)
    squares = gradients.square().mean(0)
    scale = torch.ones_like(mean) if divided is None else 1 / (squares.sqrt() + divided.eps)
    velocity = scale * mean + decoupled * point
    # (1/m) Σ H_k P (g_k − ḡ).
    pairs = torch.einsum("kij,kj->i", curvatures, scale * gradients) / m - hessian @ (scale * mean)
    of_mean, of_variance = pair
    products = 2 * scale * (of_mean * hessian @ velocity + of_variance * pairs)
    result = {
        "leading": velocity,
        "memory": products + memory.rate / 2 * decoupled * velocity,
        "squares": 2 * torch.einsum("kij,kj->i", curvatures, gradients) / m,
    }
    if divided is None:
        return result
    root, eps = squares.sqrt(), divided.eps
    first = -1 / (2 * root * (root + eps) ** 2)  # φ'(s̄), φ(v) = 1/(√v + ε)
    second = 1 / (4 * root**3 * (root + eps) ** 2) + 1 / (2 * squares * (root + eps) ** 3)
    # The derivative of s̄ along u, by weight: that of g² is 2g Hu.
    along = 2 * (gradients * torch.einsum("kij,j->ki", curvatures, velocity)).mean(0)
    fading = (1 - divided.decay) * divided.decay ** torch.arange(PAST, dtype=torch.float64)
    age = float(fading @ torch.arange(PAST, dtype=torch.float64))
    result["lag"] = memory.rate * (age + 0.5 + divided.after) * mean * first * along
    if m > 1:
        covariance = gradients.pow(3).mean(0) - mean * squares
        variance = gradients.pow(4).mean(0) - squares.square()
        result["fluctuation"] = shared_noise(divided.numerator, fading, m) * first * covariance
        result["fluctuation"] += shared_noise(fading, fading, m) / 2 * second * mean * variance
    return result


def shared_noise(one: Tensor, other: Tensor, num_batches: int) -> float:
    """Compute the covariance of two filters of the same minibatches, in units of one minibatch's.

    Two steps d apart are of one epoch in a share (m − d)/m of all places; then their minibatches differ, and have the
    covariance −1/(m − 1). Those of different epochs are independent.

    Args:
        one: weights of a filter by age, (n,).
        other: those of the other, (n,).
        num_batches: m, at least 2.
    """
    m = num_batches
    total = float(one @ other)
    for d in range(1, m):
        pairs = float(one[:-d] @ other[d:] + one[d:] @ other[:-d])
        total -= (m - d) / m / (m - 1) * pairs
    return total
