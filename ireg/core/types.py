"""The numerics' types: parameters by name, batches, losses as functions."""

from collections.abc import Callable

from torch import Tensor

Params = dict[str, Tensor]
"""Detached tensors by parameter name."""

Batch = tuple[Tensor, Tensor]
"""Inputs and targets of one minibatch, the examples along the first dimension."""

LossFn = Callable[[Params, Batch], Tensor]
"""The *mean* loss of one minibatch at given parameters, a 0-d tensor."""
