"""The noise of the preconditioner at rate 0, by its definition, from a `Point`."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ireg.certify.point import Point, Values
from ireg.core.random import named_generator


def noise(point: Point) -> Values:
    """Compute F at rate 0, by filters of the drawn orders with all their past, gradient by gradient."""
    if not point.training.flow:
        return {}
    tags = ("ireg/strength_fluctuation_exact", "ireg/alignment_fluctuation_exact")
    if not point.adaptive or point.count == 1:
        return dict.fromkeys(tags) | {"noise/step": 0.0, "noise/step_se": None}
    gradients, hessians = point.descended
    mean, square = gradients.mean(0), gradients.square().mean(0)
    rho, beta, bare = _decays(point)
    below = square.sqrt() + point.group["eps"]
    values = []
    for past, order in _drawn_orders(point.count, max(rho, beta)):
        rows = gradients[torch.cat([past, order])]
        directions, numerators, seconds = [], [], []
        for end in range(len(past) + 1, len(rows) + 1):
            second, first = _filtered(rows[:end].square(), rho), _filtered(rows[:end], beta)
            numerators.append(bare * rows[end - 1] + (1 - bare) * first)
            seconds.append(second)
            directions.append(numerators[-1] / (second.sqrt() + point.group["eps"]))
        direction, numerator, second = (torch.stack(each).mean(0) for each in (directions, numerators, seconds))
        # F is the mean of N φ(v) less ḡ φ(s̄), φ(v) = 1/(√v + ε) and φ'(s̄) = −1/(2√s̄ (√s̄ + ε)²). What is of first order
        # in the noise has mean 0; it is taken off each order, so that few orders suffice.
        derivative = torch.where(square > 0, mean / (2 * square.sqrt() * below**2), 0.0)
        values.append(direction - numerator / below + derivative * (second - square))
    orders = torch.stack(values)
    # The square of a mean over few orders is too large by the variance of that mean.
    force, size = orders.mean(0), float(orders.mean(0).square().sum() - (orders.var(0) / len(orders)).sum())
    squares = 2 * torch.einsum("kij,kj->i", hessians, gradients) / point.count
    decay = point.decays * point.weights if point.decoupled else 0.0
    noiseless = mean / (mean.abs() + point.group["eps"])
    return _step(orders + mean / below - noiseless, noiseless + decay) | {
        tags[0]: math.sqrt(max(size, 0.0)) / float((mean / below + decay).norm()),
        tags[1]: float(force @ squares / squares.norm()) / math.sqrt(size) if size > 0 else None,
    }


def _step(changes: Tensor, noiseless: Tensor) -> Values:
    """Compute the change of the mean step, and its standard error, from that of each order.

    The mean of products over pairs of orders has no bias. Its first-order variance is 4 times that of the mean over
    orders of an order's product with the mean of all others.
    """
    count = len(changes)
    others = torch.stack([change @ (changes.sum(0) - change) / (count - 1) for change in changes])
    size, length = math.sqrt(max(float(others.mean()), 0.0)), float(noiseless.norm())
    error = math.sqrt(float(others.var()) / count) / size / length if size else None
    return {"noise/step": size / length, "noise/step_se": error}


_PAST = 2.0**-53
"""Weight of a gradient that a filter has forgotten."""


def _decays(point: Point) -> tuple[float, float, float]:
    """Return ρ, β and the share of the bare gradient of RMSProp, Adam, AdamW and NAdam."""
    group = point.group
    if "alpha" in group:
        return group["alpha"], 0.0, 0.0
    if "momentum_decay" not in group:
        return group["betas"][1], group["betas"][0], 0.0
    steps = len(point.trained.gradients) + 1
    beta = group["betas"][0]
    return group["betas"][1], beta, 1 - beta * (1 - 0.5 * 0.96 ** (steps * group["momentum_decay"]))


def _drawn_orders(count: int, decay: float, orders: int = 8) -> list[tuple[Tensor, Tensor]]:
    """Return the past and the epoch of each order, as the term draws them."""
    generator = named_generator("fluctuation", named_generator("terms").initial_seed())
    epochs = math.ceil(math.ceil(math.log(_PAST) / math.log(decay)) / count)

    def draw(number: int) -> Tensor:
        return torch.rand(number, count, dtype=torch.float64, generator=generator).argsort(1).flatten()

    pasts = [draw(epochs) for _ in range(orders)]
    return [(past, draw(1)) for past in pasts]


def _filtered(rows: Tensor, decay: float) -> Tensor:
    """Compute a fading mean of all rows, the last weighing most."""
    weights = decay ** torch.arange(len(rows) - 1, -1, -1, dtype=torch.float64)
    return weights @ rows / weights.sum()
