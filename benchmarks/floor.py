"""The floor: how fast this machine multiplies matrices."""

import time

import torch

SIZES = (512, 1024, 1536)
REPEATS = 8


class Peaks:
    """The highest rates of float32 matrix products seen, in floating-point operations per second.

    Looked for several times in a run, since whatever else the machine does can only lower what is seen.

    Attributes:
        rates: by number of torch's threads.
    """

    def __init__(self) -> None:
        self.rates: dict[int, float] = {}

    def look(self, threads: int) -> None:
        """Multiply square matrices with so many threads, and keep the highest rate."""
        torch.set_num_threads(threads)
        for size in SIZES:
            left, right, out = torch.rand(3, size, size)
            for _ in range(REPEATS):
                start = time.perf_counter()
                # Into memory that is there already: an allocation would count as time of the product.
                torch.mm(left, right, out=out)
                rate = 2 * size**3 / (time.perf_counter() - start)
                self.rates[threads] = max(self.rates.get(threads, 0.0), rate)
