"""The exchange rate of explicit and implicit regularization, measured on a run.

From one moment of training three means over orders are compared, each after the same time:

- *large*: what finite steps do: an epoch of SGD at the rate η, or of momentum;
- *small*: SGD without it: r epochs at η/r, or an epoch at momentum's effective rate η_e;
- *penalized*: the same as *small*, with the penalty that theory says is worth the difference: λ = η(1 − 1/r) on each
  minibatch, or momentum's.

I = large − small is what finite steps did, E = penalized − small what the penalty did, and I ≈ k E by least squares
over all weights. k is the exchange rate: 1 is the theorem. It needs no flow and no leading term, so that it can be
measured at any rate. All of it is computed in double precision: rounding of single precision is as large as I.

Where a network has kinks, a penalty by double backward does not know that gradients jump there, and finite steps do.
What kinks carry is the difference of both methods' k, and of a smooth network's.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor
from torch.optim import SGD

from ireg.core.optimizers.sgd import SGDRule
from ireg.core.random import named_generator
from ireg.drift.orders import order_of, train_epoch
from ireg.drift.problem import Problem, in_double
from ireg.drift.slow_manifold import follow_slowly, settled, slow_buffer
from ireg.regularizers import METHODS, Minibatch, MomentumLike, Regularizer
from ireg.statistics import Estimate, Sample, jackknife
from ireg.system.errors import UserError
from ireg.system.parallel import LinesOfProgress, Workers, workers

PENALTY_COST = {"exact": 2.5, "differences": 3.5}
"""Of a penalized epoch, in epochs without."""


def exchange(
    problem: Problem, *, orders: int, refinement: int, step: float, processes: int
) -> dict[str, dict[str, Estimate]]:
    """Measure the exchange rate at a moment of a run.

    Args:
        problem: where; plain SGD, momentum or Nesterov without weight decay.
        orders: how many, in pairs.
        refinement: r, for plain SGD.
        step: of the differences.
        processes: how many orders at once.

    Returns:
        By method of the penalty, numbers with standard errors: `k`, `cosine` of I and E, `left`:
        ‖large − penalized‖²/‖I‖², and `implicit`: ‖I‖ over the length of the leading displacement.

    Raises:
        UserError: another optimizer, weight decay, or a penalty in the run itself.
    """
    seen, rule = problem.optimizer, problem.optimizer.rule
    if not isinstance(rule, SGDRule) or seen.weight_decay or not seen.uniform or problem.regularizer is not None:
        raise UserError(
            f"--explicit with {seen.kind}: the exchange rate is known for SGD and momentum without weight decay, "
            "parameter groups and regularizer; measure such a run"
        )
    if not problem.has_loss_of_examples:
        raise UserError("--explicit: with BatchNorm C differs between partitions, so that orders share no mean path")
    problem = in_double(problem)
    imitates = seen.buffer is not None
    epochs = 1 if imitates else refinement
    rate = seen.memory.effective_rate / epochs
    penalties: dict[str, Regularizer] = {
        method: MomentumLike(strength=rate, momentum=rule.momentum, method=method, step=step)
        if imitates
        else Minibatch(strength=seen.lr * (1 - 1 / epochs), method=method, step=step)
        for method in METHODS
    }
    cost = _costs(problem, epochs, imitates=imitates)
    with workers(problem, processes, LinesOfProgress(orders * sum(cost.values()))) as team:
        buffer = slow_buffer(problem)
        start = settled(problem, problem.weights, buffer)
        large = team.map(follow_slowly, [(order, buffer) for order in range(orders)], work=[1.0] * orders)
        small = _ends(team, start, orders, epochs, rate, None, cost["small"])
        by_method = {}
        for method, penalty in penalties.items():
            penalized = _ends(team, start, orders, epochs, rate, penalty, cost[method])
            by_method[method] = compare(
                [one - other for one, other in zip(large, small, strict=True)],
                [one - other for one, other in zip(penalized, small, strict=True)],
                [one - start for one in small],
            )
    return by_method


def _costs(problem: Problem, epochs: int, *, imitates: bool) -> dict[str, float]:
    full = problem.num_batches if imitates else 0.0  # a pass over the data each step
    of_methods = {method: epochs * factor * (1 + full) for method, factor in PENALTY_COST.items()}
    return {"large": 1.0, "small": float(epochs), **of_methods}


def _ends(
    team: Workers[Problem],
    start: Tensor,
    orders: int,
    epochs: int,
    rate: float,
    penalty: Regularizer | None,
    cost: float,
) -> list[Tensor]:
    tasks = [(start, order, epochs, rate, penalty) for order in range(orders)]
    return team.map(follow_sgd, tasks, work=[cost] * orders)


def follow_sgd(
    problem: Problem, start: Tensor, order: int, epochs: int, rate: float, penalty: Regularizer | None
) -> Tensor:
    """Take epochs of plain SGD from these weights, and return the weights after them.

    All epochs have the minibatches that the large steps have in that order, each in an order of its own. A pair of
    orders has them forwards and backwards. So what a partition adds to the mean is in all three means, and cancels.
    """
    module, _ = problem.begin()
    params = problem.params(start)
    with torch.no_grad():
        for name, parameter in problem.moving(module).items():
            parameter.copy_(params[name])
    optimizer = SGD(problem.moving(module).values(), lr=rate)
    penalized = replace(problem, regularizer=penalty)
    for epoch in range(epochs):
        train_epoch(module, optimizer, penalized, reordered(problem, order, epoch))
    return problem.vector(module)


def reordered(problem: Problem, order: int, epoch: int) -> list[Tensor]:
    """Return the minibatches of an order, shuffled after the first epoch."""
    pair, backwards = divmod(order, 2)
    # Both orders of a pair share one shuffle, or else the second would not be the first backwards. A smaller last
    # minibatch stays last, as in the large steps.
    indices = order_of(problem, 1, 2 * pair, 0)
    whole = len(problem.targets) // problem.batch_size
    places = list(range(whole))
    if epoch:
        generator = named_generator("drift: exchange", problem.seed, pair, epoch)
        places = torch.randperm(whole, generator=generator).tolist()
    return [*(indices[place] for place in (reversed(places) if backwards else places)), *indices[whole:]]


def compare(implicit: Sequence[Tensor], explicit: Sequence[Tensor], leading: Sequence[Tensor]) -> dict[str, Estimate]:
    """Fit I ≈ k E, with standard errors by the jackknife over pairs of orders.

    Products are taken over different pairs, so that noise does not add to them.

    Args:
        implicit: I of each order; neighbours are a pair.
        explicit: E of each order.
        leading: the displacement of each order.
    """
    rows = [torch.stack([one, other]).mean(0) for part in (implicit, explicit, leading) for one, other in _pairs(part)]
    stacked = torch.stack(rows)
    products = (stacked @ stacked.T).numpy()
    count = len(rows) // 3

    def record(chosen: Sequence[int]) -> np.ndarray:
        """Compute the products of the three means, (3, 3), over different pairs."""
        size = len(chosen)
        blocks = [[products[np.ix_(_shifted(chosen, i * count), _shifted(chosen, j * count))] for j in range(3)]
                  for i in range(3)]  # fmt: skip
        # Different pairs only: a pair has the same minibatches in all three means, and their noise would add.
        return np.array([[(block.sum() - np.trace(block)) / (size * (size - 1)) for block in row] for row in blocks])

    pairs = list(range(count))
    sample = Sample(record(pairs), [record([other for other in pairs if other != pair]) for pair in pairs])
    return jackknife(lambda records: numbers(records["orders"]), {"orders": sample})


def _pairs(values: Sequence[Tensor]) -> list[tuple[Tensor, Tensor]]:
    return [(values[index], values[index + 1]) for index in range(0, len(values), 2)]


def _shifted(chosen: Sequence[int], by: int) -> list[int]:
    return [pair + by for pair in chosen]


def numbers(products: np.ndarray) -> dict[str, float]:
    """Compute the numbers of `exchange` from the inner products of the three means."""
    own, cross, other, whole = products[0, 0], products[0, 1], products[1, 1], products[2, 2]
    left = own - 2 * cross + other
    return {
        "k": _ratio(cross, other),
        "cosine": _ratio(cross, math.sqrt(own * other) if own > 0 and other > 0 else 0.0),
        "left": left / own if own > 0 else math.nan,
        "implicit": _root_of_ratio(own, whole),
    }


def _ratio(upper: float, lower: float) -> float:
    return upper / lower if lower > 0 else math.nan


def _root_of_ratio(upper: float, lower: float) -> float:
    """Compute √(a/b), 0 for an estimate of a square below 0."""
    return math.sqrt(max(upper, 0.0) / lower) if lower > 0 else math.nan
