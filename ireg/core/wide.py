"""Double precision, also for what lies on a device that has none.

Apple's GPU (mps) has no float64, no complex128, and few of `torch.linalg`'s decompositions. What needs them is made on
the CPU, to which the tensor is moved *before* it is converted. Everywhere else it is made where the tensor lies.
"""

import math

import torch
from torch import Tensor

WITHOUT_FLOAT64 = frozenset({"mps"})
"""Types of devices without double precision."""


def has_float64(device: torch.device) -> bool:
    """Say whether a device has double precision."""
    return device.type not in WITHOUT_FLOAT64


def in_reach(value: Tensor) -> Tensor:
    """Return the tensor, or its copy on the CPU where its device has no double precision."""
    return value if has_float64(value.device) else value.cpu()


def wide(value: Tensor) -> Tensor:
    """Return a tensor in double precision, complex numbers in complex128.

    It is on the tensor's device where that has float64, else on the CPU.

    Example:
        >>> wide(torch.tensor([1, 2])), wide(torch.tensor(1j))
        (tensor([1., 2.], dtype=torch.float64), tensor(0.+1.j, dtype=torch.complex128))
    """
    return in_reach(value).to(torch.complex128 if value.is_complex() else torch.float64)


def brought(value: Tensor, like: Tensor) -> Tensor:
    """Bring a tensor to the type and the device of another."""
    # In this order: a device without float64 takes no such tensor.
    return value.to(like.dtype).to(like.device)


class WideSum:
    """A sum of many numbers on a device, read at its end.

    It is in double precision where the device has that. Else it is kept in two numbers of single precision, the sum
    and what its roundings have left out. Either way no step waits for the device.

    Args:
        device: of the numbers.

    Source: Knuth, The Art of Computer Programming, volume 2, section 4.2.2, theorem B, for the error of a sum.

    Example:
        >>> total = WideSum(torch.device("cpu"))
        >>> for _ in range(10):
        ...     total.add(torch.tensor(0.5))
        >>> float(total)
        5.0
    """

    def __init__(self, device: torch.device) -> None:
        self._compensated = not has_float64(device)
        self._sum = torch.zeros((), dtype=torch.float32 if self._compensated else torch.float64, device=device)
        self._left_out = torch.zeros_like(self._sum)

    def add(self, value: Tensor) -> None:
        """Add a number, 0-d."""
        if not self._compensated:
            self._sum += value
            return
        # What the sum's rounding takes from either number: by algebra it is 0, and no line may be simplified.
        total = self._sum + value
        added = total - self._sum
        self._left_out += (self._sum - (total - added)) + (value - added)
        self._sum = total

    def __float__(self) -> float:
        """Return the sum."""
        total = float(self._sum)
        # Of an infinite sum the error is nan, and says nothing.
        return total + float(self._left_out) if self._compensated and math.isfinite(total) else total
