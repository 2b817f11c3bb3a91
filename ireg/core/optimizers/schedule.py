"""The own regularizer's two coefficients where rates or momenta change from step to step.

Step t of a window, P fixed, is

    b_t = β_t b_{t−1} + γ_t g_t,  ω_{t+1} = ω_t − P (p_t g_t + q_t b_t),

with the rate η_t in p_t and q_t. Consider the settled weights: what the buffer will still move the weights by has been
added. Gradient g_t moves them by c_t = p_t + γ_t K_t in the long run, and a gradient in the buffer by β_t K_t times
what is left of it, with K_t = q_t + β_{t+1} K_{t+1}. So they take steps of SGD at the rates c_t, with gradients taken
at ω_t. That lies behind by what the buffer holds. Of a constant gradient it holds N_t = β_t N_{t−1} + γ_t, and
M_t = β_t M_{t−1} + γ_t of the epoch alone, M_{−1} = 0. With E[H_j g_i] of two minibatches of one epoch (docs/theory.md,
section 6), T = Σ c_t and S = Σ c_t², the mean over the orders follows, in time T,

    C + A ‖ḡ‖²_P + B (1/m) Σ_k ‖g_k − ḡ‖²_P,
    A = (S + 2 Σ c_t β_t K_t N_{t−1}) / (4T),
    B = (T² − S − 2 Σ c_t β_t K_t M_{t−1}) / (4(m−1)T).

After the window the last step's rate and momentum stay, and before it the buffer is full at the first step's momentum.
Both are assumptions; torch's buffers do not hold rates, so that earlier ones do not matter. Without memory these are
SGD's S/(4T) and (T² − S)/(4(m−1)T), and at one rate and momentum (η_e/4)(1 + 2L) and (η_e/4)(1 − τ).

Source: docs/theory.md, section 8.
"""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Filter:
    """What one step makes of its gradient and of the buffer, for fixed P.

    Attributes:
        bare: p, the rate of the gradient itself.
        held: q, the rate of the buffer after the gradient has entered.
        gain: γ, with which the gradient enters.
        decay: β, what stays of the buffer.
    """

    bare: float
    held: float
    gain: float
    decay: float


def pair_coefficients(filters: Sequence[Filter], num_batches: int) -> tuple[float, float]:
    """Return the coefficients A of ‖ḡ‖²_P and B of the variance, in units of the rates.

    Of other than m steps the sums are those that m steps with such rates have.

    Args:
        filters: of the window's steps, in their order, each with a decay below 1.
        num_batches: the number m of the epoch's minibatches; for m = 1 there is no variance, and B is T/4.

    Example:
        >>> steps = [Filter(bare=0.0, held=rate, gain=1.0, decay=0.5) for rate in (0.1, 0.1)]
        >>> [round(value, 6) for value in pair_coefficients(steps, 2)]  # η_e = 0.2, L = 1, τ = 0.5
        [0.15, 0.025]
    """
    first, last = filters[0], filters[-1]
    ahead: list[tuple[float, float]] = []  # K_t and β_t K_t, from the last step on
    left = last.decay * last.held / (1 - last.decay)
    for step in reversed(filters):
        rest = step.held + left
        left = step.decay * rest
        ahead.append((rest, left))
    total = squares = remembered = within = 0.0
    filled, filled_within = first.gain / (1 - first.decay), 0.0  # N and M before the step
    for step, (rest, left) in zip(filters, reversed(ahead), strict=True):
        moved = step.bare + step.gain * rest
        total += moved
        squares += moved * moved
        remembered += moved * left * filled
        within += moved * left * filled_within
        filled = step.decay * filled + step.gain
        filled_within = step.decay * filled_within + step.gain
    if not total:  # nothing moves: a dampening of 1
        return 0.0, 0.0
    of_mean = (squares + 2 * remembered) / (4 * total)
    if num_batches == 1:
        return of_mean, total / len(filters) / 4
    scale = num_batches / len(filters)
    if scale != 1:
        total, squares = scale * total, scale * squares
        within = scale * remembered * _share_within(sum(step.decay for step in filters) / len(filters), num_batches)
    return of_mean, (total * total - squares - 2 * within) / (4 * (num_batches - 1) * total)


def _share_within(decay: float, num_batches: int) -> float:
    """Compute the mean of 1 − βᵗ over t below m, the epoch's own share of the buffer."""
    return 1 - sum(decay**step for step in range(num_batches)) / num_batches
