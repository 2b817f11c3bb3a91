"""The measured mean drift from the leading flow, and what the mean flow predicts for it.

D = mean over orders of the (settled) weights after an epoch, less the leading flow's end after the time m η_e. The
prediction for a force f is the end of ω̇ = −(u + f) less that of ω̇ = −u. It includes how the flow transports every
displacement: steep directions forget it, which the force at one point does not know. f is each part of the theorem for
SGD, momentum and Nesterov, one at a time,

    f₁ = (η_e/4)(1 + 2L) ∇‖ḡ‖²,   f₂ = (η_e/4)(1 − τ) ∇Var,

with predictions d₁ and d₂, and the fit D ≈ k₁d₁ + k₂d₂ by least squares over all weights gives the two coefficients in
units of the theorem's: k₁ = k₂ = 1 is the theorem.

For RMSProp and Adam see `ireg.drift.leading_flow_adaptive`: past the transient of their second moment.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity

from ireg.drift.finite_step import coefficient
from ireg.drift.forces import coefficients, forces_at, mean_flow_at
from ireg.drift.problem import Problem, flattened
from ireg.drift.regression import compare
from ireg.drift.runge_kutta import PARTS, follow_flow, velocity
from ireg.drift.slow_manifold import follow_slowly, ragged_noise, settled, slow_buffer
from ireg.statistics import Estimate
from ireg.system.parallel import Workers

MOST_STEPS = 64
ACCURACY = 0.3
"""Change of the leading flow's end by halving the steps that is allowed, as a share of the predicted drift."""
GRADIENT = 2.0
FORCES = 4.0
"""Epochs of training that a step of a flow and the forces at one point cost, about."""


FLOW_COST = (PARTS + 1) * FORCES + 7 * PARTS * GRADIENT
"""The same of all there is to do, at least."""


class LeftOut(Exception):
    """Say in half a sentence why there is no leading flow."""


@dataclass(frozen=True, kw_only=True)
class MeanDrift:
    """What was measured against the leading flow, and what was predicted.

    Attributes:
        theory: the theorem's coefficients, (η_e/4)(1 + 2L) of ∇‖ḡ‖² and (η_e/4)(1 − τ) of ∇Var; none with a second
            moment.
        steps: of the leading flow's integration; None with a second moment.
        estimates: see `ireg.drift.regression.numbers`.
        finite: of the finite step alone, see `ireg.drift.finite_step.coefficient`: M + V of the drift less F.
        noise: of F at rate 0 over the same orders against its Taylor series; None without a second moment, and of a
            single minibatch.
    """

    theory: dict[str, float]
    steps: int | None
    estimates: dict[str, Estimate]
    finite: dict[str, Estimate]
    noise: dict[str, Estimate] | None = None


def predicted(problem: Problem) -> tuple[float, float]:
    """Compute strength and alignment of the correction at the start, ‖X‖/‖u‖ and the cosine of X and ∇Q.

    X is the mean flow's correction.

    Raises:
        LeftOut: an optimizer whose mean flow is not known.
    """
    try:
        flow = mean_flow_at(problem, problem.weights, 0, problem.optimizer)
    except ValueError as error:
        raise LeftOut(str(error).split(";")[0]) from error
    correction = flattened(flow.correction)
    strength = correction.norm() / flattened(flow.leading).norm()
    return float(strength), float(cosine_similarity(correction, flattened(flow.squares_gradient), dim=0))


def drift_from_leading_flow(
    workers: Workers[Problem], orders: int, strength: float, plain: Sequence[Tensor] | None = None
) -> MeanDrift:
    """Measure the drift against the leading flow.

    Args:
        workers: do the work.
        orders: how many.
        strength: predicted.
        plain: the ends of the orders from the checkpoint's own state; plain SGD, which has none, takes them if given.

    Raises:
        LeftOut: there is no leading flow, or it is too stiff.
    """
    problem = workers.subject
    if not problem.has_loss_of_examples:
        raise LeftOut("with BatchNorm C differs between partitions, so that orders share no leading flow")
    workers.progress.expect(FLOW_COST)
    buffer = slow_buffer(problem)
    start = settled(problem, problem.weights, buffer)
    time = problem.num_batches * problem.optimizer.memory.effective_rate
    path, change, steps = _leading_flow(workers, start, time, strength)
    forces = workers.map(forces_at, [(path[i], 1 + i) for i in range(len(path))], work=[FORCES] * len(path))
    theory = coefficients(problem)
    # The variance of a single minibatch is 0.
    parts = {name: value for name, value in theory.items() if name != "variance" or problem.num_batches > 1}
    pushes = [(start, time, steps, [value * force[name] for force in forces]) for name, value in parts.items()]
    pushed = workers.map(follow_flow, pushes, work=[GRADIENT * steps] * len(pushes))
    # Ends from the checkpoint's own buffer carry its noise, which the slow manifold has not; plain SGD has no buffer.
    if buffer is not None or plain is None:
        tasks = [(order, buffer) for order in range(orders)]
        plain = workers.map(follow_slowly, tasks, work=[1.0] * len(tasks))
    mean = velocity(problem, path[-1])
    ends = [end - ragged_noise(problem, order, path[-1], mean) for order, end in enumerate(plain)]
    middle = forces[PARTS // 2]
    vectors = {
        **{f"d_{name}": other[-1] - path[-1] for name, other in zip(parts, pushed, strict=True)},
        "downhill": -(middle["full_batch"] + middle["variance"]),
        "leading": path[-1] - start,
        "halving": change,
    }
    drifts = [torch.stack(ends[index : index + 2]).mean(0) - path[-1] for index in range(0, len(ends), 2)]
    finite = coefficient(drifts, sum_of_parts(vectors), vectors)
    return MeanDrift(theory=theory, steps=steps, estimates=compare(drifts, vectors), finite=finite)


def sum_of_parts(vectors: Mapping[str, Tensor], *, without: str = "") -> Tensor:
    """Return Σ d over the predicted parts, but for one."""
    parts = [value for name, value in vectors.items() if name.startswith("d_") and name != without]
    return torch.stack(parts).sum(0)


def _leading_flow(
    workers: Workers[Problem], start: Tensor, time: float, strength: float
) -> tuple[list[Tensor], Tensor, int]:
    """Integrate the leading flow's path in as few steps as are enough.

    Of a smooth gradient the method would be of fourth order, and a fifteenth of the change be left. That of a network
    with kinks, as ReLU has them, is rough: there the change falls like the steps, and is itself what is left.

    Returns:
        The path, the change of its end by halving the steps, and their number.
    """
    steps, coarse = 2 * PARTS, (start, time, PARTS)
    before, path = workers.map(follow_flow, [coarse, (start, time, steps)], work=[GRADIENT * PARTS, GRADIENT * steps])
    while True:
        change = path[-1] - before[-1]
        if float(change.norm()) < ACCURACY * strength * float((path[-1] - start).norm()):
            return path, change, steps
        if steps == MOST_STEPS:
            raise LeftOut(
                f"the leading flow is too stiff or too rough: {MOST_STEPS} steps do not tell the drift from it"
            )
        steps *= 2
        before, (path,) = path, workers.map(follow_flow, [(start, time, steps)], work=[GRADIENT * steps])
