"""Which curves a figure has, and how they look: one a setting, the same in every figure."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
from matplotlib.colors import to_rgb

from ireg.analysis.best import CRITERION, HELD_OUT
from ireg.analysis.labels import label, order, short_names, varied_columns
from ireg.analysis.load import one_run_a_seed, setting_columns
from ireg.analysis.looks import colour_of
from ireg.analysis.summary import plain

MANY = 10
"""Settings above which only each optimizer's best rate is in the legend."""

_RATES = 4
"""Rates of one optimizer from which on there is a best one to show."""

_WIDEST, _THINNEST = 2.4, 1.0

DASHES: tuple[Any, ...] = ("-", (0, (5, 2)), (0, (1, 1.3)), (0, (6, 1.5, 1, 1.5)))


@dataclass(frozen=True, eq=False)
class Setting:
    """One curve of every figure: its name, its look, and its rows of the tidy table.

    Attributes:
        label: its name in the legend.
        optimizer: its optimizer's name.
        colour: its optimizer's, paler for each further setting of the optimizer.
        dash: of the line.
        rows: of the tidy table.
        width: of the line; later curves are thinner, so that those below are seen where they coincide.
        faint: whether it is one of many, of which another rate is the best; it is not in the legend then.
    """

    label: str
    optimizer: str
    colour: tuple[float, float, float]
    dash: Any
    rows: pd.DataFrame
    width: float
    faint: bool


def settings_of(table: pd.DataFrame) -> list[Setting]:
    """List the curves in the order of the legend: by optimizer, then by the values of what else differs."""
    columns = setting_columns(table)
    names = short_names(varied_columns(table))
    groups = [
        (dict(zip(columns, key, strict=True)), one_run_a_seed(rows))
        for key, rows in table.groupby(columns, dropna=False)
    ]
    groups.sort(key=lambda group: [order(column, value) for column, value in group[0].items()])
    best = _best_rates(groups) if len(groups) > MANY else None
    settings: list[Setting] = []
    for number, (values, rows) in enumerate(groups):
        optimizer = plain(values["optimizer"])
        siblings = sum(plain(other["optimizer"]) == optimizer for other, _ in groups)
        rank = sum(setting.optimizer == optimizer for setting in settings)
        name = label(values, names) + _repeats(rows)
        faint = best is not None and best[_beside_the_rate(values)] != values["lr"]
        pale = 0.0 if best is not None else min(0.15, 0.6 / siblings) * rank
        dash = "-" if best is not None and not faint else DASHES[rank % len(DASHES)]
        width = _WIDEST - (_WIDEST - _THINNEST) * number / max(1, len(groups) - 1)
        settings.append(Setting(name, optimizer, _shade(optimizer, pale), dash, rows, width, faint))
    return settings


def _beside_the_rate(values: Mapping[str, Any]) -> tuple[str, ...]:
    return tuple(plain(value) for column, value in values.items() if column != "lr")


def _best_rates(groups: Sequence[tuple[dict[str, Any], pd.DataFrame]]) -> dict[tuple[str, ...], Any] | None:
    """Choose rates by the smallest final error, one for what settings share beside the rate.

    The error is that of held-out examples where all runs have them, else of the test set.

    Returns:
        Rates by the shared values; None where there is nothing to choose by, or to choose from.
    """
    held_out = all(HELD_OUT in rows and bool(rows[HELD_OUT].notna().any()) for _, rows in groups)
    tag = HELD_OUT if held_out else CRITERION
    errors: dict[tuple[str, ...], dict[Any, float]] = {}
    for values, rows in groups:
        if tag not in rows:
            return None
        done = rows[rows["state"] != "diverged"]
        last = done.loc[done.groupby("run")["epoch"].idxmax(), tag] if len(done) else done[tag]
        mean = float(last.mean())
        errors.setdefault(_beside_the_rate(values), {})[values["lr"]] = mean if math.isfinite(mean) else math.inf
    if max(map(len, errors.values())) < _RATES:
        return None
    return {beside: min(of_rate, key=lambda rate: of_rate[rate]) for beside, of_rate in errors.items()}


def _repeats(rows: pd.DataFrame) -> str:
    """Say in the legend how many seeds a setting has, and how many of its runs diverged."""
    states = rows.groupby("run")["state"].first()
    diverged = int((states == "diverged").sum())
    if len(states) == 1:
        return " (diverged)" if diverged else ""
    if diverged == len(states):
        return f" ({len(states)} seeds, diverged)"
    return f" ({len(states) - diverged} seeds" + (f"; {diverged} more diverged ×)" if diverged else ")")


def _shade(optimizer: str, pale: float) -> tuple[float, float, float]:
    """Return the optimizer's colour mixed with so much white, the same whatever else is in the table."""
    red, green, blue = to_rgb(colour_of(optimizer))
    return red + (1 - red) * pale, green + (1 - green) * pale, blue + (1 - blue) * pale


def legend_title(settings: Sequence[Setting]) -> str | None:
    """Say what line and band are, and how rates differ."""
    parts = []
    repeated = [setting.rows for setting in settings if setting.rows["run"].nunique() > 1]
    if repeated:
        ends = [rows[rows["state"] != "diverged"].groupby("run")["epoch"].max().nunique() for rows in repeated]
        parts.append("line: mean over seeds; band: smallest to largest")
        parts += ["after a run's last epoch, of the other seeds"] if max(ends) > 1 else []
    rates: dict[str, set[float]] = {setting.optimizer: set() for setting in settings}
    for setting in settings:
        rates[setting.optimizer] |= set(setting.rows["lr"].unique())
    if any(setting.faint for setting in settings):
        parts.append("each optimizer's best rate; faint: its other rates")
    elif any(len(of_optimizer) > 1 for of_optimizer in rates.values()):
        parts.append("paler: larger learning rate")
    return "; ".join(parts) or None
