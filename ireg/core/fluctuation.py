"""F at rate 0, from drawn orders: what the noise of minibatches makes of the mean step.

The weights stand still, the optimizer is fed with the minibatches' gradients in drawn orders, and F is the mean of its
steps less the step at the mean gradient. Three ways lead to the steps: the filters of an optimizer that divides
(`ireg.core.preconditioner_noise`), a map of a filtered gradient (`ireg.core.steepest_noise`), and the optimizer itself
(`ireg.core.driven_noise`).

Source: docs/theory.md, section 16.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from ireg.core.drawing import EPOCH, require_sampling, require_several

ORDERS = 8
"""Orders that are drawn, if no number is given."""
NEGLIGIBLE = 2.0**-53
"""Weight of a gradient below which it does not change the filter's state."""
SMALLEST = 2
"""Orders: a standard error needs two."""

Draw = Callable[[int], Tensor]
"""Orders of so many epochs, (epochs, m)."""


class Estimate(NamedTuple):
    """A norm that is estimated from drawn orders, and its standard error to first order.

    The error is None where the estimate is 0, which it is where noise of the orders is all there is.
    """

    value: float
    error: float | None


@dataclass(frozen=True, kw_only=True)
class Fluctuation:
    """F at rate 0, from drawn orders.

    Attributes:
        leading: the step u that F is added to, (p,).
        noiseless: the step where all gradients are ḡ, (p,). It is u but for optimizers that divide: their u has the
            mean square s̄ of the gradients.
        mean: the estimate of F, (p,), in the unit of `leading`.
        variance: of `mean`, (p,): the squared standard error over orders.
        products: ⟨F_i, F_j⟩ of the orders' estimates, (orders, orders).
        along: ⟨F_i, u − u₀⟩, u₀ the noiseless step, (orders,).
    """

    leading: Tensor
    noiseless: Tensor
    mean: Tensor
    variance: Tensor
    products: Tensor
    along: Tensor

    @property
    def orders(self) -> int:
        """How many orders there are."""
        return len(self.products)

    @property
    def square(self) -> float:
        """‖F‖² without the bias by noise.

        It is ‖F̂‖² less the sum of `variance`, and 0 where noise is all there is.
        """
        return max(float(self.mean.square().sum() - self.variance.sum()), 0.0)

    @property
    def change(self) -> Estimate:
        """‖u + F − u₀‖, the change of the mean step by noise, also without bias."""
        along = self.along[:, None] + self.along
        return _root(self.products + along + (self.leading - self.noiseless).square().sum())


def _root(products: Tensor) -> Estimate:
    """Return the norm of a mean from the products of its independent estimates.

    Its square is the mean of the products over pairs of orders. Such a mean has the variance 4/S times that of the S
    means of an order's products with the others.
    """
    orders = len(products)
    others = (products.sum(1) - products.diagonal()) / (orders - 1)
    value = max(float(others.mean()), 0.0) ** 0.5
    return Estimate(value, float(others.var() / orders) ** 0.5 / value if value else None)


def over_orders(
    leading: Tensor, values: Iterable[Tensor], orders: int, *, noiseless: Tensor | None = None
) -> Fluctuation:
    """Gather the estimates of F of each order.

    Args:
        leading: the step that F is added to, (p,).
        values: the estimate of each order, (p,).
        orders: how many these are, two or more.
        noiseless: the step where all gradients are their mean, (p,); by default the leading one.
    """
    rows = leading.new_empty(orders, len(leading))
    for row, value in zip(rows, values, strict=True):
        row.copy_(value)
    noiseless = leading if noiseless is None else noiseless
    return Fluctuation(
        leading=leading,
        noiseless=noiseless,
        mean=rows.mean(0),
        variance=rows.var(0) / len(rows),
        products=rows @ rows.T,
        along=rows @ (leading - noiseless),
    )


def drawing(size: int, generator: torch.Generator, orders: int, sampling: str) -> tuple[Draw, float]:
    """Return what draws the orders of epochs, and the factor that makes F that of the population.

    A window's variances are (k − 1)/k times those of the population that its k minibatches are drawn from.

    Args:
        size: the number of minibatches.
        generator: draws; on the CPU.
        orders: how many are asked for.
        sampling: how training draws the minibatches, `epoch` or `independent`.

    Raises:
        ValueError: fewer than two orders, an unknown drawing, or fewer than two independent minibatches.
    """
    if orders < SMALLEST:
        raise ValueError(f"orders={orders}: must be at least {SMALLEST}; a standard error over orders needs two")
    require_sampling(sampling)
    if sampling == EPOCH:
        return lambda epochs: torch.rand(epochs, size, dtype=torch.float64, generator=generator).argsort(1), 1.0
    require_several(size)
    return lambda epochs: torch.randint(size, (epochs, size), generator=generator), size / (size - 1)


def past_weights(draw: Draw, decays: Sequence[float], orders: int, size: int) -> Tensor:
    """Draw the past of each order, and return the weight of each minibatch in filters after it.

    A filter is linear: its state after many steps is Σ_k w_k q_k, w_k the sum of the weights of k's appearances, whose
    sum over k is 1.

    Args:
        draw: draws the orders of epochs.
        decays: of filters of the same gradients.
        orders: how many pasts.
        size: the number m of minibatches.

    Returns:
        Of each filter and order, (filters, orders, m).
    """
    weights = torch.zeros(len(decays), orders, size, dtype=torch.float64)
    for order in range(orders):
        past = draw(math.ceil(_memory(max(decays)) / size)).flatten()
        for number, each in enumerate(decays):
            ages = torch.arange(len(past) - 1, -1, -1, dtype=torch.float64)
            weights[number, order].index_add_(0, past, each**ages)
    return weights / weights.sum(2, keepdim=True)


def _memory(decay: float) -> int:
    """Return after how many steps a gradient's weight is negligible."""
    return 1 if decay == 0 else math.ceil(math.log(NEGLIGIBLE) / math.log(decay))
