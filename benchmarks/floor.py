"""The floor: how fast this machine multiplies matrices."""

import time

import torch

SIZES = (512, 1024, 1536)
REPEATS = 8


class Peak:
    """The highest rate of float32 matrix products seen, in floating-point operations per second.

    Looked for several times in a run, since whatever else the machine does can only lower what is seen.
    """

    def __init__(self) -> None:
        self.flops_per_second = 0.0

    def look(self) -> None:
        """Multiply square matrices, and keep the rate if it is the highest."""
        for size in SIZES:
            left, right, out = torch.rand(3, size, size)
            for _ in range(REPEATS):
                start = time.perf_counter()
                torch.mm(left, right, out=out)
                self.flops_per_second = max(self.flops_per_second, 2 * size**3 / (time.perf_counter() - start))
