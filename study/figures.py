"""The figures of the study's pages, from its cells."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import pandas as pd
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FormatStrFormatter, MaxNLocator, PercentFormatter

from ireg.analysis.basins import ends
from ireg.analysis.looks import COLOURS, colour_of
from ireg.analysis.places import loss_place
from ireg.statistics import Interval, mean_interval
from study.cells import LOSSES, valid_edges, values
from study.checkpoints import BARRIERS, DRIFT
from study.measures import association, with_controls
from study.tables import LEVELS, at_one_rate, at_one_ratio, optimizers, pairs_of_forks


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
                there, means, halves = _curve(valid_edges(cells[cells["optimizer"] == optimizer]), tag)
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
            _losses_below(axis, tag)
            axis.set_title(TITLES[tag], fontsize="medium")
        _legend(figure)
        return figure

    return draw


def batches(cells: pd.DataFrame) -> Figure:
    """Draw the test error by batch size."""
    figure = Figure(figsize=(8.4, 3.8), layout="constrained")
    sizes = sorted(cells["batch_size"].unique())
    axes = figure.subplots(1, 2, sharey=True)
    for axis, (parts, title) in zip(axes, ((at_one_rate, "at one η"), (at_one_ratio, "at one η/B")), strict=True):
        for (size, _), rows in parts(cells):
            there, means, halves = _curve(rows, "test/error")
            colour = colormaps["viridis"](sizes.index(int(size)) / len(sizes))
            axis.errorbar(there, means, halves, color=colour, marker=".", capsize=2, linewidth=1, label=f"B = {size}")
        _losses_below(axis, "test/error")
        axis.set_title(f"test error, {title}", fontsize="medium")
    _legend(figure)
    return figure


def speed(cells: pd.DataFrame) -> Figure:
    """Draw the test error at a training loss of 1 against epochs."""
    figure = Figure(figsize=(6.4, 3.8), layout="constrained")
    axis = figure.subplots()
    there = cells[cells["place"] == loss_place(1.0)]
    for optimizer in optimizers(there):
        rows = there[there["optimizer"] == optimizer]
        axis.plot(rows["at"], rows["test/error"], "o", color=colour_of(optimizer), markersize=5, label=optimizer)
    axis.set_xscale("log")
    axis.xaxis.set_major_formatter(FormatStrFormatter("%g"))
    axis.xaxis.set_minor_formatter(FormatStrFormatter("%g"))
    axis.set_xlabel("epochs to a training loss of 1")
    axis.set_title("test error there", fontsize="medium")
    _in_percent(axis)
    _plain(axis)
    _legend(figure)
    return figure


def barriers(cells: pd.DataFrame) -> Figure:
    """Draw the barriers of the training loss between forks, those of the floor hollow."""
    lines = []
    for (one, other), rows in pairs_of_forks(cells):
        name = ends(one, other)
        interval = mean_interval(values(rows, f"{BARRIERS}/train/loss").tolist())
        lines.append((name, interval, "0.4" if one == other else colour_of(other), one == other))
    figure = Figure(figsize=(6.4, 0.9 + 0.3 * len(lines)), layout="constrained")
    _intervals(figure.subplots(), lines, "barrier of the training loss")
    return figure


def drift(cells: pd.DataFrame) -> Figure:
    """Draw the measured drift: its coefficient, and what finite steps do to Q at equal C."""
    measured = cells[cells["place"] == DRIFT]
    names = optimizers(measured)
    panels = {
        "coefficient of the leading flow": "leading flow/k",
        "Δ ln Q at equal C, mean of the ends": "kept/mean/equal C/squares",
        "Δ ln Q at equal C, over the ends": "kept/ends/equal C/squares",
    }
    figure = Figure(figsize=(11.0, 1.2 + 0.4 * len(names)), layout="constrained")
    for axis, (title, tag) in zip(figure.subplots(1, 3, sharey=True), panels.items(), strict=True):
        of_each = [
            values(measured[measured["optimizer"] == name], f"{DRIFT}/{tag}").dropna().tolist() for name in names
        ]
        lines = [
            (name, mean_interval(numbers), colour_of(name), False) for name, numbers in zip(names, of_each, strict=True)
        ]
        _intervals(axis, lines, title)
    return figure


SHOWN_MEASURES = (
    "holdout/error",
    "ireg/own",
    "ireg/sgd",
    "norm/l2",
    "norm/spectral_product",
    "margin/normalized_clean_median",
    "planted",
    "random",
)


def measures(cells: pd.DataFrame) -> Figure:
    """Draw how measures go with the test error; controls are hollow."""
    figure = Figure(figsize=(9.0, 3.2), layout="constrained")
    for axis, loss in zip(figure.subplots(1, 2, sharey=True), (1.0, 0.4), strict=True):
        runs, names = with_controls(cells, loss)
        lines = []
        for name in SHOWN_MEASURES:
            if name in names:
                tau, low, high, _ = association(runs, name)
                lines.append((name, Interval(tau, low, high), "0.3", name in ("planted", "random")))
        _intervals(axis, lines, f"Kendall's τ with the test error at a loss of {loss:g}")
    return figure


Line = tuple[str, Interval, str, bool]
"""Label, interval, colour, and whether the point is hollow."""


def _intervals(axis: Axes, lines: Sequence[Line], label: str) -> None:
    """Draw points with intervals, from top to bottom."""
    for height, (_, interval, colour, hollow) in enumerate(lines):
        # No bar where there is no interval, and none inwards where a bootstrap's leaves its estimate out.
        sides = (interval.mean - interval.low, interval.high - interval.mean)
        bars = [[side if side > 0 else 0.0] for side in sides]
        face = "white" if hollow else colour
        axis.errorbar(interval.mean, height, xerr=bars, fmt="o", color=colour, markerfacecolor=face, capsize=2)
    axis.set_yticks(range(len(lines)), [name for name, *_ in lines])
    axis.set_ylim(len(lines) - 0.5, -0.5)
    axis.axvline(0, color="0.3", linewidth=0.8)
    axis.set_xlabel(label)
    _plain(axis)


def _losses_below(axis: Axes, tag: str) -> None:
    """Let training run from left to right, for a tag."""
    axis.set_xscale("log")
    axis.invert_xaxis()
    axis.set_xticks(LABELLED, [f"{loss:g}" for loss in LABELLED], fontsize="small")
    axis.minorticks_off()
    axis.set_xlabel("training loss")
    if tag in SHARES:
        _in_percent(axis)
    elif tag in LOGARITHMIC:
        axis.set_yscale("log")
    _plain(axis)


def _in_percent(axis: Axes) -> None:
    # Steps of 2.5 % would need decimals of all labels.
    axis.yaxis.set_major_locator(MaxNLocator(steps=[1, 2, 5, 10]))
    axis.yaxis.set_major_formatter(PercentFormatter(1, symbol=" %"))


def _plain(axis: Axes) -> None:
    axis.grid(alpha=0.3)
    axis.spines[["top", "right"]].set_visible(False)


def _legend(figure: Figure) -> None:
    """Put one legend below, of all that the panels have."""
    labelled = {
        label: handle for axis in figure.axes for handle, label in zip(*axis.get_legend_handles_labels(), strict=True)
    }
    figure.legend(labelled.values(), labelled.keys(), loc="outside lower center", ncols=len(COLOURS), frameon=False)


TITLES = {
    "test/error": "test error",
    "fit/memorized": "noise memorized",
    "fit/clean_error": "error on right labels",
    "norm/l2": "‖ω‖",
    "norm/distance": "‖ω − ω₀‖",
    "margin/normalized_clean_median": "normalized margin, right labels",
    "ireg/sgd": "equation 1",
    "ireg/own": "its own regularizer",
    "curvature/edge_fraction": "fraction of the edge",
}
SHARES = ("test/error", "fit/memorized", "fit/clean_error")
LOGARITHMIC = ("ireg/sgd", "ireg/own", "curvature/edge_fraction", "margin/normalized_clean_median")
LABELLED = [loss for loss in LOSSES if loss != 1.2]  # whose label has no room

FIGURES: Mapping[str, Callable[[pd.DataFrame], Figure]] = {
    "errors": over_fit("test/error", "fit/memorized", "fit/clean_error"),
    "norms": over_fit("norm/l2", "norm/distance", "margin/normalized_clean_median"),
    "terms": over_fit("ireg/sgd", "ireg/own", "curvature/edge_fraction"),
    "speed": speed,
    "barriers": barriers,
    "drift": drift,
    "batches": batches,
    "measures": measures,
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
