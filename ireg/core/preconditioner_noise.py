"""The noise of the preconditioner at rate 0, without an expansion.

The weights stand still. The optimizer's own filters run over the gradients g_k of the m minibatches in drawn orders:

    v ← ρv + (1 − ρ) g_k⊙g_k,   m ← βm + (1 − β) g_k,   d = (b g_k + (1 − b) m)/(√v + ε),

b the share of the bare gradient (NAdam). Centered RMSProp has √(v − a⊙a) for √v, a ← ρa + (1 − ρ) g_k. With u the
velocity at the mean state, ḡ/(√s̄ + ε), or ḡ/(√(s̄ − ḡ⊙ḡ) + ε) of centered RMSProp,

    F = E d − u,

the mean over orders and the steps of an epoch. The mean flow's F (`ireg.core.mean_flow`) is the Taylor series of this
number about s̄, to first order in 1 − ρ. It is too large where v varies much. What does not enter:

- the learning rate. F is what is left of the drift at rate 0, in units of the effective rate η_e;
- bias correction, which is past in a settled filter;
- RMSProp's momentum. It filters what is divided already, and leaves the mean over an epoch as it is;
- weight decay that is decoupled. It is in E d and in u. Other decay is part of g_k;
- AMSGrad and Adagrad, whose second moments never settle: for them there is no such number.

**The settled filter.** Before the epoch that counts, the filter has run over epochs of orders of their own, back to
where a gradient's weight ρⁿ is below 2⁻⁵³. A filter is linear: its state there is Σ_k w_k q_k, w_k the sum of the
weights of minibatch k's appearances. So it costs one pass over the gradients for all orders, however long the memory.

**Errors.** An order's value is less its linear part: φ(s̄)⊙(n̄ − ḡ) + ḡ⊙φ'(s̄)⊙(v̄ − s̄), n̄ and v̄ the means of the
numerator and of v over the epoch, φ(v) = 1/(√v + ε). Its expectation is 0 exactly. That changes no expectation, and
leaves an error of second order in v's fluctuation. The orders are independent. Their spread gives the standard error.

**Independent minibatches** are drawn with replacement from those given. These are a window of k draws of the
population, and the window's variances are (k−1)/k times the population's on the mean. So F is k/(k − 1) times that of
the window, which frees it of bias to first order in the variances.

Source: docs/theory.md, section 16.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from ireg.core.drawing import EPOCH
from ireg.core.fluctuation import ORDERS, Draw, Fluctuation, drawing, over_orders, past_weights
from ireg.core.frozen_gradients import FrozenGradients
from ireg.core.optimizers import SecondMoment


@dataclass(frozen=True, kw_only=True)
class State:
    """The filters' means, (p,) each.

    Attributes:
        second: v.
        first: m; not read where the bare gradient is divided.
        centre: a of centered RMSProp; not read elsewhere.
    """

    second: Tensor
    first: Tensor
    centre: Tensor


@dataclass(frozen=True, kw_only=True)
class Steps:
    """Means over the steps that count, (p,) each.

    Attributes:
        direction: of d.
        numerator: of b g_k + (1 − b) m.
        second: of v.
        centre: of a; None but for centered RMSProp.
        last: the filters' state after the last step.
    """

    direction: Tensor
    numerator: Tensor
    second: Tensor
    centre: Tensor | None
    last: State


def preconditioner_noise(
    gradients: FrozenGradients,
    dividing: SecondMoment,
    generator: torch.Generator,
    *,
    orders: int = ORDERS,
    sampling: str = EPOCH,
) -> Fluctuation:
    """Compute F at rate 0 from drawn orders of the minibatches, see above.

    The time is that of `orders` epochs of the filter and of one pass over the gradients, which are computed once more
    for each where they are not stored. The memory is that of `orders` states. A smaller last minibatch is shuffled with
    the others, as the theory has it.

    Args:
        gradients: of the m minibatches.
        dividing: how the optimizer divides.
        generator: draws the orders; on the CPU.
        orders: how many are drawn.
        sampling: how training draws the minibatches, `epoch` or `independent`.

    Returns:
        The estimate, with its variance over orders.

    Raises:
        ValueError: fewer than two orders, an unknown drawing, or fewer than two independent minibatches.

    Example:
        >>> def loss(params, batch):
        ...     return (params["w"] * batch[0]).square().mean() / 2
        >>> batches = [(torch.tensor([x]), torch.zeros(1)) for x in (1.0, 1.0)]
        >>> gradients = FrozenGradients(loss, {"w": torch.tensor([3.0])}, batches)
        >>> rule = SecondMoment(decay=0.9, eps=0.0, numerator_decay=0.0)
        >>> noise = preconditioner_noise(gradients, rule, torch.Generator().manual_seed(0))
        >>> noise.leading, bool(noise.mean.abs() < 1e-15)  # equal gradients: nothing fluctuates
        (tensor([1.], dtype=torch.float64), True)
    """
    draw, factor = drawing(gradients.num_batches, generator, orders, sampling)
    leading = velocity(gradients, dividing)
    # Where all gradients are ḡ, their mean square is ḡ⊙ḡ, and nothing is left of it in centered RMSProp.
    square = torch.zeros_like(leading) if dividing.centered else gradients.mean.square()
    noiseless = _ratio(gradients.mean, square, dividing)

    def value(state: State) -> Tensor:
        steps = follow(gradients, dividing, draw(1)[0], state)
        return (steps.direction - leading - linear_part(gradients, dividing, steps)).mul_(factor)

    return over_orders(
        leading, map(value, settled_states(gradients, dividing, draw, orders)), orders, noiseless=noiseless
    )


def velocity(gradients: FrozenGradients, dividing: SecondMoment) -> Tensor:
    """Return u without decoupled decay, (p,): ḡ/(√s̄ + ε), or ḡ/(√(s̄ − ḡ⊙ḡ) + ε) of centered RMSProp.

    It is 0 where ḡ is, also for ε = 0.

    Args:
        gradients: of the minibatches.
        dividing: how the optimizer divides: ε, and whether s̄ is centered.
    """
    return _ratio(gradients.mean, _mean_square(gradients, dividing), dividing)


def _ratio(mean: Tensor, square: Tensor, dividing: SecondMoment) -> Tensor:
    return torch.where(mean == 0, 0.0, mean / (square.sqrt() + dividing.eps))


def mean_state(gradients: FrozenGradients) -> State:
    """Return the filters' means where all gradients are ḡ and all squares s̄."""
    return State(second=gradients.square, first=gradients.mean, centre=gradients.mean)


def follow(
    gradients: FrozenGradients, dividing: SecondMoment, order: Tensor, state: State, *, counted: int | None = None
) -> Steps:
    """Run the filters over the minibatches of an order, and average the last `counted` steps.

    Args:
        gradients: of the minibatches.
        dividing: how the optimizer divides.
        order: the minibatches' numbers, one for each step.
        state: before the first step; it is not changed.
        counted: steps at the end that count; None for all.

    Returns:
        The means over the steps that count, and the state after the last.

    Raises:
        ValueError: `counted` is below 1 or above the number of steps.
    """
    numbers: list[int] = order.tolist()
    counted = len(numbers) if counted is None else counted
    if not 1 <= counted <= len(numbers):
        raise ValueError(f"counted={counted}: must be from 1 to the number of steps, {len(numbers)}")
    rho, beta, bare = dividing.decay, dividing.numerator_decay, dividing.numerator_bare
    second, first, centre = state.second.clone(), state.first.clone(), state.centre.clone()
    direction, numerators, seconds, centres = (torch.zeros_like(second) for _ in range(4))
    root = torch.empty_like(second)
    for step, number in enumerate(numbers):
        gradient = gradients.of(number)
        second.mul_(rho).addcmul_(gradient, gradient, value=1 - rho)
        numerator = gradient
        if beta:
            first.mul_(beta).add_(gradient, alpha=1 - beta)
            numerator = first if not bare else torch.lerp(first, gradient, bare)
        if dividing.centered:
            centre.mul_(rho).add_(gradient, alpha=1 - rho)
        if step < len(numbers) - counted:
            continue
        below = torch.addcmul(second, centre, centre, value=-1).clamp_(min=0) if dividing.centered else second
        torch.sqrt(below, out=root).add_(dividing.eps)
        if not dividing.eps:  # 0/0 where no gradient was: nothing moves there. A gradient over 0 is left to be seen.
            root.masked_fill_(numerator == 0, 1.0)
        direction.addcdiv_(numerator, root)
        numerators += numerator
        seconds += second
        if dividing.centered:
            centres += centre
    return Steps(
        direction=direction.div_(counted),
        numerator=numerators.div_(counted),
        second=seconds.div_(counted),
        centre=centres.div_(counted) if dividing.centered else None,
        last=State(second=second, first=first, centre=centre),
    )


def linear_part(gradients: FrozenGradients, dividing: SecondMoment, steps: Steps) -> Tensor:
    """Return the part of the mean direction that is linear in the filters' fluctuation, (p,).

    With x = s̄, φ = 1/(√x + ε) and φ' = −1/(2√x (√x + ε)²) it is φ(x) (n̄ − ḡ) + ḡ φ'(x) (v̄ − s̄). Of centered RMSProp
    x is s̄ − ḡ⊙ḡ, and v̄ − s̄ is less 2ḡ(ā − ḡ). Its expectation over settled filters is 0. It is 0 where x is.

    Args:
        gradients: of the minibatches.
        dividing: how the optimizer divides.
        steps: means over steps, of which n̄, v̄ and ā are taken.
    """
    mean = gradients.mean
    root = _mean_square(gradients, dividing).sqrt_()
    change = steps.second - gradients.square
    if steps.centre is not None:
        change -= 2 * mean * (steps.centre - mean)
    below = root + dividing.eps
    return torch.where(root > 0, (steps.numerator - mean - mean * change / (2 * root * below)) / below, 0.0)


def settled_states(gradients: FrozenGradients, dividing: SecondMoment, draw: Draw, orders: int) -> list[State]:
    """Draw states of settled filters, one for each order.

    Args:
        gradients: of the m minibatches.
        dividing: how the optimizer divides.
        draw: draws the orders of epochs.
        orders: how many states.
    """
    size = gradients.num_batches
    seconds, firsts, centres = (gradients.mean.new_zeros(orders, len(gradients.mean)) for _ in range(3))
    rho, beta = dividing.decay, dividing.numerator_decay
    weights = past_weights(draw, (rho, beta), orders, size).to(gradients.mean.device)
    for number in range(size):
        gradient = gradients.of(number)
        seconds.addr_(weights[0, :, number], gradient.square())
        if beta:
            firsts.addr_(weights[1, :, number], gradient)
        if dividing.centered:
            centres.addr_(weights[0, :, number], gradient)
    return [State(second=seconds[i], first=firsts[i], centre=centres[i]) for i in range(orders)]


def _mean_square(gradients: FrozenGradients, dividing: SecondMoment) -> Tensor:
    """Return what stands below the root in the mean state, (p,), as a tensor of its own."""
    if dividing.centered:
        return gradients.square.addcmul(gradients.mean, gradients.mean, value=-1).clamp_(min=0)
    return gradients.square.clone()
