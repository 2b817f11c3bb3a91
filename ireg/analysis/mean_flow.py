"""Figures of what theory says of the optimizers' own implicit regularization."""

from __future__ import annotations

import math
from functools import partial

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ireg.analysis.load import is_measured
from ireg.analysis.panels import along, always, empty_figure, finish, measured, panel, require
from ireg.analysis.settings import Setting, settings_of
from ireg.catalogue import CATALOGUE, VALID_STRENGTH

TERMS = ("ireg/sgd", "ireg/rmsprop", "ireg/own")
PARTS = ("", "_memory", "_lag", "_fluctuation")


def own_regularization(table: pd.DataFrame) -> Figure:
    """Draw figure 3 again: each optimizer's own regularizer, Eq. 1, and the adaptive term as printed."""
    require(table, "ireg/own")
    settings = settings_of(table)
    shown = [tag for tag in TERMS if measured(table, tag)]
    # They differ by many orders of magnitude: the panels share no axis.
    figure, axes = empty_figure(len(shown))
    for axis, tag in zip(axes, shown, strict=True):
        panel(axis, settings, partial(always, tag), "log")
        axis.set_title(f"{tag}:\n{CATALOGUE[tag].axis}", fontsize="medium")
        axis.set_ylabel("implicit regularization term")
    return finish(figure, settings)


def mean_flow(table: pd.DataFrame) -> Figure:
    """Draw strength and alignment of the mean flow's correction, and its parts.

    Dots are where the expansion can hold.
    """
    require(table, "ireg/strength")
    shown = [part for part in PARTS if measured(table, f"ireg/strength{part}")]
    # What was left out has an empty panel.
    tags = [f"ireg/alignment{part}" for part in shown]
    table = table.assign(**{tag: math.nan for tag in tags if tag not in table})
    settings = settings_of(table)
    figure = Figure(figsize=(3 * len(shown) + 1, 6), layout="constrained")
    grid = figure.subplots(2, len(shown), sharex=True, sharey="row", squeeze=False)
    for column, part in enumerate(shown):
        strength, alignment = grid[:, column]
        panel(strength, settings, partial(always, f"ireg/strength{part}"), "log")
        strength.axhspan(VALID_STRENGTH, 1e9, color="0.5", alpha=0.12, linewidth=0)
        panel(alignment, settings, partial(always, f"ireg/alignment{part}"), "linear")
        alignment.axhline(0, color="0.4", linewidth=0.8)
        alignment.set_ylim(-1.05, 1.05)
        for setting in (setting for setting in settings if not setting.faint):
            _mark_valid(strength, setting, f"ireg/strength{part}", along(settings))
            _mark_valid(alignment, setting, f"ireg/alignment{part}", along(settings))
        strength.set_xlabel("")
        strength.set_title(CATALOGUE[f"ireg/strength{part}"].axis, fontsize="medium")
    low, high = _range(table, [f"ireg/strength{part}" for part in shown])
    grid[0, 0].set_ylim(low, high)
    for strength, alignment in grid.T:
        strength.set_ylabel("strength: ‖part‖ / ‖u‖")
        alignment.set_ylabel("alignment with ∇Q\n(above 0: pushes Q down)")
    figure.suptitle(
        f"Dots: strength of the whole up to {VALID_STRENGTH:g}. A line alone, or in grey: outside of the expansion, "
        "where it says nothing",
        fontsize="small",
    )
    return finish(figure, settings)


def _mark_valid(axis: Axes, setting: Setting, tag: str, place: str) -> None:
    """Put dots where the whole correction is weak enough in every seed."""
    rows = setting.rows
    by_place = rows[is_measured(rows, tag) & (rows["state"] != "diverged")].groupby(place)
    mean = by_place[tag].mean()[by_place["ireg/strength"].max() <= VALID_STRENGTH]
    axis.plot(mean.index, mean, linestyle="none", marker="o", markersize=2.5, color=setting.colour)


def _range(table: pd.DataFrame, tags: list[str]) -> tuple[float, float]:
    """Return the decades that hold all positive values."""
    values = table[tags].to_numpy().ravel()
    positive = values[(values > 0) & (values < float("inf"))]
    return 0.5 * float(positive.min(initial=VALID_STRENGTH)), 2 * float(positive.max(initial=VALID_STRENGTH))
