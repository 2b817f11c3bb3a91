"""What is done otherwise for large models, where memory counts more than time."""

from collections.abc import Callable, Iterator, Mapping
from typing import cast

from torch import Tensor

from ireg.core.types import Params

LARGE = 2**24
"""Bytes of weights: of more than 16 MiB few copies are kept, and minibatches are taken one by one.

Below, the 60 vectors that Lanczos' method keeps at most take less than 1 GiB.
"""


def is_large(params: Mapping[str, Tensor]) -> bool:
    """Say whether a model has so many weights that few copies of them are kept.

    Example:
        >>> import torch
        >>> is_large({"w": torch.zeros(4, 2**20)}), is_large({"w": torch.zeros(5, 2**20)})
        (False, True)
    """
    return sum(value.numel() * value.element_size() for value in params.values()) > LARGE


class _OnDemand(Mapping[str, Tensor]):
    def __init__(self, like: Params, compute: Callable[[str], Tensor]) -> None:
        self._names, self._compute = dict.fromkeys(like), compute

    def __getitem__(self, name: str) -> Tensor:
        if name not in self._names:
            raise KeyError(name)
        return self._compute(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


def computed(like: Params, compute: Callable[[str], Tensor]) -> Params:
    """Compute tensors by name: of a large model each whenever it is asked for, and else all at once.

    Args:
        like: the names, and the size of the model.
        compute: from a name to its tensor. It must give the same each time.

    Example:
        >>> import torch
        >>> computed({"w": torch.ones(2)}, lambda name: torch.zeros(2))
        {'w': tensor([0., 0.])}
    """
    if is_large(like):
        return cast(Params, _OnDemand(like, compute))  # it is read as a dict is, and never written
    return {name: compute(name) for name in like}
