"""The figures, by name in `FIGURES`: each is a function `(tidy table of load) -> Figure`.

One curve is one setting. Runs that differ in seeds only are drawn as their mean with a band from the smallest to the
largest; a diverged run is drawn alone, up to its last finite value, marked ×, and stays out of mean and band.
"""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Sequence
from functools import partial

import pandas as pd
from matplotlib.figure import Figure

from ireg.analysis.comparison import equal_fit, rates
from ireg.analysis.curvature import growth, sharpness, traces
from ireg.analysis.mean_flow import mean_flow, own_regularization
from ireg.analysis.panels import always, empty_figure, finish, measured, panel, require
from ireg.analysis.settings import Setting, settings_of
from ireg.catalogue import CATALOGUE


def training_error(table: pd.DataFrame) -> Figure:
    """Draw figure 1: training error on the observed labels, over the epoch as it ran."""
    return _single(table, "train/error", "Figure 1: training error")


def test_error(table: pd.DataFrame) -> Figure:
    """Draw figure 2: test error, after the epoch."""
    return _single(table, "test/error", "Figure 2: test error")


def parameter_norm(table: pd.DataFrame) -> Figure:
    """Draw figure 4: Euclidean norm of all parameters."""
    return _single(table, "norm/l2", "Figure 4: parameter norm")


def implicit_regularization(table: pd.DataFrame) -> Figure:
    """Draw figure 3: Eq. 1 for every optimizer, and the regularization term as the paper prints it.

    As printed: Eq. 1 for the family of SGD, the term with s_t for adaptive optimizers. The right panel is left out if
    no run has measured the latter.
    """
    require(table, "ireg/sgd")
    settings = settings_of(table)
    adaptive = [setting for setting in settings if measured(setting.rows, "ireg/rmsprop")]
    figure, axes = empty_figure(2 if adaptive else 1)
    panel(axes[0], settings, partial(always, "ireg/sgd"), "log")
    axes[0].set_title(f"{CATALOGUE['ireg/sgd'].axis}:\n{CATALOGUE['ireg/sgd'].mathtext}", fontsize="medium")
    axes[0].set_ylabel("implicit regularization term")
    if adaptive:
        # The terms differ by many orders of magnitude: the panels share no axis.
        panel(axes[1], settings, _printed_tag, "log")
        axes[1].set_title(_as_printed(settings, adaptive), fontsize="medium")
        axes[1].set_ylabel("implicit regularization term")
    figure.suptitle("Figure 3: implicit regularization")
    return finish(figure, settings)


def memorization(table: pd.DataFrame) -> Figure:
    """Draw what became of the corrupted labels of the training set, and the error on the uncorrupted ones."""
    tags = ("fit/memorized", "fit/recovered", "fit/clean_error")
    shown = [tag for tag in tags if measured(table, tag)]
    if not shown:
        require(table, *tags)
    settings = settings_of(table)
    figure, axes = empty_figure(len(shown), share=True)
    for axis, tag in zip(axes, shown, strict=True):
        panel(axis, settings, partial(always, tag), "share")
        axis.set_title(CATALOGUE[tag].axis, fontsize="medium")
        axis.set_ylabel("share of these training examples")
    return finish(figure, settings)


FIGURES: dict[str, Callable[[pd.DataFrame], Figure]] = {
    figure.__name__: figure
    for figure in (
        training_error,
        test_error,
        implicit_regularization,
        parameter_norm,
        memorization,
        own_regularization,
        mean_flow,
        equal_fit,
        rates,
        sharpness,
        traces,
        growth,
    )
}


def _single(table: pd.DataFrame, tag: str, title: str) -> Figure:
    require(table, tag)
    settings = settings_of(table)
    figure, (axis,) = empty_figure(1)
    panel(axis, settings, partial(always, tag), "share" if CATALOGUE[tag].unit == "share" else "auto")
    axis.set_title(title, fontsize="medium")
    axis.set_ylabel(CATALOGUE[tag].axis)
    return finish(figure, settings)


def _printed_tag(rows: pd.DataFrame) -> str:
    return "ireg/rmsprop" if measured(rows, "ireg/rmsprop") else "ireg/sgd"


def _as_printed(settings: Sequence[Setting], adaptive: Sequence[Setting]) -> str:
    """Say in the right panel's title which term it shows for which optimizers."""
    with_s = list(dict.fromkeys(setting.optimizer for setting in adaptive))
    others = list(dict.fromkeys(setting.optimizer for setting in settings if setting not in adaptive))
    lines = [
        "as printed in the paper:",
        f"{textwrap.fill(', '.join(with_s), 26)}: {CATALOGUE['ireg/rmsprop'].mathtext}",
    ]
    if others:
        lines.append(textwrap.fill(f"{', '.join(others)}: Eq. 1", 44))
    return "\n".join(lines)
