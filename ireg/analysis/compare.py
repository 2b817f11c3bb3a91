"""Which settings differ, seed by seed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import combinations

import pandas as pd

from ireg.analysis.load import is_seed, one_run_a_seed
from ireg.analysis.overview import Row, rows_of
from ireg.statistics import PairedDifference, holm, paired_difference

ALL_PAIRS = 5
"""Settings up to which all are compared with each other; more are compared with the best alone."""


@dataclass(frozen=True)
class Comparison:
    """Two settings, and the first's difference from the second, its p adjusted for all comparisons."""

    left: str
    right: str
    difference: PairedDifference
    adjusted: float


def comparisons(summary: pd.DataFrame, criterion: str) -> list[Comparison]:
    """Compare the final values of settings by the seeds that both have done.

    Args:
        summary: of `summary.summarize`.
        criterion: the tag.

    Returns:
        The comparisons, best setting first; those with fewer than two seeds in common are left out. The p-values of
        all are adjusted by Holm's method.
    """
    if criterion not in summary:
        return []
    rows = rows_of(summary, criterion)
    values = {row.name: _by_seed(row, criterion) for row in rows}
    names = list(values)
    pairs = [
        Comparison(left, right, difference, difference.p)
        for left, right in (combinations(names, 2) if len(names) <= ALL_PAIRS else ((names[0], n) for n in names[1:]))
        for difference in _compared(values[left], values[right])
    ]
    adjusted = holm([comparison.difference.p for comparison in pairs])
    return [replace(comparison, adjusted=p) for comparison, p in zip(pairs, adjusted, strict=True)]


def _compared(left: pd.Series, right: pd.Series) -> Iterator[PairedDifference]:
    common = left.index.intersection(right.index)
    if len(common) > 1:
        yield paired_difference(left[common].tolist(), right[common].tolist())


def _by_seed(row: Row, criterion: str) -> pd.Series:
    """Return the final values of a setting's finished runs, by their seeds."""
    done = one_run_a_seed(row.runs[row.runs["state"] == "done"])
    seeds = [column for column in done.columns if is_seed(column)]
    keys = [tuple(map(str, key)) for key in done[seeds].to_numpy()]
    return pd.Series(done[criterion].astype(float).to_numpy(), index=keys).dropna()
