"""Noise scales of the minibatches, and what each step does to the weights.

With Σ the covariance of the gradient of one example, over the N examples of an epoch, and B examples in a minibatch:

    tr Σ = B Var (N − 1)/(N − B),    Var = (1/m) Σ_k ‖g_k − ḡ‖²,    B_simple = tr Σ/‖∇C‖²,

an identity on the mean over all partitions into minibatches. B_simple is the number of examples at which noise equals
signal. For minibatches of different sizes B_k, each with the weight 1/m, and a = (1/m) Σ_k N/B_k:

    tr Σ = Var (N − 1) m/(a (m − 1)),    ‖∇C‖² = ‖ḡ‖² − Var (a − m)/(a (m − 1)).

Independent minibatches: tr Σ = s²/((1/m) Σ_k 1/B_k), and ‖∇C‖² is estimated without the noise of the draw. From k of m
minibatches both are estimated without bias. A ratio of two such estimates is not without bias; it is left out where the
estimate in its denominator is not positive. Its standard error is that of the ratio to first order.

An example is what the first dimension of a minibatch's first tensor counts, of a language model's (sequences, tokens) a
sequence. All is of the bare loss and at fixed weights. Noise of dropout's masks counts for nothing.

Sources: McCandlish et al. 2018, arXiv:1812.06162, for the scale; Kosson et al. 2023, arXiv:2305.17212, for the
equilibrium; docs/theory.md, section 17.
"""

import math
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from ireg.core.fluctuation import Estimate
from ireg.core.mean_flow import require_uniform
from ireg.core.moments.needs import NOTHING, Need, needs
from ireg.core.moments.sums import outer
from ireg.core.norms import norm
from ireg.core.optimizers import OptimizerState
from ireg.core.optimizers.steepest import Steepest, absolute, nuclear
from ireg.core.snapshot import Snapshot
from ireg.core.types import Params
from ireg.core.wide import wide
from ireg.terms import implicit

_PLAIN = Need.SQ_NORMS | Need.MEAN


class NoiseScale(NamedTuple):
    """What two batch sizes tell of the noise.

    Attributes:
        trace: tr Σ of one example's gradient.
        square: ‖∇C‖²; as an estimate it may be negative.
        scale: tr Σ/‖∇C‖², in examples; None where the estimate of ‖∇C‖² is not positive.

    Example:
        >>> noise_of_two_sizes(5.0, 2.0, small=8, large=32).scale
        32.0
    """

    trace: float
    square: float
    scale: float | None


def noise_of_two_sizes(small_square: float, large_square: float, *, small: float, large: float) -> NoiseScale:
    """Estimate the gradient noise scale from the mean gradients of two batch sizes at one point.

    With b and B independent examples, E ‖g_b‖² = ‖∇C‖² + tr Σ/b, so that

        ‖∇C‖² ≈ (B ‖g_B‖² − b ‖g_b‖²)/(B − b),    tr Σ ≈ (‖g_b‖² − ‖g_B‖²)/(1/b − 1/B),

    both without bias. The smaller one may be a rank's or a micro-batch's gradient, or the mean of their squared norms,
    and the larger one the whole step's. Average both parts over steps before dividing: a single step's ratio scatters.

    Args:
        small_square: ‖g_b‖².
        large_square: ‖g_B‖².
        small: b.
        large: B.

    Returns:
        Estimates of tr Σ and of ‖∇C‖², and their ratio.

    Raises:
        ValueError: not 0 < b < B.

    Source: McCandlish et al. 2018, arXiv:1812.06162, appendix A.1.

    Example:
        >>> noise_of_two_sizes(5.0, 2.0, small=8, large=32)  # four ranks of 8
        NoiseScale(trace=32.0, square=1.0, scale=32.0)
    """
    if not 0 < small < large:
        raise ValueError(f"small={small}, large={large}: must be 0 < small < large, both in examples")
    square = (large * large_square - small * small_square) / (large - small)
    trace = (small_square - large_square) / (1 / small - 1 / large)
    return NoiseScale(trace, square, trace / square if square > 0 else None)


def _constants(snapshot: Snapshot) -> tuple[float, float] | None:
    """Return c and d of tr Σ = c Var and ‖∇C‖² = ‖ḡ‖² − d Var.

    None where nothing varies, or no size is known.
    """
    sizes, count, inverse = snapshot.examples, snapshot.num_batches, snapshot.inverse_size
    if sizes is None or inverse is None or count < 2:
        return None
    if snapshot.independent:
        return 1 / inverse, 0.0
    examples = sum(sizes) / len(sizes) * count
    parts = examples * inverse
    return (examples - 1) * count / (parts * (count - 1)), (parts - count) / (parts * (count - 1))


def _parts(snapshot: Snapshot, scale: Params | None) -> tuple[Tensor, Tensor] | None:
    """Return tr PΣ of one example and ‖∇C‖²_P; None where they do not exist."""
    constants = _constants(snapshot)
    if constants is None:
        return None
    of_trace, of_square = constants
    square = snapshot.gradients.square_of_mean(scale)
    variance = snapshot.gradients.mean_square(scale) - square
    return of_trace * variance, square - of_square * variance if of_square else square


def _ratio(upper: Tensor, lower: Tensor) -> Tensor | None:
    """Divide two estimates; None where the lower one is not positive.

    Jackknife values are those of the ratio's first order in both, whose denominator is never 0.
    """
    whole, below = (value if value.ndim == 0 else value[0] for value in (upper, lower))
    if float(below) <= 0:
        return None
    quotient = whole / below
    return quotient if upper.ndim == 0 else quotient + ((upper - whole) - quotient * (lower - below)) / below


def _root(squares: Tensor) -> Tensor:
    """Take the root of an estimate; jackknife values are those of its first order."""
    if squares.ndim == 0:
        return squares.sqrt()
    root = squares[0].sqrt()
    return root + (squares - squares[0]) / (2 * root) if float(root) else squares * 0


def _scaled(optimizer: OptimizerState) -> Need:
    if optimizer.steepest is not None:
        if optimizer.steepest.norm is nuclear:
            return Need.SQUARE | Need.MEAN | Need.OUTER
        return Need.SQUARE | Need.MEAN if optimizer.steepest.norm is absolute else NOTHING
    if optimizer.second_moment is None:
        return _PLAIN if optimizer.shares is None else Need.SQUARE | Need.MEAN
    return NOTHING if optimizer.corrected_second_moment is None else Need.SQUARE | Need.MEAN


@needs(_PLAIN, estimable=True)
def trace(snapshot: Snapshot) -> Tensor | None:
    """Compute tr Σ, the variance of the gradient of one example.

    Means over rows have no bias, and so has their ratio to those of `square` little.

    Returns:
        0-d; None for a single minibatch, or where a minibatch does not say how many examples it has.
    """
    parts = _parts(snapshot, None)
    return None if parts is None else parts[0]


@needs(_PLAIN, estimable=True)
def square(snapshot: Snapshot) -> Tensor | None:
    """Compute ‖∇C‖², freed of the minibatches' noise; as an estimate it may be negative.

    Returns:
        0-d; None as for `trace`.
    """
    parts = _parts(snapshot, None)
    return None if parts is None else parts[1]


@needs(_PLAIN, estimable=True, additive=False)
def scale(snapshot: Snapshot) -> Tensor | None:
    """Compute the gradient noise scale B_simple = tr Σ/‖∇C‖², in examples.

    Returns:
        0-d; None as for `trace`, and where the estimate of ‖∇C‖² is not positive.

    Source: McCandlish et al. 2018, arXiv:1812.06162, equation 2.9.
    """
    parts = _parts(snapshot, None)
    return None if parts is None else _ratio(*parts)


@needs(_scaled, estimable=True, additive=False)
def scale_own(snapshot: Snapshot) -> Tensor | None:
    """Compute the noise scale in the geometry of the run's own optimizer, in examples.

    It is tr PΣ/‖∇C‖²_P; for SGD that is `scale`. Of optimizers of the sign, as Lion, it is the square of
    Σ η σ/(η ‖∇C‖₁), σ the standard deviation of each weight's entry of one example's gradient; of Muon that of
    Σ η tr (E δδᵀ)^½/(Σ η ‖∇C‖_nuclear), δ one example's gradient less the mean, E δδᵀ over the shorter side of
    each matrix. Both bound E ‖δ‖ in the dual norm from above. They take all minibatches of an epoch: norms of a
    gradient have no estimate without bias from some.

    Returns:
        0-d; None as for `scale`, without a rule or a norm that is known, and before the first step of an optimizer that
        divides.

    Sources: Bernstein et al. 2018, arXiv:1802.04434, for ‖σ‖₁; Naganuma et al. 2026, arXiv:2602.03001, for dual norms.
    """
    optimizer, own = snapshot.optimizer, snapshot.preconditioner
    if optimizer.steepest is not None:
        return _scale_in_dual_norm(snapshot, optimizer.steepest)
    if not optimizer.has_rule or (own is None and optimizer.second_moment is not None):
        return None
    parts = _parts(snapshot, own)
    return None if parts is None else _ratio(*parts)


def _scale_in_dual_norm(snapshot: Snapshot, steepest: Steepest) -> Tensor | None:
    """Return (Σ η φ*(δ)/Σ η φ*(∇C))²; None where φ* is not known, or not all of an epoch is measured."""
    constants = _constants(snapshot)
    if constants is None or snapshot.is_estimated:
        return None
    moments, noise, signal = snapshot.moments, [], []
    for name, mean in moments.mean.items():
        mean, rate = wide(mean), steepest.rates[name]
        if steepest.norm is absolute:
            deviation = (wide(moments.wide_square[name]) - mean.square()).clamp(min=0).sqrt().sum()
        elif steepest.norm is nuclear:
            deviation = _trace_of_root(wide(moments.outer[name]) - outer(mean[None]))
        else:
            return None
        noise.append(rate * deviation)
        signal.append(rate * steepest.norm(mean))
    ratio = _ratio(torch.stack(noise).sum(), torch.stack(signal).sum())
    return None if ratio is None else constants[0] * ratio.square()


def _trace_of_root(matrix: Tensor) -> Tensor:
    """Return the trace of the root of a symmetric matrix, whose eigenvalues below 0 are rounding."""
    return torch.linalg.eigvalsh(matrix).clamp(min=0).sqrt().sum()


@needs(_PLAIN, estimable=True, additive=False)
def signal_to_noise(snapshot: Snapshot) -> Tensor | None:
    """Compute ‖∇C‖² over the variance of a minibatch's gradient, B/B_simple.

    The variance is tr Σ (1/m) Σ_k 1/B_k, that of independent examples.

    Returns:
        0-d; None as for `trace`, and where minibatches do not vary.
    """
    parts, inverse = _parts(snapshot, None), snapshot.inverse_size
    if parts is None or inverse is None:
        return None
    return _ratio(parts[1], parts[0] * inverse)


@needs(lambda optimizer: implicit.minibatch_variance.needs(optimizer), estimable=True, additive=False)  # type: ignore[attr-defined]
def share(snapshot: Snapshot) -> Tensor | None:
    """Compute the share of `ireg/sgd` that minibatches add, `ireg/minibatch_variance` over `ireg/sgd`.

    Returns:
        0-d; None without a gradient.
    """
    return _ratio(implicit.minibatch_variance(snapshot), implicit.sgd(snapshot))


def _of_steps(optimizer: OptimizerState) -> Need:
    """Return what the mean square of the steps needs, where torch's state holds no step."""
    if optimizer.second_moment is not None and optimizer.corrected_second_moment is None:
        return NOTHING
    if optimizer.second_moment is None and optimizer.shares is None:
        return Need.SQ_NORMS
    return Need.SQUARE | Need.STEPS


def _of_last_step(optimizer: OptimizerState) -> Need:
    return NOTHING if not optimizer.has_rule or optimizer.first_moment is not None else _of_steps(optimizer)


def _mean_square_step(snapshot: Snapshot) -> Tensor:
    """Return (1/m) Σ_k ‖P g_k‖²."""
    own, gradients = snapshot.preconditioner, snapshot.descended
    return gradients.mean_square(None) if own is None else gradients.mean_square_of_product(own)


def _unknown(snapshot: Snapshot) -> bool:
    """Say whether the optimizer's steps are not known."""
    optimizer = snapshot.optimizer
    return not optimizer.has_rule or (optimizer.second_moment is not None and snapshot.preconditioner is None)


@needs(_of_last_step, estimable=True, additive=False)
def update_ratio(snapshot: Snapshot) -> Tensor | None:
    """Compute the length of a step over that of the weights, ‖ΔW‖/‖W‖.

    The step is the last one, as torch's state holds it, without decoupled weight decay. For optimizers without a buffer
    it is the root mean square of the minibatches' steps from here, η √((1/m) Σ_k ‖P g_k‖²), without any decay.

    Returns:
        0-d; None without a rule, for Nesterov's steps and NAdam's, before the first step, and where all weights are 0.
    """
    length = norm(snapshot.moving)
    if _unknown(snapshot) or not float(length):
        return None
    optimizer = snapshot.optimizer
    if optimizer.first_moment is not None:
        step = optimizer.last_step(snapshot.moving, snapshot.preconditioner)
        return None if step is None else wide(norm(step)) / wide(length)
    if snapshot.shared is not None:  # as much a part of each step
        return None
    return _root(_mean_square_step(snapshot)) * (optimizer.lr / float(length))


@needs(NOTHING, estimable=True, additive=False)
def angle(snapshot: Snapshot) -> Tensor | None:
    """Compute the angle by which the last step has turned the weights, in radians.

    It is that between W and W + ΔW, with ΔW what the last step took off. Decoupled weight decay changes no direction.

    Returns:
        0-d; None where torch's state does not hold the step, as without a rule or a buffer, for Nesterov's steps and
        NAdam's, before the first step; and where all weights are 0.
    """
    if _unknown(snapshot):
        return None
    step, weights = snapshot.optimizer.last_step(snapshot.moving, snapshot.preconditioner), snapshot.moving
    length = float(norm(weights))
    if step is None or not length:
        return None
    along = sum(float(wide(value).flatten() @ wide(weights[name]).flatten()) for name, value in step.items()) / length
    # Of what is across: a difference of squares would lose the digits of a step along the weights.
    across = {name: wide(value) - wide(weights[name]) * (along / length) for name, value in step.items()}
    return torch.tensor(math.atan2(float(norm(across)), length + along), dtype=torch.float64)


@needs(_of_steps, estimable=True, additive=False)
def equilibrium(snapshot: Snapshot) -> Tensor | None:
    """Compute the norm at which weight decay balances the steps, over the present norm.

    Steps that are independent, and whose mean is across the weights, make ‖W‖² grow by η_e² ‖P g_k‖² each.
    Decay multiplies W by 1 − w each. They balance at

        ‖W‖² = η_e² (1/m) Σ_k ‖P g_k‖²/(1 − (1 − w)²).

    So it is for scale-invariant layers, or where noise dominates; a memory must be short beside the epoch. w = ηλ with
    decoupled weight decay, and η_e λ with L2 decay of optimizers that do not divide.

    Returns:
        0-d; None without weight decay, where parameters differ in w, for L2 decay of optimizers that divide, without a
        rule, before the first step, with an explicit penalty that minibatches share, and where all weights are 0.

    Source: Kosson et al. 2023, arXiv:2305.17212; docs/theory.md, section 17.
    """
    decay = None if _unknown(snapshot) or snapshot.shared is not None else _decay(snapshot)
    length = norm(snapshot.moving)
    if decay is None or not float(length):
        return None
    balanced = snapshot.memory.effective_rate / math.sqrt(decay * (2 - decay))
    return _root(_mean_square_step(snapshot)) * (balanced / float(length))


def _decay(snapshot: Snapshot) -> float | None:
    """Return w, by which a step shrinks the weights.

    None where it is 0, not below 1, or not the same for all.
    """
    optimizer = snapshot.optimizer
    if optimizer.loss_decay and optimizer.second_moment is not None:
        return None
    rate = optimizer.lr if optimizer.decoupled else snapshot.memory.effective_rate
    decay = partial(_rate_of_decay, optimizer, rate)
    found = {decay(name) for name in snapshot.moving}
    return found.pop() if len(found) == 1 and 0 < max(found) < 1 else None


def _rate_of_decay(optimizer: OptimizerState, rate: float, name: str) -> float:
    strength = optimizer.weight_decay if optimizer.decays is None else optimizer.decays[name]
    share = 1.0 if optimizer.shares is None else float(optimizer.shares[name].flatten()[0])
    return rate * share * strength


def _of_mean_step(optimizer: OptimizerState) -> Need:
    """Return what the mean step needs of the moments, which is nothing.

    Raises:
        ValueError: parameter groups of an optimizer with a rule differ, a second moment that never settles (Adagrad,
            AMSGrad), or several optimizers.
    """
    if optimizer.has_rule or (optimizer.steepest is None and optimizer.make is None):
        require_uniform(optimizer)
        _ = optimizer.filtered_by
    return NOTHING


def _change(snapshot: Snapshot) -> tuple[Estimate, Tensor] | None:
    """Return the change of the mean step and the norm of the one without noise; None where none changes."""
    noise = snapshot.fluctuation
    return None if noise is None else (noise.change, norm({"step": noise.noiseless}))


@needs(_of_mean_step)
def step(snapshot: Snapshot) -> Tensor:
    """Compute by what share noise changes the mean step at rate 0, ‖E U(g_k) − U(ḡ)‖/‖U(ḡ)‖.

    U is a step with its memory settled, at weights that stand still: E U(g_k) the mean over drawn orders of the
    minibatches, U(ḡ) the step where all gradients are their mean. Near 0 an optimizer does what it would on full
    batches. Near 1 noise is what it divides by or takes the direction of. It exists for any optimizer whose memory
    fades: one without a rule takes steps itself. Of optimizers that divide, U(ḡ) is ḡ/(√ḡ² + ε), and not the mean
    flow's ḡ/(√s̄ + ε), which has most of the noise already: `ireg/strength_fluctuation_exact` has the rest.

    Returns:
        0-d; 0 for SGD and momentum, and with a single minibatch. It is free of the bias by noise of the orders.

    Raises:
        ValueError: a memory that does not fade, several optimizers, or parameter groups that differ.

    Source: docs/theory.md, section 16.
    """
    found = _change(snapshot)
    return torch.zeros((), dtype=torch.float64) if found is None else found[0].value / found[1]


@needs(_of_mean_step)
def step_se(snapshot: Snapshot) -> Tensor | None:
    """Compute the standard error of `step` over the drawn orders, to first order.

    Returns:
        0-d; None where `step` is 0.

    Raises:
        ValueError: as `step`.
    """
    found = _change(snapshot)
    return None if found is None or found[0].error is None else found[0].error / found[1]
