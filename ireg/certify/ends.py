"""The mean of an optimizer after some steps: on full batches, over all orders, or over a sample."""

from dataclasses import dataclass
from itertools import permutations
from math import factorial

import numpy as np
import torch
from torch import Tensor

from ireg.certify.optimizers import Recipe, Start, build, points_of, seen_of, step
from ireg.certify.problems import NAME, Problem

GROUPS = 8
"""Independent groups of orders, from which the standard error of the mean is estimated."""

BALANCED = 24
"""Up to so many orders of an epoch, every group takes each of them equally often."""


def on_full_batches(recipe: Recipe, problem: Problem, begin: Start, abscissa: float, steps: int) -> np.ndarray:
    """Take steps on full batches.

    Args:
        recipe: the optimizer.
        problem: of one minibatch.
        begin: its state before the first step.
        abscissa: the learning rate, or 1 − ρ: what the recipe takes.
        steps: how many.

    Returns:
        ω after the steps, (p,).
    """
    optimizer = build(recipe, problem.start[:, None], abscissa, first=begin.first, second=begin.second)
    only = torch.zeros(1, dtype=torch.long)
    for _ in range(steps):
        step(problem, optimizer, only)
    return points_of(optimizer)[:, 0].numpy()


def over_all_orders(recipe: Recipe, problem: Problem, begin: Start, abscissa: float, epochs: int) -> np.ndarray:
    """Compute the mean of ω over every order of every epoch, exactly.

    This is for quadratic losses and filters of their gradients. An epoch is then an affine map of ω and the momentum
    buffer, and the mean over the orders of all epochs is the power of the mean map.

    Args:
        recipe: the optimizer.
        problem: of quadratic losses.
        begin: the optimizer's state before the first step.
        abscissa: the learning rate, or 1 − ρ: what the recipe takes.
        epochs: how many.

    Returns:
        The mean of ω, (p,).
    """
    dimension = len(problem.start)
    size = dimension if begin.first is None else 2 * dimension
    # An epoch in one order is an affine map of (ω, buffer), so its mean over the orders is one, too. An affine map is
    # known by its values at 0 and at the unit vectors. Orders of different epochs are independent: the mean over all
    # orders of all epochs is this map's power.
    corners = torch.cat([torch.zeros(size, 1, dtype=torch.float64), torch.eye(size, dtype=torch.float64)], 1)
    orders = torch.tensor(list(permutations(range(problem.num_batches))))
    stacked = corners.repeat(1, len(orders))
    first = None if begin.first is None else stacked[dimension:]
    optimizer = build(recipe, stacked[:dimension], abscissa, first=first, second=None)
    for which in orders.repeat_interleave(size + 1, 0).T.contiguous():
        step(problem, optimizer, which)
    parts = [points_of(optimizer)]
    if begin.first is not None:
        held = seen_of(optimizer).first_moment
        assert held is not None
        parts.append(held[NAME])
    images = torch.cat(parts).view(size, len(orders), size + 1).mean(1).numpy()  # (size, size + 1), 0's image first
    state = np.concatenate([part.numpy() for part in (problem.start, begin.first) if part is not None])
    return iterated(images, state, epochs)[:dimension]


def iterated(images: np.ndarray, state: np.ndarray, times: int) -> np.ndarray:
    """Apply an affine map again and again.

    Args:
        images: of 0 and the unit vectors, (size, size + 1).
        state: where it begins, (size,).
        times: how often.

    Returns:
        The state after that, (size,).
    """
    size = len(state)
    affine = np.eye(size + 1)
    affine[:size, size], affine[:size, :size] = images[:, 0], images[:, 1:] - images[:, :1]
    return (np.linalg.matrix_power(affine, times) @ np.append(state, 1.0))[:size]


@dataclass(frozen=True, kw_only=True)
class SampledMean:
    """A mean over some orders, and what is known of its error.

    Attributes:
        mean: of ω, shape (p,).
        standard_error: the norm of the standard errors of its components.
    """

    mean: np.ndarray
    standard_error: float


def over_sampled_orders(
    recipe: Recipe, problem: Problem, begin: Start, abscissa: float, epochs: int, columns: int, seed: int
) -> SampledMean:
    """Compute the mean of ω over a sample of orders, drawn independently for each column and epoch.

    Columns come in pairs that run through every epoch in opposite orders: what is odd in the order, most of the
    scatter, cancels. Where an epoch has few orders, each is taken equally often in every epoch.

    Args:
        recipe: the optimizer.
        problem: the loss.
        begin: the optimizer's state before the first step.
        abscissa: the learning rate, or 1 − ρ: what the recipe takes.
        epochs: how many.
        columns: how many copies of the optimizer, a multiple of 2 · `GROUPS`.
        seed: of the orders.

    Raises:
        ValueError: an epoch has few orders, and the columns of a group are no multiple of them.
    """
    generator = torch.Generator().manual_seed(seed)
    points = problem.start[:, None].expand(-1, columns)
    optimizer = build(recipe, points, abscissa, first=begin.first, second=begin.second)
    for _ in range(epochs):
        for which in _orders(problem.num_batches, columns, generator):
            step(problem, optimizer, which)
    # Groups are independent, columns within one are not: a group holds both directions of each order.
    means = points_of(optimizer).view(len(problem.start), GROUPS, -1).mean(2)  # (p, groups)
    errors = means.std(1) / GROUPS**0.5
    return SampledMean(mean=means.mean(1).numpy(), standard_error=float(errors.norm()))


def _orders(num_batches: int, columns: int, generator: torch.Generator) -> Tensor:
    """Draw an order for each column, shape (m, columns); in a group the second half is the first reversed."""
    half = columns // GROUPS // 2
    if factorial(num_batches) > BALANCED:
        drawn = torch.rand(GROUPS, half, num_batches, generator=generator).argsort(2)
    else:
        orders = torch.tensor(list(permutations(range(num_batches))))
        # One of each order and its reverse. Which of the two a column takes is drawn: its epochs are independent.
        orders = orders[orders[:, 0] < orders[:, -1]]
        if half % len(orders):
            raise ValueError(f"{columns} columns: must be a multiple of {2 * GROUPS * len(orders)}")
        drawn = orders[torch.rand(GROUPS, half, generator=generator).argsort(1) % len(orders)]
        backwards = torch.rand(GROUPS, half, 1, generator=generator) < 0.5
        drawn = torch.where(backwards, drawn.flip(2), drawn)
    return torch.cat([drawn, drawn.flip(2)], 1).view(columns, num_batches).T.contiguous()
