"""The registry of the methods that compute gradient moments."""

from collections.abc import Callable, Sequence

from ireg.core.moments.sums import MomentSums
from ireg.core.types import Batch, LossFn

Method = Callable[[LossFn, Sequence[Batch], int | None, MomentSums], None]
"""Adds the moments of the loss's minibatches to the sums, so many at once, or, with None, as many as are fastest."""

METHODS: dict[str, Method] = {}
"""By name; a module that defines a method is imported by `ireg.core.moments.compute`."""


def method(name: str) -> Callable[[Method], Method]:
    """Register a function as the method of this name."""

    def register(function: Method) -> Method:
        METHODS[name] = function
        return function

    return register
