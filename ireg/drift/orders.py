"""Epochs in random orders from one moment of training, and what is measured of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from ireg.core.functional import trained_parameters
from ireg.core.moments import gradient_moments
from ireg.core.moments.needs import Need
from ireg.core.params import squared_norm
from ireg.core.random import named_generator, named_seed
from ireg.drift.problem import Problem
from ireg.drift.small_steps import refine

QUANTITIES = ("loss", "full_batch", "squares")
"""C, ‖ḡ‖² and Q = (1/m) Σ ‖g_k‖²."""


@dataclass(frozen=True, kw_only=True)
class Stop:
    """Where an order stood at a time.

    Attributes:
        time: in epochs of the plain optimizer.
        weights: as one vector.
        values: the quantities there, in the order of `QUANTITIES`.
    """

    time: float
    weights: Tensor
    values: tuple[float, ...]


def order_of(problem: Problem, refinement: int, order: int, epoch: int) -> list[Tensor]:
    """Draw the examples' indices of each minibatch, afresh for each pair of orders and each epoch.

    Orders come in pairs, 2i and 2i + 1, the second with the first's minibatches backwards (but for a smaller last one,
    which stays last). Each alone is as random as any, and in the mean of the two the sum over ordered pairs Σ_{j<k} H_k
    g_j is that over all pairs: at second order in η a pair of SGD's orders has no noise but its partition's. It is the
    pairing by which Smith et al. 2021 (arXiv:2101.12176) take the mean over the orders.
    """
    pair, backwards = divmod(order, 2)
    generator = named_generator("drift: orders", problem.seed, refinement, pair, epoch)
    indices = list(torch.randperm(len(problem.targets), generator=generator).split(problem.batch_size))
    whole = len(problem.targets) // problem.batch_size
    return [*reversed(indices[:whole]), *indices[whole:]] if backwards else indices


def train_epoch(module: nn.Module, optimizer: Optimizer, problem: Problem, indices: Sequence[Tensor]) -> None:
    """Train for one epoch over these minibatches."""
    batches = problem.batches(indices)
    objective = problem.objective(module, batches)
    for inputs, targets in batches:
        optimizer.zero_grad()
        with torch.enable_grad():
            if objective is None:
                problem.criterion(module(inputs), targets).backward()
            else:
                objective.evaluate(trained_parameters(module), (inputs, targets)).total.backward()
        optimizer.step()


def stops_of(refinement: int) -> list[int]:
    """List the epochs of a refinement after which it is measured.

    They are at 1/8, 1/4, 1/2 and all of the time, as far as r allows.

    Example:
        >>> stops_of(1), stops_of(2), stops_of(3), stops_of(4), stops_of(16)
        ([1], [1, 2], [1, 3], [1, 2, 4], [2, 4, 8, 16])
    """
    return sorted({max(1, refinement // part) for part in (8, 4, 2, 1)})


def follow(problem: Problem, refinement: int, order: int, memory: str = "kept") -> list[Stop]:
    """Take one order of the optimizer for the time of an epoch, in r times as many steps, r times smaller.

    Args:
        problem: where it begins.
        refinement: r.
        order: its number; the minibatches depend on it and on r, not on `memory`.
        memory: see `ireg.drift.small_steps`.

    Returns:
        The stops of `stops_of`.
    """
    module, optimizer = problem.begin()
    refine(optimizer, refinement, memory)
    stops = []
    with torch.random.fork_rng(devices=[]):  # of networks that draw, as dropout does
        torch.manual_seed(named_seed("drift: network", problem.seed, refinement, order))
        for epoch in range(refinement):
            train_epoch(module, optimizer, problem, order_of(problem, refinement, order, epoch))
            if epoch + 1 in stops_of(refinement):
                weights = problem.vector(module)
                time = (epoch + 1) / refinement
                stops.append(Stop(time=time, weights=weights, values=measure(problem, weights)))
    return stops


def measure(problem: Problem, weights: Tensor) -> tuple[float, ...]:
    """Compute the quantities at these weights, over one random partition that is the same for all weights."""
    with problem.measuring():
        moments = gradient_moments(
            problem.loss,
            problem.params(weights),
            problem.partition("measured minibatches"),
            needs=Need.MEAN | Need.SQ_NORMS,
        )
    return float(moments.losses.mean()), float(squared_norm(moments.mean)), float(moments.sq_norm_mean)
