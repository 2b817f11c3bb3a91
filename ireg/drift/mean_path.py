"""The measured mean drift against the leading flow, beside what the mean flow predicts.

D = mean over orders of the (settled) weights after an epoch, less the leading flow's end after the time m η_e. The
prediction for a force f is the end of ω̇ = −(u + f) less that of ω̇ = −u: it takes along that the flow carries every
push on, so that steep directions forget it, which the force at one point does not know. f is each part of the theorem
for SGD, momentum and Nesterov by itself,

    f₁ = (η_e/4)(1 + 2L) ∇‖ḡ‖²,   f₂ = (η_e/4)(1 − τ) ∇Var,

with predictions d₁ and d₂, and the fit D ≈ k₁d₁ + k₂d₂ by least squares over all weights gives the two coefficients in
units of the theorem's: k₁ = k₂ = 1 is the theorem.

RMSProp and Adam are left out, with a sentence: their mean flow holds past the transient of the second moment, 1/(1−ρ)
steps, which take most of an epoch or more than one. Their strength and alignment are predicted all the same.

Every number is a function of the inner products of the pairs' drifts, the predictions, −∇Q and the leading flow's own
displacement. Squared norms of D are taken over products of different pairs, so that noise does not add to them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity

from ireg.core.mean_flow import second_moment
from ireg.core.memory import memory
from ireg.drift.flow import PARTS, coefficients, follow_flow, forces_at, mean_flow_at, velocity
from ireg.drift.problem import Problem, flattened
from ireg.drift.slow_start import follow_slowly, ragged_noise, settled, slow_buffer
from ireg.drift.statistics import Estimate, Sample, jackknife
from ireg.drift.workers import Workers

VALID = 0.3
"""Strength from which on the expansion says nothing."""
MOST_STEPS = 64
ACCURACY = 0.02
"""Error of the leading flow's end that is allowed, as a share of the predicted drift."""
ROUNDING = 1e-4
"""The same as a share of the flow's own way, below which it may be rounding."""
GRADIENT = 2.0
FORCES = 4.0
"""Epochs of training that a step of a flow and the forces at one point cost, about."""


class LeftOut(Exception):
    """Why there is no leading flow to compare with, in half a sentence."""


@dataclass(frozen=True, kw_only=True)
class MeanPath:
    """What was measured against the leading flow, and what was predicted.

    Attributes:
        theory: the theorem's coefficients, (η_e/4)(1 + 2L) of ∇‖ḡ‖² and (η_e/4)(1 − τ) of ∇Var.
        steps: of the leading flow's integration.
        estimates: see `numbers`.
    """

    theory: dict[str, float]
    steps: int
    estimates: dict[str, Estimate]


def predicted(problem: Problem) -> tuple[float, float]:
    """Strength ‖X‖/‖u‖ and alignment (cosine of X and ∇Q) of the mean flow's correction at the start.

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


def mean_path(workers: Workers, plain: Sequence[Tensor], strength: float) -> MeanPath:
    """Measure the drift against the leading flow.

    Args:
        workers: do the work.
        plain: the ends of the orders from the checkpoint's own state; plain SGD, which has none, takes them.
        strength: predicted.

    Raises:
        LeftOut: the expansion does not hold, one epoch is too short for the optimizer's memory, or the leading flow is
            too stiff.
    """
    problem = workers.problem
    if not strength < VALID:
        raise LeftOut(f"the predicted strength is {strength:.2g}, and from {VALID:g} on the expansion does not hold")
    if second_moment(problem.optimizer) is not None:
        raise LeftOut("the transient of its second moment takes most of an epoch or more")
    buffer = slow_buffer(problem)
    start = settled(problem, problem.weights, buffer)
    time = problem.num_batches * memory(problem.optimizer).effective_rate
    path, steps = _leading_flow(workers, start, time, strength)
    places = [(weights, 1 + node) for node, weights in enumerate(path)]
    forces = workers.map(forces_at, places, epochs=[FORCES] * len(places))
    theory = coefficients(problem)
    # The variance of a single minibatch is 0.
    parts = {name: value for name, value in theory.items() if name != "variance" or problem.num_batches > 1}
    pushes = [(start, time, steps, [value * force[name] for force in forces]) for name, value in parts.items()]
    pushed = workers.map(follow_flow, pushes, epochs=[GRADIENT * steps] * len(pushes))
    if buffer is not None:
        tasks = [(order, buffer) for order in range(len(plain))]
        plain = workers.map(follow_slowly, tasks, epochs=[1.0] * len(tasks))
    mean = velocity(problem, path[-1])
    ends = [end - ragged_noise(problem, order, path[-1], mean) for order, end in enumerate(plain)]
    middle = forces[PARTS // 2]
    vectors = {
        **{f"d_{name}": other[-1] - path[-1] for name, other in zip(parts, pushed, strict=True)},
        "downhill": -(middle["full_batch"] + middle["variance"]),
        "leading": path[-1] - start,
    }
    drifts = [torch.stack(ends[index : index + 2]).mean(0) - path[-1] for index in range(0, len(ends), 2)]
    return MeanPath(theory=theory, steps=steps, estimates=compare(drifts, vectors))


def _leading_flow(workers: Workers, start: Tensor, time: float, strength: float) -> tuple[list[Tensor], int]:
    """The path in as few steps as are enough, and their number: halving them must change its end by little.

    The method is of fourth order: of the change by halving, a fifteenth is the error that is left. Where more steps
    leave it small but no smaller, it is the rounding of the gradients.
    """
    steps, coarse = 2 * PARTS, (start, time, PARTS)
    before, path = workers.map(follow_flow, [coarse, (start, time, steps)], epochs=[GRADIENT * PARTS, GRADIENT * steps])
    previous = math.inf
    while True:
        error = float((path[-1] - before[-1]).norm() / (path[-1] - start).norm()) / 15
        if error < ACCURACY * strength:
            return path, steps
        if previous / 2 < error < ROUNDING:
            raise LeftOut("the drift is too close to the rounding of the leading flow; see trainer.precision=64-true")
        if steps == MOST_STEPS:
            raise LeftOut(f"the leading flow over an epoch is too stiff to integrate in {MOST_STEPS} steps")
        previous, steps = error, 2 * steps
        before, (path,) = path, workers.map(follow_flow, [(start, time, steps)], epochs=[GRADIENT * steps])


def compare(drifts: Sequence[Tensor], vectors: Mapping[str, Tensor]) -> dict[str, Estimate]:
    """The numbers of `numbers` with standard errors.

    Args:
        drifts: D of each pair of orders.
        vectors: the predictions `d_…`, `downhill` (−∇Q) and `leading` (the leading flow's displacement).
    """
    names = list(vectors)
    stacked = torch.stack([*drifts, *vectors.values()])
    products = (stacked @ stacked.T).numpy()
    pairs = list(range(len(drifts)))

    def record(chosen: Sequence[int]) -> np.ndarray:
        """Products of the mean drift and the vectors; the drift's with itself over different pairs."""
        rows = products[np.ix_(chosen, chosen)]
        count = len(chosen)
        own = (rows.sum() - np.trace(rows)) / (count * (count - 1))
        cross = products[np.ix_(chosen, range(len(pairs), len(products)))].mean(0)
        rest = products[len(pairs) :, len(pairs) :]
        return np.block([[np.array([[own]]), cross[None]], [cross[:, None], rest]])

    sample = Sample(record(pairs), [record([other for other in pairs if other != pair]) for pair in pairs])
    return jackknife(lambda records: numbers(records["orders"], names), {"orders": sample})


def numbers(products: np.ndarray, names: Sequence[str]) -> dict[str, float]:
    """What the inner products say.

    Args:
        products: of D and the vectors with each other, D first.
        names: of the vectors.

    Returns:
        `strength`: ‖D‖ over the leading flow's displacement, and `strength predicted`, of Σ d. `alignment`: cosine of D
        and −∇Q at half of the time, and `alignment predicted`. `cosine`: of D and Σ d. `k`: the coefficient of D ≈ kΣd,
        and `k_…` those of the fit of each part. `residual`: share of ‖D‖² that the fit leaves;
        `residual of theory`: what k = 1 leaves.
    """
    parts = [1 + index for index, name in enumerate(names) if name.startswith("d_")]
    downhill, leading = 1 + names.index("downhill"), 1 + names.index("leading")
    size = max(float(products[0, 0]), 0.0)
    inner, cross = products[np.ix_(parts, parts)], products[0, parts]
    fit = np.linalg.lstsq(inner, cross, rcond=1e-12)[0]
    sum_size = float(inner.sum())

    def left(factors: np.ndarray) -> float:
        return float(products[0, 0] - 2 * factors @ cross + factors @ inner @ factors) / size if size else math.nan

    def cosine(product: float, square: float, other: float) -> float:
        return float(product) / math.sqrt(square * other) if square * other > 0 else math.nan

    return {
        "strength": math.sqrt(size / products[leading, leading]),
        "strength predicted": math.sqrt(sum_size / products[leading, leading]),
        "alignment": cosine(products[0, downhill], size, products[downhill, downhill]),
        "alignment predicted": cosine(products[parts, downhill].sum(), sum_size, products[downhill, downhill]),
        "cosine": cosine(cross.sum(), size, sum_size),
        "k": float(cross.sum()) / sum_size if sum_size else math.nan,
        **{f"k_{names[part - 1].removeprefix('d_')}": float(k) for part, k in zip(parts, fit, strict=True)},
        "residual": left(fit),
        "residual of theory": left(np.ones(len(parts))),
    }
