"""What finite steps do to the mean path: the drift less the noise of the preconditioner.

RMSProp's and Adam's drift D from their leading flow is mostly F at a small rate: the noise of the preconditioner, which
has no finite step in it at all. So F is subtracted. The same orders of the same minibatches are followed once more at
rate 0: weights stand still, and the optimizer's own filters run over the gradients (`ireg.core.preconditioner_noise`),
with no expansion. With F_o the result of an order o,

    D_o + T F_o ≈ k (d_memory + d_lag),   T = mη_e,

and k = 1 where the finite step M and the lag V are those of the theorem. An order's noise of first order is in D_o and
in F_o alike, and cancels. SGD and momentum have no F. Their D is all of finite steps.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from scipy.stats import t as student
from torch import Tensor

from ireg.core.frozen_gradients import FrozenGradients
from ireg.core.optimizers import SecondMoment, reciprocal_root
from ireg.core.preconditioner_noise import State, follow, mean_state, velocity
from ireg.drift.problem import Problem, in_double
from ireg.drift.regression import compare
from ireg.statistics import Estimate

KEPT = (
    "strength", "strength predicted", "alignment", "alignment predicted", "cosine", "k", "residual",
    "residual of theory", "halving",
)  # fmt: skip
"""What is said of a drift that is compared with one vector."""
LEVEL = 0.95
"""Of intervals."""


def noise_of_orders(problem: Problem, weights: Tensor, indices: Sequence[Tensor], orders: Sequence[Tensor]) -> Tensor:
    """Compute F at frozen weights over given orders, (orders, p), in double precision.

    All begin in the mean state, as orders on the slow manifold do. What counts is the last epoch of each, of the
    settled weights: with the change of what the momentum buffer still moves them by.

    Args:
        problem: whose optimizer divides by a second moment.
        weights: where the gradients are taken.
        indices: the examples of each of the m minibatches.
        orders: numbers of minibatches, one for each step of the warm-up and of the epoch that counts.

    Raises:
        ValueError: an optimizer whose second moment never settles.
    """
    double, dividing = in_double(problem), problem.optimizer.filtered_by
    assert dividing is not None
    batches, params = double.batches(indices), double.params(weights)
    objective = double.objective(double.module, batches)
    with double.measuring():
        shared = None if objective is None else objective.shared(params)
        loss = double.loss if objective is None or not objective.of_minibatches else objective
        gradients = FrozenGradients(loss, params, batches, None if shared is None else shared.gradient)
        leading = velocity(gradients, dividing)
        return torch.stack([_settled(problem, gradients, dividing, order) - leading for order in orders])


def _settled(problem: Problem, gradients: FrozenGradients, dividing: SecondMoment, order: Tensor) -> Tensor:
    """Return the mean velocity of the settled weights over an order's last epoch."""
    size = gradients.num_batches
    state = mean_state(gradients)
    if len(order) > size:
        state = follow(gradients, dividing, order[:-size], state, counted=1).last
    steps = follow(gradients, dividing, order[-size:], state)
    buffer = problem.optimizer.buffer
    if buffer is None:
        return steps.direction
    ahead = buffer.ahead / problem.optimizer.memory.effective_rate
    return steps.direction + ahead / size * (_scaled(steps.last, dividing) - _scaled(state, dividing))


def _scaled(state: State, dividing: SecondMoment) -> Tensor:
    """Compute P m."""
    return torch.where(state.first == 0, 0.0, reciprocal_root(state.second.sqrt(), dividing.eps) * state.first)


def coefficient(drifts: Sequence[Tensor], part: Tensor, others: Mapping[str, Tensor]) -> dict[str, Estimate]:
    """Compare drifts with one vector.

    Args:
        drifts: of each pair of orders.
        part: what is predicted, with coefficient 1.
        others: `downhill`, `leading` and `halving`, see `ireg.drift.regression.compare`.

    Returns:
        `k`, its `residual` (the share of the drift's square that it leaves unexplained), `alignment` and others of
        `KEPT`.
    """
    numbers = compare(drifts, {"d_part": part, **{name: others[name] for name in ("downhill", "leading", "halving")}})
    return {name: numbers[name] for name in KEPT}


def interval(estimate: Estimate, pairs: int) -> tuple[float, float]:
    """Return the interval of 95 % of an estimate over pairs of orders, by Student's t.

    Args:
        estimate: value and standard error.
        pairs: of orders, at least 2.

    Example:
        >>> low, high = interval(Estimate(1.0, 0.1), 4)
        >>> round(low, 3), round(high, 3)
        (0.682, 1.318)
    """
    half = float(student.ppf((1 + LEVEL) / 2, pairs - 1)) * estimate.error
    return estimate.value - half, estimate.value + half
