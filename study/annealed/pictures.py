"""The second study's pictures of all settings: verdicts, ends, rates, and measures."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ireg.analysis.looks import colour_of
from study.annealed.claims import AVERAGE, BEST, END, OverDraws
from study.annealed.measures import ALL, PAIRS, Cells
from study.annealed.plan import TUNED, parts_of
from study.annealed.writing import LABELS, SMALL, legend_below, plain, title_of
from study.pictures import draw_difference


def verdicts(comparisons: Sequence[OverDraws]) -> Figure:
    """Draw differences of test error, a row a setting, a column a comparator: filled where significant."""
    settings = list(dict.fromkeys(one.setting for one in comparisons))
    shown = (END, AVERAGE, BEST)
    figure = Figure(figsize=(7.0, 0.8 + 1.2 * len(settings)), layout="constrained")
    axes = figure.subplots(len(settings), len(shown), sharex="row", squeeze=False)
    for row, setting in zip(axes, settings, strict=True):
        for axis, comparator in zip(row, shown, strict=True):
            _panel(axis, [one for one in comparisons if (one.setting, one.comparator) == (setting, comparator)])
        _name_row(row[0], setting)
    for axis, comparator in zip(axes[0], shown, strict=True):
        axis.set_title(comparator, fontsize=9)
    return _finish(figure, axes, "test error less momentum's, points", columns=4)


def _panel(axis: Axes, members: Sequence[OverDraws]) -> None:
    for height, one in enumerate(members):
        draw_difference(axis, one, height, label=LABELS[one.optimizer])
    _about_zero(axis)
    axis.set_ylim(len(TUNED) - 1.5, -0.5)
    axis.set_yticks([])


def _about_zero(axis: Axes) -> None:
    """Mark zero on a panel whose values have either sign, and set its looks."""
    axis.axvline(0, color="0.3", linewidth=0.9, zorder=0)
    plain(axis, "left")


def _name_row(axis: Axes, setting: str) -> None:
    """Write a setting's name beside the first panel of its row."""
    axis.set_ylabel(title_of(setting).replace(", ", ",\n"), fontsize=SMALL, rotation=0, ha="right", va="center")


def _finish(figure: Figure, axes: np.ndarray, xlabel: str, columns: int) -> Figure:
    """Name the lowest panels' axis, of three that in the middle alone, and put one legend below all."""
    lowest = axes[-1]
    for axis in lowest if len(lowest) < 3 else lowest[1:-1]:
        axis.set_xlabel(xlabel, fontsize=SMALL)
    legend_below(figure, axes[0][0], columns)
    return figure


def at_the_end(comparisons: Sequence[OverDraws]) -> Figure:
    """Draw differences of test error at the end of all settings on one scale: filled where significant."""
    members = [one for one in comparisons if one.comparator == END]
    settings = list(dict.fromkeys(one.setting for one in members))
    left = (len(settings) + 1) // 2
    figure = Figure(figsize=(7.0, 0.9 + 0.55 * left), layout="constrained")
    axes = figure.subplots(1, 2, sharex=True, squeeze=False)
    for axis, shown in zip(axes[0], (settings[:left], settings[left:]), strict=True):
        for row, setting in enumerate(shown):
            for number, one in enumerate(one for one in members if one.setting == setting):
                draw_difference(axis, one, row + (number - 1.5) / 5, label=LABELS[one.optimizer] if row == 0 else None)
            axis.axhline(row + 0.5, color="0.85", linewidth=0.8)
        _about_zero(axis)
        axis.grid(visible=False, axis="y")
        axis.set_yticks(range(len(shown)), [title_of(setting) for setting in shown])
        axis.tick_params(axis="y", length=0)
        axis.set_ylim(left - 0.5, -0.5)
    return _finish(figure, axes, "better | worse", columns=4)


TICKS = (3, 5, 10, 20, 40, 80)
"""Test errors in percent that a logarithmic axis names."""


def rates(tuning: Cells) -> Figure:
    """Draw what the rate does without decay: test error and memorized share at the end, a row a setting."""
    figure = Figure(figsize=(7.0, 0.7 + 1.6 * len(tuning)), layout="constrained")
    axes = figure.subplots(len(tuning), 2, squeeze=False)
    for row, (setting, runs) in zip(axes, tuning.items(), strict=True):
        for axis, tag in zip(row, ("test/error", "fit/memorized"), strict=True):
            for optimizer in (name for name in TUNED if name in set(runs["optimizer"])):
                tried = TUNED[optimizer]
                first = (runs["optimizer"] == optimizer) & (runs["decay"] == 0) & (runs["memory"] == tried.memory)
                means = 100 * runs[first].groupby("lr")[tag].mean()
                colour = colour_of(optimizer)
                axis.plot(means.index, means, "o-", markersize=3, linewidth=1.2, color=colour, label=LABELS[optimizer])
            axis.set_xscale("log")
            plain(axis)
            if runs[tag].isna().all():
                axis.set_axis_off()
                axis.text(0.5, 0.5, "no wrong labels", transform=axis.transAxes, ha="center", fontsize=SMALL)
        row[0].set_yscale("log")
        row[0].set_yticks(TICKS, [str(tick) for tick in TICKS])
        row[0].minorticks_off()
        _name_row(row[0], setting)
    for axis, title in zip(axes[0], ("test error at the end, %", "wrong labels memorized, %"), strict=True):
        axis.set_title(title, fontsize=9)
    return _finish(figure, axes, "peak learning rate η", columns=5)


MARKERS = {"mnist10k": "o", "fashion10k": "s", "mnist10k_cnn": "^"}
"""Of a data set and network."""

COLOURS = {0: "#7fb3d5", 10: "#2e86c1", 30: "#1b4f72", 60: "#17202a"}
"""Of a noise rate in percent: the more, the darker."""


def measures(associated: Cells) -> Figure:
    """Draw Kendall's τ, a row a measure: a point a setting, and a bar for the interval over all settings."""
    names = list(dict.fromkeys(associated[ALL]["measure"]))
    heights = np.arange(len(names))
    settings = [setting for setting in associated if setting != ALL]
    figure = Figure(figsize=(7.0, 1.2 + 0.27 * len(names)), layout="constrained")
    axes = figure.subplots(1, len(PAIRS), sharey=True, squeeze=False)
    for axis, kind in zip(axes[0], PAIRS, strict=True):
        of_kind = {
            setting: rows[rows["pairs_of"] == kind].set_index("measure").reindex(names)
            for setting, rows in associated.items()
        }
        bars = of_kind[ALL][["low", "high"]].to_numpy().T
        axis.plot(bars, [heights] * 2, color="0.75", linewidth=7, solid_capstyle="butt", zorder=1)
        for number, setting in enumerate(settings):
            family_name, rate = parts_of(setting)
            axis.plot(
                of_kind[setting]["tau"],
                heights + 0.5 * ((number + 0.5) / len(settings) - 0.5),
                MARKERS[family_name],
                color=COLOURS[rate],
                markersize=3.5,
                label=title_of(setting),
                zorder=2,
            )
        axis.set_xlim(-1.03, 1.03)
        axis.set_title(kind)
        _about_zero(axis)
    axes[0][0].set_yticks(heights, names)
    axes[0][0].set_ylim(len(names) - 0.5, -0.5)
    return _finish(figure, axes, "Kendall's τ with the test error at the end", columns=3)
