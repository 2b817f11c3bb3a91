"""How figures look: optimizers' colours and files.

Equal figures have equal bytes, whatever the user's settings are.
"""

from __future__ import annotations

import io
import sys
import zlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ireg.known_optimizers import OPTIMIZERS
from ireg.system.errors import UserError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLOURS = {name: entry.colour for name, entry in OPTIMIZERS.items()}
"""By the name in the configuration, which is an optimizer's label in every figure, and in the order of legends."""

_FURTHER_COLOURS = ("#332288", "#999933", "#44AA99", "#AA4499", "#666666")

PART_OF_A_PAGE = ".html"
"""The form of a figure that takes it apart, and comes last."""

# Without dates, and with names of parts that are not random, the same figure is the same file.
_OPTIONS: dict[str, dict[str, Any]] = {
    ".png": {"dpi": 150},
    ".pdf": {"metadata": {"CreationDate": None}},
    ".svg": {"metadata": {"Date": None}},
}


def colour_of(optimizer: str) -> str:
    """Return an optimizer's colour, the same in every figure.

    The name decides where the table of optimizers has no entry.
    """
    further = _FURTHER_COLOURS[zlib.crc32(optimizer.encode()) % len(_FURTHER_COLOURS)]
    return COLOURS.get(optimizer, further)


def drawn(name: str, draw: Callable[[], Figure], *suffixes: str) -> dict[str, bytes]:
    """Return a figure's files by suffix; none if it fails.

    A figure comes last and is made of results that exist: its failure is reported in one line on standard error, and
    harms nothing else.

    Args:
        name: what the line calls it.
        draw: makes the figure; matplotlib need not be imported before.
        suffixes: of `.png`, `.pdf` and `.svg`; last may be `.html`, a part of a page, see `inline.inline`.

    Raises:
        UserError: `draw` raises it.
    """
    try:
        return _drawn(name, draw, *suffixes)
    except UserError:
        raise
    except Exception as error:  # of matplotlib, its fonts or what it is installed with
        why = " ".join(f"{type(error).__name__}: {error}".split())
        print(f"figure {name} cannot be drawn: {why}", file=sys.stderr)
        return {}


def _drawn(name: str, draw: Callable[[], Figure], *suffixes: str) -> dict[str, bytes]:
    import matplotlib

    # Not `rcdefaults`, which asks for the user's styles. The backend is left alone: no window is opened here.
    settings: dict[Any, Any] = {key: value for key, value in matplotlib.rcParamsDefault.items() if key != "backend"}
    with matplotlib.rc_context(settings | {"svg.hashsalt": "ireg"}):
        figure = draw()
        contents = {}
        for suffix in suffixes:
            if suffix == PART_OF_A_PAGE:
                from ireg.analysis.inline import inline

                contents[suffix] = inline(figure, name)
                continue
            stream = io.BytesIO()
            figure.savefig(stream, format=suffix[1:], **_OPTIONS[suffix])
            contents[suffix] = stream.getvalue()
            figure.set_layout_engine(None)  # what the first form has laid out stands for all
    return contents
