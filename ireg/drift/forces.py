"""What the mean flow adds to the leading flow: the forces that a drift is compared with."""

from __future__ import annotations

from torch import Tensor

from ireg.core.mean_flow import MeanFlow, mean_flow, moments_needed
from ireg.core.moments import gradient_moments
from ireg.core.optimizers import OptimizerState, overlap
from ireg.core.optimizers.sgd import SGDRule
from ireg.drift.problem import Problem, flattened


def forces_at(problem: Problem, weights: Tensor, number: int) -> dict[str, Tensor]:
    """Compute the parts of the correction without a second moment, ∇‖ḡ‖² and ∇Var, at these weights.

    Args:
        problem: whose.
        weights: where.
        number: of the random partition they are taken over.

    Returns:
        `full_batch` and `variance`, each (p,).
    """
    # Heavy ball with β = ½ and η = 1 has M = 3Hu + (1 − τ)(½∇Q − Hu): the two parts can be separated. Plain SGD has the
    # same coefficient for both.
    seen = problem.optimizer
    probe = OptimizerState(lr=1.0, moving=seen.moving, weight_decay=seen.loss_decay, rule=SGDRule(momentum=0.5))
    flow = mean_flow_at(problem, weights, number, probe)
    squares, unlike = flattened(flow.squares_gradient), 1 - overlap(0.5, problem.num_batches)
    full_batch = 2 * (flattened(flow.correction) - unlike / 2 * squares) / (3 - unlike)
    return {"full_batch": full_batch, "variance": squares - full_batch}


def mean_flow_at(problem: Problem, weights: Tensor, number: int, seen: OptimizerState) -> MeanFlow:
    """Compute the mean flow of an optimizer at these weights, over one random partition.

    Raises:
        ValueError: an optimizer whose mean flow is not known.
    """
    batches, params = problem.partition("forces", number), problem.params(weights)
    objective = problem.objective(problem.module, batches)
    with problem.measuring():
        if objective is None:
            moments = gradient_moments(problem.loss, params, batches, needs=moments_needed(seen))
            return mean_flow(problem.loss, params, batches, seen, moments)
        moments = gradient_moments(objective.smooth, params, batches, needs=moments_needed(seen), method="loop")
        return mean_flow(objective.smooth, params, batches, seen, moments, objective.shared(params))


def coefficients(problem: Problem) -> dict[str, float]:
    """Return the theorem's coefficients of ∇‖ḡ‖² and ∇Var: (η_e/4)(1 + 2L) and (η_e/4)(1 − τ)."""
    remembered = problem.optimizer.memory
    return {
        "full_batch": remembered.effective_rate / 4 * (1 + 2 * remembered.lag),
        "variance": remembered.effective_rate / 4 * (1 - remembered.overlap(problem.num_batches)),
    }
