"""Figures of curvature, and of how the norm has grown: over epochs above, against training loss below."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from ireg.analysis.comparison import over_training_loss
from ireg.analysis.panels import Scale, always, empty_figure, finish, measured, panel, require
from ireg.analysis.settings import settings_of
from ireg.catalogue import CATALOGUE
from ireg.system.errors import UserError

SHARPNESS = ("curvature/lambda_max", "curvature/edge_fraction", "curvature/batch_sharpness")
TRACES = ("curvature/trace", "curvature/trace_root", "curvature/adaptive")
GROWTH = {
    "growth/radial": "growth of $\\Vert y\\Vert^2$\nalong the weights",
    "growth/diffusive": "growth of $\\Vert y\\Vert^2$\nby diffusion",
    "growth/share": "diffusive share",
}
"""Sums of the settled parts since the beginning, and the share |diffusive|/(|radial| + |diffusive|)."""


def sharpness(table: pd.DataFrame) -> Figure:
    """Draw the sharpness, and the fraction of each optimizer's edge.

    At a fraction of 1 a full-batch step begins to oscillate.
    """
    return _over_both(table, SHARPNESS)


def traces(table: pd.DataFrame) -> Figure:
    """Draw the trace of H, the sum of roots, and adaptive sharpness."""
    return _over_both(table, TRACES)


def growth(table: pd.DataFrame) -> Figure:
    """Draw by which part the squared norm has grown since the beginning.

    It is of the settled weights y, whose steps do not repeat each other.

    Raises:
        UserError: some epochs were not measured, whose steps would be missing from the sums.
    """
    require(table, "path/settled_diffusive")
    parts = {name: f"path/settled_{name}" for name in ("radial", "diffusive")}
    followed = table[table.groupby("run")[parts["diffusive"]].transform("any")].copy()
    if followed.loc[followed["epoch"] > 0, list(parts.values())].isna().any(axis=None):
        raise UserError("path/settled_… was not measured in each epoch; it can be drawn with terms.path.every=1")
    for name, tag in parts.items():
        followed[f"growth/{name}"] = followed.groupby("run")[tag].transform(lambda values: values.fillna(0).cumsum())
    whole = followed["growth/radial"].abs() + followed["growth/diffusive"]
    followed["growth/share"] = (followed["growth/diffusive"] / whole).where(whole > 0)
    figure = _over_both(followed, tuple(GROWTH))
    for axis in figure.axes[2::3]:
        axis.set_ylim(-0.02, 1.02)
        axis.yaxis.set_major_formatter(PercentFormatter(1, symbol=" %"))
    return figure


def _over_both(table: pd.DataFrame, tags: Sequence[str]) -> Figure:
    shown = [tag for tag in tags if measured(table, tag)]
    require(table, *tags)
    settings = settings_of(table)
    rows = 2 if measured(table, "train/loss") else 1
    figure, axes = empty_figure(len(shown), rows=rows)
    for number, tag in enumerate(shown):
        linear = tag in GROWTH or tag == "curvature/edge_fraction"
        scale: Scale = "linear" if linear else "log"
        upper, *lower = axes[number :: len(shown)]
        panel(upper, settings, partial(always, tag), scale)
        for axis in lower:
            over_training_loss(axis, settings, tag)
            axis.set_yscale(upper.get_yscale())
        for axis in (upper, *lower):
            axis.set_ylabel(GROWTH[tag] if tag in GROWTH else CATALOGUE[tag].axis)
            if tag == "curvature/edge_fraction":
                axis.axhline(1, color="0.4", linewidth=0.8)
    return finish(figure, settings)
