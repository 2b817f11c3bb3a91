"""How the learning rate changes by steps."""

import math

SCHEDULES = ("constant", "cosine", "linear")


class Schedule:
    """The learning rate of each step, as a factor of the rate that was set.

    With W warm-up steps of S, the factor of step t = 0, 1, … is (t + 1)/W for t < W. After that, with the share
    p = (t − W)/(S − W) of the remaining steps and the factor f at their end, it is

        1 (constant),   f + (1 − f) (1 + cos πp)/2 (cosine),   f + (1 − f) (1 − p) (linear).

    The first step after the warm-up has the factor 1. That of a step depends on nothing but its number.

    Args:
        name: one of `SCHEDULES`.
        steps: of the whole training, S.
        warmup: W, below S.
        final: f, in [0, 1].

    Raises:
        ValueError: an unknown name, or a number out of its range.

    Source: Loshchilov & Hutter 2017, arXiv:1608.03983, Eq. 5 without restarts; Goyal et al. 2017, arXiv:1706.02677,
    section 2.2 (warm-up).

    Example:
        >>> [Schedule("linear", steps=6, warmup=2)(step) for step in range(6)]
        [0.5, 1.0, 1.0, 0.75, 0.5, 0.25]
    """

    def __init__(self, name: str, *, steps: int, warmup: int = 0, final: float = 0.0) -> None:
        if name not in SCHEDULES:
            raise ValueError(f"schedule={name!r}: must be one of {', '.join(SCHEDULES)}")
        if not 0 <= warmup < steps:
            raise ValueError(f"warmup={warmup}: must be at least 0 and below {steps}, the number of steps")
        if not 0 <= final <= 1:
            raise ValueError(f"final={final:g}: must be in [0, 1]")
        self.name = name
        self.steps = steps
        self.warmup = warmup
        self.final = final

    def __call__(self, step: int) -> float:
        """Return the factor of a step, counted from 0."""
        if step < self.warmup:
            return (step + 1) / self.warmup
        if self.name == "constant":
            return 1.0
        share = min(1.0, (step - self.warmup) / (self.steps - self.warmup))
        left = (1 + math.cos(math.pi * share)) / 2 if self.name == "cosine" else 1 - share
        return self.final + (1 - self.final) * left
