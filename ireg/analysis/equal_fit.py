"""The settings of a sweep where they fit the training data equally well, beside the end of training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pandas as pd
from rich.table import Table
from rich.text import Text

from ireg.analysis.compare import ALL_PAIRS, LEVEL, LOSSES, Comparison, compared_at_places, passed_by_all
from ireg.analysis.overview import differing_data, rows_of
from ireg.analysis.places import at_places
from ireg.runs.metrics import STEP
from ireg.statistics import OverSeeds
from ireg.system.terminal import as_shown, make_console

TAG = "test/error"

MOST_LOSSES = 3
"""Training losses that are shown: the first, the last and one between."""

NAMES = {"test": "lowest test error", "end": "the end"}
"""What places beside the training losses are called, in their order."""


@dataclass(frozen=True, kw_only=True)
class EqualFit:
    """Test errors of settings by place.

    Attributes:
        settings: their names.
        values: of each setting, by the place's name.
        compared: pairs of settings by place, with one adjustment of all p-values.
    """

    settings: Sequence[str]
    values: Mapping[str, Mapping[str, OverSeeds]]
    compared: Sequence[tuple[str, Comparison]]


def equal_fit(epochs: pd.DataFrame, summary: pd.DataFrame) -> EqualFit | None:
    """Take test errors at training losses that all settings pass, at their lowest and at the end.

    Args:
        epochs: of `load.load`.
        summary: of `summary.summarize`, of the runs that are meant.

    Returns:
        The errors; None where there are not two to `ALL_PAIRS` settings that have left their start, where runs are
        counted in steps or differ in their data, or where they have no training loss in common.
    """
    done = summary[summary["state"] == "done"]
    if STEP in epochs or TAG not in epochs or "train/loss" not in epochs or differing_data(done):
        return None
    begun = [row for row in rows_of(done, TAG) if row.start is None]
    if not 2 <= len(begun) <= ALL_PAIRS:
        return None
    names = {str(run): row.name for row in begun for run in row.runs["run"]}
    table = epochs[epochs["run"].isin(names) & (epochs["state"] == "done")]
    placed = at_places(table, LOSSES, tags=[TAG])
    losses = passed_by_all(placed, LOSSES, table["run"].nunique())
    if not losses:
        return None
    shown = [losses[round(part * (len(losses) - 1) / (MOST_LOSSES - 1))] for part in range(MOST_LOSSES)]
    order = list(dict.fromkeys([*shown, *NAMES]))
    placed = placed[placed["place"].isin(order)].sort_values("place", key=lambda of: of.map(order.index), kind="stable")
    values: dict[str, dict[str, OverSeeds]] = {}
    for (place, name), rows in placed.groupby(["place", placed["run"].map(names)], sort=False):
        values.setdefault(str(place), {})[str(name)] = OverSeeds(tuple(rows[TAG].astype(float)))
    return EqualFit(settings=sorted(set(names.values())), values=values, compared=compared_at_places(placed, TAG))


def cells(fit: EqualFit) -> tuple[list[str], list[list[str]]]:
    """Return the head and the lines of a table: a line a place, a column a setting."""
    lines = []
    for place, of_place in fit.values.items():
        texts = (of_place.get(name, OverSeeds(())).text(".1f", scale=100, unit=" %") for name in fit.settings)
        lines.append([_named(place), *texts])
    return ["test error at", *fit.settings], lines


def print_equal_fit(fit: EqualFit) -> None:
    """Print the table and what it shows."""
    head, lines = cells(fit)
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False)
    for number, name in enumerate(head):
        table.add_column(name, justify="right" if number else "left")
    for texts in lines:
        table.add_row(*(Text(as_shown(text)) for text in texts))
    console = make_console()
    console.print()
    console.print(table)
    for line in sentences(fit):
        console.print(line, soft_wrap=True, highlight=False)


def sentences(fit: EqualFit) -> list[str]:
    """Say where which settings differ significantly, by Holm's method over all pairs and places."""
    if not fit.compared:
        return ["one seed has no test: seed=0,1,2 gives intervals and p-values"]
    found: dict[str, list[str]] = {}
    for place, pair in fit.compared:
        if pair.adjusted < LEVEL:
            found.setdefault(place, []).append(_difference(pair))
    if not found:
        return [f"no difference is shown there: the smallest p is {min(pair.adjusted for _, pair in fit.compared):.2g}"]
    return [f"at {_named(place)}: {'; '.join(texts)}" for place, texts in found.items()]


def _difference(pair: Comparison) -> str:
    points = 100 * pair.difference.student.mean
    lower, higher = (pair.left, pair.right) if points < 0 else (pair.right, pair.left)
    return f"{lower} {abs(points):.1f} points below {higher} (p = {pair.adjusted:.2g})"


def _named(place: str) -> str:
    return NAMES.get(place, f"training {place}")
