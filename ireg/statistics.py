"""Estimates with their errors: jackknife, intervals, paired comparisons."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, NamedTuple, TypeVar

from scipy.stats import t as student

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
    """Compute numbers from independent samples by the jackknife, without bias and with standard errors.

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
    """Extrapolate to 1/r = 0 by the straight line in 1/r through the two finest; one r is its value.

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


class Interval(NamedTuple):
    """A mean with its confidence interval; nan for too few values."""

    mean: float
    low: float
    high: float

    @property
    def half(self) -> float:
        """Half of the interval's width."""
        return (self.high - self.low) / 2

    def text(self, form: str = ".3g", of_half: str = "", *, scale: float = 1.0, unit: str = "") -> str:
        """Write the mean ± half of the interval's width, see `plus_minus`.

        Args:
            form: of the mean.
            of_half: form of the half width; by default that of the mean.
            scale: both are multiplied by it, like 100 for percent.
            unit: behind the number, with its space.

        Example:
            >>> Interval(0.361, 0.359, 0.363).text(".1f", scale=100, unit=" %")
            '36.1 ± 0.2 %'
        """
        return plus_minus(scale * self.mean, scale * self.half, form, of_half, unit=unit)

    def with_ends(self, form: str = ".2f", *, scale: float = 1.0) -> str:
        """Write the mean and both ends: those of a ratio or a bootstrap are not symmetric.

        Args:
            form: of all three.
            scale: all are multiplied by it, like 100 for percent.

        Returns:
            The text; the mean alone without ends, and a dash without a mean.

        Example:
            >>> Interval(0.52, 0.31, 0.9).with_ends()
            '0.52 (0.31 to 0.90)'
        """
        mean = plus_minus(scale * self.mean, math.nan, form)
        return mean if math.isnan(self.half) else f"{mean} ({scale * self.low:{form}} to {scale * self.high:{form}})"


@dataclass(frozen=True)
class OverSeeds:
    """A setting's values over its seeds, as they are shown.

    Attributes:
        values: one for each seed.

    Example:
        >>> OverSeeds((0.11, 0.12)).text(".1f", scale=100, unit=" %"), OverSeeds((1.0, 2.0, 3.0)).text(".1f")
        ('11.0, 12.0 %', '2.0 ± 2.5')
    """

    values: tuple[float, ...]

    @property
    def mean(self) -> float:
        """The mean; nan without values."""
        return mean_interval(self.values).mean

    @property
    def has_interval(self) -> bool:
        """Whether there are three values or more; Student's interval of two is useless."""
        return len(self.values) >= LEAST_FOR_INTERVAL and not math.isnan(self.mean)

    def text(self, form: str = ".3g", *, scale: float = 1.0, unit: str = "") -> str:
        """Write one value, both of two, or the mean ± half of its 95 % interval.

        Args:
            form: of each number.
            scale: all are multiplied by it, like 100 for percent.
            unit: behind the text, with its space.
        """
        if self.has_interval or len(self.values) != 2:
            return mean_interval(self.values).text(form, scale=scale, unit=unit)
        return ", ".join(f"{scale * value:{form}}" for value in self.values) + unit


LEAST_FOR_INTERVAL = 3
"""Seeds from which on an interval is shown."""

NOTHING = "–"
"""What is written for a number that there is not."""


def plus_minus(value: float, spread: float, form: str = ".3g", of_spread: str = "", *, unit: str = "") -> str:
    """Write a value and its spread: a half interval, a standard error or a deviation.

    Args:
        value: nan where there is none.
        spread: in the same unit; nan where one value says nothing of it.
        form: of the value.
        of_spread: form of the spread; by default that of the value.
        unit: behind both, with its space.

    Returns:
        Value and spread; the value alone without a spread, and a dash without a value.

    Example:
        >>> plus_minus(2.0, 0.25, ".2f"), plus_minus(2.0, float("nan"), ".2f"), plus_minus(float("nan"), 1.0)
        ('2.00 ± 0.25', '2.00', '–')
    """
    if math.isnan(value):
        return NOTHING
    if math.isnan(spread):
        return f"{value:{form}}{unit}"
    return f"{value:{form}} ± {spread:{of_spread or form}}{unit}"


def mean_interval(values: Sequence[float], level: float = 0.95) -> Interval:
    """Return the mean of independent values with Student's interval, mean ± t sd/√n.

    t is the quantile of n − 1 degrees of freedom; the interval is exact for normal values.

    Args:
        values: one for each seed; with fewer than two the interval is nan.
        level: of confidence.

    Example:
        >>> [round(number, 4) for number in mean_interval([1.0, 2.0, 3.0])]
        [2.0, -0.4841, 4.4841]
    """
    count = len(values)
    if count == 0:
        return Interval(math.nan, math.nan, math.nan)
    mean = math.fsum(values) / count
    if count == 1:
        return Interval(mean, math.nan, math.nan)
    deviation = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (count - 1))
    half = float(student.ppf((1 + level) / 2, count - 1)) * deviation / math.sqrt(count)
    return Interval(mean, mean - half, mean + half)


@dataclass(frozen=True, kw_only=True)
class PairedDifference:
    """The difference of two settings, seed by seed.

    Attributes:
        student: mean and Student's interval of the differences.
        error: the mean's standard error; nan for fewer than two seeds.
        p: two-sided, of the paired t-test of difference 0; nan for fewer than two seeds. Equal differences other than 0
            have p = 0, differences of 0 have p = 1.
        count: seeds.
    """

    student: Interval
    error: float
    p: float
    count: int

    def p_at_least(self, margin: float) -> float:
        """Return the one-sided p-value of a true difference of at least a margin.

        It is small where the mean lies far below the margin: P(t ≤ (mean − margin)/error), t with n − 1 degrees of
        freedom.

        Args:
            margin: in the unit of the differences.

        Returns:
            The p-value; 0 or 1 without an error, and nan for fewer than two seeds.

        Source: Schuirmann 1987, of whose two one-sided tests it is one.
        """
        if math.isnan(self.error):
            return math.nan
        if self.error == 0:
            return float(self.student.mean >= margin)
        return float(student.cdf((self.student.mean - margin) / self.error, self.count - 1))


def paired_difference(left: Sequence[float], right: Sequence[float], level: float = 0.95) -> PairedDifference:
    """Compare two settings by the values of the same seeds.

    Args:
        left: values by seed.
        right: the other setting's, of the same seeds in the same order.
        level: of confidence.

    Raises:
        ValueError: the two have different lengths.

    Source: Student 1908.

    Example:
        >>> paired_difference([1.0, 2.0, 4.0], [0.5, 1.0, 2.5]).student.mean
        1.0
    """
    if len(left) != len(right):
        raise ValueError(f"{len(left)} and {len(right)} values: pairs need as many on both sides")
    differences = [one - other for one, other in zip(left, right, strict=True)]
    interval, count = mean_interval(differences, level), len(differences)
    if count < 2:
        return PairedDifference(student=interval, error=math.nan, p=math.nan, count=count)
    # Equal differences have no variance, and t is ±∞ or 0/0.
    if interval.half == 0:
        return PairedDifference(student=interval, error=0.0, p=float(interval.mean == 0), count=count)
    error = interval.half / float(student.ppf((1 + level) / 2, count - 1))
    p = float(2 * student.sf(abs(interval.mean) / error, count - 1))
    return PairedDifference(student=interval, error=error, p=p, count=count)


def holm(p_values: Sequence[float], alternatives: Sequence[Hashable] | None = None) -> list[float]:
    """Adjust the p-values of several comparisons, by Holm's method.

    The i-th smallest of n is multiplied by n − i + 1, never falls below a smaller one, and is at most 1. Rejecting
    where the result is below α keeps the chance of any wrong rejection below α. nan stays nan and is not counted.

    Args:
        p_values: of the hypotheses.
        alternatives: a key a hypothesis. Of those with one key at most one can be true, such as "the difference is 0"
            and "it is at least 1". They count once among the n − i + 1 that are left (Shaffer 1986).

    Source: Holm 1979, Scandinavian Journal of Statistics 6; Shaffer 1986, Journal of the American Statistical
        Association 81.

    Example:
        >>> holm([0.01, 0.04, 0.03])
        [0.03, 0.06, 0.06]
        >>> holm([0.01, 0.04, 0.03], ["a", "a", "b"])
        [0.02, 0.06, 0.06]
    """
    keys: Sequence[Hashable] = range(len(p_values)) if alternatives is None else alternatives
    order = sorted((p, position) for position, p in enumerate(p_values) if not math.isnan(p))
    adjusted, largest = [math.nan] * len(p_values), 0.0
    for rank, (p, position) in enumerate(order):
        left = len({keys[other] for _, other in order[rank:]})
        largest = max(largest, min(1.0, left * p))
        adjusted[position] = largest
    return adjusted
