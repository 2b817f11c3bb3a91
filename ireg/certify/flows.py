"""The modified flows, their constants taken from the product.

These are what `ireg.measure` logs of `ireg/own`, and `ireg.core.mean_flow`.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from scipy.integrate import solve_ivp
from torch import nn
from torch.optim import Optimizer

from ireg.certify.problems import NAME, Problem
from ireg.core.mean_flow import mean_flow
from ireg.core.moments import GradientMoments, gradient_moments
from ireg.core.moments.needs import Need
from ireg.core.optimizers import OptimizerState, view
from ireg.core.snapshot import Snapshot
from ireg.measurement import measure
from ireg.terms.own import own_full_batch, own_variance


def integrate(velocity: Callable[[np.ndarray], np.ndarray], start: np.ndarray, time: float, rtol: float) -> np.ndarray:
    """Integrate the flow ω̇ = velocity(ω) by a method of eighth order.

    Args:
        velocity: from a point (p,) to ω̇, (p,).
        start: ω at time 0, (p,).
        time: of the end.
        rtol: relative tolerance; the absolute one is a hundredth of it.

    Returns:
        ω at the end, (p,); nan where the integrator fails.
    """
    solution = solve_ivp(
        lambda _, point: velocity(point), (0.0, time), start, method="DOP853", rtol=rtol, atol=rtol / 100
    )
    return solution.y[:, -1] if solution.success else np.full_like(start, np.nan)


@dataclass(frozen=True, kw_only=True, eq=False)
class ModifiedLoss:
    """The P-gradient flow of the modified loss C′ + a ‖ḡ′‖²_P + b (1/m) Σ ‖g_k − ḡ‖²_P, P fixed.

    C′ is C with weight decay: C + (λ/2) ‖ω‖², decoupled C + (λ/2) ωᵀP⁻¹ω.

    Attributes:
        problem: the loss.
        optimizer: whose flow.
        scale: P, shape (p,).
        of_mean: a.
        of_variance: b.
        clock: factor of the time.
    """

    problem: Problem
    optimizer: OptimizerState
    scale: np.ndarray
    of_mean: float
    of_variance: float
    clock: float

    @property
    def step_time(self) -> float:
        """The time of one step, η_e."""
        return self.optimizer.memory.effective_rate

    def velocity(self, point: np.ndarray) -> np.ndarray:
        """Compute ω̇, (p,), at a point (p,)."""
        gradients, hessians = self.problem.gradients(point), self.problem.hessians(point)
        mean, spread = gradients.mean(0), gradients - gradients.mean(0)
        shift = self.optimizer.loss_decay + self.optimizer.decoupled_decay / self.scale
        mean, hessian = mean + shift * point, hessians.mean(0) + np.diag(shift)
        # Half the gradient of both parts. In the variance's the deviations sum to 0, so that H_k stands for H_k − H.
        products = self.of_mean * hessian @ (self.scale * mean)
        products += self.of_variance * np.einsum("kij,kj->i", hessians, self.scale * spread) / len(spread)
        return -self.clock * self.scale * (mean + 2 * products)


class _Weights(nn.Module):
    """A module of the one parameter, as an optimizer holds it."""

    def __init__(self, weights: nn.Parameter) -> None:
        super().__init__()
        self.register_parameter(NAME, weights)


def logged_loss(problem: Problem, optimizer: Optimizer) -> ModifiedLoss:
    """Return the modified loss that is logged for an optimizer, its factors read off `ireg.measure`.

    Args:
        problem: the loss.
        optimizer: torch's, of one parameter at the problem's start.
    """
    module = _Weights(optimizer.param_groups[0]["params"][0])
    logged = measure(
        module,
        problem.batches,
        optimizer=optimizer,
        loss=lambda model, batch: problem.loss(dict(model.named_parameters()), batch),
        terms=["ireg/own_full_batch", "ireg/own_variance"],
    )
    seen = view(optimizer, dict(module.named_parameters()))
    return _with_factors(problem, seen, logged["ireg/own_full_batch"], logged["ireg/own_variance"])


def modified_loss(problem: Problem, optimizer: OptimizerState) -> ModifiedLoss:
    """Return the modified loss of a rule that may be wrong.

    Its factors are read off the values of `own_full_batch` and `own_variance`.

    Args:
        problem: the loss, and the point.
        optimizer: the rule's state there.
    """
    params = {NAME: problem.start[:, None]}
    snapshot = Snapshot(
        params=params, initial=params, loss=problem.loss, batches=problem.batches, optimizer=optimizer,
        generator=torch.Generator(), needs=Need.MEAN | Need.SQUARE | Need.SQ_NORMS,
    )  # fmt: skip
    of_mean, of_variance = own_full_batch(snapshot), own_variance(snapshot)
    assert of_mean is not None
    assert of_variance is not None
    return _with_factors(problem, optimizer, float(of_mean), float(of_variance))


def _with_factors(problem: Problem, optimizer: OptimizerState, of_mean: float, of_variance: float) -> ModifiedLoss:
    """Divide the values of both parts by what they are multiples of."""
    point = problem.start.numpy()
    held = optimizer.preconditioner
    scale = np.ones_like(point) if held is None else held[NAME][:, 0].numpy()
    gradients = problem.gradients(point)
    mean = gradients.mean(0) + (optimizer.loss_decay + optimizer.decoupled_decay / scale) * point
    variance = (scale * (gradients - gradients.mean(0)) ** 2).sum(1).mean()
    remembered = optimizer.memory
    return ModifiedLoss(
        problem=problem,
        optimizer=optimizer,
        scale=scale,
        of_mean=of_mean / float(scale @ mean**2),
        of_variance=of_variance / variance if problem.num_batches > 1 else 0.0,
        # The memory's part loses η_e L λ C′ to the decay: the flow takes the same path, more slowly.
        clock=1 - remembered.effective_rate * remembered.lag * optimizer.decoupled_decay,
    )


@dataclass(frozen=True, kw_only=True, eq=False)
class MeanFlowParts:
    """The flow ω̇ = −(u + a M + b V + c F) of `ireg.core.mean_flow`, for several (a, b, c) at once.

    Attributes:
        problem: the loss.
        optimizer: whose flow.
        parts: (a, b, c), a row each.
        squares_of_mean: put ḡ² for s̄ (to see that it matters).
    """

    problem: Problem
    optimizer: OptimizerState
    parts: np.ndarray
    squares_of_mean: bool = False

    def velocity(self, points: np.ndarray) -> np.ndarray:
        """Compute ω̇, (p · rows,), at points (p · rows,)."""
        params = {NAME: torch.from_numpy(points.reshape(-1, len(self.parts)))}
        batches, loss = self.problem.batches, self.problem.loss
        moments = gradient_moments(loss, params, batches, needs=Need.MEAN | Need.SQUARE, method="loop")
        if self.squares_of_mean:
            moments = _with_squares_of_mean(moments)
        flow = mean_flow(loss, params, batches, self.optimizer, moments)
        total = flow.leading[NAME].clone()
        for part, weights in zip((flow.memory, flow.lag, flow.fluctuation), self.parts.T, strict=True):
            if part is not None:
                total += torch.from_numpy(weights.copy()) * part[NAME]
        return -total.numpy().ravel()

    def ends(self, time: float, rtol: float) -> np.ndarray:
        """Integrate the flows for a time.

        Args:
            time: of the ends.
            rtol: see `integrate`.

        Returns:
            The ends, (rows, p).
        """
        start = np.repeat(self.problem.start.numpy(), len(self.parts))
        return integrate(self.velocity, start, time, rtol).reshape(-1, len(self.parts)).T


def _with_squares_of_mean(moments: GradientMoments) -> GradientMoments:
    return replace(moments, _square={name: value.square() for name, value in moments.mean.items()})
