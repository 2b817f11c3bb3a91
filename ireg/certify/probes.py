"""Estimates with random signs: exact where H is diagonal, without bias elsewhere."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.optim import SGD

from ireg.certify.formulas import Values
from ireg.certify.point import Point
from ireg.certify.textbook import Pair
from ireg.core.random import named_generator
from ireg.measurement import measure, measure_epoch
from ireg.options import Epoch, Options

PROBES = 8
DRAWS = 24
ESTIMATES = ("curvature/gni", "curvature/trace", "curvature/adaptive")
_SIZE, _COUNT = 3, 4


class _Separable(nn.Module):
    """tanh of each weight, times an input of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.linspace(-1.5, 1.0, _SIZE * _COUNT, dtype=torch.float64))

    def forward(self, inputs: Tensor) -> Tensor:
        return inputs * self.weight.tanh()


def _sum(outputs: Tensor, targets: Tensor) -> Tensor:
    return (outputs * targets).sum(1).mean()


def exact_probes() -> tuple[dict[str, float], Values]:
    """Measure a loss whose H is diagonal, on minibatches with different weights: each probe is exact.

    Returns:
        What is logged by tag, and what it has to be.
    """
    module, generator = _Separable(), named_generator("probes")
    batches: list[Pair] = []
    for number in range(_COUNT):
        inputs = torch.zeros(2, _SIZE * _COUNT, dtype=torch.float64)
        inputs[:, number * _SIZE : (number + 1) * _SIZE] = 1.0
        batches.append((inputs, torch.randn(2, _SIZE * _COUNT, generator=generator, dtype=torch.float64)))
    weights, factors = module.weight.detach(), torch.stack([(one * two).mean(0) for one, two in batches])
    tanh = weights.tanh()
    gradients, diagonal = factors * (1 - tanh**2), factors.mean(0) * -2 * tanh * (1 - tanh**2)
    expected: Values = {
        "curvature/gni": float((gradients.square() @ diagonal).mean() / gradients.mean(0).square().sum()),
        "curvature/trace": float(diagonal.sum()),
        "curvature/adaptive": float((weights.square() * diagonal).sum() / 2),
    }
    optimizer = SGD(module.parameters(), lr=0.1)
    logged = measure(module, batches, optimizer=optimizer, criterion=_sum, terms=list(expected))
    return logged, expected


class _Packed(nn.Module):
    """Half the square of each weight, times an input of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(60, dtype=torch.float64))

    def forward(self, inputs: Tensor) -> Tensor:
        return inputs * self.weight.square() / 2


def packed_residual() -> float:
    """Return Lanczos' residual for 60 curvatures from −1 to 1, as a share of the value.

    So many near the largest take more products than Lanczos' method has at least.
    """
    module, curvatures = _Packed(), torch.linspace(-1.0, 1.0, 60, dtype=torch.float64)
    tags = ["curvature/lambda_max", "curvature/lambda_max_residual"]
    optimizer, batch = SGD(module.parameters(), lr=0.1), (curvatures[None], torch.ones(1, 60, dtype=torch.float64))
    logged = measure(module, [batch], optimizer=optimizer, criterion=_sum, terms=tags)
    return logged[tags[1]] / logged[tags[0]]


def probe_errors(point: Point) -> dict[str, float]:
    """Compare mean and standard error of the estimates with H.

    Returns:
        By tag, how many standard errors the mean over the draws is off: of the estimate from its value, and of the
        square of its standard error from its variance.
    """
    trained, hessian = point.trained, point.hessians.mean(0)
    tags = [tag for name in ESTIMATES for tag in (name, f"{name}_se")]
    rows = [
        measure_epoch(
            trained.module, Options(terms=tags, criterion=cross_entropy),
            Epoch(batches=trained.batches, generator=torch.Generator().manual_seed(seed)), optimizer=trained.optimizer,
        )
        for seed in range(DRAWS)
    ]  # fmt: skip
    square = float(point.gradients.mean(0).square().sum())
    matrices = {
        "curvature/gni": point.gradients @ hessian @ point.gradients.T / point.count / square,
        "curvature/trace": hessian,
        "curvature/adaptive": torch.diag(point.weights) @ hessian @ torch.diag(point.weights) / 2,
    }
    errors = {}
    for name, matrix in matrices.items():
        # Of a mean over PROBES of vᵀMv, v of random signs: `curvature.variance_of_probes` checks it by enumeration.
        variance = 2 * float(matrix.square().sum() - matrix.diagonal().square().sum()) / PROBES
        errors[name] = _standard_errors([row[name] for row in rows], float(matrix.diagonal().sum()))
        errors[f"{name}_se"] = _standard_errors([row[f"{name}_se"] ** 2 for row in rows], variance)
    return errors


def _standard_errors(values: list[float], expected: float) -> float:
    drawn = torch.tensor(values, dtype=torch.float64)
    return float((drawn.mean() - expected).abs() / (drawn.std() / len(drawn) ** 0.5))
