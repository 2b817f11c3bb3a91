"""The numerics' vocabulary: parameters by name, batches, and losses as functions of both."""

from collections.abc import Callable

from torch import Tensor

Params = dict[str, Tensor]
"""Detached tensors by parameter name."""

Batch = tuple[Tensor, Tensor]
"""Inputs and targets of one minibatch, the examples along the first dimension."""

LossFn = Callable[[Params, Batch], Tensor]
"""The *mean* loss of one minibatch at given parameters, a 0-d tensor."""
