"""Memory at rates and momenta that change within an epoch, certified over all orders.

torch's own optimizer takes an epoch's four steps in every order, at rates and momenta of a schedule. Before and after
it runs out: it steps on with gradients of 0, at the last rate and momentum, until its buffer is empty. That gives the
settled weights. The time of the flow is what steps of a constant gradient of 1 move a weight by, and what follows them.
So neither is read off the formula. The factors are those of `ireg/own_full_batch` and `ireg/own_variance`. After one
epoch the error is of third order in the rate. It is of second order with the coefficients of the mean rate, with those
of SGD, or without what the buffer holds from before.

Source: docs/theory.md, section 8.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.optim import SGD, Adam, NAdam, Optimizer, RMSprop

from ireg.certify.drawings import MINIBATCHES, Variants, compare, halving, independent_loss, order_of, sequences
from ireg.certify.exchange import Order
from ireg.certify.flows import ModifiedLoss, modified_loss
from ireg.certify.optimizers import Recipe, build, points_of
from ireg.certify.problems import NAME, Problem, quadratics_and_log_cosh
from ireg.core.optimizers import OptimizerState, view

RATES = (0.1, 1.0, 0.05, 0.02)
"""Of the steps, in units of the largest."""
MOMENTA = (0.2, 0.7, 0.8, 0.5)
SQUARES, EPS = (0.5, 2.0, 1.0), 0.1
RUN_OUT = 300
"""Steps with gradients of 0 after which nothing is left of any buffer here: 0.8³⁰⁰ is 10⁻²⁹."""
HIGHEST = 2**-8


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """An optimizer and the settings of its steps.

    Attributes:
        make: torch's class.
        arguments: of it, beside the rate.
        rates: of the steps, in units of the largest.
        momenta: of the steps; None where they do not change.
        held: torch's slots that stay as they are, see `Recipe`.
        independent: whether each minibatch is a draw of its own.
    """

    make: type[Optimizer] = SGD
    arguments: Mapping[str, Any] = field(default_factory=dict)
    rates: Sequence[float] = RATES
    momenta: Sequence[float] | None = None
    held: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    independent: bool = False

    def recipe(self) -> Recipe:
        """Return how the optimizer is built at a rate."""
        return Recipe(make=self.make, arguments=lambda rate: {"lr": rate, **self.arguments}, held=self.held)

    def settings(self, rate: float) -> list[dict[str, Any]]:
        """Return what the group says at each step, the largest of them `rate`."""
        said: list[dict[str, Any]] = [{"lr": rate * factor} for factor in self.rates]
        for group, momentum in zip(said, self.momenta or (), strict=False):
            group |= {"betas": (momentum, 1 - 2**-53)} if "betas" in self.arguments else {"momentum": momentum}
        return said


def certify_schedule(schedule: Schedule) -> Order:
    """Compare the mean of the settled weights over all sequences with the end of the flow."""
    problem, rates = quadratics_and_log_cosh(seed=3, num_batches=MINIBATCHES), halving(HIGHEST)
    errors: dict[str, list[float]] = {}
    for rate in rates:
        said = schedule.settings(rate)
        seen = _seen(schedule, problem, rate, said)
        begin, mean, time = _ends(schedule, problem, rate, said, seen)
        loss = independent_loss if schedule.independent else modified_loss
        flow = replace(loss(problem, seen), problem=replace(problem, start=torch.from_numpy(begin)))
        variants = _variants(schedule, problem, seen, sum(said_at["lr"] for said_at in said))
        compare(errors, variants, flow, mean, time)
    return order_of(3, rates, errors)


_FROZEN: dict[str, Any] = {"eps": EPS, "betas": (0.5, 1 - 2**-53)}

SCHEDULES: Mapping[str, Schedule] = {
    "momentum 0.5, rates that change": Schedule(arguments={"momentum": 0.5}),
    "momentum 0.5, dampened, rates that change": Schedule(arguments={"momentum": 0.5, "dampening": 0.3}),
    "Nesterov 0.5, rates that change": Schedule(arguments={"momentum": 0.5, "nesterov": True}),
    "RMSProp, P frozen, momentum 0.5, rates that change": Schedule(
        make=RMSprop, arguments={"alpha": 1.0, "eps": EPS, "momentum": 0.5}, held={"square_avg": SQUARES}
    ),
    "Adam, P frozen, β = 0.5, rates that change": Schedule(make=Adam, arguments=_FROZEN, held={"exp_avg_sq": SQUARES}),
    "NAdam, P frozen, β = 0.5, rates that change": Schedule(
        make=NAdam, arguments=_FROZEN, held={"exp_avg_sq": SQUARES}
    ),
    "momentum and rates that change": Schedule(arguments={"momentum": 0.5}, momenta=MOMENTA),
    "momentum that changes": Schedule(arguments={"momentum": 0.5}, rates=(1.0,) * MINIBATCHES, momenta=MOMENTA),
    "Nesterov's momentum and rates that change": Schedule(
        arguments={"momentum": 0.5, "nesterov": True}, momenta=MOMENTA
    ),
    "Adam, P frozen, β and rates that change": Schedule(
        make=Adam, arguments=_FROZEN, momenta=MOMENTA, held={"exp_avg_sq": SQUARES}
    ),
    "momentum 0.5, rates that change, drawn with replacement": Schedule(arguments={"momentum": 0.5}, independent=True),
}
"""By name."""


def all_schedules(chosen: Mapping[str, Schedule] = SCHEDULES) -> dict[str, Order]:
    """Compute each certificate, by its name."""
    return {name: certify_schedule(schedule) for name, schedule in chosen.items()}


def _variants(schedule: Schedule, problem: Problem, seen: OptimizerState, total: float) -> Variants:
    """Return the right flow, and wrong ones."""
    at_mean = replace(seen, lr=total / MINIBATCHES, rates=None, rules=None)
    mean_rate = modified_loss(problem, at_mean)
    factor = seen.step_factors(MINIBATCHES) if seen.rates else (1.0, 1.0)
    variants: dict[str, Callable[[ModifiedLoss], ModifiedLoss]] = {
        "": lambda flow: flow,
        "L = 0": lambda flow: replace(flow, of_mean=flow.of_mean / (1 + 2 * seen.memory.lag)),
    }
    name = "the mean rate" if schedule.momenta is None else "the last momentum, the mean rate"
    variants[f"{name}, for the mean's part"] = lambda flow: replace(flow, of_mean=mean_rate.of_mean)
    if not schedule.independent:
        variants[name] = lambda flow: replace(flow, of_mean=mean_rate.of_mean, of_variance=mean_rate.of_variance)
        # Momentum alone hardly changes the variance's part: a control with the last one's would pass.
        if seen.rates:
            variants[f"{name}, for the variance"] = lambda flow: replace(flow, of_variance=mean_rate.of_variance)
        variants["the mean part alone"] = lambda flow: replace(flow, of_variance=0.0)
    if seen.rates:
        variants["SGD's factors on momentum's"] = lambda flow: replace(flow, of_mean=factor[0] * mean_rate.of_mean)
    return variants


def _seen(schedule: Schedule, problem: Problem, rate: float, said: Sequence[Mapping[str, Any]]) -> OptimizerState:
    """Return the optimizer as it is after the steps, its weights where the problem starts."""
    optimizer = build(schedule.recipe(), problem.start[:, None], rate, first=None, second=None)
    weights = optimizer.param_groups[0]["params"][0]
    return view(optimizer, {NAME: weights}, [(group["lr"],) for group in said], [(group,) for group in said])


def _ends(
    schedule: Schedule, problem: Problem, rate: float, said: Sequence[Mapping[str, Any]], seen: OptimizerState
) -> tuple[np.ndarray, np.ndarray, float]:
    """Take the steps in all sequences, and until the buffer is empty.

    Returns:
        The settled weights before, (p,); their mean after, (p,); and the time between.
    """
    recipe, chosen = schedule.recipe(), sequences(independent=schedule.independent)
    start = problem.start[:, None]
    scale = np.ones(len(problem.start)) if seen.preconditioner is None else seen.preconditioner[NAME][:, 0].numpy()
    gradient = problem.gradients(problem.start.numpy()).mean(0)
    entering = scale * gradient if schedule.make is RMSprop else gradient
    first = _filled(schedule, said[0], torch.from_numpy(entering))
    take = partial(_after, recipe, rate, said)
    before = take(start, first, lambda points, number: torch.zeros_like(points))
    after = take(
        start.repeat(1, len(chosen)), first, lambda points, number: problem.column_gradients(points, chosen[:, number])
    )
    # A constant gradient of 1, from an empty buffer: the time is in units of P.
    moved = -take(torch.zeros_like(start), None, lambda points, number: torch.ones_like(points))[:, 0].numpy() / scale
    return before[:, 0].numpy(), after.mean(1).numpy(), float(moved[0])


def _filled(schedule: Schedule, said: Mapping[str, Any], gradient: Tensor) -> Tensor:
    """Return what a constant gradient, (p,), fills the buffer with, before the first step."""
    state = dict(schedule.arguments) | dict(said)
    if "betas" in state:
        return gradient
    return gradient * (1 - state.get("dampening", 0.0)) / (1 - state["momentum"])


def _after(
    recipe: Recipe,
    rate: float,
    said: Sequence[Mapping[str, Any]],
    points: Tensor,
    first: Tensor | None,
    gradients: Callable[[Tensor, int], Tensor],
) -> Tensor:
    """Return the settled weights after the steps, (p, R)."""
    optimizer = build(recipe, points, rate, first=first, second=None)
    weights = optimizer.param_groups[0]["params"][0]
    for number in range(len(said) + RUN_OUT):
        optimizer.param_groups[0].update(said[min(number, len(said) - 1)])
        with torch.no_grad():
            weights.grad = gradients(weights.detach(), number) if number < len(said) else torch.zeros_like(weights)
        optimizer.step()
    return points_of(optimizer)
