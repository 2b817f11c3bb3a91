"""The floor: how fast this machine multiplies matrices."""

import time

import torch

SIZES = (512, 1024, 1536)
REPEATS = 8


class Peaks:
    """The highest rates of float32 matrix products seen.

    They are in floating-point operations per second.

    Looked for several times in a run, since whatever else the machine does can only lower what is seen.

    Attributes:
        rates: by number of torch's threads.
    """

    def __init__(self) -> None:
        self.rates: dict[int, float] = {}

    def look(self, threads: int) -> None:
        """Multiply square matrices, and keep the highest rate.

        So many threads are used.
        """
        torch.set_num_threads(threads)
        for size in SIZES:
            left, right, out = torch.rand(3, size, size)
            for _ in range(REPEATS):
                start = time.perf_counter()
                torch.mm(left, right, out=out)
                rate = 2 * size**3 / (time.perf_counter() - start)
                self.rates[threads] = max(self.rates.get(threads, 0.0), rate)
