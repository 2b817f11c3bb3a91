"""Barriers between two points, along the line that joins them.

The barrier of E between ω₁ and ω₂ is max_α E(αω₁ + (1 − α)ω₂) − ½(E(ω₁) + E(ω₂)), over `POINTS` values of α from 0 to 1
(Frankle et al. 2020, arXiv:1912.05671). E is loss or error, on training or test examples.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ireg.core.functional import ModuleLoss, evaluating
from ireg.core.types import Params

POINTS = 30
"""Values of α."""
CHUNK = 2000
"""Examples at once."""


@dataclass(frozen=True, kw_only=True)
class Examples:
    """Inputs and labels that losses and errors are of."""

    inputs: Tensor
    labels: Tensor


Curve = dict[str, list[float]]
"""Loss and error by name along the line."""


def along_line(loss: ModuleLoss, ends: tuple[Params, Params], examples: Mapping[str, Examples]) -> Curve:
    """Measure losses and errors from the second end to the first.

    Args:
        loss: of the network, in evaluation mode.
        ends: ω₁ and ω₂ by name.
        examples: by name, like `train`.

    Returns:
        The values at `POINTS` equal steps of α, by names like `train/loss`.
    """
    curve: Curve = {f"{name}/{what}": [] for name in examples for what in ("loss", "error")}
    for share in torch.linspace(0, 1, POINTS, dtype=torch.float64).tolist():
        params = {name: torch.lerp(ends[1][name], value, share) for name, value in ends[0].items()}
        for name, of in examples.items():
            values = loss_and_error(loss, params, of)
            curve[f"{name}/loss"].append(values[0])
            curve[f"{name}/error"].append(values[1])
    return curve


@torch.no_grad()
def loss_and_error(loss: ModuleLoss, params: Params, examples: Examples) -> tuple[float, float]:
    """Return the mean loss and the share of wrong predictions."""
    total = wrong = 0.0
    with evaluating(loss.module):
        for inputs, labels in zip(examples.inputs.split(CHUNK), examples.labels.split(CHUNK), strict=True):
            outputs = loss.outputs(params, inputs)
            total += len(labels) * float(loss.criterion(outputs, labels))
            wrong += int((outputs.argmax(1) != labels).sum())
    return total / len(examples.labels), wrong / len(examples.labels)


def barrier(values: Sequence[float]) -> float:
    """Return the highest value above the mean of both ends.

    Example:
        >>> barrier([1.0, 4.0, 2.0])
        2.5
    """
    return max(values) - (values[0] + values[-1]) / 2


def distance(ends: tuple[Params, Params]) -> float:
    """Compute ‖ω₁ − ω₂‖."""
    squares = [(value.double() - ends[1][name].double()).square().sum() for name, value in ends[0].items()]
    return float(torch.stack(squares).sum().sqrt())
