"""How the second study's pages are filled: names, texts between marks, and figures."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ireg.analysis.looks import drawn
from ireg.analysis.pages import between_marks
from ireg.statistics import Interval
from ireg.system.files import write_bytes, write_text
from study.annealed.plan import parts_of
from study.results import text_of

LABELS = {
    "momentum": "SGD, momentum",
    "rmsprop": "RMSProp",
    "adamw": "AdamW",
    "muon": "Muon",
    "muon_adamw": "Muon with AdamW",
    "lion": "Lion",
}
NETWORKS = {"mnist10k": "MNIST, MLP", "fashion10k": "Fashion-MNIST, MLP", "mnist10k_cnn": "MNIST, CNN"}

SMALL = 8
"""Points of a figure's text: legible where 7 inches are shown at 700 pixels."""


def title_of(setting: str) -> str:
    """Name a setting for a reader.

    Example:
        >>> title_of("mnist10k_cnn_30")
        'MNIST, CNN, 30 %'
    """
    family, rate = parts_of(setting)
    return f"{NETWORKS[family]}, {rate} %"


def ratio(logarithm: Interval) -> str:
    """Write a ratio whose logarithm has this interval.

    Example:
        >>> ratio(Interval(0.0, math.log(0.5), math.log(2.0)))
        '1.00 (0.50 to 2.00)'
    """
    return Interval(*map(math.exp, logarithm)).with_ends()


def write_table(folder: Path, name: str, rows: pd.DataFrame) -> Path:
    """Write a table that pages are made of into a folder's `data/`, and return its file."""
    path = folder / "data" / f"{name}.csv"
    write_text(path, text_of(rows))
    return path


def fill(page: Path, texts: Mapping[str, str], figures: Mapping[str, Callable[[], Figure]]) -> Iterator[Path]:
    """Put texts between a page's marks, and write its figures into `figures/` beside it.

    Args:
        page: a file.
        texts: by mark.
        figures: by name.

    Yields:
        Each file that was written.
    """
    for mark, text in texts.items():
        between_marks(page, mark, text)
    yield page
    for name, draw in figures.items():
        for content in drawn(name, draw, ".png").values():
            path = page.parent / "figures" / f"{name}.png"
            write_bytes(path, content)
            yield path


def plain(axis: Axes, *without: str) -> None:
    """Set small text and a grid, and leave out lines at the top, on the right, and those named."""
    axis.tick_params(labelsize=SMALL)
    axis.title.set_fontsize(SMALL + 1)
    for label in (axis.xaxis.label, axis.yaxis.label):
        label.set_fontsize(SMALL)
    axis.spines[["top", "right", *without]].set_visible(False)
    axis.grid(alpha=0.3)


def legend_below(figure: Figure, axis: Axes, columns: int) -> None:
    """Put an axis' legend below the whole figure."""
    handles, labels = axis.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=columns, fontsize=SMALL, frameon=False)
