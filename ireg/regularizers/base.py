"""What a penalty is: its part of each minibatch, and the part that all share."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, NamedTuple, Protocol

import torch
from torch import Tensor

from ireg.core.repeated import Repeated
from ireg.core.types import Batch, LossFn, Params

METHODS = ("exact", "differences")
"""How the gradient of a gradient's norm is computed."""


class Penalized(NamedTuple):
    """The objective of a minibatch.

    Attributes:
        total: 0-d with a graph: its gradient by the parameters is what is descended.
        penalty: R_k, 0-d, detached.
    """

    total: Tensor
    penalty: Tensor


@dataclass(frozen=True, kw_only=True)
class Regularizer:
    """A penalty that is added to the loss: a part of each minibatch, and a part that all share.

    Either part may be nothing.

    Attributes:
        strength: λ or ρ of the table above.
        method: `exact` by double backward, which sees no kinks of ReLU; `differences` by central differences of the
            gradient, which do.
        step: length of the displacement by which differences are taken, ‖δω‖ to either side.

    Raises:
        ValueError: a strength that is no finite number of at least 0, an unknown method, or a step that is not above 0.

    Example:
        >>> from ireg.regularizers import L2
        >>> isinstance(L2(strength=0.1), Regularizer)
        True
        >>> L2(strength=-1.0)
        Traceback (most recent call last):
        ...
        ValueError: strength=-1.0: must be a finite number of at least 0
    """

    strength: float
    method: str = "exact"
    step: float = 0.01

    is_gradient: ClassVar[bool] = True
    """Whether what is descended is the gradient of a function, so that it has a mean flow."""
    of_minibatches: ClassVar[bool] = True
    """Whether it has a part of each minibatch."""
    of_epoch: ClassVar[bool] = False
    """Whether it has a part that is a function of all the epoch's minibatches."""

    def __post_init__(self) -> None:
        if not 0 <= self.strength < math.inf:
            raise ValueError(f"strength={self.strength}: must be a finite number of at least 0")
        if self.method not in METHODS:
            raise ValueError(f"method={self.method!r}: must be one of {', '.join(METHODS)}")
        if not 0 < self.step < math.inf:
            raise ValueError(f"step={self.step}: must be a finite number > 0")

    def penalized(self, loss: Repeated, params: Params, value: Tensor, num_batches: int) -> Penalized:
        """Add the penalty's part of a minibatch to its loss.

        Args:
            loss: of the minibatch.
            params: leaves of the graph of `value`.
            value: Ĉ_k, with its graph.
            num_batches: m.

        Returns:
            The sum with a graph, and the penalty without.
        """
        return Penalized(value, torch.zeros_like(value))

    def shared(self, loss: LossFn, batches: Sequence[Batch]) -> list[SharedPart]:
        """Return the parts that are functions of the weights alone.

        Args:
            loss: of a minibatch.
            batches: of the epoch.

        Returns:
            The parts, which add up; none for a penalty of single minibatches.
        """
        return []


class SharedPart(Protocol):
    """A penalty that is the same for all minibatches."""

    def value_and_gradient(self, params: Params) -> tuple[Tensor, Params]:
        """Compute R, 0-d, and ∇R by name."""

    def product(self, params: Params, direction: Params) -> Params:
        """Compute ∇²R v, by name."""
