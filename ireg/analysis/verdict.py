"""Which setting of a sweep is best, whether significantly, and where there is no best."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pandas as pd

from ireg.analysis.compare import LEVEL, Comparison, comparisons
from ireg.analysis.overview import HEADINGS, Row, best_of, incomparable, rows_of, value_text

SHOWN = 2
"""Settings that are named beside the best, at most."""


def verdict(summary: pd.DataFrame, criterion: str) -> list[str]:
    """Name the best setting, what it is not significantly better than, and what has not begun.

    Args:
        summary: of `summary.summarize`.
        criterion: the tag whose smallest mean is the best.

    Returns:
        Sentences, without a full stop; none where there is one setting, and it has left its start.
    """
    rows = [row for row in rows_of(summary, criterion) if math.isfinite(row.mean(criterion))]
    return [*_best(summary, rows, criterion), *(line for row in rows if (line := not_begun(row)))]


def not_begun(row: Row) -> str:
    """Say that a setting has not left its start; empty where it has."""
    if row.start is None:
        return ""
    first, last = row.start
    return (
        f"note: {row.name} has not left its start (training loss {first:.4g} → {last:.4g}); take a larger lr or more "
        "epochs"
    )


def _best(summary: pd.DataFrame, rows: Sequence[Row], criterion: str) -> list[str]:
    best = best_of(rows, criterion)
    if best is None:
        differing = " and ".join(incomparable(rows)) if len(rows) > 1 else ""
        return [f"no best: settings differ in {differing}; compare those that do not"] if differing else []
    what = f"{HEADINGS.get(criterion, criterion)} {value_text(criterion, best.values[criterion])}"
    begun = {row.name for row in rows if row.start is None}
    compared = [pair for pair in comparisons(summary, criterion) if pair.left == best.name and pair.right in begun]
    return [f"best: {best.name}, {what}{_than_others(compared, len(begun) - 1)}"]


def _than_others(compared: Sequence[Comparison], others: int) -> str:
    """Say whether the best is significantly better than the others."""
    if not others:
        return ""
    if not compared:
        return "; one seed has no test"
    undecided = [f"{pair.right} (p = {pair.adjusted:.2g})" for pair in compared if not pair.adjusted < LEVEL]
    if not undecided:
        return f", significantly better than {'the other' if others == 1 else 'all others'}"
    rest = len(undecided) - SHOWN
    return f", not significantly better than {' and '.join(undecided[:SHOWN])}" + (
        f" and {rest} more" if rest > 0 else ""
    )
