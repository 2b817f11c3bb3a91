"""Which curves a figure has, and how they look.

There is one a setting, the same in every figure.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
from matplotlib.colors import to_rgb

from ireg.analysis.labels import label, order, short_names, varied_columns
from ireg.analysis.load import one_run_a_seed, setting_columns
from ireg.analysis.looks import colour_of
from ireg.analysis.summary import plain

DASHES: tuple[Any, ...] = ("-", (0, (5, 2)), (0, (1, 1.3)), (0, (6, 1.5, 1, 1.5)))


@dataclass(frozen=True, eq=False)
class Setting:
    """One curve of every figure: its name and its look.

    It also has its rows of the tidy table.
    """

    label: str
    optimizer: str
    colour: tuple[float, float, float]
    dash: Any
    rows: pd.DataFrame


def settings_of(table: pd.DataFrame) -> list[Setting]:
    """List the curves in the order of the legend.

    They are sorted by optimizer, then by the values of what else differs.
    """
    columns = setting_columns(table)
    names = short_names(varied_columns(table))
    groups = [
        (dict(zip(columns, key, strict=True)), one_run_a_seed(rows))
        for key, rows in table.groupby(columns, dropna=False)
    ]
    groups.sort(key=lambda group: [order(column, value) for column, value in group[0].items()])
    settings: list[Setting] = []
    for values, rows in groups:
        optimizer = plain(values["optimizer"])
        siblings = sum(plain(other["optimizer"]) == optimizer for other, _ in groups)
        rank = sum(setting.optimizer == optimizer for setting in settings)
        name = label(values, names) + _repeats(rows)
        colour = _shade(optimizer, min(0.15, 0.6 / siblings) * rank)
        settings.append(Setting(name, optimizer, colour, DASHES[rank % len(DASHES)], rows))
    return settings


def _repeats(rows: pd.DataFrame) -> str:
    """Say in the legend how many seeds a setting has.

    It also says how many of its runs diverged.
    """
    states = rows.groupby("run")["state"].first()
    diverged = int((states == "diverged").sum())
    if len(states) == 1:
        return " (diverged)" if diverged else ""
    if diverged == len(states):
        return f" ({len(states)} seeds, diverged)"
    return f" ({len(states) - diverged} seeds" + (f"; {diverged} more diverged ×)" if diverged else ")")


def _shade(optimizer: str, pale: float) -> tuple[float, float, float]:
    """Return the optimizer's colour, mixed with so much white.

    It is the same whatever else is in the table.
    """
    red, green, blue = to_rgb(colour_of(optimizer))
    return red + (1 - red) * pale, green + (1 - green) * pale, blue + (1 - blue) * pale


def legend_title(settings: Sequence[Setting]) -> str | None:
    """Say what line and band are, where there are several seeds."""
    repeated = [setting.rows for setting in settings if setting.rows["run"].nunique() > 1]
    if not repeated:
        return None
    ends = [rows[rows["state"] != "diverged"].groupby("run")["epoch"].max().nunique() for rows in repeated]
    return "line: mean over seeds; band: smallest to largest" + (
        "; after a run's last epoch, of the other seeds" if max(ends) > 1 else ""
    )
