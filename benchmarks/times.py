"""Seconds of epochs, and what a table shows of them."""

import statistics
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from benchmarks.case import Case

Part = Literal["whole", "training", "terms"]
Measure = tuple[str, Part]
"""A side, and which part of its epoch."""


class EpochTime(NamedTuple):
    """Seconds of one epoch, of its training pass alone, and of its pass for the terms."""

    whole: float
    training: float | None = None
    terms: float | None = None


@dataclass(frozen=True)
class Result:
    """What was measured of one case.

    Attributes:
        case: the configuration.
        num_examples: training and test examples.
        flops: floating-point operations of the matrix products of one pass over the training examples.
        turns: by side, the counted epochs of each turn; sides that took no part are absent.
    """

    case: Case
    num_examples: tuple[int, int]
    flops: int
    turns: dict[str, list[list[EpochTime]]] = field(default_factory=dict)

    def median(self, side: str, part: Part = "whole") -> float | None:
        """Return the median over all counted epochs; None where nothing was measured."""
        return _median([epoch for turn in self.turns.get(side, []) for epoch in turn], part)

    def ratios(self, left: Measure, right: Measure) -> list[float]:
        """Return the ratio of medians of each turn, in which both sides ran one right after the other."""
        pairs = zip(self.turns.get(left[0], []), self.turns.get(right[0], []), strict=False)
        quotients = (quotient(_median(one, left[1]), _median(other, right[1])) for one, other in pairs)
        return [ratio for ratio in quotients if ratio is not None]

    def ratio(self, left: Measure, right: Measure) -> float | None:
        """Return the median of the turns' ratios, which a machine that slows down in between does not change."""
        ratios = self.ratios(left, right)
        return statistics.median(ratios) if ratios else None


def quotient(left: float | None, right: float | None) -> float | None:
    """Return `left / right`; None where either is missing."""
    return None if left is None or right is None else left / right


def _median(epochs: list[EpochTime], part: Part) -> float | None:
    values = [value for epoch in epochs if (value := getattr(epoch, part)) is not None]
    return statistics.median(values) if values else None
