"""The figure of the certificates: errors of plain and modified flows against the rate."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter

from ireg.analysis.looks import colour_of

COLUMNS = 4


class ErrorCurves(NamedTuple):
    """One certificate, as the figure shows it: optimizer, abscissa, rates, and errors of both flows."""

    optimizer: str
    abscissa: str
    rates: Sequence[float]
    plain: Sequence[float]
    modified: Sequence[float]


def errors_against_rate(curves: Sequence[ErrorCurves]) -> Figure:
    """Draw a panel for each optimizer and abscissa, plain flows dashed, modified flows solid.

    Lines of slope 1 and 2 are guides.
    """
    panels: dict[tuple[str, str], list[ErrorCurves]] = {}
    # Panels with the same abscissa side by side.
    for curve in sorted(curves, key=lambda curve: curve.abscissa != curves[0].abscissa):
        panels.setdefault((curve.optimizer, curve.abscissa), []).append(curve)
    rows = -(-len(panels) // COLUMNS)
    # Not pyplot: its global state would keep every figure alive.
    figure = Figure(figsize=(11, 2.9 * rows + 0.4), layout="constrained")
    axes = figure.subplots(rows, COLUMNS, squeeze=False).ravel()
    for axis, ((optimizer, abscissa), members) in zip(axes, panels.items(), strict=False):
        _panel(axis, members, colour_of(optimizer))
        axis.set_title(optimizer, fontsize="medium")
        axis.set_xlabel(abscissa)
    for axis in axes[len(panels) :]:
        axis.set_visible(False)
    for axis in axes[::COLUMNS]:
        axis.set_ylabel("error at a fixed time")
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4, frameon=False)
    return figure


def _panel(axis: Axes, members: Sequence[ErrorCurves], colour: str) -> None:
    for position, curve in enumerate(members):
        labels = ("plain flow", "modified flow") if position == 0 else (None, None)
        axis.loglog(curve.rates, curve.plain, "--o", color=colour, markersize=3, alpha=0.6, label=labels[0])
        axis.loglog(curve.rates, curve.modified, "-o", color=colour, markersize=3, label=labels[1])
    # Guides through the last point of the first curves, a little below them.
    first = members[0]
    for order, errors, dash in ((1, first.plain, ":"), (2, first.modified, "-.")):
        guide = [0.6 * errors[-1] * (rate / first.rates[-1]) ** order for rate in first.rates]
        axis.loglog(first.rates, guide, dash, color="black", linewidth=0.8, label=f"slope {order}")
    rates = sorted({rate for curve in members for rate in curve.rates})
    if rates[-1] < 20 * rates[0]:  # too few decades for ticks at powers of ten
        axis.set_xticks(rates, [f"{rate:.2g}" for rate in rates])
    axis.xaxis.set_minor_formatter(NullFormatter())
    axis.grid(alpha=0.3)
    axis.spines[["top", "right"]].set_visible(False)
