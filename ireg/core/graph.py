"""What a loss depends on, read off its graph."""

from typing import Any

from torch import Tensor

RECOMPUTED = "CheckpointFunctionBackward"
"""The node of reentrant activation checkpointing: what is behind it is not in the graph."""


class Graph:
    """The graph of a minibatch's loss.

    Args:
        value: the loss.

    Attributes:
        tensors: those that it depends on.
        leaves: their identities.
        recomputes: whether a part of it is hidden, by reentrant activation checkpointing.

    Raises:
        ValueError: the loss is no single number.

    Example:
        >>> import torch
        >>> weight = torch.ones(1, requires_grad=True)
        >>> Graph((2 * weight).sum()).leaves == {id(weight)}
        True
    """

    def __init__(self, value: Any) -> None:
        if not isinstance(value, Tensor) or value.ndim or not value.is_floating_point():
            given = f"{value.dtype} of shape {tuple(value.shape)}" if isinstance(value, Tensor) else repr(value)
            raise ValueError(f"the loss of a minibatch is {given}; must be one number, the mean over its examples")
        self.tensors: list[Tensor] = []
        self.recomputes = False
        # The loss itself, where it is a weight.
        seen: set[Any] = set()
        if value.requires_grad and value.is_leaf:
            self.tensors.append(value)
        waiting = [value.grad_fn]  # a list, no recursion: a network may be deeper than Python's stack
        while waiting:
            node = waiting.pop()
            if node is None or node in seen:
                continue
            seen.add(node)
            if hasattr(node, "variable"):
                self.tensors.append(node.variable)
            self.recomputes = self.recomputes or type(node).__name__ == RECOMPUTED
            waiting += [function for function, _ in node.next_functions]
        self.leaves = {id(tensor) for tensor in self.tensors}
