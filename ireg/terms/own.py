"""The implicit regularizer of the run's own optimizer, its memory and its preconditioner included.

Let the update be a linear filter of the minibatch gradients seen so far, ω_{t+1} = ω_t − η P Σ_{n≥0} a_n g_{t−n}, P a
fixed diagonal, each epoch all m minibatches in a fresh random order. To first order in η, past the transient of the
first steps, the mean over the orders follows the P-gradient flow of

    C + (η_e/4) [ (1 + 2L) ‖ḡ‖²_P + (1 − τ) (1/m) Σ_k ‖g_k − ḡ‖²_P ],  ‖v‖²_P = vᵀPv,

with η_e, L, τ of the optimizer's rule. A past gradient lies uphill by its age, which lengthens the step along the mean
gradient. But two minibatches of an epoch are never equal, which takes off the variance's share. For SGD it is
equation 1 (Smith et al. 2021, arXiv:2101.12176). For momentum on full batches the factor is (1 + β)/(1 − β)
(Kovachki & Stuart 2021; Ghosh et al. 2023, arXiv:2302.00849). The split for minibatches is derived in docs/theory.md,
section 6.

Where rates or momenta change within the epoch, both parts have other coefficients, see
`ireg.core.optimizers.schedule`.

Adaptive optimizers: P = 1/(√v̂ + ε) frozen as the last step had it. That is the whole of it where P changes little
within its own memory; what its changes add is in `ireg.terms.theory`. Before the first step P does not exist, nor do
these terms. Parameter groups with rates of their own: P includes each one's share of the largest. Without a rule for
the optimizer's class these terms do not exist. With weight decay λ, ḡ + λω stands for ḡ, with
decoupled weight decay ḡ + λP⁻¹ω: the gradient of the loss that is descended then. With an explicit penalty g_k is the
gradient of minibatch k's objective.

With `sampling="independent"` the variance has no part: that comes of minibatches that are never the same within an
epoch. Where each is a draw of its own, the mean over the draws follows the flow of

    C + (η_e/4) (1 + 2L) ‖∇C‖²_P,

C the loss of the population. ‖∇C‖²_P is estimated from a window of k minibatches without the noise of its draw, see
docs/theory.md, section 15.

Gradients that are clipped before each step are ∇φ*(g) of Huber's function φ*. Where the bound is below ∇C, finite steps
of SGD and momentum penalize η_e (½ + L) φ*(∇C) on full batches, in place of (η_e/4) (1 + 2L) ‖∇C‖². What minibatches
add is not known then. Adaptive optimizers' terms are those of steps without clipping. See docs/theory.md, section 19.
"""

from functools import partial

from torch import Tensor

from ireg.core.clipping import NORM, VALUE, Clip
from ireg.core.moments.needs import NOTHING, Need, needs
from ireg.core.optimizers import OptimizerState
from ireg.core.optimizers.steepest import Steepest, absolute
from ireg.core.params import add_scaled
from ireg.core.snapshot import Snapshot
from ireg.core.types import Params


def _moments(optimizer: OptimizerState) -> Need:
    if not optimizer.has_rule:
        return NOTHING
    if optimizer.second_moment is None:
        return (Need.SQ_NORMS if optimizer.shares is None else Need.SQUARE) | Need.MEAN
    return NOTHING if optimizer.corrected_second_moment is None else Need.SQUARE | Need.MEAN


def _undefined(snapshot: Snapshot) -> bool:
    optimizer = snapshot.optimizer
    return not optimizer.has_rule or (optimizer.second_moment is not None and snapshot.preconditioner is None)


def _full_batch_moments(optimizer: OptimizerState) -> Need:
    return _moments(optimizer) if optimizer.steepest is None else Need.MEAN


@needs(_full_batch_moments, estimable=True)
def own_full_batch(snapshot: Snapshot) -> Tensor | None:
    """Compute the part of `own` that full batches have, too: (η_e/4) (1 + 2L) ‖ḡ‖²_P.

    With weight decay, ḡ includes the decay. With independent minibatches ‖∇C‖²_P stands
    for ‖ḡ‖²_P, estimated without bias; the estimate may be negative.

    With clipped gradients, of SGD and momentum without weight decay, it is η_e (½ + L) φ*(ḡ) where ḡ is beyond the
    bound, see `ireg.Clip`, from all of an epoch's minibatches. By norm this is no sum over layers.

    Of Muon, Lion and Signum it is (½ + L) Σ η φ*(ḡ), φ* the nuclear norm of each matrix or the ℓ₁ norm, from all of an
    epoch's minibatches: a norm has no estimate without bias from some. Weight decay and a penalty beside the loss are
    left out of it.

    Source and validity: see `ireg.terms.own`, and docs/theory.md, section 19.
    """
    steepest = snapshot.optimizer.steepest
    if steepest is not None:
        unknown = snapshot.is_estimated or snapshot.objective is not None or _turns(steepest, snapshot.clip)
        return None if unknown else steepest.penalty(snapshot.moments.mean)
    if _undefined(snapshot):
        return None
    of_mean, _ = snapshot.own_coefficients
    if (clip := _acting_clip(snapshot)) is not None:
        if snapshot.optimizer.weight_decay or (snapshot.whole is not None and clip.by == NORM):
            return None
        potential = clip.potential(_of_descended(snapshot), snapshot.preconditioner)
        return None if potential is None else 2 * of_mean * potential
    return of_mean * snapshot.descended.square_of_mean(snapshot.preconditioner, partial(_with_shared, snapshot))


def _turns(steepest: Steepest, clip: Clip | None) -> bool:
    """Return whether clipping makes another map of the step.

    By norm a gradient is multiplied by a number, which changes neither sign nor polar factor; by value the signs stay.
    """
    return clip is not None and clip.by == VALUE and steepest.norm is not absolute


def _acting_clip(snapshot: Snapshot) -> Clip | None:
    """Return how SGD's gradients are clipped, where the bound is below that of all minibatches."""
    clip = snapshot.clip
    if clip is None or snapshot.optimizer.kind != "sgd" or snapshot.is_estimated:
        return None
    return clip if clip.acts(_of_descended(snapshot.whole or snapshot)) else None


def _of_descended(snapshot: Snapshot) -> Params:
    """Return the gradient of the objective that is clipped, by name."""
    gradient, shared = snapshot.descended_moments.mean, snapshot.shared
    if shared is None:
        return gradient
    return add_scaled(gradient, {name: shared.gradient[name] for name in gradient}, 1.0)


def _with_shared(snapshot: Snapshot, gradient: Params) -> Params:
    """Add weight decay and the gradient of a shared penalty."""
    decayed = snapshot.optimizer.decayed(gradient, snapshot.moving, snapshot.preconditioner)
    return decayed if snapshot.shared is None else add_scaled(decayed, snapshot.shared.gradient, 1.0)


@needs(_moments, estimable=True)
def own_variance(snapshot: Snapshot) -> Tensor | None:
    """Compute the part of `own` that minibatches add: (η_e/4) (1 − τ) (1/m) Σ_k ‖g_k − ḡ‖²_P.

    It is 0 for a single minibatch. None for independent minibatches, whose mean has no such part, and where ḡ is
    clipped.

    Computed as the difference of (1/m) Σ ‖g_k‖²_P and ‖ḡ‖²_P, the same by algebra.

    Source and validity: see `ireg.terms.own`.
    """
    if _undefined(snapshot) or snapshot.independent or _acting_clip(snapshot) is not None:
        return None
    scale, gradients = snapshot.preconditioner, snapshot.descended
    _, of_variance = snapshot.own_coefficients
    return of_variance * (gradients.mean_square(scale) - gradients.square_of_mean(scale))


@needs(_moments, estimable=True)
def own(snapshot: Snapshot) -> Tensor | None:
    """Compute the implicit regularizer of the run's optimizer, `own_full_batch` + `own_variance`.

    That of SGD is `sgd`. With independent minibatches it is the first part alone. None where ḡ is clipped.

    Source and validity: see `ireg.terms.own`.
    """
    if _undefined(snapshot) or _acting_clip(snapshot) is not None:
        return None
    full_batch, variance = own_full_batch(snapshot), own_variance(snapshot)
    return full_batch if full_batch is None or variance is None else full_batch + variance
