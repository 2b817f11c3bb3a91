"""Figures beyond the paper's: equal fit, learning rates."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from ireg.analysis.labels import label, short_names, varied_columns
from ireg.analysis.load import one_run_a_seed, setting_columns
from ireg.analysis.panels import empty_figure, finish, measured, require, spans_decades
from ireg.analysis.settings import Setting, settings_of
from ireg.analysis.summary import plain
from ireg.catalogue import CATALOGUE
from ireg.system.errors import UserError

LABELS = {"ireg/own": "ireg/own, its own regularizer"}
BESIDE_FIT = ("test/error", "ireg/own", "norm/l2")


def equal_fit(table: pd.DataFrame) -> Figure:
    """Draw test error, regularizer and norm against training loss.

    Equal epochs are not equal fit: one setting may have memorized what another has not begun to learn. Training runs
    from left to right, and a point is an epoch of one run.
    """
    require(table, "train/loss")
    shown = [tag for tag in BESIDE_FIT if measured(table, tag)]
    if not shown:
        require(table, *BESIDE_FIT)
    settings = settings_of(table)
    figure, axes = empty_figure(len(shown))
    for axis, tag in zip(axes, shown, strict=True):
        over_training_loss(axis, settings, tag)
        axis.set_ylabel(LABELS.get(tag, CATALOGUE[tag].axis))
        _scale(axis, tag, _finite(table, tag)[1])
    return finish(figure, settings, "a line is a run, a point an epoch")


def over_training_loss(axis: Axes, settings: Sequence[Setting], tag: str) -> None:
    """Draw a line a run of a tag against training loss, with training from left to right."""
    for setting in settings:
        _path(axis, setting, tag)
    losses = np.concatenate([_finite(setting.rows, tag)[0] for setting in settings])
    axis.set_xscale("log" if spans_decades(losses) else "linear")
    axis.invert_xaxis()
    axis.set_xlabel("training loss")
    axis.grid(alpha=0.3)
    axis.spines[["top", "right"]].set_visible(False)


def rates(table: pd.DataFrame) -> Figure:
    """Draw the final errors against the learning rate.

    A point is a run, a line the mean over seeds of what else is equal. Diverged runs are left out.

    Raises:
        UserError: no optimizer has two rates.
    """
    shown = [tag for tag in ("test/error", "train/error") if measured(table, tag)]
    require(table, "test/error", "train/error")
    groups = [(setting, rows) for setting, rows in _over_rates(table) if rows["lr"].nunique() > 1]
    if not groups:
        raise UserError("no optimizer has two learning rates; it can be drawn once one has")
    figure, axes = empty_figure(len(shown), share=True)
    for axis, tag in zip(axes, shown, strict=True):
        for setting, rows in groups:
            last = rows[(rows["state"] == "done") & np.isfinite(rows[tag].astype(float))]
            last = last.loc[last.groupby("run")["epoch"].idxmax()]
            run = f"{setting.label}, one run"
            axis.plot(last["lr"], last[tag], "o", markersize=3, alpha=0.6, color=setting.colour, gid=run)
            mean = last.groupby("lr")[tag].mean()
            (line,) = axis.plot(mean.index, mean, linestyle=setting.dash, label=setting.label, color=setting.colour)
            line.set_gid(f"{setting.label}, mean over seeds")
        axis.set_xscale("log")
        axis.set_xlabel("learning rate")
        axis.set_title(f"{CATALOGUE[tag].axis}, at the end", fontsize="medium")
        axis.grid(alpha=0.3)
        axis.spines[["top", "right"]].set_visible(False)
        _scale(axis, tag, np.zeros(0))
        axis.set_ylabel("error")
    return finish(figure, [setting for setting, _ in groups], "a point is a run, a line the mean over seeds")


def _over_rates(table: pd.DataFrame) -> list[tuple[Setting, pd.DataFrame]]:
    """List what settings share beside the rate, each with all its rows."""
    copies = [column for column in table.columns if column != "lr" and table[column].equals(table["lr"])]
    beside = table.drop(columns=copies).assign(lr=0.0)
    columns = setting_columns(beside)
    names = short_names(varied_columns(beside))
    groups = []
    for setting in settings_of(beside):
        values = setting.rows.iloc[0]
        same = np.all([beside[column].isin([values[column]]) for column in columns], axis=0)
        name = label({column: values[column] for column in columns}, names)
        groups.append((replace(setting, label=name), table[same]))
    return groups


def _path(axis: Axes, setting: Setting, tag: str) -> None:
    for number, (_, rows) in enumerate(one_run_a_seed(setting.rows).groupby("run")):
        kept = rows[np.isfinite(rows[[tag, "train/loss"]].astype(float)).all(axis=1)].sort_values("epoch")
        run = f"{setting.label}, seed {plain(rows['seed'].iloc[0])}"
        if setting.faint:
            axis.plot(kept["train/loss"], kept[tag], color=setting.colour, linewidth=0.7, alpha=0.25, gid=run)
            continue
        name = setting.label if number == 0 else None
        axis.plot(
            kept["train/loss"], kept[tag], color=setting.colour, linestyle=setting.dash, linewidth=0.75 * setting.width,
            marker=".", markersize=2.5, label=name, gid=run,
        )  # fmt: skip


def _finite(table: pd.DataFrame, tag: str) -> tuple[np.ndarray, np.ndarray]:
    pairs = table[["train/loss", tag]].astype(float).to_numpy()
    pairs = pairs[np.isfinite(pairs).all(axis=1)]
    return pairs[:, 0], pairs[:, 1]


def _scale(axis: Axes, tag: str, values: np.ndarray) -> None:
    if CATALOGUE[tag].unit == "share":
        axis.yaxis.set_major_formatter(PercentFormatter(1, symbol=" %"))
        axis.set_ylim(bottom=-0.02)
    elif spans_decades(values):
        axis.set_yscale("log")
