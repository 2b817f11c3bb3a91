"""torch's own optimizers on stacks of points, their state put onto the slow manifold.

They work element by element, so one optimizer on a parameter (p, R) is R independent optimizers on its columns.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.optim import Optimizer

from ireg.certify.problems import NAME, Problem
from ireg.core.optimizers import OptimizerState, reciprocal_root, rule_of, view


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How to build one of torch's optimizers at each rate.

    Attributes:
        make: its class.
        arguments: from the abscissa of the certificate (the learning rate, or 1 − ρ) to the class's arguments.
        held: state that is to stay as it is, by torch's name of the slot: a frozen second moment, for one. The
            arguments must see to it that it does (ρ = 1, or a sum that dwarfs what is added).
    """

    make: type[Optimizer]
    arguments: Callable[[float], dict[str, Any]]
    held: Mapping[str, tuple[float, ...]] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Start:
    """The state at time 0 that has no transient, to first order.

    Attributes:
        torch: the optimizer, which has taken no step.
        optimizer: the view of it.
        first: what the momentum buffer holds before the first step, shape (p,); None without one.
        second: the running mean of squares; None where there is none, or it is held.
    """

    torch: Optimizer
    optimizer: OptimizerState
    first: Tensor | None
    second: Tensor | None


def start(recipe: Recipe, problem: Problem, abscissa: float) -> Start:
    """Build an optimizer at the start of a problem, with the state that has come along the leading flow.

    One step ago the point was ω + η_e u, so a mean of x with decay r is x̄ + η_e/(1 − r) (∇x̄)u, on time for the next
    step to be taken at ω. What minibatches of the last epochs have left on average is of higher order.

    Args:
        recipe: the optimizer.
        problem: the loss, and ω.
        abscissa: the learning rate, or 1 − ρ: what the recipe takes.
    """
    optimizer = build(recipe, problem.start[:, None], abscissa, first=None, second=None)
    seen = seen_of(optimizer)
    point, rate = problem.start.numpy(), seen.memory.effective_rate
    gradients = problem.gradients(point) + seen.loss_decay * point
    hessians = problem.hessians(point) + seen.loss_decay * np.eye(len(point))
    dividing = None if recipe.held else seen.divides_by
    scale = np.ones_like(point)
    if recipe.held:
        held = seen.preconditioner
        assert held is not None
        scale = held[NAME][:, 0].numpy()
    elif dividing is not None:
        scale = reciprocal_root(torch.from_numpy(gradients**2).mean(0).sqrt(), dividing.eps).numpy()
    velocity = scale * gradients.mean(0) + seen.decoupled_decay * point
    uphill = hessians @ velocity
    first = second = None
    if dividing is not None:
        # x = g², whose derivative along u is 2g Hu.
        second = torch.from_numpy((gradients * (gradients + 2 * rate / (1 - dividing.decay) * uphill)).mean(0))
    if (buffer := seen.buffer) is not None:
        then = gradients.mean(0) + rate / (1 - buffer.decay) * uphill.mean(0)
        first = torch.from_numpy(buffer.gain * (scale if buffer.divided else 1.0) * then)
    return Start(torch=optimizer, optimizer=seen, first=first, second=second)


def build(recipe: Recipe, points: Tensor, abscissa: float, *, first: Tensor | None, second: Tensor | None) -> Optimizer:
    """Build the optimizer of copies of the points.

    Args:
        recipe: the optimizer.
        points: ω of each copy, (p, R).
        abscissa: the learning rate, or 1 − ρ: what the recipe takes.
        first: the momentum buffer, (p,) or (p, R); None for zeros.
        second: the running mean of squares, (p,) or (p, R); None for zeros.
    """
    weights = torch.nn.Parameter(points.detach().clone())
    optimizer = recipe.make([weights], **recipe.arguments(abscissa))
    zeros = torch.zeros_like(points)

    def filled(value: Tensor | None) -> Tensor:
        return zeros.clone() if value is None else (value if value.ndim == 2 else value[:, None]) + zeros

    state = rule_of(recipe.make).state(filled(first), filled(second))
    state |= {slot: filled(torch.tensor(values, dtype=points.dtype)) for slot, values in recipe.held.items()}
    optimizer.state[weights] = state
    return optimizer


def step(problem: Problem, optimizer: Optimizer, which: Tensor) -> None:
    """Take one step of every column.

    Args:
        problem: the loss.
        optimizer: of one parameter (p, R).
        which: the minibatch of each column, (R,).
    """
    weights = _weights(optimizer)
    with torch.no_grad():
        weights.grad = problem.column_gradients(weights, which)
    optimizer.step()


def seen_of(optimizer: Optimizer) -> OptimizerState:
    """Return what the optimizer holds now."""
    return view(optimizer, {NAME: _weights(optimizer)})


def points_of(optimizer: Optimizer) -> Tensor:
    """Return the points as they are now, (p, R)."""
    return _weights(optimizer).detach()


def _weights(optimizer: Optimizer) -> Tensor:
    return optimizer.param_groups[0]["params"][0]
