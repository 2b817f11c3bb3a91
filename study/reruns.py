"""Runs that were done twice: how far a repetition on another machine is from the first."""

from __future__ import annotations

import math

import pandas as pd

from ireg.analysis.places import loss_place
from ireg.tables import markdown

PLACES = ("holdout", "epoch 10", "epoch 20", "epoch 50", "end", *map(loss_place, (1.5, 1.2, 1.0, 0.7)))
"""Where the two are compared."""

_SETTING = ["optimizer", "lr"]


def reruns(cells: pd.DataFrame) -> str:
    """Write how test errors of the same setting and seed differ, beside those of other seeds.

    Args:
        cells: of both; a run of the same optimizer, rate and seed stands twice.

    Returns:
        A row a place: how many runs were repeated, mean and standard deviation of the differences in points, and the
        standard deviation between two seeds of one setting, √2 times that within the settings.
    """
    rates = cells["lr"].astype(float).map(lambda lr: float(f"{lr:.4g}"))  # as files have them
    measured = cells.assign(lr=rates)[[*_SETTING, "seed", "place", "test/error"]].dropna()
    rows = []
    for place in PLACES:
        there = measured[measured["place"] == place]
        both = there.groupby([*_SETTING, "seed"])["test/error"].agg(["first", "last", "size"])
        twice = both[both["size"] == 2]
        if len(twice) < 2:
            continue
        change = 100 * (twice["last"] - twice["first"])
        within = 100 * twice["first"].groupby(_SETTING).transform(lambda of_seeds: of_seeds - of_seeds.mean())
        freedom = len(within) - twice["first"].groupby(_SETTING).ngroups
        between = math.sqrt(2 * within.pow(2).sum() / freedom) if freedom else math.nan
        numbers = [f"{round(change.mean(), 2) + 0.0:.2f}", f"{change.std():.2f}", f"{between:.2f}" if freedom else "–"]
        rows.append([place, f"{len(twice)}", *numbers])
    head = ["at", "runs done twice", "mean difference, points", "its standard deviation", "that of two seeds"]
    return markdown(head, rows)
