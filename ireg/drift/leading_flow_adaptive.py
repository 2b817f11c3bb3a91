"""The mean drift of adaptive optimizers at a small rate, and the mean flow's parts M, V and F.

All orders shuffle one partition into minibatches, as the theorem has it, so that s̄ is known. Each begins on the slow
manifold, with v = s̄ and m = ḡ where the leading flow was one mean age of them ago, takes `WARM_UP` epochs in which v's
fluctuation builds up, and then the epoch that is measured, in double precision. With y the settled weights, T = mη_e,

    D = mean over orders of (y after − y before) + ∫ u dt ≈ −∫ (M + V + F) dt = d_memory + d_lag + d_fluctuation,

the integrals by Simpson's rule along the measured mean path. The fit D ≈ Σ k_i d_i by least squares over all weights
has k = 1 where the theorem holds. What is left of D without F is compared apart, see `ireg.drift.finite_step`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from ireg.core.mean_flow import MeanFlow
from ireg.core.moments import gradient_moments
from ireg.core.moments.needs import Need
from ireg.core.optimizers import reciprocal_root
from ireg.core.random import named_generator
from ireg.drift.finite_step import coefficient, noise_of_orders
from ireg.drift.forces import mean_flow_at
from ireg.drift.leading_flow import MeanDrift, sum_of_parts
from ireg.drift.orders import train_epoch
from ireg.drift.problem import Problem, flattened, in_double
from ireg.drift.regression import compare
from ireg.system.parallel import Workers

WARM_UP = 2
"""Epochs before the one that is measured."""
PARTITION = 0
"""The number of the partition whose minibatches all orders take, among those of the forces."""
SIMPSON = (1 / 6, 4 / 6, 1 / 6)
PRECISE = 2.0
"""How much more work double precision is, about."""
FLOW = 4.0
"""Epochs of training that the mean flow at one point costs, about."""
FILTER = 0.3
"""The same of an epoch of the filters at frozen weights."""


def can_be_slow(problem: Problem) -> bool:
    """Say whether the slow manifold is known.

    It is for RMSProp and Adam without weight decay and without momentum after the division.
    """
    seen = problem.optimizer
    buffer = seen.buffer
    return seen.divides_by is not None and not seen.weight_decay and not (buffer is not None and buffer.divided)


def slow_cost(orders: int) -> float:
    """Return the work of `drift_of_settled_weights`, in epochs of training."""
    frozen = len(SIMPSON) * (1 + FILTER * orders * (WARM_UP + 1))
    return PRECISE * (orders * (WARM_UP + 1) + (len(SIMPSON) + 1) * FLOW + frozen)


def drift_of_settled_weights(workers: Workers[Problem], orders: int) -> MeanDrift:
    """Measure the drift of an epoch past the transient.

    Args:
        workers: do the work; their problem has the rate.
        orders: how many, even.

    Returns:
        The drift; its parts are `memory`, `lag` and `fluctuation`.
    """
    problem = workers.subject
    workers.progress.expect(slow_cost(orders))
    state = workers.map(slow_state, [()], work=[PRECISE * FLOW])[0]
    ways = workers.map(
        settled_way, [(order, state) for order in range(orders)], work=[PRECISE * (WARM_UP + 1)] * orders
    )
    before, after = (torch.stack([way[end] for way in ways]) for end in (0, 1))
    points = [torch.lerp(before.mean(0), after.mean(0), share) for share in (0.0, 0.5, 1.0)]
    flows = workers.map(_vectors, [(point,) for point in points], work=[PRECISE * FLOW] * len(points))
    time = problem.num_batches * problem.optimizer.memory.effective_rate
    integrals = {name: time * sum(w * flow[name] for w, flow in zip(SIMPSON, flows, strict=True)) for name in flows[0]}
    leading = integrals.pop("leading")
    vectors = {
        **{f"d_{name}": -value for name, value in integrals.items() if name != "squares"},
        "downhill": -flows[1]["squares"],
        "leading": -leading,
        "halving": leading - time * flows[1]["leading"],
    }
    drifts = (after - before).unflatten(0, (-1, 2)).mean(1) + leading
    noise = -time * _noise(workers, points, orders)
    finite = coefficient(list(drifts - noise), sum_of_parts(vectors, without="d_fluctuation"), vectors)
    return MeanDrift(
        theory={},
        steps=None,
        estimates=compare(list(drifts), vectors),
        finite=finite,
        noise=coefficient(list(noise), vectors["d_fluctuation"], vectors) if "d_fluctuation" in vectors else None,
    )


def _noise(workers: Workers[Problem], points: Sequence[Tensor], orders: int) -> Tensor:
    """Return F at rate 0 along the path, of each pair of the orders that were followed, (pairs, p)."""
    indices = _minibatches(workers.subject)
    numbers = [
        torch.cat([_epoch(workers.subject, order, epoch) for epoch in range(WARM_UP + 1)]) for order in range(orders)
    ]
    work = PRECISE * (1 + FILTER * orders * (WARM_UP + 1))
    fluctuations = workers.map(noise_of_orders, [(at, indices, numbers) for at in points], work=[work] * len(points))
    mean = torch.stack([share * each for share, each in zip(SIMPSON, fluctuations, strict=True)]).sum(0)
    return mean.unflatten(0, (-1, 2)).mean(1)


def _epoch(problem: Problem, order: int, epoch: int) -> Tensor:
    """Return the numbers of an epoch's minibatches; of 2i + 1 they are those of 2i backwards."""
    pair, backwards = divmod(order, 2)
    generator = named_generator("drift: slow epochs", problem.seed, pair, epoch)
    numbers = torch.randperm(problem.num_batches, generator=generator)
    return numbers.flip(0) if backwards else numbers


def slow_state(problem: Problem) -> tuple[Tensor, Tensor]:
    """Compute the moments m and v on the slow manifold, to first order.

    They are ḡ and s̄ where the flow was a mean age of each before. Before the next step the gradients in m and v have
    mean ages of 1/(1−β) and 1/(1−ρ) steps.
    """
    seen, dividing = problem.optimizer, problem.optimizer.divides_by
    assert dividing is not None
    mean, square = _moments(problem, problem.weights)
    uphill = seen.lr * mean * reciprocal_root(square.sqrt(), dividing.eps)
    # Uphill is backwards in time along the flow: each moment is taken its own mean age ago.
    first, _ = _moments(problem, problem.weights + uphill / (1 - dividing.numerator_decay))
    _, second = _moments(problem, problem.weights + uphill / (1 - dividing.decay))
    return first, second


def settled_way(problem: Problem, order: int, state: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """Compute the settled weights before and after the measured epoch of one order, in double precision.

    Args:
        problem: whose.
        order: which; 2i and 2i + 1 take the same minibatches backwards.
        state: of `slow_state`.
    """
    double = in_double(problem)
    module, optimizer = double.begin()
    weights = list(double.moving(module).values())
    sizes = [weight.numel() for weight in weights]
    for weight, first, second in zip(weights, *(values.split(sizes) for values in state), strict=True):
        held = problem.optimizer.known_rule().state(first.view_as(weight).clone(), second.view_as(weight).clone())
        optimizer.state[weight].update(held)
    batches = _minibatches(problem)
    ends = []
    for epoch in range(WARM_UP + 1):
        indices = [batches[i] for i in _epoch(problem, order, epoch).tolist()]
        if epoch == WARM_UP:
            ends.append(_settled(module, optimizer, double))
        train_epoch(module, optimizer, double, indices)
    ends.append(_settled(module, optimizer, double))
    return ends[0], ends[1]


def _settled(module: torch.nn.Module, optimizer: Optimizer, problem: Problem) -> Tensor:
    """Compute the weights once Adam's m has run out, y = ω − ηβ/(1−β) φ(v) m: no step is left half done."""
    buffer = problem.optimizer.buffer
    if buffer is None:
        return problem.vector(module)
    (group,) = optimizer.param_groups
    states = [optimizer.state[weight] for weight in problem.moving(module).values()]
    step = [problem.optimizer.known_rule().scaled_buffer(group, state) for state in states]
    return problem.vector(module) - buffer.ahead * torch.cat([part.flatten() for part in step])


def _minibatches(problem: Problem) -> list[Tensor]:
    return problem.partition("forces", PARTITION).indices


def _moments(problem: Problem, weights: Tensor) -> tuple[Tensor, Tensor]:
    """Compute ḡ and s̄ over the minibatches, (p,) each, in double precision."""
    double = in_double(problem)
    batches = double.batches(_minibatches(problem))
    with double.measuring():
        moments = gradient_moments(double.loss, double.params(weights), batches, needs=Need.MEAN | Need.SQUARE)
    assert moments.square is not None
    return flattened(moments.mean), flattened(moments.square)


def _vectors(problem: Problem, weights: Tensor) -> dict[str, Tensor]:
    """Compute u, ∇Q and the parts of the correction at these weights."""
    double = in_double(problem)
    flow: MeanFlow = mean_flow_at(double, weights, PARTITION, problem.optimizer)
    parts: dict[str, Any] = {"memory": flow.memory, "lag": flow.lag, "fluctuation": flow.fluctuation}
    return {
        "leading": flattened(flow.leading),
        "squares": flattened(flow.squares_gradient),
        **{name: flattened(part) for name, part in parts.items() if part is not None},
    }


def at_rate(problem: Problem, rate: float) -> Problem:
    """Return the same moment of training with another rate."""
    groups: Sequence[dict[str, Any]] = problem.optimizer_state["param_groups"]
    return replace(
        problem,
        optimizer_state={**problem.optimizer_state, "param_groups": [{**group, "lr": rate} for group in groups]},
    )
