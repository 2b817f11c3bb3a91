"""F at rate 0 of any optimizer, from its own steps on the minibatches' gradients in drawn orders.

No formula of the optimizer is needed. It is fed with gradients, and its weights are overwritten before each step, so
that they stand still and the rate does not matter. F is the mean of its steps over an epoch, once all before is
forgotten, less the step at the constant mean gradient (`ireg.core.ramp.settled_step`).

Nothing of first order in the noise is taken off, as nothing is known of the step. It is small: within an epoch the
deviations of the minibatches add up to 0, but for what a memory carries over its ends. The standard error shows it.

Source: docs/theory.md, section 16.
"""

import torch
from torch import Tensor

from ireg.core.drawing import EPOCH
from ireg.core.fluctuation import ORDERS, Draw, Fluctuation, drawing, over_orders
from ireg.core.frozen_gradients import FrozenGradients
from ireg.core.norms import widened
from ireg.core.params import by_name
from ireg.core.ramp import FIRST, Driven, Make, NoFlowError, settled_step
from ireg.core.types import Params

MOST = 2**14
"""Steps at most in which all before has to be forgotten: a memory of 1,000 steps is."""
FADED = 1e-4
"""By which share of the step a past that is twice as long may change it; the longer one is taken."""


def driven_noise(
    make: Make,
    gradients: FrozenGradients,
    like: Params,
    generator: torch.Generator,
    *,
    orders: int = ORDERS,
    sampling: str = EPOCH,
    most: int = MOST,
) -> Fluctuation:
    """Compute F at rate 0 from an optimizer's own steps, in what one of them takes off.

    The time is that of `orders` times so many steps as the memory has, the memory that of the stored gradients.
    Decoupled weight decay is a part of each step, and of the leading one.

    Args:
        make: makes the optimizer, at any rate above 0, of parameters in the order of `like`.
        gradients: of the m minibatches; stored.
        like: the weights, in the order of the gradients.
        generator: draws the orders; on the CPU.
        orders: how many are drawn.
        sampling: how training draws the minibatches, `epoch` or `independent`.
        most: steps in which the memory has to fade.

    Raises:
        NoFlowError: the gradients are not stored, the memory does not fade, the optimizer draws random numbers, or it
            takes no step with gradients alone.
        ValueError: fewer than two orders, an unknown drawing, or fewer than two independent minibatches.

    Example:
        >>> def loss(params, batch):
        ...     return (params["w"] * batch[0]).sum()
        >>> batches = [(torch.tensor([x]).double(),) for x in (-1.0, 4.0)]
        >>> params = {"w": torch.zeros(1).double()}
        >>> noise = driven_noise(
        ...     lambda parameters: torch.optim.SGD(parameters, lr=0.1),
        ...     FrozenGradients(loss, params, batches), params, torch.Generator().manual_seed(0),
        ... )
        >>> round(float(noise.leading), 6), noise.square  # 0.1 · 3/2; a linear step has no F
        (0.15, 0.0)
    """
    size = gradients.num_batches
    draw, factor = drawing(size, generator, orders, sampling)
    if not gradients.are_stored:
        raise NoFlowError(
            f"the gradients of {size} minibatches are too many to be stored, and an optimizer without a rule would "
            "compute each a thousand times; leave ireg/strength_fluctuation_exact out of the terms"
        )
    weights = widened(like)
    constant, _ = settled_step(make, weights, by_name(gradients.mean, weights), tolerance=FADED, most=most)
    leading = _joined(constant)
    stepped = _Stepped(make, weights, gradients)
    past = _forgotten(stepped, draw, float(leading.norm()), most)
    values = (stepped.mean(draw(past + 1)).sub_(leading).mul_(factor) for _ in range(orders))
    return over_orders(leading, values, orders)


class _Stepped:
    """An optimizer's steps at weights that stand still."""

    def __init__(self, make: Make, weights: Params, gradients: FrozenGradients) -> None:
        self.make, self.weights, self.gradients = make, weights, gradients

    def mean(self, epochs: Tensor) -> Tensor:
        """Return the mean step over the last of some epochs, (p,)."""
        driven, size = Driven(self.make, self.weights), epochs.shape[1]
        total = torch.zeros_like(self.gradients.mean)
        last = len(epochs) - 1
        for number, epoch in enumerate(epochs.tolist()):
            for batch in epoch:
                driven.put(self.weights)
                gradient = by_name(self.gradients.of(batch), self.weights)
                driven.step({name: value.clone() for name, value in gradient.items()})
                if number == last:
                    total += _joined(driven.off(self.weights))
        return total / size


def _forgotten(stepped: _Stepped, draw: Draw, length: float, most: int) -> int:
    """Return after how many epochs an optimizer has forgotten all before.

    Raises:
        NoFlowError: it has not within `most` steps.
    """
    size = stepped.gradients.num_batches
    past = -(-FIRST // size)
    while 2 * past * size <= max(most, 2 * FIRST + 2 * size):
        epochs = draw(2 * past + 1)
        if float((stepped.mean(epochs) - stepped.mean(epochs[past:])).norm()) <= FADED * length:
            return 2 * past
        past *= 2
    name = type(Driven(stepped.make, stepped.weights).optimizer).__name__
    raise NoFlowError(
        f"{name} has not forgotten its first steps after {past * size} more: its mean step depends on all of its past"
    )


def _joined(values: Params) -> Tensor:
    return torch.cat([value.flatten() for value in values.values()])
