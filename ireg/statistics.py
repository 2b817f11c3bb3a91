"""Estimates with standard errors from independent pairs of orders."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, NamedTuple, TypeVar

Record = TypeVar("Record")
Key = TypeVar("Key")


class Estimate(NamedTuple):
    """A value and its standard error."""

    value: float
    error: float


@dataclass(frozen=True)
class Sample(Generic[Record]):
    """A statistic of all samples, and of all but each one."""

    whole: Record
    without: Sequence[Record]


def jackknife(
    function: Callable[[Mapping[Key, Record]], dict[str, float]], samples: Mapping[Key, Sample[Record]]
) -> dict[str, Estimate]:
    """Numbers made of independent samples, by the jackknife.

    It corrects the bias and gives a standard error.

    With θ of all and θ_(i) without the i-th of n pairs of a sample, the bias is (n−1)(mean θ_(i) − θ) and the variance
    (n−1)/n Σ (θ_(i) − mean θ_(i))²; both add up over the samples (Efron & Tibshirani 1993, chapters 10 and 11). The
    correction matters: a nonlinear function at the mean of n noisy ends is off by O(1/n).

    Args:
        function: from a record of each sample to numbers by name.
        samples: by key.

    Raises:
        ValueError: a sample of fewer than two pairs.
    """
    whole = {key: sample.whole for key, sample in samples.items()}
    total = function(whole)
    bias, variance = dict.fromkeys(total, 0.0), dict.fromkeys(total, 0.0)
    for key, sample in samples.items():
        count = len(sample.without)
        if count < 2:
            raise ValueError(f"a standard error needs at least 2 pairs of orders, got {count}")
        left = [function({**whole, key: record}) for record in sample.without]
        for name, value in total.items():
            values = [other[name] for other in left]
            mean = math.fsum(values) / count
            bias[name] += (count - 1) * (mean - value)
            variance[name] += (count - 1) / count * math.fsum((other - mean) ** 2 for other in values)
    return {name: Estimate(value - bias[name], math.sqrt(variance[name])) for name, value in total.items()}


def limit(values: Mapping[int, float]) -> float:
    """Extrapolate to 1/r = 0 by a straight line.

    The line is in 1/r and goes through the two finest; with one r it is its value.

    With an error like a/r + b/r² the line of r₁ and r₂ is off by b/(r₁r₂), which coarser ones worsen.

    Args:
        values: by refinement r.

    Raises:
        ValueError: no values.
    """
    if not values:
        raise ValueError("the limit of small steps needs at least one refinement")
    if len(values) == 1:
        return next(iter(values.values()))
    coarse, fine = sorted(values)[-2:]
    return (fine * values[fine] - coarse * values[coarse]) / (fine - coarse)
