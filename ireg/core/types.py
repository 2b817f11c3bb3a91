"""The numerics' types: parameters by name, batches, losses as functions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor

Params = dict[str, Tensor]
"""Detached tensors by parameter name."""

Pair = tuple[Tensor, Tensor]
"""Inputs and targets of one minibatch, the examples along the first dimension."""

Batch = Any
"""One minibatch, as its loss takes it. The faster methods need a `Pair`."""

LossFn = Callable[[Params, Batch], Tensor]
"""The *mean* loss of one minibatch at given parameters, a 0-d tensor."""


@dataclass(frozen=True)
class Shared:
    """A penalty that all minibatches share, at given parameters.

    Attributes:
        gradient: of the penalty, by name.
        product: from a direction to its product with the penalty's Hessian, both by name.
    """

    gradient: Params
    product: Callable[[Params], Params]


class Descended(Protocol):
    """The objective C + R that training descends, R an explicit penalty."""

    @property
    def of_minibatches(self) -> bool:
        """Whether R has a part of each minibatch.

        Else a minibatch's objective is its loss, but for what is shared.
        """

    def __call__(self, params: Params, batch: Batch) -> Tensor:
        """Return a minibatch's objective, 0-d.

        Its gradient is what is descended, but for what is shared.
        """

    def smooth(self, params: Params, batch: Batch) -> Tensor:
        """Return a minibatch's objective, 0-d, with second derivatives.

        Raises:
            ValueError: what is descended is the gradient of no function.
        """

    def shared(self, params: Params) -> Shared | None:
        """Return what all minibatches share, at these parameters; None if there is nothing."""
