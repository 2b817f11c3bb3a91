"""F at rate 0 of steps along a map T of filtered gradients.

Muon's and Lion's are such. A step takes off ηT(c), c = Σ_j a_j g_{k_{t−j}} = ḡ + ξ. At weights that stand still,

    F = E T(ḡ + ξ) − T(ḡ),

the mean over orders and the steps of an epoch, with no expansion. To second order in the noise it is

    F ≈ ½ κ (1/m) Σ_k D²T(ḡ)[δ_k, δ_k],   δ_k = g_k − ḡ,

κ what the filter leaves of the minibatches' covariance (`GradientFilter.noise`), for a running mean
(1−β)/(1+β) (1 − τ_β). Where noise is not small beside ḡ the two differ. A sign has no second one.

From each order its linear part DT(ḡ)[c̄ − ḡ] is taken off, c̄ the mean of c over the epoch. Its expectation is 0 exactly.
Independent minibatches: F is k/(k − 1) times that of the window, as in `ireg.core.preconditioner_noise`.

Source: docs/theory.md, sections 16 and 19.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from ireg.core.drawing import EPOCH
from ireg.core.fluctuation import ORDERS, Fluctuation, drawing, over_orders, past_weights
from ireg.core.frozen_gradients import FrozenGradients
from ireg.core.optimizers.steepest import Steepest
from ireg.core.params import by_name
from ireg.core.types import Params

FIRST, SECOND = 1e-5, 1e-4
"""Lengths of first and second differences, as a share of a gradient's norm."""


def steepest_noise(
    gradients: FrozenGradients,
    steepest: Steepest,
    like: Params,
    generator: torch.Generator,
    *,
    orders: int = ORDERS,
    sampling: str = EPOCH,
) -> Fluctuation:
    """Compute F at rate 0 from drawn orders of the minibatches, see above, in what a step takes off.

    The time is that of `orders` epochs of the map, and of two passes over the gradients or more.

    Args:
        gradients: of the m minibatches.
        steepest: the map, the filter, and the rates.
        like: the parameters, in the order of the gradients; decoupled decay in the leading step is of them.
        generator: draws the orders; on the CPU.
        orders: how many are drawn.
        sampling: how training draws the minibatches, `epoch` or `independent`.

    Raises:
        ValueError: fewer than two orders, an unknown drawing, or fewer than two independent minibatches.

    Example:
        >>> from ireg.core.optimizers.steepest import GradientFilter, absolute
        >>> def loss(params, batch):
        ...     return (params["w"] * batch[0]).sum()
        >>> batches = [(torch.tensor([x]).double(),) for x in (-1.0, 4.0)]  # signs −1 and 1, and that of the mean is 1
        >>> params = {"w": torch.zeros(1).double()}
        >>> last = GradientFilter(mixed=0.0, kept=0.0, ahead=False)
        >>> signs = Steepest(norm=absolute, step_map=torch.sign, filter=last, rates={"w": 1.0}, smooth=False)
        >>> noise = steepest_noise(
        ...     FrozenGradients(loss, params, batches), signs, params, torch.Generator().manual_seed(0)
        ... )
        >>> noise.leading, noise.mean
        (tensor([1.], dtype=torch.float64), tensor([-1.], dtype=torch.float64))
    """
    size, along = gradients.num_batches, steepest.filter
    draw, factor = drawing(size, generator, orders, sampling)
    weights = past_weights(draw, (along.kept,), orders, size)[0].to(gradients.mean.device)
    means = gradients.mean.new_zeros(orders, len(gradients.mean))
    for number in range(size):
        means.addr_(weights[:, number], gradients.of(number))
    taken = _step(steepest, like)
    at_mean = taken(gradients.mean)

    def value(mean: Tensor) -> Tensor:
        steps, filtered = torch.zeros_like(at_mean), torch.zeros_like(at_mean)
        for number in draw(1)[0].tolist():
            gradient = gradients.of(number)
            if along.ahead:
                mean.lerp_(gradient, 1 - along.kept)
            mixed = gradient.lerp(mean, along.mixed)
            if not along.ahead:
                mean.lerp_(gradient, 1 - along.kept)
            filtered += mixed
            steps += taken(mixed)
        found = steps.div_(size).sub_(at_mean)
        if steepest.smooth:
            found -= _differenced(taken, gradients.mean, filtered.div_(size).sub_(gradients.mean), like)
        return found.mul_(factor)

    return over_orders(_with_decay(steepest, like, at_mean), map(value, means), orders)


def expanded_noise(
    gradients: FrozenGradients, steepest: Steepest, like: Params, *, sampling: str = EPOCH
) -> tuple[Tensor, Tensor] | None:
    """Compute F of second order in the noise, ½ κ (1/m) Σ_k D²T(ḡ)[δ_k, δ_k], in what a step takes off.

    Args:
        gradients: of the m minibatches.
        steepest: the map, the filter, and the rates.
        like: the parameters, in the order of the gradients.
        sampling: how training draws the minibatches.

    Returns:
        The leading step and F, (p,) each; None where the map has no second derivative.
    """
    if not steepest.smooth:
        return None
    size, mean = gradients.num_batches, gradients.mean
    taken = _step(steepest, like)
    at_mean, total = taken(mean), torch.zeros_like(mean)
    for number in range(size):
        change = gradients.of(number) - mean
        length = _length(mean, change, like, SECOND)
        forwards, backwards = (taken(mean + sign * length * change) for sign in (1, -1))
        total += (forwards + backwards - 2 * at_mean) / length.square()
    left = steepest.filter.noise(size, independent=sampling != EPOCH)
    population = size / (size - 1) if sampling != EPOCH else 1.0
    return _with_decay(steepest, like, at_mean), total * (left * population / (2 * size))


def _step(steepest: Steepest, like: Params) -> Callable[[Tensor], Tensor]:
    """Return the map of all gradients to what a step takes off without decay, (p,) to (p,)."""

    def taken(gradient: Tensor) -> Tensor:
        parts = by_name(gradient, like)
        return torch.cat([(steepest.rates[name] * steepest.step_map(part)).flatten() for name, part in parts.items()])

    return taken


def _with_decay(steepest: Steepest, like: Params, step: Tensor) -> Tensor:
    decays = [(value * steepest.decays.get(name, 0.0)).flatten() for name, value in like.items()]
    return step + torch.cat(decays).to(step)


def _differenced(taken: Callable[[Tensor], Tensor], mean: Tensor, change: Tensor, like: Params) -> Tensor:
    """Return the derivative of the map along a change, by central differences, (p,)."""
    length = _length(mean, change, like, FIRST)
    return (taken(mean + length * change) - taken(mean - length * change)) / (2 * length)


def _length(mean: Tensor, change: Tensor, like: Params, share: float) -> Tensor:
    """Return by what a change is multiplied to be a share of the gradient's norm, of each parameter, (p,)."""
    lengths = []
    for value, along in zip(by_name(mean, like).values(), by_name(change, like).values(), strict=True):
        size = float(along.norm())
        lengths.append(torch.full_like(along.flatten(), share * float(value.norm()) / size if size else 1.0))
    return torch.cat(lengths)
