"""An optimizer's update rule as data: what it remembers of past gradients, and what it divides them by.

For fixed P (diagonal, positive) every rule here is a linear filter of the gradients seen so far,

    ω_{t+1} = ω_t − η P Σ_{n≥0} a_n g_{t−n},

and to first order in η its mean depends on three properties of the weights a_n only (docs/theory.md, section 6).
"""

from dataclasses import dataclass

from ireg.core.optimizer_view import OptimizerView
from ireg.core.params import add_scaled
from ireg.core.types import Params


@dataclass(frozen=True, kw_only=True)
class Memory:
    """The weights a_n of past gradients, n steps back, past the transient of the first steps.

    Attributes:
        effective_rate: η_e = η Σ a_n.
        lag: mean age of the gradients in steps, L = Σ n a_n / Σ a_n.
        decay: r of the tail shares.
        tail_scale: c of the tail shares.
    """

    effective_rate: float
    lag: float
    decay: float
    tail_scale: float = 1.0

    def tail_share(self, distance: int) -> float:
        """T_d = Σ_{n≥d} a_n / Σ a_n = c rᵈ, the weight of what is d ≥ 1 steps old or older."""
        return self.tail_scale * self.decay**distance

    def overlap(self, num_batches: int) -> float:
        """τ = 2/(m(m−1)) Σ_{d=1}^{m−1} (m−d) T_d, the mean tail share of two minibatches of an epoch; 0 for m = 1."""
        return self.tail_scale * overlap(self.decay, num_batches)


def overlap(decay: float, num_batches: int) -> float:
    """τ_r = 2/(m(m−1)) Σ_{d=1}^{m−1} (m−d) rᵈ, 0 for m = 1.

    Summed, not by the closed form, which loses its digits for r near 1.
    """
    if num_batches == 1:
        return 0.0
    terms = ((num_batches - distance) * decay**distance for distance in range(1, num_batches))
    return 2 * sum(terms) / (num_batches * (num_batches - 1))


def memory(optimizer: OptimizerView) -> Memory:
    """What an optimizer remembers of past gradients.

    | optimizer (torch's form) | a_n | η_e | L | T_d, d ≥ 1 |
    |---|---|---|---|---|
    | SGD | 1, 0, 0, … | η | 0 | 0 |
    | momentum β, dampening δ: b ← βb + (1−δ)g | (1−δ)βⁿ | η(1−δ)/(1−β) | β/(1−β) | βᵈ |
    | Nesterov: the step is g + βb, b ← βb + g | βⁿ⁺¹, and 1 more for n = 0 | η/(1−β) | β²/(1−β) | βᵈ⁺¹ |
    | RMSProp and Adagrad; momentum β as above, of g/(√v + ε) | βⁿ | η/(1−β) | β/(1−β) | βᵈ |
    | Adam, AdamW: m ← βm + (1−β)g | (1−β)βⁿ | η | β/(1−β) | βᵈ |

    Decoupled weight decay λ is not remembered. That multiplies the whole loss by 1 − ηLλ: a slower clock, the same path
    otherwise.

    Raises:
        ValueError: an optimizer without a rule here, or one that remembers for ever (β = 1).
    """
    beta = optimizer.betas[0] if optimizer.betas is not None else optimizer.momentum
    if not 0.0 <= beta < 1.0:
        raise ValueError(f"{optimizer.kind} with momentum {beta:g}: its memory must fade; choose a value in [0, 1)")
    lag = beta / (1 - beta)
    if optimizer.kind in ("adam", "adamw"):
        return Memory(effective_rate=optimizer.lr, lag=lag, decay=beta)
    rate = optimizer.lr * (1 - optimizer.dampening) / (1 - beta)
    if optimizer.kind not in ("sgd", "rmsprop", "adagrad"):
        raise ValueError(f"{optimizer.kind}: no rule for its memory; add one to ireg/core/memory.py")
    if optimizer.nesterov:
        return Memory(effective_rate=rate, lag=beta * lag, decay=beta, tail_scale=beta)
    return Memory(effective_rate=rate, lag=lag, decay=beta)


@dataclass(frozen=True, kw_only=True)
class SecondMoment:
    """How an optimizer divides by the root of its running mean of squared gradients.

    Attributes:
        decay: ρ.
        eps: ε, outside of the root.
        numerator_decay: β of what is divided, 0 where the bare gradient is.
        lag_after: mean age in steps that a filter adds after the division.
    """

    decay: float
    eps: float
    numerator_decay: float
    lag_after: float


def second_moment(optimizer: OptimizerView) -> SecondMoment | None:
    """How the optimizer divides; None for SGD.

    Raises:
        ValueError: its second moment is no running mean (Adagrad, AMSGrad, centered RMSProp, ρ = 1).
    """
    if optimizer.eps is None:
        return None
    decay = optimizer.betas[1] if optimizer.betas is not None else optimizer.alpha
    if decay is None or optimizer.amsgrad or optimizer.centered or not 0.0 <= decay < 1.0:
        raise ValueError(
            f"{optimizer.kind}: its mean flow is known only where it divides by the root of a fading mean of squared "
            "gradients (rmsprop, adam, adamw; not amsgrad, not centered); leave out terms=theory"
        )
    if optimizer.betas is not None:
        return SecondMoment(decay=decay, eps=optimizer.eps, numerator_decay=optimizer.betas[0], lag_after=0.0)
    return SecondMoment(decay=decay, eps=optimizer.eps, numerator_decay=0.0, lag_after=memory(optimizer).lag)


def preconditioner(optimizer: OptimizerView) -> Params | None:
    """P of the update, by name: 1/(√v̂ + ε) with v̂ as the last step had it; None for the identity (SGD).

    v̂ is the optimizer's second moment with all that torch does to it: bias correction (Adam), the running maximum
    (AMSGrad), the square of the mean taken off (centered RMSProp), the sum (Adagrad).
    """
    if optimizer.corrected_second_moment is None:
        return None
    assert optimizer.eps is not None
    return {
        name: value.sqrt().add_(optimizer.eps).reciprocal_()
        for name, value in optimizer.corrected_second_moment.items()
    }


def decayed(gradient: Params, params: Params, optimizer: OptimizerView, scale: Params | None) -> Params:
    """The gradient with weight decay λ: of C + (λ/2) ‖ω‖², or, where that is decoupled, of C + (λ/2) ωᵀP⁻¹ω.

    Args:
        gradient: ∇C.
        params: ω.
        optimizer: holds λ and whether it is decoupled.
        scale: P; None for the identity.
    """
    decay = optimizer.weight_decay
    if decay and optimizer.decoupled and scale is not None:
        params = {name: value / scale[name] for name, value in params.items()}
    return add_scaled(gradient, params, decay)
