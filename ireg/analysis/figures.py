"""The figures: one function `(tidy table of load) -> Figure` each, by name in `FIGURES`.

One curve is one setting. Runs that differ in seeds only are drawn as their mean with a band from the smallest to the
largest; a diverged run is drawn by itself up to its last finite value, marked ×, and stays out of mean and band.
"""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Literal

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from ireg.analysis.load import is_measured
from ireg.analysis.settings import Setting, legend_title, settings_of
from ireg.errors import UserError

EQ_1 = r"$\frac{\eta}{4m}\Sigma_k\,\Vert\nabla\hat{C}_k\Vert^2$"
ADAPTIVE = r"$\frac{\eta}{4m}\Sigma_k\,\Vert s_t\odot\nabla\hat{C}_k\Vert^2$"
Scale = Literal["share", "log", "auto"]


def training_error(table: pd.DataFrame) -> Figure:
    """Figure 1: training error on the observed labels, over the epoch as it ran."""
    return _single(table, "train/error", "Training error", "training error (observed labels)", "share")


def test_error(table: pd.DataFrame) -> Figure:
    """Figure 2: test error, after the epoch."""
    return _single(table, "test/error", "Test error", "test error", "share")


def parameter_norm(table: pd.DataFrame) -> Figure:
    """Figure 4: Euclidean norm of all parameters."""
    return _single(table, "norm/l2", "Parameter norm", r"$\Vert\omega\Vert_2$ of all parameters", "auto")


def implicit_regularization(table: pd.DataFrame) -> Figure:
    """Figure 3: the implicit regularization term; Eq. 1 for every optimizer, and as the paper prints it.

    As printed: Eq. 1 for the family of SGD, the term with s_t for adaptive optimizers. The right panel is left out
    if no run has measured the latter.
    """
    _require(table, "ireg/sgd")
    settings = settings_of(table)
    adaptive = [setting for setting in settings if _measured(setting.rows, "ireg/rmsprop")]
    figure, axes = _figure(2 if adaptive else 1)
    _panel(axes[0], settings, partial(_always, "ireg/sgd"), "log")
    axes[0].set_title(f"Eq. 1 for every optimizer:\n{EQ_1}", fontsize="medium")
    axes[0].set_ylabel("implicit regularization term")
    if adaptive:
        # The terms differ by many orders of magnitude: the panels share no axis.
        _panel(axes[1], settings, _printed_tag, "log")
        axes[1].set_title(_as_printed(settings, adaptive), fontsize="medium")
    return _finish(figure, settings)


def memorization(table: pd.DataFrame) -> Figure:
    """Figure 5: on the training set, what became of the corrupted labels, and the error on the uncorrupted ones."""
    panels = {
        "fit/memorized": "Corrupted examples:\nwrong label learned",
        "fit/recovered": "Corrupted examples:\ntrue label predicted",
        "fit/clean_error": "Uncorrupted examples:\nerror",
    }
    shown = {tag: title for tag, title in panels.items() if _measured(table, tag)}
    if not shown:
        _require(table, *panels)
    settings = settings_of(table)
    figure, axes = _figure(len(shown))
    for axis, (tag, title) in zip(axes, shown.items(), strict=True):
        _panel(axis, settings, partial(_always, tag), "share")
        axis.set_title(title, fontsize="medium")
    axes[0].set_ylabel("share of these training examples")
    return _finish(figure, settings)


FIGURES: dict[str, Callable[[pd.DataFrame], Figure]] = {
    figure.__name__: figure
    for figure in (training_error, test_error, implicit_regularization, parameter_norm, memorization)
}


def spans_decades(values: np.ndarray) -> bool:
    """Whether a logarithmic axis is due: the positive finite values differ by a factor of more than 30."""
    positive = values[np.isfinite(values) & (values > 0)]
    return positive.size > 0 and bool(positive.max() / positive.min() > 30)


def _single(table: pd.DataFrame, tag: str, title: str, meaning: str, scale: Scale) -> Figure:
    _require(table, tag)
    settings = settings_of(table)
    figure, (axis,) = _figure(1)
    _panel(axis, settings, partial(_always, tag), scale)
    axis.set_title(title, fontsize="medium")
    axis.set_ylabel(meaning)
    return _finish(figure, settings)


def _require(table: pd.DataFrame, *tags: str) -> None:
    if not any(_measured(table, tag) for tag in tags):
        raise UserError(f"no run has measured {' or '.join(tags)}; it can be drawn once one has")


def _measured(rows: pd.DataFrame, tag: str) -> bool:
    return tag in rows and bool(rows[tag].notna().any())


def _panel(axis: Axes, settings: Sequence[Setting], tag_of: Callable[[pd.DataFrame], str], scale: Scale) -> None:
    """Draw one curve a setting, of the tag that `tag_of` names for its rows."""
    curves = [(setting, *_curves(setting.rows, tag_of(setting.rows))) for setting in settings]
    values = np.concatenate([frame.to_numpy().ravel() for _, *frames in curves for frame in frames])
    log = bool((values > 0).any()) if scale == "log" else scale == "auto" and spans_decades(values)
    for setting, repeats, diverged in curves:
        _draw(axis, setting, repeats, diverged, log)
    if log:
        axis.set_yscale("log")
    if scale == "share":
        # Linear even over decades, and from a little below 0: an error of exactly 0, everything fitted, is to be seen.
        axis.yaxis.set_major_formatter(PercentFormatter(1, symbol=" %"))
        top = max(axis.get_ylim()[1], 1.05 * np.nanmax(values, initial=0))  # panels may share their axis
        axis.set_ylim(-0.02 * top, top)
    axis.set_xlabel("epochs")
    axis.xaxis.set_major_locator(MaxNLocator("auto", steps=[1, 2, 2.5, 5, 10], integer=True))
    axis.margins(x=0.02)
    axis.grid(alpha=0.3)
    axis.spines[["top", "right"]].set_visible(False)


def _curves(rows: pd.DataFrame, tag: str) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return epochs by runs, of the runs that make mean and band and of the diverged ones; nan breaks a curve."""
    measured = rows[is_measured(rows, tag)].replace([np.inf, -np.inf], np.nan)
    wide = measured.pivot(index="epoch", columns="run", values=tag)
    diverged = rows.groupby("run")["state"].first().reindex(wide.columns) == "diverged"
    return wide.loc[:, ~diverged], wide.loc[:, diverged]


def _draw(axis: Axes, setting: Setting, repeats: pd.DataFrame, diverged: pd.DataFrame, log: bool) -> None:
    def visible(values: pd.Series) -> pd.Series:
        return values.where(values > 0) if log else values  # the term with s_t is exactly 0 before the first step

    look: dict[str, Any] = {"color": setting.colour, "label": setting.label, "linewidth": 1.2}
    if repeats.shape[1]:
        mean = visible(repeats.mean(axis=1))
        axis.plot(mean.index, mean, linestyle=setting.dash, **look)
    if repeats.shape[1] > 1:
        low, high = visible(repeats.min(axis=1)), visible(repeats.max(axis=1))
        axis.fill_between(low.index, low, high, color=setting.colour, alpha=0.2, linewidth=0)
    look["linewidth"] = 0.8 if repeats.shape[1] else look["linewidth"]
    for run in diverged:
        curve = visible(diverged[run])
        curve = curve.loc[: curve.last_valid_index()]
        axis.plot(curve.index, curve, linestyle=setting.dash, marker="x", markevery=[-1], markersize=8, **look)


def _figure(panels: int) -> tuple[Figure, list[Axes]]:
    # Not pyplot: its global state would keep every figure alive, and is not safe in threads.
    figure = Figure(figsize=(8, 4.2 if panels < 3 else 3.4), layout="constrained")
    return figure, list(figure.subplots(1, panels, sharey=panels > 2, squeeze=False)[0])


def _finish(figure: Figure, settings: Sequence[Setting]) -> Figure:
    """Put one legend for all panels below them, as high as it needs to be."""
    handles: dict[str, Any] = {}
    for axis in figure.axes:
        for handle, label in zip(*axis.get_legend_handles_labels(), strict=True):
            handles.setdefault(label, handle)
    labels = [setting.label for setting in settings if setting.label in handles]
    columns = max(1, min(len(labels), 105 // (max(map(len, labels)) + 8)))
    figure.set_figheight(figure.get_figheight() + 0.2 * -(-len(labels) // columns))
    figure.legend(
        [handles[label] for label in labels],
        labels,
        title=legend_title(settings),
        loc="outside lower center",
        ncols=columns,
        fontsize="small",
        title_fontsize="small",
        frameon=False,
        handlelength=3,
    )
    return figure


def _always(tag: str, rows: pd.DataFrame) -> str:
    return tag


def _printed_tag(rows: pd.DataFrame) -> str:
    return "ireg/rmsprop" if _measured(rows, "ireg/rmsprop") else "ireg/sgd"


def _as_printed(settings: Sequence[Setting], adaptive: Sequence[Setting]) -> str:
    """Say in the right panel's title which of the two terms it shows for whom."""
    with_s = list(dict.fromkeys(setting.optimizer for setting in adaptive))
    others = list(dict.fromkeys(setting.optimizer for setting in settings if setting not in adaptive))
    lines = ["as printed in the paper:", f"{textwrap.fill(', '.join(with_s), 26)}: {ADAPTIVE}"]
    if others:
        lines.append(textwrap.fill(f"{', '.join(others)}: Eq. 1", 44))
    return "\n".join(lines)
