"""The numerics' types: parameters by name, batches, losses as functions."""

from collections.abc import Callable
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


class Descended(Protocol):
    """The objective C + R that training descends, R an explicit penalty."""

    @property
    def of_minibatches(self) -> bool:
        """Whether R has a part of each minibatch.

        Else a minibatch's objective is its loss, but for what is shared.
        """

    def __call__(self, params: Params, batch: Batch) -> Tensor:
        """Return a minibatch's objective.

        Its gradient is what is descended, but for `shared_slope`.
        """

    def smooth(self, params: Params, batch: Batch) -> Tensor:
        """Return the same with second derivatives.

        Raises:
            ValueError: what is descended is the gradient of no function.
        """

    def shared_slope(self, params: Params) -> Params | None:
        """Return the gradient of what all minibatches share.

        None if there is nothing.
        """

    def shared_product(self, params: Params, direction: Params) -> Params | None:
        """Return its Hessian's product with a direction.

        None if there is nothing.
        """
