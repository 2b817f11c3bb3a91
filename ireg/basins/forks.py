"""Forks: several optimizers and orders from one checkpoint, to one training loss."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from ireg.basins.barriers import Examples, loss_and_error
from ireg.core.functional import detached_parameters
from ireg.core.moments import gradient_moments
from ireg.core.moments.needs import Need
from ireg.core.optimizers import reciprocal_root, view
from ireg.core.params import inner_product, squared_norm
from ireg.core.types import Params
from ireg.drift.orders import train_epoch
from ireg.drift.problem import Problem
from ireg.optim.switch import FIRST
from ireg.system.errors import UserError

LOOKS = 4
"""How often an epoch the training loss is looked at."""


@dataclass(frozen=True, kw_only=True)
class Fork:
    """The point that an optimizer has reached.

    Attributes:
        params: weights by name.
        loss: training loss there.
        epochs: how long it took.
    """

    params: Params
    loss: float
    epochs: float


def rates(problem: Problem, names: tuple[str, ...], speed: float) -> dict[str, float]:
    """Return each optimizer's learning rate at one effective rate η_e.

    That is η_e without second moment. Adaptive methods have the rate at which the loss falls as fast at the checkpoint,
    η_e ‖ḡ‖²/(ḡᵀPḡ), P = 1/(√s̄ + ε) with the mean s̄ of the minibatches' squared gradients.

    Args:
        problem: the checkpoint.
        names: of `ireg.optim.switch.FIRST`.
        speed: η_e.
    """
    by_name = {}
    for name in names:
        cls, arguments = FIRST[name]
        optimizer = cls(problem.moving(problem.module).values(), **{**arguments, "lr": 1.0})
        seen = view(optimizer, problem.moving(problem.module))
        rate = speed / seen.memory.effective_rate
        if seen.second_moment is not None:
            with problem.measuring():
                moments = gradient_moments(
                    problem.loss,
                    problem.params(problem.weights),
                    problem.partition("basins"),
                    needs=Need.MEAN | Need.SQUARE,
                )
            assert seen.eps is not None
            scale = {key: reciprocal_root(value.sqrt(), seen.eps) for key, value in moments.square.items()}
            squares = {key: value.square() for key, value in moments.mean.items()}
            rate *= float(squared_norm(moments.mean) / inner_product(scale, squares))
        by_name[name] = rate
    return by_name


def fork(problem: Problem, name: str, rate: float, order: int, target: float, most: int) -> Fork:
    """Train from the checkpoint, without history, until the training loss is reached.

    Args:
        problem: the checkpoint.
        name: of the optimizer.
        rate: its learning rate.
        order: of the minibatches: another number is another order.
        target: training loss, of all examples.
        most: epochs.

    Raises:
        UserError: the loss is not reached.
    """
    cls, arguments = FIRST[name]
    module, _ = problem.begin()
    optimizer = cls(module.parameters(), **{**arguments, "lr": rate})
    examples = Examples(inputs=problem.inputs, labels=problem.targets)
    part = -(-problem.num_batches // LOOKS)
    for epoch in range(most):
        indices = problem.partition("fork", order, epoch).indices
        for number in range(LOOKS):
            train_epoch(module, optimizer, problem, indices[number * part : (number + 1) * part])
            params = {key: value.clone() for key, value in detached_parameters(module).items()}
            loss, _ = loss_and_error(problem.loss, params, examples)
            if loss <= target:
                return Fork(params=params, loss=loss, epochs=epoch + (number + 1) / LOOKS)
    raise UserError(
        f"{name} at the rate {rate:.3g}: its training loss is {loss:.3g} after {most} epochs; raise --epochs or --loss"
    )


def forks(
    problem: Problem, orders: int, speeds: Mapping[str, float], target: float, most: int
) -> dict[str, list[Fork]]:
    """Train all forks, by optimizer; each order of each is its own."""
    with torch.random.fork_rng(devices=[]):
        return {
            name: [fork(problem, name, rate, order, target, most) for order in range(orders)]
            for name, rate in speeds.items()
        }
