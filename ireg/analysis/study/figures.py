"""The figures of the study's pages, from its cells."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from ireg.analysis.looks import COLOURS, colour_of
from ireg.analysis.study.cells import LOSSES, values
from ireg.analysis.study.tables import LEVELS, optimizers
from ireg.statistics import mean_interval


def over_fit(*tags: str) -> Callable[[pd.DataFrame], Figure]:
    """Make the figure of tags against training loss.

    A line is the mean over seeds, a bar its 95 % interval. Training runs from left to right.

    Args:
        tags: a panel each.
    """

    def draw(cells: pd.DataFrame) -> Figure:
        figure = Figure(figsize=(4.2 * len(tags), 3.6), layout="constrained")
        for axis, tag in zip(figure.subplots(1, len(tags), squeeze=False)[0], tags, strict=True):
            for optimizer in optimizers(cells):
                there, means, halves = _curve(cells[cells["optimizer"] == optimizer], tag)
                axis.errorbar(
                    there,
                    means,
                    halves,
                    color=colour_of(optimizer),
                    marker=".",
                    capsize=2,
                    linewidth=1,
                    label=optimizer,
                )
            axis.set_xscale("log")
            axis.invert_xaxis()
            axis.set_xticks(LABELLED, [f"{loss:g}" for loss in LABELLED], fontsize="small")
            axis.minorticks_off()
            axis.set_xlabel("training loss")
            axis.set_title(TITLES[tag], fontsize="medium")
            if tag in SHARES:
                axis.yaxis.set_major_formatter(PercentFormatter(1, symbol=" %", decimals=0))
            elif tag in LOGARITHMIC:
                axis.set_yscale("log")
            axis.grid(alpha=0.3)
            axis.spines[["top", "right"]].set_visible(False)
        handles, labels = figure.axes[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=len(COLOURS), frameon=False)
        return figure

    return draw


TITLES = {
    "test/error": "test error",
    "fit/memorized": "noise memorized",
    "fit/clean_error": "error on right labels",
    "norm/l2": "‖ω‖",
    "norm/distance": "‖ω − ω₀‖",
    "margin/normalized_clean_median": "normalized margin, right labels",
    "ireg/sgd": "equation 1",
    "ireg/own": "its own regularizer",
    "curvature/edge": "fraction of the edge",
}
SHARES = ("test/error", "fit/memorized", "fit/clean_error")
LOGARITHMIC = ("ireg/sgd", "ireg/own", "curvature/edge", "margin/normalized_clean_median")
LABELLED = [loss for loss in LOSSES if loss != 1.2]  # whose label has no room

FIGURES: Mapping[str, Callable[[pd.DataFrame], Figure]] = {
    "errors": over_fit("test/error", "fit/memorized", "fit/clean_error"),
    "norms": over_fit("norm/l2", "norm/distance", "margin/normalized_clean_median"),
    "terms": over_fit("ireg/sgd", "ireg/own", "curvature/edge"),
}
"""By the name that stands in a page's link."""


def _curve(cells: pd.DataFrame, tag: str) -> tuple[Sequence[float], Sequence[float], Sequence[float]]:
    there, means, halves = [], [], []
    for loss, place in zip(LOSSES, LEVELS, strict=True):
        interval = mean_interval(values(cells, tag)[cells["place"] == place].dropna().tolist())
        if interval.mean == interval.mean:
            there.append(loss)
            means.append(interval.mean)
            halves.append(0.0 if interval.half != interval.half else interval.half)
    return there, means, halves
