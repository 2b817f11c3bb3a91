"""How the minibatches are drawn, certified by enumeration.

W steps of torch's own optimizer are taken on every sequence of minibatches that the drawing allows. With replacement
these are all mᵂ, out of an epoch all that have W different ones. The mean of ω over the sequences is then exact. It is
compared with the flow of the modified loss, whose factors are those of `ireg/own_full_batch` and `ireg/own_variance`.
After so few steps the error is of third order in the rate, and of second with the factors of another drawing.

Source: docs/theory.md, section 15.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import permutations, product

import numpy as np
import torch
from torch import Tensor
from torch.optim import SGD

from ireg.certify.certificate import fit
from ireg.certify.ends import over_all_orders
from ireg.certify.exchange import Order
from ireg.certify.experiments import PRECISION, whole_epochs
from ireg.certify.flows import ModifiedLoss, integrate, modified_loss
from ireg.certify.optimizers import Recipe, Start, build, points_of, start, step
from ireg.certify.problems import NAME, Problem, quadratics, quadratics_and_log_cosh
from ireg.core.drawing import INDEPENDENT
from ireg.core.optimizers import OptimizerState, view
from ireg.core.snapshot import Snapshot
from ireg.terms.own import own_full_batch, own_variance

Variants = Mapping[str, Callable[[ModifiedLoss], ModifiedLoss]]
"""The right modified loss under the empty name, and wrong ones."""

MOMENTUM = 0.5
MINIBATCHES = 4
SCHEDULE = (1.0, 0.4, 0.1, 0.7)
"""Rates of the steps, in units of the first."""


def with_replacement(momentum: float = 0.0) -> Order:
    """Certify the flow of SGD or momentum whose minibatches are drawn independently.

    The whole flow is the mean's part, (η_e/4)(1 + 2L) ‖∇C‖².
    """
    problem = quadratics_and_log_cosh(seed=3, num_batches=MINIBATCHES)
    recipe = Recipe(make=SGD, arguments=lambda rate: {"lr": rate, "momentum": momentum})
    variants: dict[str, Callable[[ModifiedLoss], ModifiedLoss]] = {
        "": lambda flow: flow,
        "C alone": lambda flow: replace(flow, of_mean=0.0),
        "with the variance of an epoch": with_variance_of_epoch,
    }
    if momentum:
        variants["L = 0"] = lambda flow: replace(flow, of_mean=flow.step_time / 4)
    errors: dict[str, list[float]] = {}
    rates = halving(2**-5)
    for rate in rates:
        begin = start(recipe, problem, rate)
        mean = _mean(recipe, problem, begin, [rate] * MINIBATCHES, sequences(independent=True))
        flow = independent_loss(problem, begin.optimizer)
        compare(errors, variants, flow, mean, MINIBATCHES * flow.step_time)
    return order_of(3, rates, errors)


def with_replacement_and_schedule() -> Order:
    """Certify the flow of SGD whose minibatches are drawn independently, at rates that change.

    The flow is that of C + S/(4T) ‖∇C‖², S = Σ η_t² and T = Σ η_t.
    """
    problem, rates = quadratics_and_log_cosh(seed=3, num_batches=MINIBATCHES), halving(2**-5)
    recipe = Recipe(make=SGD, arguments=lambda rate: {"lr": rate})
    variants: Variants = {
        "": lambda flow: flow,
        "the mean rate": lambda flow: replace(flow, of_mean=flow.step_time / 4),
        "with the variance of an epoch": with_variance_of_epoch,
    }
    errors: dict[str, list[float]] = {}
    for rate in rates:
        steps = [rate * factor for factor in SCHEDULE]
        mean = _mean(recipe, problem, start(recipe, problem, rate), steps, sequences(independent=True))
        weights = torch.nn.Parameter(problem.start[:, None])
        seen = view(SGD([weights], lr=rate), {NAME: weights}, [(step,) for step in steps])
        compare(errors, variants, independent_loss(problem, seen), mean, sum(steps))
    return order_of(3, rates, errors)


def out_of_an_epoch(steps: int) -> Order:
    """Certify W = `steps` steps of SGD on different minibatches of an epoch's m.

    The variance's part is (W − 1)/(m − 1) times that of the epoch.
    """
    problem, rates = quadratics_and_log_cosh(seed=3, num_batches=MINIBATCHES), halving(2**-5)
    recipe = Recipe(make=SGD, arguments=lambda rate: {"lr": rate})
    share = (steps - 1) / (MINIBATCHES - 1)
    variants: dict[str, Callable[[ModifiedLoss], ModifiedLoss]] = {
        "": lambda flow: replace(flow, of_variance=share * flow.of_variance),
        "as drawn independently": lambda flow: replace(flow, of_variance=0.0),
    }
    if share < 1:
        variants["the whole variance"] = lambda flow: flow
    errors: dict[str, list[float]] = {}
    for rate in rates:
        begin = start(recipe, problem, rate)
        mean = _mean(recipe, problem, begin, [rate] * steps, sequences(steps, independent=False))
        compare(errors, variants, modified_loss(problem, begin.optimizer), mean, steps * rate)
    return order_of(3, rates, errors)


def momentum_over_epochs() -> Order:
    """Certify momentum over whole epochs to a fixed time, where the error is of second order."""
    problem, rates = quadratics(seed=3, num_batches=MINIBATCHES), halving(2**-10)
    recipe = Recipe(make=SGD, arguments=lambda rate: {"lr": rate, "momentum": MOMENTUM})
    variants: Variants = {
        "": lambda flow: flow,
        "as drawn independently": lambda flow: replace(flow, of_variance=0.0),
        "L = 0": lambda flow: replace(flow, of_mean=flow.step_time / 4),
    }
    errors: dict[str, list[float]] = {}
    for rate in rates:
        begin = start(recipe, problem, rate)
        flow = modified_loss(problem, begin.optimizer)
        epochs = whole_epochs(1.0, flow.step_time, MINIBATCHES) // MINIBATCHES
        mean = over_all_orders(recipe, problem, begin, rate, epochs)
        compare(errors, variants, flow, mean, epochs * MINIBATCHES * flow.step_time)
    return order_of(2, rates, errors)


DRAWINGS: Mapping[str, Callable[[], Order]] = {
    "SGD, drawn with replacement": with_replacement,
    "momentum 0.5, drawn with replacement": partial(with_replacement, MOMENTUM),
    "SGD at changing rates, drawn with replacement": with_replacement_and_schedule,
    "SGD, a whole epoch": partial(out_of_an_epoch, MINIBATCHES),
    "SGD, 2 of an epoch's 4": partial(out_of_an_epoch, 2),
    "SGD, 3 of an epoch's 4": partial(out_of_an_epoch, 3),
    "momentum 0.5, whole epochs": momentum_over_epochs,
}
"""By name."""


def all_drawings(chosen: Mapping[str, Callable[[], Order]] = DRAWINGS) -> dict[str, Order]:
    """Compute each certificate, by its name."""
    return {name: make() for name, make in chosen.items()}


def sequences(steps: int = MINIBATCHES, *, independent: bool) -> Tensor:
    """List the minibatches of every sequence, (R, W)."""
    numbers = range(MINIBATCHES)
    return torch.tensor(list(product(numbers, repeat=steps) if independent else permutations(numbers, steps)))


def independent_loss(problem: Problem, optimizer: OptimizerState) -> ModifiedLoss:
    """Return an optimizer's modified loss for independent minibatches.

    Its factor is read off `own_full_batch`, which takes the problem's m minibatches for draws: it is that of
    ‖ḡ‖² − s²/m. Here they are the population.

    Args:
        problem: the loss, and the point.
        optimizer: whose factors.
    """
    params = {NAME: problem.start[:, None]}
    snapshot = Snapshot(
        params=params, initial=params, loss=problem.loss, batches=problem.batches, optimizer=optimizer,
        generator=torch.Generator(), sampling=INDEPENDENT,
    )  # fmt: skip
    gradients = problem.gradients(problem.start.numpy())
    mean, variance = gradients.mean(0), gradients.var(0).sum()
    of_mean, of_variance = own_full_batch(snapshot), own_variance(snapshot)
    freed = mean @ mean - gradients.var(0, ddof=1).sum() / len(gradients)
    assert of_mean is not None
    return ModifiedLoss(
        problem=problem,
        optimizer=optimizer,
        scale=np.ones_like(mean),
        of_mean=float(of_mean) / float(freed),
        of_variance=0.0 if of_variance is None else float(of_variance) / variance,
        clock=1.0,
    )


def with_variance_of_epoch(flow: ModifiedLoss) -> ModifiedLoss:
    """Add the variance's part, as if the minibatches were an epoch's."""
    return replace(flow, of_variance=modified_loss(flow.problem, flow.optimizer).of_variance)


def _mean(recipe: Recipe, problem: Problem, begin: Start, rates: Sequence[float], chosen: Tensor) -> np.ndarray:
    """Compute the mean of ω, (p,), over the sequences (R, W), each in a column of its own."""
    points = problem.start[:, None].repeat(1, len(chosen))
    optimizer = build(recipe, points, rates[0], first=begin.first, second=begin.second)
    for rate, which in zip(rates, chosen.T.contiguous(), strict=True):
        optimizer.param_groups[0]["lr"] = rate
        step(problem, optimizer, which)
    return points_of(optimizer).mean(1).numpy()


def compare(
    errors: dict[str, list[float]], variants: Variants, flow: ModifiedLoss, mean: np.ndarray, time: float
) -> None:
    """Add the distance of each flow's end from the mean."""
    for name, variant in variants.items():
        end = integrate(variant(flow).velocity, flow.problem.start.numpy(), time, PRECISION)
        errors.setdefault(name, []).append(float(np.linalg.norm(end - mean)))


def halving(highest: float) -> tuple[float, ...]:
    """Return four rates from `highest` down, each half the one before."""
    return tuple(highest / 2**power for power in range(4))


def order_of(order: int, rates: Sequence[float], errors: Mapping[str, Sequence[float]]) -> Order:
    """Return the slopes of the errors, of which those under the empty name should have this order."""
    slopes = {name: fit(rates, values, [0.0] * len(rates)).slope for name, values in errors.items()}
    return Order(order=order, slope=slopes.pop(""), controls=slopes)
