"""The figure of `python -m ireg.basins`, from the plain numbers that `basins.json` holds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.figure import Figure

TITLES = {
    "train/loss": "training loss",
    "train/error": "training error",
    "test/loss": "test loss",
    "test/error": "test error",
}
KINDS = {"as_is": "as they are", "matched": "hidden units matched"}


def ends(one: str, other: str) -> str:
    """Name the ends of two optimizers' forks.

    Example:
        >>> ends("sgd", "adam"), ends("sgd", "sgd")
        ('sgd and adam', 'sgd, another order')
    """
    return f"{one}, another order" if one == other else f"{one} and {other}"


def curves(results: Sequence[Mapping[str, Any]]) -> Figure:
    """Draw losses and errors between forks.

    A line is the mean over the pairs of two optimizers with different orders, of all runs. Pairs of one optimizer are
    dashed: they are the noise floor.
    """
    kinds = [kind for kind in KINDS if any(kind in pair for result in results for pair in result["pairs"])]
    figure = Figure(figsize=(12, 2.9 * len(kinds) + 0.6), layout="constrained")
    axes = figure.subplots(len(kinds), len(TITLES), squeeze=False, sharex=True)
    names = sorted({(pair["first"], pair["second"]) for result in results for pair in result["pairs"]})
    for row, kind in zip(axes, kinds, strict=True):
        for axis, (quantity, title) in zip(row, TITLES.items(), strict=True):
            for number, (one, other) in enumerate(names):
                lines = [
                    pair[kind]["curve"][quantity]
                    for result in results
                    for pair in result["pairs"]
                    if (pair["first"], pair["second"]) == (one, other)
                    and pair["first_order"] != pair["second_order"]
                    and kind in pair
                ]
                mean = np.mean(lines, axis=0)
                style = "--" if one == other else "-"
                label = ends(one, other)
                axis.plot(np.linspace(0, 1, len(mean)), mean, style, color=colormaps["tab10"](number), label=label)
            axis.set_title(f"{title}, {KINDS[kind]}", fontsize="medium")
            axis.grid(alpha=0.3)
            axis.spines[["top", "right"]].set_visible(False)
    for axis in axes[-1]:
        axis.set_xlabel("α")
    handles, labels = axes[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False)
    return figure
