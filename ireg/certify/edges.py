"""The edge of stability, certified by torch's own steps.

On quadratics ½ h ω² with many curvatures h at once, an optimizer with frozen P takes its steps. The curvature at which
they begin to grow is found by bisection of their growth, and compared with `OptimizerState.edge`. P is frozen by an ε
that dwarfs the root of the second moment: P = 1/ε.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.optim import Optimizer

from ireg.core.optimizers import view
from ireg.known_optimizers import OPTIMIZERS, EdgeSetting, KnownOptimizer

CLOSE = 1e-4
"""Largest relative error that passes."""
APART = 1e-2
"""Least relative error of a wrong edge: a measurement that accepts one says nothing."""

_RATE = 0.1
_EPS = 1e100
_FAR = 1e30
"""A weight that has grown so far from 1 has left; ε is out of its sight."""
_STEPS = 2000
_CURVATURES = 33
_ROUNDS = 3
_WINDOW = 0.25
"""Share of the steps over whose end, and over whose middle, the largest weight is taken."""


@dataclass(frozen=True)
class Case:
    """An optimizer with frozen P, and wrong edges that must be rejected.

    Attributes:
        make: from the parameter and its rate.
        eps: of the optimizer; 1 where it does not divide.
        controls: wrong edges in units of 1/η, by what is wrong with them.
    """

    make: Callable[[Tensor, float], Optimizer]
    eps: float
    controls: Mapping[str, float]


def _frozen(entry: KnownOptimizer, setting: EdgeSetting) -> Case:
    """Freeze P at 1/ε; ε is 1 where nothing is divided."""
    eps = _EPS if entry.divides else 1.0
    arguments = {**setting.arguments, **({"eps": eps} if entry.divides else {})}
    if "weight_decay" in arguments:
        arguments["weight_decay"] /= _RATE * eps  # torch's rate, which freezing P has made large
    kind = entry.load()
    return Case(lambda weights, lr: kind([weights], lr=lr * eps, **arguments), eps, setting.wrong)


def cases(entries: Mapping[str, KnownOptimizer]) -> dict[str, Case]:
    """Return the cases of these optimizers, by name."""
    return {
        name + added: _frozen(entry, setting)
        for name, entry in entries.items()
        for added, setting in entry.edges.items()
    }


CASES: Mapping[str, Case] = cases(OPTIMIZERS)
"""Each rule, with and without what changes its edge."""


@dataclass(frozen=True)
class Edge:
    """The result of a case: the edge as predicted, and as measured.

    Attributes:
        predicted: h* of P^½HP^½, times η.
        measured: the same, where the steps begin to grow.
        accepted: controls that the measurement does not tell from it.
    """

    predicted: float
    measured: float
    accepted: tuple[str, ...]

    @property
    def error(self) -> float:
        """The relative error of the prediction."""
        return abs(self.measured / self.predicted - 1)

    @property
    def holds(self) -> bool:
        """Whether the prediction is right, and every control is wrong."""
        return self.error <= CLOSE and not self.accepted


def of_optimizers(cases: Mapping[str, Case] = CASES) -> dict[str, Edge]:
    """Measure each case's edge, by its name."""
    return {name: _measure(case) for name, case in cases.items()}


def _measure(case: Case) -> Edge:
    weights = torch.nn.Parameter(torch.ones(1, dtype=torch.float64))
    optimizer = case.make(weights, _RATE)
    weights.grad = torch.ones_like(weights)
    optimizer.step()
    seen = view(optimizer, {"weights": weights})
    # η times h* of P^½HP^½, P = 1/ε, with torch's η: that of the quadratic is the same.
    predicted = _RATE * case.eps * (seen.edge - seen.loss_decay / case.eps)
    low, high = 0.2 * predicted, 2.0 * predicted
    for _ in range(_ROUNDS):
        curvatures = torch.linspace(low, high, _CURVATURES, dtype=torch.float64)
        grows = _grow(case, curvatures / _RATE)
        first = int(grows.int().argmax()) if bool(grows.any()) else len(curvatures) - 1
        low, high = float(curvatures[max(first - 1, 0)]), float(curvatures[first])
    measured = (low + high) / 2
    accepted = tuple(name for name, wrong in case.controls.items() if abs(measured / wrong - 1) < APART)
    return Edge(predicted, measured, accepted)


def _grow(case: Case, curvatures: Tensor) -> Tensor:
    """Say for each curvature whether the weights grow."""
    weights = torch.nn.Parameter(torch.ones_like(curvatures))
    optimizer = case.make(weights, _RATE)
    window = int(_WINDOW * _STEPS)
    middle = torch.zeros_like(curvatures)
    end = torch.zeros_like(curvatures)
    for step in range(_STEPS):
        weights.grad = curvatures * weights.detach()
        optimizer.step()
        size = weights.detach().abs()
        if _STEPS // 2 <= step < _STEPS // 2 + window:
            middle = torch.maximum(middle, size)
        elif step >= _STEPS - window:
            end = torch.maximum(end, size)
    # Far beyond the edge weights reach ε, where P shrinks and holds them, or leave all range.
    return ~(end <= middle) | ~(end < _FAR)
