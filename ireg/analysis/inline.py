"""Figures as a part of a page: a legend, and a vector graphic a panel, whose points say their values.

Panels are apart, so that a narrow window shows them below each other, at the size of its text.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Sequence
from html import escape
from typing import Any, NamedTuple
from xml.etree import ElementTree

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.gridspec import GridSpec
from matplotlib.lines import Line2D
from matplotlib.ticker import PercentFormatter

SIZE = (4.6, 3.3)
"""Inches of a panel. Its text has 10 points, which are 11 pixels in a window of 390."""

POINTS = 1200
"""Points of a panel that say their values, at most: more would make the page heavy."""

_OF_A_LINE = 60
"""The same of a line."""

_REACH = 5
"""Radius about a point within which it is pointed at, in points of type."""

_ONE = {"epochs": "epoch", "steps": "step"}
"""What one of the units on a horizontal axis is called."""

_REFERENCE = re.compile(r"url\(#([^)]+)\)")


class _Panel(NamedTuple):
    """A panel's graphic, and the looks of the lines that the legend names, by label."""

    svg: str
    looks: dict[str, str]


def inline(figure: Figure, name: str) -> bytes:
    """Return a figure as HTML: its own heading, legend and panels.

    The figure is taken apart and of no use afterwards. A line whose artist has a `gid` says, at each of its points, the
    gid and the values.

    Args:
        figure: with one legend at most.
        name: what ids begin with, so that those of two figures on a page differ.

    Returns:
        UTF-8, without scripts or addresses; the same for equal figures.
    """
    legends = [legend for legend in figure.legends if legend.get_texts()]
    labels = [text.get_text() for legend in legends for text in legend.get_texts()]
    notes = [figure.get_suptitle(), *(legend.get_title().get_text() for legend in legends)]
    for legend in figure.legends:
        legend.remove()
    figure.suptitle("")
    figure.set_size_inches(*SIZE)
    panels = list(_panels(figure, name))
    looks = {label: look for panel in reversed(panels) for label, look in panel.looks.items()}
    head = [f"<p class=note>{escape(note)}</p>" for note in notes if note]
    entries = [f"<li>{_sample(looks[label])}{escape(label)}</li>" for label in labels if label in looks]
    legend_ = f"<ul class=legend>{''.join(entries)}</ul>" if entries else ""
    graphics = "\n".join(panel.svg for panel in panels)
    return f"{''.join(head)}{legend_}<div class=panels>\n{graphics}\n</div>".encode()


def _panels(figure: Figure, name: str) -> Iterator[_Panel]:
    """Draw each panel alone."""
    everything = list(figure.axes)
    below = everything[-1].get_xlabel()  # panels that share an axis may leave its name to the last one,
    titles = [axis.get_title() or _above(axis, everything).get_title() for axis in everything]  # and to the first
    for number, (axis, title) in enumerate(zip(everything, titles, strict=True), start=1):
        for other in everything:
            other.set_visible(other is axis)
        axis.set_subplotspec(GridSpec(1, 1, figure=figure)[0])
        axis.set_title(title, fontsize="medium")
        axis.set_xlabel(axis.get_xlabel() or below)
        axis.tick_params(which="both", labelleft=True, labelbottom=True)
        for scale in (axis.xaxis, axis.yaxis):
            scale.get_offset_text().set_visible(True)
        figure.set_layout_engine("constrained")
        stream = io.BytesIO()
        figure.savefig(stream, format="svg", metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")))
        tree = ElementTree.fromstring(stream.getvalue())
        _plain(tree)
        gids = {line.get_label(): line.get_gid() for line in reversed(axis.lines) if line.get_gid()}
        looks = {str(label): look for label, gid in gids.items() if (look := _look(tree, str(gid)))}
        _name_apart(tree, f"{name}-{number}-")
        tree.append(_points(axis, figure))
        yield _Panel(ElementTree.tostring(tree, encoding="unicode"), looks)


def _above(axis: Axes, everything: Sequence[Axes]) -> Axes:
    """Return the first panel of the column of a panel."""
    columns = {other: spec.colspan.start for other in everything if (spec := other.get_subplotspec()) is not None}
    return next((other for other in everything if columns.get(other) == columns.get(axis)), axis)


def _plain(tree: ElementTree.Element) -> None:
    """Make the document a part of a page.

    Without names of XML, metadata and sizes, and without the style sheet, which would be that of the whole page.
    """
    for element in tree.iter():
        element.tag = element.tag.rpartition("}")[2]
        for key in [key for key in element.attrib if "}" in key]:
            element.set(key.rpartition("}")[2], element.attrib.pop(key))
        element.text, element.tail = (text if text and text.strip() else None for text in (element.text, element.tail))
    for parent in list(tree.iter()):
        for child in [child for child in parent if child.tag in ("metadata", "style")]:
            parent.remove(child)
    for key in ("width", "height", "version"):
        tree.attrib.pop(key, None)
    # What matplotlib's own style sheet says of all elements; here it would be of the page's others, too.
    tree.set("style", "stroke-linejoin: round; stroke-linecap: butt")
    tree.set("class", "panel")


def _name_apart(tree: ElementTree.Element, prefix: str) -> None:
    """Put a prefix before the ids that are referred to, and drop the others."""
    used = {value[1:] for element in tree.iter() if (value := element.get("href", "")).startswith("#")}
    used |= {
        match for element in tree.iter() for value in element.attrib.values() for match in _REFERENCE.findall(value)
    }
    for element in tree.iter():
        for key, value in list(element.attrib.items()):
            if key == "id" and value not in used:
                del element.attrib[key]
            elif key == "id":
                element.set(key, prefix + value)
            elif key == "href":
                element.set(key, value.replace("#", f"#{prefix}"))
            else:
                element.set(key, _REFERENCE.sub(lambda match: f"url(#{prefix}{match[1]})", value))


def _look(tree: ElementTree.Element, gid: str) -> str:
    """Return the style of the line with a gid; empty where none is drawn."""
    for group in tree.iter("g"):
        if group.get("id") == gid and (path := group.find("path")) is not None:
            return path.get("style", "")
    return ""


def _sample(look: str) -> str:
    return f'<svg class=sample viewBox="0 0 30 9"><path d="M 1 4.5 L 29 4.5" style="{escape(look)}" /></svg>'


def _points(axis: Axes, figure: Figure) -> ElementTree.Element:
    """Return invisible places about the points of lines, each with a text for those who point at it."""
    group = ElementTree.Element("g", {"class": "points"})
    lines = [line for line in axis.lines if line.get_gid()]
    most = max(2, min(_OF_A_LINE, POINTS // max(1, len(lines))))
    size = figure.get_size_inches()[1] * 72
    for line in lines:
        for (x, y), (left, up) in _places(axis, line, most):
            place = {
                "cx": f"{left * 72 / figure.dpi:.1f}",
                "cy": f"{size - up * 72 / figure.dpi:.1f}",
                "r": f"{_REACH}",
            }
            circle = ElementTree.SubElement(group, "circle", place)
            ElementTree.SubElement(circle, "title").text = f"{line.get_gid()}, {_text(axis, x, y)}"
    return group


def _places(axis: Axes, line: Line2D, most: int) -> Iterator[tuple[Any, Any]]:
    """Yield so many points of a line that are to be seen, as values and as places in the figure."""
    values = np.column_stack([np.asarray(of_axis, dtype=float) for of_axis in line.get_data()])
    with np.errstate(all="ignore"):  # a logarithm has no place for 0
        places = axis.transData.transform(values)
    panel = axis.bbox.padded(1)  # the first and last epoch lie on its edge, as far as digits go
    seen = np.isfinite(places).all(axis=1) & np.array([panel.contains(*place) for place in places], dtype=bool)
    there = np.flatnonzero(seen)
    for index in there[np.unique(np.linspace(0, len(there) - 1, min(most, len(there))).round().astype(int))]:
        yield values[index], places[index]


def _text(axis: Axes, x: float, y: float) -> str:
    """Write a point's values: `epoch 12: 7.3 %`."""
    what = _ONE.get(axis.get_xlabel(), axis.get_xlabel())
    share = isinstance(axis.yaxis.get_major_formatter(), PercentFormatter)
    return f"{what} {x:.6g}: ".lstrip() + (f"{100 * y:.3g} %" if share else f"{y:.4g}")
