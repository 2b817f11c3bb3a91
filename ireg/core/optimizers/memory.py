"""What update rules are made of: memory, momentum buffer, second moment, preconditioner.

For fixed P (diagonal, positive) every rule here is a linear filter of the gradients seen so far,

    ω_{t+1} = ω_t − η P Σ_{n≥0} a_n g_{t−n},

and to first order in η its mean depends on three properties of the weights a_n only (docs/theory.md, section 6).
"""

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Memory:
    """The weights a_n of past gradients, n steps back, after the transient of the first steps.

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

    @property
    def alternating_rate(self) -> float:
        """Return the rate for a gradient of alternating sign, η Σ (−1)ⁿ a_n.

        Gradient descent with this memory is unstable where an eigenvalue of PH exceeds 2/(η Σ (−1)ⁿ a_n). From the
        tail shares: Σ (−1)ⁿ a_n / Σ a_n = 1 − 2cr/(1 + r).

        Source: Cohen et al. 2021, arXiv:2103.00065, for momentum; Cohen et al. 2022, arXiv:2207.14484, for Adam.

        Example:
            >>> heavy_ball = Memory(effective_rate=0.1 / (1 - 0.9), lag=9.0, decay=0.9)
            >>> round(2 / heavy_ball.alternating_rate, 6)  # 2 (1 + β)/η
            38.0
        """
        return self.effective_rate * (1 - 2 * self.tail_scale * self.decay / (1 + self.decay))

    def tail_share(self, distance: int) -> float:
        """Return the share of gradients that are at least d ≥ 1 steps old, T_d = Σ_{n≥d} a_n / Σ a_n = c rᵈ."""
        return self.tail_scale * self.decay**distance

    def overlap(self, num_batches: int) -> float:
        """Return the mean tail share of two minibatches of an epoch.

        It is τ = 2/(m(m−1)) Σ_{d=1}^{m−1} (m−d) T_d, and 0 for m = 1.
        """
        return self.tail_scale * overlap(self.decay, num_batches)


def overlap(decay: float, num_batches: int) -> float:
    """Compute τ_r = 2/(m(m−1)) Σ_{d=1}^{m−1} (m−d) rᵈ, which is 0 for m = 1.

    Args:
        decay: r.
        num_batches: m.
    """
    # Summed, since the closed form divides by (1 − r)² and loses its digits for r near 1.
    if num_batches == 1:
        return 0.0
    terms = ((num_batches - distance) * decay**distance for distance in range(1, num_batches))
    return 2 * sum(terms) / (num_batches * (num_batches - 1))


@dataclass(frozen=True, kw_only=True)
class MomentumBuffer:
    """A running mean or sum of gradients, in torch's state `momentum_buffer` or `exp_avg`.

    Before the next step the gradients in it have a mean age of 1/(1 − β) steps.

    Attributes:
        decay: β.
        gain: what a constant gradient of 1 fills it with, past the transient.
        divided: whether gradients are divided by the root of the second moment before they enter.
        ahead: the rate at which the buffer alone would still move the weights: ω − ahead · b (divided, if it was not
            before) are the settled weights.
    """

    decay: float
    gain: float
    divided: bool
    ahead: float


@dataclass(frozen=True, kw_only=True)
class SecondMoment:
    """How an optimizer divides by the root of its second moment.

    Attributes:
        decay: ρ.
        eps: ε, outside of the root.
        numerator_decay: β of what is divided, 0 where the bare gradient is.
        numerator_bare: share of the bare gradient in what is divided, beside a running mean with decay β.
        lag_after: mean age in steps that a filter adds after the division.
        centered: whether the square of the mean gradient, with the same decay, is taken off before the root.
    """

    decay: float
    eps: float
    numerator_decay: float
    numerator_bare: float = 0.0
    lag_after: float = 0.0
    centered: bool = False


def reciprocal_root(root: Tensor, eps: float) -> Tensor:
    """Return the preconditioner P = 1/(√v + ε), in the shape of v.

    This is the one place of the formula.

    Args:
        root: √v.
        eps: ε, which torch adds outside of the root.
    """
    return (root + eps).reciprocal_()
