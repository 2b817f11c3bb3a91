"""The drift of any optimizer, from its own steps alone, and what the ramp predicts of it.

The rules of M, V and F are not needed. C is the mean over the minibatches of one random partition, all is in double
precision, and the optimizer is started at the run's weights on the line that it would have left behind, see
`ireg.core.ramp`. After N steps,

- on full batches, D is the end less that of the leading flow ω̇ = −F, and d the end of the ramp's flow ω̇ = −(F + c)
  less the same. Both are of first order in η; k = ⟨D, d⟩/‖d‖² is 1 and ‖D − d‖/‖D‖ is 0, up to parts that are halved
  with the rate;
- on minibatches in drawn orders, the mean of the ends less the full-batch end, beside −N F at order 0, what noise makes
  of the mean step at weights that stand still (`ireg.core.driven_noise`). The past steps have the minibatches'
  gradients, too. Orders come in pairs, one with the other's epochs backwards.

Derived here (docs/theory.md, sections 16 and 18).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any

import torch
from torch import Tensor

from ireg.catalogue import VALID_STRENGTH
from ireg.certify.any_optimizer import (
    FADED,
    HALVINGS,
    MODIFIED,
    PART,
    PLAIN,
    MakeAt,
    Settled,
    Smooth,
    end_of_leading_flow,
    end_of_steps,
    ends_of_flows,
)
from ireg.core.batches import IndexedBatches
from ireg.core.driven_noise import driven_noise
from ireg.core.fluctuation import Fluctuation, over_orders
from ireg.core.frozen_gradients import FrozenGradients
from ireg.core.functional import gradient, measuring, require_gradients_elsewhere
from ireg.core.hessian import hessian_product
from ireg.core.moving import moving_parameters
from ireg.core.norms import cosine, inner, norm
from ireg.core.optimizers import view
from ireg.core.params import add_scaled
from ireg.core.ramp import Driven, Line, NoFlowError, distance, lowest_precision, respond, settled_step
from ireg.core.random import named_generator
from ireg.core.types import Batch, Params
from ireg.drift.problem import Problem, flattened, in_double
from ireg.statistics import Estimate

LARGEST = 100_000
"""Weights at most: each point of a flow takes as many steps of the optimizer as it remembers."""
MOST = 2**14
"""Steps in which a memory has to fade."""
MOST_PARTS = 8
"""Steps of the flows' integration, at most."""
ACCURACY = 0.01
"""Change of the leading flow's end by halving the integration's steps that is aimed at, as a share of the drift."""
ALLOWED = 0.3
"""The same, at most."""
SEEN = 3.0
"""From so many of its standard errors on F is something to compare with."""
ROUNDED = 1e-12
"""F of linear steps is 0 but for rounding, which is less than this share of the step."""


@dataclass(frozen=True)
class MeanLoss:
    """C, the mean of the minibatches' losses, at any weights in double precision.

    Attributes:
        problem: whose loss, in double precision.
        names: of the weights that move.
        batches: of one partition.
    """

    problem: Problem
    names: tuple[str, ...]
    batches: IndexedBatches

    @cached_property
    def start(self) -> Params:
        """The weights of that moment, by name."""
        named = dict(self.problem.module.named_parameters())
        return {name: named[name].detach() for name in self.names}

    @cached_property
    def parts(self) -> list[tuple[float, Batch]]:
        """The minibatches with their weights in C; those of one size are joined if they can be."""
        whole = len(self.batches) if self.problem.has_loss_of_examples else 0
        if len(self.batches.indices[-1]) < self.problem.batch_size:
            whole = min(whole, len(self.batches) - 1)
        joined = [torch.cat(self.batches.indices[:whole])] if whole else []
        together = self.problem.batches([*joined, *self.batches.indices[whole:]])
        shares = [whole, *[1] * (len(self.batches) - whole)] if whole else [1] * len(self.batches)
        return [(share / len(self.batches), batch) for share, batch in zip(shares, together, strict=True)]

    def of_batch(self, weights: Params, number: int) -> Params:
        """Compute g_k, by name."""
        with self.problem.measuring():
            return gradient(self.problem.loss, weights, self.batches[number])

    def gradient(self, weights: Params) -> Params:
        """Compute ∇C, by name."""
        total = {name: torch.zeros_like(value) for name, value in weights.items()}
        with self.problem.measuring():
            for share, batch in self.parts:
                total = add_scaled(total, gradient(self.problem.loss, weights, batch), share)
        return total

    def product(self, weights: Params, direction: Params) -> Params:
        """Compute ∇²C times a direction, by name."""
        with self.problem.measuring():
            return hessian_product(self.problem.loss, weights, self.parts, direction)


@dataclass(frozen=True, kw_only=True)
class FullBatch:
    """The drift on full batches at one rate.

    Norms are shares of that of the leading flow's displacement; all from `drift` on are None where `reason` says why.

    Attributes:
        rate: η.
        strength: ‖c‖/‖F‖ at the start.
        steps: N.
        smoothness: the cosine of ∇C(ω − Δ) − ∇C(ω) and −HΔ, the ramp taking one for the other. Kinks, as ReLU has them,
            make it less than 1, and the predicted drift is then not that of the loss.
        drift: ‖D‖.
        predicted: ‖d‖, of the ramp's flow.
        k: ⟨D, d⟩/‖d‖²: 1 in the limit of small rates.
        residual: ‖D − d‖/‖D‖: falls like the rate.
        integration: change of the leading flow's end by halving the integration's steps, as a share of ‖D‖.
        reason: why it is not measured.
    """

    rate: float
    strength: float
    steps: int
    smoothness: float
    drift: float | None = None
    predicted: float | None = None
    k: float | None = None
    residual: float | None = None
    integration: float | None = None
    reason: str = ""


@dataclass(frozen=True, kw_only=True)
class Minibatches:
    """What minibatches in drawn orders add at one rate, with standard errors over pairs of orders.

    Norms are shares of N‖Δ‖, Δ the first step of the leading flow.

    Attributes:
        rate: η.
        orders: how many.
        steps: N, those of one epoch.
        added: ‖mean of the ends − the full-batch end‖, without the bias by noise. Where it is 0, the error is that of
            the vector: an upper bound.
        noise: N‖F‖ at order 0, the same way.
        k: of the added part along −N F, over N²‖F‖², with an error that includes that of N‖F‖; None where F is within
            three of its errors of 0.
    """

    rate: float
    orders: int
    steps: int
    added: Estimate
    noise: Estimate
    k: Estimate | None


@dataclass(frozen=True, kw_only=True)
class OwnSteps:
    """The drift of an optimizer from its own steps.

    Attributes:
        memory: after so many steps its memory has faded; None where it does not.
        full_batch: at each rate; none where `reason` says why.
        minibatches: at the first rate; None with a single minibatch, or where `left_out` says why.
        reason: why there is no flow.
        left_out: why there are no minibatches.
    """

    memory: int | None
    full_batch: tuple[FullBatch, ...]
    minibatches: Minibatches | None
    reason: str = ""
    left_out: str = ""


def mean_loss(problem: Problem) -> MeanLoss:
    """Return C of a moment of training, whatever the optimizer.

    Raises:
        ValueError: a penalty, more weights than `LARGEST`, or a network whose gradients elsewhere are not known.
    """
    if problem.regularizer is not None:
        raise ValueError("an explicit penalty is not repeated from own steps; measure a run without regularizer")
    problem = in_double(problem)
    module, optimizer = problem.begin()
    batches = problem.partition("own steps")
    with measuring(module):
        names = tuple(moving_parameters(optimizer, dict(module.named_parameters()), problem.loss, batches))
        require_gradients_elsewhere(problem.loss, batches[0])
    found = MeanLoss(problem, names, batches)
    size = sum(value.numel() for value in found.start.values())
    if size > LARGEST:
        raise ValueError(f"{size:,} weights: the drift from own steps takes {LARGEST:,} at most; measure a smaller run")
    return found


def of_the_run(problem: Problem) -> tuple[MakeAt, float]:
    """Return what makes the run's own optimizer at any rate, without a past, and its rate.

    Groups keep the ratios of their rates.

    Raises:
        ValueError: it cannot be made again.
    """
    module, optimizer = problem.begin()
    named = dict(module.named_parameters())
    with measuring(module):
        moving = moving_parameters(optimizer, named, problem.loss, problem.partition("own steps"))
    state = view(optimizer, moving)
    if state.make is None:
        raise ValueError("several optimizers together cannot be made again; choose one with --optimizer")
    return partial(_at_rate, state.make, state.lr), state.lr


def _at_rate(make: Any, own: float, rate: float) -> Any:
    def made(parameters: list[torch.nn.Parameter]) -> torch.optim.Optimizer:
        optimizer: torch.optim.Optimizer = make(parameters)
        for group in optimizer.param_groups:
            group["lr"] = group["lr"] * (rate / own)
        return optimizer

    return made


def own_steps(
    problem: Problem,
    make: MakeAt,
    rate: float,
    *,
    orders: int = 16,
    steps: int | None = None,
    halvings: int = HALVINGS,
) -> OwnSteps:
    """Measure the drift of an optimizer from its own steps, at a run's weights.

    Args:
        problem: the weights, and the loss; its own optimizer says which weights move.
        make: from a learning rate to what makes an optimizer of parameters.
        rate: η, of the first measurement.
        orders: of the minibatches; even, and at least 4.
        steps: N on full batches, at the first rate; twice as many at half of it. By default those of an epoch.
        halvings: how many rates, each half the one before.

    Raises:
        ValueError: see `mean_loss`; or orders that are odd or fewer than 4.
    """
    if orders < 4 or orders % 2:
        raise ValueError(f"orders={orders}: must be even and at least 4; a standard error needs two pairs of orders")
    loss = mean_loss(problem)
    start, uphill = loss.start, loss.gradient(loss.start)
    try:
        settled = _settled(loss, make, rate, uphill)
    except NoFlowError as error:
        return OwnSteps(memory=None, full_batch=(), minibatches=None, reason=_why(make(rate), start, uphill, error))
    count = len(loss.batches) if steps is None else steps
    found = _full_batches(settled, make, rate, count, halvings)
    if len(loss.batches) == 1:
        return OwnSteps(memory=settled.memory, full_batch=found, minibatches=None, left_out="of a single minibatch")
    if found[0].strength >= VALID_STRENGTH:
        return OwnSteps(memory=settled.memory, full_batch=found, minibatches=None, left_out=found[0].reason)
    try:
        minibatches, left_out = _minibatches(settled, loss, rate, orders), ""
    except NoFlowError as error:
        minibatches, left_out = None, str(error)
    return OwnSteps(memory=settled.memory, full_batch=found, minibatches=minibatches, left_out=left_out)


def _settled(loss: MeanLoss, make: MakeAt, rate: float, uphill: Params) -> Settled:
    """Return the optimizer with the numbers of steps after which it is settled.

    Raises:
        NoFlowError: it has no flow, or does not respond.
    """
    start, made = loss.start, make(rate)
    response = respond(made, start, uphill, partial(loss.product, start), tolerance=FADED, most=MOST)
    line = Line(made, start, uphill, response.leading, loss.product(start, response.leading))
    if float(norm(response.correction)) <= line.rounding(response.steps):
        raise NoFlowError("a step does not respond to small changes of the gradient, as a sign does not: no response")
    _, constant = settled_step(made, start, uphill, tolerance=FADED**2, most=MOST)
    return Settled(loss, made, constant, math.ceil(PART * response.steps))


def _why(make: Any, start: Params, uphill: Params, error: NoFlowError) -> str:
    """Say why there is no flow: a step in less than double precision shows as one that is not smooth."""
    try:
        precision = lowest_precision(make, start, uphill)
    except NoFlowError:
        precision = None
    if precision is None:
        return str(error)
    return f"a step computes in {precision}, which rounds off the differences that are measured"


def _full_batches(settled: Settled, make: MakeAt, rate: float, count: int, halvings: int) -> tuple[FullBatch, ...]:
    found, flow = [], None
    for number in range(halvings):
        lower, steps = rate / 2**number, count * 2**number
        at = replace(settled, make=make(lower))
        line = at.line(at.problem.start)
        strength = line.response(at.memory, with_nonlinearity=False).strength
        unmeasured = FullBatch(rate=lower, strength=strength, steps=steps, smoothness=_smoothness(at.problem, line))
        if not strength < VALID_STRENGTH:
            reason = (
                f"the strength is {strength:.2g} at rate {lower:g}, and from {VALID_STRENGTH:g} on the expansion does "
                f"not hold; choose --set lr={0.1 * lower / strength:.1g}"
            )
            found.append(replace(unmeasured, reason=reason))
            continue
        end = end_of_steps(at, steps)
        flow = _integrated(at, steps, end) if flow is None else flow
        found.append(_full_batch(at, unmeasured, end, flow))
    return tuple(found)


def _smoothness(problem: Smooth, line: Line) -> float:
    there = problem.gradient(add_scaled(line.weights, line.along, -1.0))
    return float(cosine(add_scaled(line.gradient, there, -1.0), line.uphill))


@dataclass(frozen=True)
class _Integrated:
    """How the leading flow is integrated over the time, which is the same at all rates.

    Attributes:
        parts: steps of the integration.
        change: of its end by halving them.
    """

    parts: int
    change: float


def _integrated(at: Settled, steps: int, end: Params) -> _Integrated:
    """Double the steps of the integration until they are enough, or as many as are allowed."""
    parts, before = 1, end_of_leading_flow(at, steps, 1)
    while True:
        parts *= 2
        plain = end_of_leading_flow(at, steps, parts)
        change = distance(plain, before)
        if change <= ACCURACY * distance(end, plain) or parts >= MOST_PARTS:
            return _Integrated(parts, change)
        before = plain


def _full_batch(at: Settled, unmeasured: FullBatch, end: Params, flow: _Integrated) -> FullBatch:
    flows = ends_of_flows(at, unmeasured.steps, {}, flow.parts, {})
    drift = add_scaled(end, flows[PLAIN], -1.0)
    predicted = add_scaled(flows[MODIFIED], flows[PLAIN], -1.0)
    size, way, length = float(norm(drift)), distance(flows[PLAIN], at.problem.start), float(norm(predicted))
    if not flow.change <= ALLOWED * size:  # nan, too
        return replace(
            unmeasured,
            reason=f"the leading flow over {unmeasured.steps} steps at rate {unmeasured.rate:g} is too stiff, or too "
            f"rough by kinks (smoothness {unmeasured.smoothness:.2g}): {flow.parts} steps of its integration do not "
            "tell the drift from it; choose fewer --full-batch-steps",
        )
    return replace(
        unmeasured,
        drift=size / way,
        predicted=length / way,
        k=float(inner(drift, predicted)) / length**2,
        residual=distance(drift, predicted) / size,
        integration=flow.change / size,
    )


def _minibatches(at: Settled, loss: MeanLoss, rate: float, orders: int) -> Minibatches:
    size, start = len(loss.batches), loss.start
    generator = named_generator("drift: own steps", loss.problem.seed)
    gradients = [loss.of_batch(start, number) for number in range(size)]
    with loss.problem.measuring():
        frozen = FrozenGradients(loss.problem.loss, start, loss.batches)
    noise = driven_noise(at.make, frozen, start, generator, orders=orders)
    whole = flattened(end_of_steps(at, size))
    past = -(-at.memory // size)
    added = []
    for _ in range(orders // 2):
        epochs = torch.rand(past + 1, size, dtype=torch.float64, generator=generator).argsort(1)
        both = [_end_of_order(at, loss, gradients, order) for order in (epochs, epochs.flip(1))]
        added.append(torch.stack(both).mean(0) - whole)
    way = float(noise.leading.norm())
    of_ends = over_orders(torch.zeros_like(whole), [one / size for one in added], len(added))
    at_rest = _share(noise, way)
    k = None
    if at_rest.value > max(SEEN * at_rest.error, ROUNDED):
        along = [float(one @ -noise.mean) / (size * noise.square) for one in added]
        value, error = _mean(along)
        k = Estimate(value, math.hypot(error, value * at_rest.error / at_rest.value))
    return Minibatches(rate=rate, orders=orders, steps=size, added=_share(of_ends, way), noise=at_rest, k=k)


def _end_of_order(at: Settled, loss: MeanLoss, gradients: Sequence[Params], epochs: Tensor) -> Tensor:
    """Take the last of some epochs from the start, on minibatches, and all before along the line."""
    line, start = at.line(loss.start), loss.start
    driven = Driven(at.make, start)
    *past, last = epochs.tolist()
    before = [number for epoch in past for number in epoch]
    for lag, number in zip(range(len(before), 0, -1), before, strict=True):
        driven.put(add_scaled(start, line.along, lag))
        driven.step(add_scaled(gradients[number], line.uphill, lag))
    driven.put(start)
    for number in last:
        driven.step(loss.of_batch(driven.weights, number))
    return flattened(driven.weights)


def _share(found: Fluctuation, whole: float) -> Estimate:
    """Return the norm of a mean without bias as a share; of noise alone 0, and the error's norm."""
    value, error = found.change
    return Estimate(value / whole, (float(found.variance.sum()) ** 0.5 if error is None else error) / whole)


def _mean(values: Sequence[float]) -> Estimate:
    numbers = torch.tensor(values, dtype=torch.float64)
    return Estimate(float(numbers.mean()), float(numbers.std()) / math.sqrt(len(values)))
