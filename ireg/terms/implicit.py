"""The implicit regularization terms of the backward error analysis of SGD.

Notation: g_k = ∇Ĉ_k(ω) is the gradient of the mean loss of minibatch k of m, ḡ = (1/m) Σ g_k = ∇C(ω) with
C = (1/m) Σ Ĉ_k, η the learning rate. All are measured at fixed ω.

Where parameter groups have rates of their own, η‖v‖² is Σ_i η_i v_i², each weight with its own rate. Where the rate
changes within the epoch, the two parts have different coefficients, see `OptimizerState.step_factors`.

With `sampling="independent"` C is the loss of the population that the minibatches are drawn from. The parts are then
those of the population, estimated from the window's k minibatches without bias: ‖∇C‖² by ‖ḡ‖² − s²/k, and the variance
E ‖g − ∇C‖² by s² = Σ ‖g_j − ḡ‖²/(k − 1). They add up to `sgd` as before.
"""

from torch import Tensor

from ireg.core.moments.needs import NOTHING, Need, needs
from ireg.core.optimizers import OptimizerState
from ireg.core.snapshot import Snapshot


def _quarter_rate(snapshot: Snapshot) -> float:
    """Return η/4, the constant of all terms here.

    Sources: Barrett & Dherin 2021; Smith et al. 2021.
    """
    return snapshot.optimizer.lr / 4


def _whole(optimizer: OptimizerState) -> Need:
    """Return what `sgd` needs: squares by weight where the groups' rates differ, else squared norms.

    Where the rates change within the epoch, the whole needs its parts.
    """
    need = Need.SQ_NORMS if optimizer.shares is None else Need.SQUARE
    return need if optimizer.rates is None else need | Need.MEAN


@needs(_whole, estimable=True)
def sgd(snapshot: Snapshot) -> Tensor:
    """Compute the implicit regularizer of SGD, η/(4m) Σ_k ‖g_k‖².

    The mean of SGD's iterates over the orders of an epoch's minibatches follows the gradient flow of
    C̃ = C + η/(4m) Σ_k ‖∇Ĉ_k‖². Logged for every optimizer, so that they can be compared; it is the optimizer's own
    regularizer for plain SGD only, and there for minibatches of an epoch: with independent ones that is `full_batch`.

    Source: Smith, Dherin, Barrett & De 2021, arXiv:2101.12176; valid for small finite η.
    """
    if snapshot.optimizer.rates is not None:
        return full_batch(snapshot) + minibatch_variance(snapshot)
    return _quarter_rate(snapshot) * snapshot.gradients.mean_square(snapshot.optimizer.shares)


@needs(Need.MEAN, estimable=True)
def full_batch(snapshot: Snapshot) -> Tensor:
    """Compute the part of `sgd` that full-batch gradient descent has, too: (η/4) ‖ḡ‖².

    Source: Barrett & Dherin 2021, arXiv:2009.11162, equation (1) with λ = η/4.
    """
    factor, _ = snapshot.step_factors
    return _quarter_rate(snapshot) * factor * snapshot.gradients.square_of_mean(snapshot.optimizer.shares)


@needs(lambda optimizer: _whole(optimizer) | Need.MEAN, estimable=True)
def minibatch_variance(snapshot: Snapshot) -> Tensor:
    """Compute the part of `sgd` that minibatches add: η/(4m) Σ_k ‖g_k − ḡ‖².

    Computed as η/4 · ((1/m) Σ ‖g_k‖² − ‖ḡ‖²), the same by algebra; 0 for a single minibatch. `full_batch` and this
    add up to `sgd` for minibatches of any sizes, since each minibatch has weight 1/m.

    Source: Smith et al. 2021, arXiv:2101.12176.
    """
    _, factor = snapshot.step_factors
    gradients, shares = snapshot.gradients, snapshot.optimizer.shares
    return _quarter_rate(snapshot) * factor * (gradients.mean_square(shares) - gradients.square_of_mean(shares))


@needs(lambda optimizer: NOTHING if optimizer.second_moment is None else Need.SQUARE, estimable=True)
def rmsprop(snapshot: Snapshot) -> Tensor | None:
    """Compute the adaptive term of Singh's paper as printed, η/(4m) Σ_k ‖s_t ⊙ g_k‖².

    Computed as (η/4) ‖s_t ⊙ √((1/m) Σ g_k ⊙ g_k)‖², the same by algebra, with a norm that single precision's range does
    not bound: like g⁶, the entries of a well-fitted network leave it.
    s_t = γ s_{t−1} + (1 − γ) g_t ⊙ g_t is the optimizer's running mean of squared gradients, before bias correction
    (for Adagrad the plain mean over all steps). None for optimizers that keep none.

    Since s_t ≈ g², the term scales like g⁶: it is tiny for that reason alone, and its size says nothing about whether
    adaptive methods regularize.

    Source: Singh, "Implicit Regularization in Deep Neural Networks: An Optimization Perspective", section 2; no
    derivation is given there.
    """
    second = snapshot.optimizer.second_moment
    return None if second is None else _quarter_rate(snapshot) * snapshot.gradients.mean_square_of_product(second)
