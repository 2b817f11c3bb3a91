"""The leading flow ω̇ = −u, with or without a force, by Runge and Kutta's method of fourth order."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from torch import Tensor

from ireg.core.functional import gradient
from ireg.core.types import Params
from ireg.drift.problem import Problem, flattened

PARTS = 4
"""A path is kept at its start, its end, and between at equal times, so many parts."""
CHUNK = 1000
"""Examples at once where no minibatch gradients are needed."""


def velocity(problem: Problem, weights: Tensor) -> Tensor:
    """Compute the leading velocity u of an optimizer without second moment: ḡ of all examples.

    Weight decay is included, and an explicit penalty, over one partition that is the same everywhere. C is here the
    mean over the examples: that is C's mean over the partitions, whose last minibatch may be smaller.
    """
    leaves = {name: value.requires_grad_() for name, value in problem.params(weights.clone()).items()}
    total = problem.optimizer.loss_decay * weights
    for inputs, targets in zip(problem.inputs.split(CHUNK), problem.targets.split(CHUNK), strict=True):
        with problem.measuring(), torch.enable_grad():
            loss = problem.loss(leaves, (inputs, targets))
        gradients = torch.autograd.grad(loss, list(leaves.values()), allow_unused=True, materialize_grads=True)
        # A chunk's loss is a mean, and the last chunk may be smaller.
        total += len(targets) / len(problem.targets) * torch.cat([part.flatten() for part in gradients]).double()
    return total if problem.regularizer is None else total + _penalty_gradient(problem, leaves)


def _penalty_gradient(problem: Problem, leaves: Params) -> Tensor:
    """Compute ∇R, the mean over the minibatches of a partition, (p,)."""
    batches = problem.partition("penalty")
    objective = problem.objective(problem.module, batches)
    assert objective is not None
    with problem.measuring():
        # An objective has no gradient of its penalty alone: that is the difference of both.
        total = torch.stack([flattened(gradient(objective, leaves, batch)) for batch in batches]).mean(0)
        total -= torch.stack([flattened(gradient(problem.loss, leaves, batch)) for batch in batches]).mean(0)
        shared = objective.shared({name: value.detach() for name, value in leaves.items()})
    return total if shared is None else total + flattened(shared.gradient)


def follow_flow(
    problem: Problem, weights: Tensor, time: float, steps: int, forces: Sequence[Tensor] | None = None
) -> list[Tensor]:
    """Integrate ω̇ = −(u + f(t)) from these weights.

    Args:
        problem: whose u.
        weights: where it begins.
        time: for how long.
        steps: of the method; a multiple of `PARTS`.
        forces: f at those times, straight lines between; None for 0.

    Returns:
        The path's weights at `PARTS` + 1 equal times, the start among them, (p,) each.

    Raises:
        ValueError: steps that are no multiple.
    """
    if steps % PARTS or steps < 1:
        raise ValueError(f"steps={steps}: must be a multiple of {PARTS}")
    path, step, each = [weights], time / steps, steps // PARTS
    nodes = list(pairwise(forces)) if forces is not None else [None] * PARTS
    for ends in nodes:
        for count in range(each):
            path_force = _line(ends, count / each, 1 / each)
            weights = _step(problem, weights, step, path_force)
        path.append(weights)
    return path


def _line(ends: tuple[Tensor, Tensor] | None, share: float, width: float) -> Callable[[float], Tensor | float]:
    """Return the force at a share of the step."""
    if ends is None:
        return lambda _: 0.0
    return lambda within: torch.lerp(ends[0], ends[1], share + within * width)


def _step(problem: Problem, weights: Tensor, step: float, force: Callable[[float], Tensor | float]) -> Tensor:
    """Take one step of the classical method of fourth order."""
    first = -(velocity(problem, weights) + force(0.0))
    second = -(velocity(problem, weights + step / 2 * first) + force(0.5))
    third = -(velocity(problem, weights + step / 2 * second) + force(0.5))
    fourth = -(velocity(problem, weights + step * third) + force(1.0))
    return weights + step / 6 * (first + 2 * second + 2 * third + fourth)
