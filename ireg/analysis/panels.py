"""Panels, of which all figures are made: one curve a setting, and one legend below them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from ireg.analysis.load import is_measured
from ireg.analysis.settings import Setting, legend_title
from ireg.runs.metrics import STEP
from ireg.system.errors import UserError

Scale = Literal["share", "log", "linear", "auto"]


_MOST_POINTS = 60
"""Points of a curve that are marked one by one: more would be a thick line."""


def spans_decades(values: np.ndarray) -> bool:
    """Say whether a logarithmic axis is due: positive finite values differ by a factor of more than 30."""
    positive = values[np.isfinite(values) & (values > 0)]
    return positive.size > 0 and bool(positive.max() / positive.min() > 30)


def require(table: pd.DataFrame, *tags: str) -> None:
    """Raise a `UserError` unless one of the tags has been measured."""
    if not any(measured(table, tag) for tag in tags):
        raise UserError(f"no run has measured {' or '.join(tags)}; it can be drawn once one has")


def measured(rows: pd.DataFrame, tag: str) -> bool:
    """Say whether some row has a value of the tag."""
    return tag in rows and bool(rows[tag].notna().any())


def along(settings: Sequence[Setting]) -> str:
    """Return the column that curves run along: the steps taken where all rows have them, else the epochs."""
    by_steps = all(STEP in setting.rows and setting.rows[STEP].notna().all() for setting in settings)
    return STEP if by_steps else "epoch"


def panel(axis: Axes, settings: Sequence[Setting], tag_of: Callable[[pd.DataFrame], str], scale: Scale) -> None:
    """Draw one curve a setting, of the tag that `tag_of` names for its rows."""
    place = along(settings)
    curves = [(setting, *_curves(setting.rows, tag_of(setting.rows), place)) for setting in settings]
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
    axis.set_xlabel("steps" if place == STEP else "epochs")
    axis.xaxis.set_major_locator(MaxNLocator("auto", steps=[1, 2, 2.5, 5, 10], integer=True))
    axis.margins(x=0.02)
    axis.grid(alpha=0.3)
    axis.spines[["top", "right"]].set_visible(False)


def _curves(rows: pd.DataFrame, tag: str, place: str) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return epochs or steps by runs for mean and band, and the diverged runs apart; nan breaks a curve."""
    measured = rows[is_measured(rows, tag)].replace([np.inf, -np.inf], np.nan)
    wide = measured.pivot(index=place, columns="run", values=tag)
    diverged = rows.groupby("run")["state"].first().reindex(wide.columns) == "diverged"
    return wide.loc[:, ~diverged], wide.loc[:, diverged]


def _draw(axis: Axes, setting: Setting, repeats: pd.DataFrame, diverged: pd.DataFrame, log: bool) -> None:
    def visible(values: pd.Series) -> pd.Series:
        return values.where(values > 0) if log else values  # the term with s_t is exactly 0 before the first step

    look: dict[str, Any] = {"color": setting.colour, "label": setting.label, "linewidth": setting.width}
    if setting.faint:
        look = {"color": setting.colour, "linewidth": 0.7, "alpha": 0.25}
    look["gid"] = setting.label  # what a page says of the curve's points
    if repeats.shape[1]:
        mean = visible(repeats.mean(axis=1))
        points = [] if setting.faint else _single_epochs(mean)
        axis.plot(
            mean.index,
            mean,
            linestyle=setting.dash,
            marker="o" if points else None,
            markersize=3,
            markevery=points,
            **look,
        )
    if repeats.shape[1] > 1 and not setting.faint:
        low, high = visible(repeats.min(axis=1)), visible(repeats.max(axis=1))
        axis.fill_between(low.index, low, high, color=setting.colour, alpha=0.2, linewidth=0)
    look["gid"] = f"{setting.label}, diverged"
    look["linewidth"] = 0.8 if repeats.shape[1] else look["linewidth"]
    for run in diverged:
        curve = visible(diverged[run])
        curve = curve.loc[: curve.last_valid_index()]
        axis.plot(curve.index, curve, linestyle=setting.dash, marker="x", markevery=[-1], markersize=8, **look)


def _single_epochs(values: pd.Series) -> list[int]:
    """List the places of the points to be marked, which a line alone would hide or multiply.

    They are those without a neighbour, and all where not every epoch was measured and they are few.
    """
    there = values.notna().to_numpy()
    if 1 < len(values) <= _MOST_POINTS and float(np.diff(values.index.to_numpy()).min()) > 1:
        return np.flatnonzero(there).tolist()
    before, after = np.r_[False, there[:-1]], np.r_[there[1:], False]
    return np.flatnonzero(there & ~before & ~after).tolist()


def empty_figure(panels: int, *, share: bool = False, rows: int = 1) -> tuple[Figure, list[Axes]]:
    """Make a figure of panels side by side, in rows, which may share their vertical axis."""
    # Not pyplot: its global state would keep every figure alive, and is not safe in threads.
    height = (4.2 if panels < 3 else 3.4) if rows == 1 else 2.7 * rows
    figure = Figure(figsize=(8, height), layout="constrained")
    if rows > 1:  # the last label of an axis may reach beyond it
        figure.get_layout_engine().set(rect=(0, 0, 0.99, 1))  # type: ignore[union-attr,call-arg]
    return figure, list(figure.subplots(rows, panels, sharey=share, squeeze=False).flat)


def finish(figure: Figure, settings: Sequence[Setting], title: str | None = None) -> Figure:
    """Put one legend for all panels below them, as high as it needs to be.

    Its title says what lines and bands are, by default those of curves over epochs.
    """
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
        title=legend_title(settings) if title is None else title,
        loc="outside lower center",
        ncols=columns,
        fontsize="small",
        title_fontsize="small",
        frameon=False,
        handlelength=3,
    )
    return figure


def always(tag: str, rows: pd.DataFrame) -> str:
    """Return the tag, whatever the rows.

    With `functools.partial` it is the choice of a panel with one tag.
    """
    return tag
