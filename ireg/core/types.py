"""The numerics' types: parameters by name, batches, losses as functions."""

from collections.abc import Callable
from typing import Any

from torch import Tensor

Params = dict[str, Tensor]
"""Detached tensors by parameter name."""

Pair = tuple[Tensor, Tensor]
"""Inputs and targets of one minibatch, the examples along the first dimension."""

Batch = Any
"""One minibatch, as its loss takes it. The faster methods need a `Pair`."""

LossFn = Callable[[Params, Batch], Tensor]
"""The *mean* loss of one minibatch at given parameters, a 0-d tensor."""
