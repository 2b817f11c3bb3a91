"""Flows that are wrong in one place each: a certificate that accepts one of them certifies nothing."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ireg.certify.flows import MeanFlowParts, ModifiedLoss, modified_loss
from ireg.certify.problems import NAME
from ireg.core.optimizers import OptimizerState
from ireg.core.optimizers.adam import AdamRule


def _changed(flow: ModifiedLoss | MeanFlowParts, **values: Any) -> OptimizerState:
    """Return the optimizer of a flow with other values of its rule."""
    return replace(flow.optimizer, rule=replace(flow.optimizer.known_rule(), **values))


def twice(flow: ModifiedLoss) -> ModifiedLoss:
    """Take η_e/2 instead of η_e/4."""
    return replace(flow, of_mean=2 * flow.of_mean, of_variance=2 * flow.of_variance)


def no_lag(flow: ModifiedLoss) -> ModifiedLoss:
    """Set L = 0."""
    return replace(flow, of_mean=flow.optimizer.memory.effective_rate / 4)


def no_overlap(flow: ModifiedLoss) -> ModifiedLoss:
    """Set τ = 0."""
    return replace(flow, of_variance=flow.optimizer.memory.effective_rate / 4)


def one_factor(flow: ModifiedLoss) -> ModifiedLoss:
    """Put the mean part's factor, (1 + β)/(1 − β), on the variance, too."""
    return replace(flow, of_variance=flow.of_mean)


def mean_part_alone(flow: ModifiedLoss) -> ModifiedLoss:
    """Leave out the variance."""
    return replace(flow, of_variance=0.0)


def no_dampening(flow: ModifiedLoss) -> ModifiedLoss:
    """Take the rate without dampening."""
    return modified_loss(flow.problem, _changed(flow, dampening=0.0))


def heavy_ball(flow: ModifiedLoss) -> ModifiedLoss:
    """Take momentum's memory for Nesterov's."""
    return modified_loss(flow.problem, _changed(flow, nesterov=False))


def without_look_ahead(flow: ModifiedLoss) -> ModifiedLoss:
    """Take Adam's memory for NAdam's."""
    return modified_loss(flow.problem, _changed(flow, share=1.0))


def same_clock(flow: ModifiedLoss) -> ModifiedLoss:
    """Leave out the slower clock of decoupled weight decay."""
    return replace(flow, clock=1.0)


def decay_in_gradient(flow: ModifiedLoss) -> ModifiedLoss:
    """Take weight decay for the other kind: L2 for decoupled, and decoupled for L2."""
    return modified_loss(flow.problem, replace(flow.optimizer, decoupled=not flow.optimizer.decoupled))


def eps_inside(flow: ModifiedLoss) -> ModifiedLoss:
    """Take 1/√(v + ε) instead of 1/(√v + ε)."""
    squares, eps = flow.optimizer.corrected_second_moment, flow.optimizer.eps
    assert squares is not None
    assert eps is not None
    moved = {NAME: squares[NAME] + eps}
    return modified_loss(flow.problem, replace(flow.optimizer, corrected_second_moment=moved, eps=0.0))


def uncorrected_squares(flow: ModifiedLoss) -> ModifiedLoss:
    """Leave the second moment as it is: AMSGrad's without the maximum, RMSProp's without the centre."""
    return modified_loss(flow.problem, replace(flow.optimizer, corrected_second_moment=flow.optimizer.second_moment))


def swapped(flow: MeanFlowParts) -> MeanFlowParts:
    """Exchange β and ρ."""
    assert isinstance(flow.optimizer.rule, AdamRule)
    return replace(flow, optimizer=_changed(flow, betas=flow.optimizer.rule.betas[::-1]))


def heavy_ball_parts(flow: MeanFlowParts) -> MeanFlowParts:
    """Take momentum's memory for Nesterov's."""
    return replace(flow, optimizer=_changed(flow, nesterov=False))


def without_look_ahead_parts(flow: MeanFlowParts) -> MeanFlowParts:
    """Take Adam's memory, and its numerator, for NAdam's."""
    return replace(flow, optimizer=_changed(flow, share=1.0))


def squares_of_mean(flow: MeanFlowParts) -> MeanFlowParts:
    """Put ḡ² for s̄ in u.

    The other parts are left out: they do not exist where ḡ² is 0 and s̄ is not.
    """
    return replace(flow, squares_of_mean=True, parts=np.zeros_like(flow.parts))


@dataclass(frozen=True, kw_only=True, eq=False)
class EpsInside(MeanFlowParts):
    """The flow of Cattaneo, Klusowski & Shigida: ε inside the root, full batches, no weight decay.

    With r = g² + ε, u = g/√r: ω̇ = −[g + η (Hu) (L − (ρ/(1−ρ)) g²/r + ½ ε/r)] / √r.
    """

    def velocity(self, points: np.ndarray) -> np.ndarray:
        """Compute ω̇, (p,), at one point (p,)."""
        optimizer = self.optimizer
        dividing = optimizer.divides_by
        assert dividing is not None
        decay, eps = dividing.decay, dividing.eps
        gradient, hessian = self.problem.gradients(points).mean(0), self.problem.hessians(points).mean(0)
        squares = gradient**2 + eps
        factor = optimizer.memory.lag - decay / (1 - decay) * gradient**2 / squares + eps / squares / 2
        return -(gradient + optimizer.lr * (hessian @ (gradient / np.sqrt(squares))) * factor) / np.sqrt(squares)


def eps_inside_of_mean_flow(flow: MeanFlowParts) -> MeanFlowParts:
    """Take 1/√(v + ε) instead of 1/(√v + ε)."""
    return EpsInside(problem=flow.problem, optimizer=flow.optimizer, parts=flow.parts)
