"""A figure of what was measured in a training: a panel a kind of term, over optimizer steps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ireg.catalogue import CATALOGUE, STANDARD_ERROR, entry

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from pandas import DataFrame

NOT_SHOWN = ("time/", "check/")
"""Tags that are about the measurement."""

WIDTH, HEIGHT = 3.4, 2.9
"""Inches of a panel."""

DECADE = 10.0
"""Ratio of the largest to the smallest positive value from which on an axis is logarithmic."""


def rows_figure(rows: DataFrame, tags: Sequence[str] | None = None) -> Figure:
    """Draw measured rows over optimizer steps, a panel for each kind of tag, like `ireg/…` or `noise/…`.

    Bars are of one standard error, where there are any. A row without a value is a gap.

    Args:
        rows: with a column `step` or `epoch`, and the tags.
        tags: which; by default all but those of time and checks.

    Returns:
        A figure of matplotlib, which a notebook shows; `figure.savefig("terms.png")` writes it.

    Raises:
        ValueError: there are no rows, or a tag is not among them.
    """
    from matplotlib.figure import Figure

    if rows.empty:
        raise ValueError("nothing has been measured yet; draw once there are rows")
    measured = [str(tag) for tag in rows if "/" in str(tag) and not str(tag).endswith(STANDARD_ERROR)]
    shown = [tag for tag in measured if not tag.startswith(NOT_SHOWN)] if tags is None else list(tags)
    if missing := [tag for tag in shown if tag not in measured]:
        raise ValueError(f"{missing[0]}: not among the rows; there are {', '.join(measured)}")
    along = "step" if "step" in rows else "epoch"
    kinds: dict[str, list[str]] = {}
    for tag in shown:
        kinds.setdefault(tag.partition("/")[0], []).append(tag)
    figure = Figure(figsize=(WIDTH * len(kinds), HEIGHT), layout="constrained")
    axes = figure.subplots(1, len(kinds), squeeze=False)[0]
    for axis, (kind, of_kind) in zip(axes, kinds.items(), strict=True):
        for tag in of_kind:
            error = rows.get(tag + STANDARD_ERROR)
            axis.errorbar(rows[along], rows[tag], yerr=error, fmt="o-", markersize=3, linewidth=1, label=tag)
        values = rows[of_kind].to_numpy(dtype=float).ravel()
        positive = values[values > 0]
        if not (values < 0).any() and len(positive) and positive.max() > DECADE * positive.min():
            axis.set_yscale("log", nonpositive="clip")
        units = {CATALOGUE[entry(tag)].unit for tag in of_kind if entry(tag) in CATALOGUE}
        unit = f" ({units.pop()})" if len(units) == 1 and units != {"1"} else ""
        single = len(of_kind) == 1  # named by its title: a legend finds no room that bars leave free
        axis.set_title((of_kind[0] if single else f"{kind}/") + unit, fontsize="medium")
        axis.set_xlabel({"step": "optimizer steps", "epoch": "epoch"}[along])
        axis.spines[["top", "right"]].set_visible(False)
        if not single:
            axis.legend(frameon=False, fontsize="small")
    return figure
