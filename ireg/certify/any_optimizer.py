"""The order of accuracy of anybody's optimizer against its own modified flow, from its steps alone.

The optimizer is started on the line that it would have left behind, see `ireg.core.ramp`, and follows a smooth loss for
a fixed time at three rates. Its end is compared with those of flows: the plain one, the modified one, and modified
flows that are wrong in one place. The modified flow's error is of second order, that of all others of first.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Protocol

import torch
from torch import Tensor

from ireg.certify.certificate import REJECTED_BELOW, fit
from ireg.core.norms import norm
from ireg.core.params import add_scaled
from ireg.core.ramp import (
    Line,
    Make,
    NoFlowError,
    Response,
    distance,
    lowest_precision,
    respond,
    settled_step,
    step_after,
)
from ireg.core.types import Batch, Params

SHAPES = {"first": (3, 2), "second": (2, 3)}
"""Of the weights: two matrices, since some optimizers take nothing else."""
SEED = 8878
"""Of 20,000 one at which no gradient and no singular value is small, nor changes its sign along the path."""
STRENGTH = 0.004
"""‖ηc‖/‖Δ‖ at the largest of the rates."""
TRAVEL = 0.07
"""How far the weights go, as a share of their norm."""
HALVINGS = 3
"""Rates, each half the one before."""
WEIGHTS = (11 / 120, 0.0, 27 / 40, 27 / 40, -4 / 15, -4 / 15, 11 / 120)
STAGES: tuple[tuple[float, ...], ...] = (
    (),
    (1 / 3,),
    (0.0, 2 / 3),
    (1 / 12, 1 / 3, -1 / 12),
    (-1 / 16, 9 / 8, -3 / 16, -3 / 8),
    (0.0, 9 / 8, -3 / 8, -3 / 4, 1 / 2),
    (9 / 44, -9 / 11, 63 / 44, 18 / 11, 0.0, -16 / 11),
)
"""Butcher's method of sixth order (1964): one step of it mostly leaves far less than the flows' errors."""
LOWEST, HIGHEST = 1.7, 2.5
"""A slope of the modified flow from here to there means second order: with memory, parts of third order show."""
FADED = 1e-3
"""By how much the response of half the memory's steps may differ; at three quarters of them it differs by far less."""
PART = 0.75
MOST = 2**13
"""Steps in which a memory has to fade here: one of 600 steps does."""
FIRST_RATE = 1e-3
SEEN = 0.03
"""Where half a step's bend is less than this share of the correction, flows that lack it are hardly other ones."""
PLAIN, MODIFIED = "no correction", "modified"
LATE: Mapping[str, float] = {"on time": 0.0, "a step late": 1.0}
HALF = "half the correction"
FACTORS: Mapping[str, float] = {HALF: 0.5}
"""Wrong multiples of the correction."""


@dataclass(frozen=True)
class Network:
    """The loss ½ mean ‖V tanh(W x) − y‖² of a network of two layers, over some fixed examples.

    Attributes:
        inputs: x, (examples, 3).
        targets: y, (examples, 2).
        start: the weights at time 0, by name.
    """

    inputs: Tensor
    targets: Tensor
    start: Params

    def loss(self, weights: Params, batch: Batch) -> Tensor:
        """Compute C of some examples, 0-d."""
        inputs, targets = batch
        residuals = torch.tanh(inputs @ weights["first"].T) @ weights["second"].T - targets
        return residuals.square().sum() / 2 / len(inputs)

    def gradient(self, weights: Params) -> Params:
        """Compute ∇C, by name."""
        hidden = torch.tanh(self.inputs @ weights["first"].T)
        outer = (hidden @ weights["second"].T - self.targets) / len(self.inputs)
        inner = (outer @ weights["second"]) * (1 - hidden.square())
        return {"first": inner.T @ self.inputs, "second": outer.T @ hidden}

    def product(self, weights: Params, direction: Params) -> Params:
        """Compute Hv, by name: the derivative of the gradient along v."""
        hidden, second = torch.tanh(self.inputs @ weights["first"].T), weights["second"]
        slope = 1 - hidden.square()
        outer = (hidden @ second.T - self.targets) / len(self.inputs)
        along_hidden = slope * (self.inputs @ direction["first"].T)
        along_outer = (along_hidden @ second.T + hidden @ direction["second"].T) / len(self.inputs)
        along_inner = (along_outer @ second + outer @ direction["second"]) * slope
        along_inner -= 2 * (outer @ second) * hidden * along_hidden
        return {
            "first": along_inner.T @ self.inputs,
            "second": along_outer.T @ hidden + outer.T @ along_hidden,
        }


def network() -> Network:
    """Draw the smooth loss that optimizers are certified on."""
    generator = torch.Generator().manual_seed(SEED)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    start = {name: 0.7 * normal(*shape) for name, shape in SHAPES.items()}
    return Network(inputs=normal(12, 2), targets=2 * normal(12, 2), start=start)


@dataclass(frozen=True, kw_only=True)
class Accuracy:
    """The order of accuracy of an optimizer's modified flow.

    Attributes:
        name: of the optimizer.
        slopes: of each flow's error against the rate, by its name, without those of wrong flows that hardly differ from
            the right one; empty where there is no flow.
        rates: the learning rates.
        memory: after so many steps the memory has faded; None where it does not.
        reason: why there is no order, where that is known.
        shares: of ‖ηc‖ at the largest rate, the norms of what memory, half a step's bend and the weights contribute.
    """

    name: str
    slopes: Mapping[str, float] = field(default_factory=dict)
    rates: tuple[float, ...] = ()
    memory: int | None = None
    reason: str = ""
    shares: Mapping[str, float] = field(default_factory=dict)

    @property
    def holds(self) -> bool:
        """Whether the modified flow has an error of second order, and each that is wrong in one place is not."""
        return not self.reason and LOWEST <= self.slopes[MODIFIED] <= HIGHEST and not self.accepted

    @property
    def accepted(self) -> tuple[str, ...]:
        """Wrong flows that pass for the right one."""
        wrong = (name for name in self.slopes if name != MODIFIED)
        return tuple(name for name in wrong if not self.slopes[name] < REJECTED_BELOW)


MakeAt = Callable[[float], Make]
"""From a learning rate to what makes an optimizer of parameters."""


def accuracy(
    make: MakeAt,
    name: str,
    most: int = MOST,
    *,
    factors: Mapping[str, float] = FACTORS,
    parts: int = 1,
    others: Mapping[str, MakeAt] | None = None,
) -> Accuracy:
    """Measure the order of accuracy of an optimizer's modified flow.

    Args:
        make: from a learning rate to what makes an optimizer of parameters.
        name: of the optimizer.
        most: steps in which its memory has to fade.
        factors: wrong multiples of the correction, by name.
        parts: steps of the flows' integration; more for an optimizer whose velocity turns quickly.
        others: wrong optimizers, by name, of which a flow has the correction.

    Example:
        >>> found = accuracy(lambda rate: lambda parameters: torch.optim.SGD(parameters, lr=rate), "SGD")
        >>> found.holds, {flow: round(slope) for flow, slope in found.slopes.items()}
        (True, {'no correction': 1, 'modified': 2, 'on time': 1, 'a step late': 1, 'half the correction': 1})
    """
    problem = network()
    try:
        found = _accuracy(problem, make, name, most, factors, parts, others or {})
    except NoFlowError as error:
        found = Accuracy(name=name, reason=str(error))
    precision = None if found.holds else _precision(problem, make)
    if precision is None:
        return found
    return replace(found, reason=f"a step computes in {precision}, which rounds off the differences that are measured")


def _precision(problem: Network, make: MakeAt) -> torch.dtype | None:
    """Return the precision below double that a step computes in; None where it takes none, too."""
    try:
        return lowest_precision(make(FIRST_RATE), problem.start, problem.gradient(problem.start))
    except NoFlowError:
        return None


def _accuracy(
    problem: Network,
    make: MakeAt,
    name: str,
    most: int,
    factors: Mapping[str, float],
    parts: int,
    others: Mapping[str, MakeAt],
) -> Accuracy:
    start, gradient = problem.start, problem.gradient(problem.start)
    first = respond(make(FIRST_RATE), start, gradient, partial(problem.product, start), tolerance=FADED, most=most)
    memory, rate = first.steps, FIRST_RATE
    _, constant = settled_step(make(rate), start, gradient, tolerance=FADED**2, most=most)
    for _ in range(2):  # the strength is not quite proportional to the rate
        if not first.strength:
            return Accuracy(
                name=name,
                memory=memory,
                reason="a step does not respond to small changes of the gradient, as a sign does not",
            )
        rate *= min(1e3, max(1e-3, STRENGTH / first.strength))
        line = Settled(problem, make(rate), constant, memory).line(start)
        first = line.response(memory, with_nonlinearity=False)
    steps = max(4, math.ceil(TRAVEL * float(norm(start)) / float(norm(first.leading))))
    rates = tuple(rate / 2**number for number in range(HALVINGS))
    errors: dict[str, list[float]] = {}
    for number, lower in enumerate(rates):
        at = Settled(problem, make(lower), constant, math.ceil(PART * memory))
        end = end_of_steps(at, steps * 2**number)
        wrong = {other: replace(at, make=made(lower)) for other, made in others.items()}
        for flow, point in ends_of_flows(at, steps * 2**number, factors, parts, wrong).items():
            errors.setdefault(flow, []).append(distance(end, point))
    size = float(norm(first.correction))
    bend = float(norm(first.slope)) / 2
    if bend < SEEN * size:
        errors = {flow: values for flow, values in errors.items() if flow not in LATE}
    return Accuracy(
        name=name,
        rates=rates,
        slopes={flow: fit(rates, values, [0.0] * len(rates)).slope for flow, values in errors.items()},
        memory=memory,
        shares={
            "memory": float(norm(first.late(0.0))) / size,
            "bend": bend / size,
            "weights": _of_weights(problem, make(rate), first) / size,
        },
    )


def _of_weights(problem: Network, make: Make, whole: Response) -> float:
    """Return the norm of what the weights contribute to the correction, as by decay or trust ratios."""
    still = {name: torch.zeros_like(value) for name, value in problem.start.items()}
    line = Line(make, problem.start, problem.gradient(problem.start), whole.leading, still)
    return float(norm(line.correction(whole.steps)))


class Smooth(Protocol):
    """A loss with a gradient and products with its Hessian, at any weights."""

    @property
    def start(self) -> Params:
        """The weights at time 0, by name."""

    def gradient(self, weights: Params) -> Params:
        """Compute ∇C, by name."""

    def product(self, weights: Params, direction: Params) -> Params:
        """Compute Hv, by name."""


@dataclass(frozen=True)
class Settled:
    """An optimizer at one rate, with the numbers of steps after which it is settled.

    Attributes:
        problem: the loss.
        make: makes it.
        constant: steps at constant weights and gradient.
        memory: steps along a line.
    """

    problem: Smooth
    make: Make
    constant: int
    memory: int

    def leading(self, point: Params) -> Params:
        """Return Δ at a point."""
        return step_after(self.make, point, self.problem.gradient(point), self.constant)

    def line(self, point: Params) -> Line:
        """Return the line that ends at a point."""
        leading = self.leading(point)
        return Line(self.make, point, self.problem.gradient(point), leading, self.problem.product(point, leading))


def end_of_steps(at: Settled, steps: int) -> Params:
    """Let an optimizer that comes along its line take so many steps; return where they end."""
    driven, _, _ = at.line(at.problem.start).driven(at.memory, late=1)
    driven.put(at.problem.start)
    for _ in range(steps):
        driven.step(at.problem.gradient(driven.weights))
    return driven.weights


def end_of_leading_flow(at: Settled, steps: int, parts: int) -> Params:
    """Integrate the flow without correction over so many steps; return its end."""
    point = at.problem.start
    for _ in range(parts):
        found: list[Params] = []
        for stage in STAGES:
            found.append(at.leading(_summed(point, found, stage, steps / parts)))
        point = _summed(point, found, WEIGHTS, steps / parts)
    return point


def ends_of_flows(
    at: Settled, steps: int, factors: Mapping[str, float], parts: int, others: Mapping[str, Settled]
) -> dict[str, Params]:
    """Integrate the flows, in units of a step, and return their ends by name.

    The plain and the modified one by a Runge–Kutta method. What is wrong in one place differs from the modified one in
    first order, and its end is what its velocity adds up to along that one: the same to that order.
    """
    ends = {name: at.problem.start for name in (PLAIN, MODIFIED, *LATE, *factors, *others)}
    for _ in range(parts):
        found: dict[str, list[Params]] = {name: [] for name in ends}
        for stage in STAGES:
            plain, modified = (_summed(ends[name], found[name], stage, steps / parts) for name in (PLAIN, MODIFIED))
            line = at.line(modified)
            response = line.response(at.memory, with_nonlinearity=False)
            found[PLAIN].append(at.leading(plain))
            found[MODIFIED].append(add_scaled(line.along, response.correction, 1.0))
            for name, lag in LATE.items():
                found[name].append(add_scaled(line.along, response.late(lag), 1.0))
            for name, factor in factors.items():
                found[name].append(add_scaled(line.along, response.correction, factor))
            for name, other in others.items():
                of_other = other.line(modified).response(other.memory, with_nonlinearity=False)
                found[name].append(add_scaled(line.along, of_other.correction, 1.0))
        ends = {name: _summed(point, found[name], WEIGHTS, steps / parts) for name, point in ends.items()}
    return ends


def _summed(start: Params, velocities: list[Params], weights: tuple[float, ...], steps: float) -> Params:
    """Return the point to which so many steps lead, by weighted velocities."""
    for velocity, weight in zip(velocities, weights, strict=True):
        start = add_scaled(start, velocity, -weight * steps)
    return start
