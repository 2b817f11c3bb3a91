"""Figures as parts of a page: what stays of them, and where their points are."""

import re
from xml.etree import ElementTree

import pytest
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from ireg.analysis.inline import SIZE, inline
from ireg.analysis.looks import drawn


def figure_of(panels=1, **look):
    """A line of two points in each panel, with a legend and a band that is clipped."""
    figure = Figure(figsize=(8, 4), layout="constrained")
    axes = figure.subplots(1, panels, sharey=True, squeeze=False)[0]
    for axis in axes:
        axis.plot([0, 10], [0.25, 0.75], **({"gid": "sgd & co", "label": "sgd & co"} | look))
        axis.fill_between([0, 10], [0, 0.5], [0.5, 1], alpha=0.2)
        axis.set(xlim=(0, 10), ylim=(0, 1))
    axes[-1].set_xlabel("epochs")
    figure.legend(*axes[0].get_legend_handles_labels(), title="a note")
    return figure


def part(figure, name="a"):
    """The part of a page as a tree."""
    quoted = re.sub(r" class=(\w+)", r' class="\1"', inline(figure, name).decode())
    return ElementTree.fromstring(f"<div>{quoted}</div>")


def test_note_and_legend_are_text_with_the_lines_own_look():
    tree = part(figure_of(color="#ff0000", linewidth=2, linestyle="--"))
    assert tree.find("p").text == "a note"
    (entry,) = tree.iter("li")
    assert "".join(entry.itertext()) == "sgd & co"
    style = entry.find("svg/path").get("style")
    assert "stroke: #ff0000" in style
    assert "stroke-dasharray" in style
    assert "stroke-width: 2" in style


def test_points_lie_on_the_line_and_say_their_values():
    """The circles' places are those of the path that matplotlib itself has drawn."""
    svg = part(figure_of(color="#123456")).find("div/svg")
    circles = [(float(circle.get("cx")), float(circle.get("cy"))) for circle in svg.iter("circle")]
    (path,) = [path.get("d") for path in svg.iter("path") if "stroke: #123456" in path.get("style", "")]
    drawn_at = [tuple(map(float, place)) for place in re.findall(r"[ML] (\S+) (\S+)", path)]
    assert circles == [pytest.approx(place, abs=0.051) for place in drawn_at]
    assert [title.text for title in svg.iter("title")] == ["sgd & co, epoch 0: 0.25", "sgd & co, epoch 10: 0.75"]
    assert [float(size) for size in svg.get("viewBox").split()[2:]] == pytest.approx([72 * side for side in SIZE])


def test_shares_are_percentages_and_lines_without_a_gid_are_silent():
    figure = figure_of()
    axis = figure.axes[0]
    axis.yaxis.set_major_formatter(PercentFormatter(1, symbol=" %"))
    axis.plot([0, 10], [0.5, 0.5])
    titles = [title.text for title in part(figure).iter("title")]
    assert titles == ["sgd & co, epoch 0: 25 %", "sgd & co, epoch 10: 75 %"]


def test_points_that_are_not_seen_say_nothing():
    figure = figure_of()
    axis = figure.axes[0]
    axis.set(yscale="log", ylim=(0.1, 1), xlim=(0, 10))
    axis.plot([1, 2, 3, 40], [0.0, float("nan"), 0.5, 0.5], gid="b")
    titles = [title.text for title in part(figure).iter("title")]
    assert [title for title in titles if title.startswith("b")] == ["b, epoch 3: 0.5"]


def test_long_lines_have_points_from_end_to_end():
    figure = figure_of()
    axis = figure.axes[0]
    axis.plot(range(1001), [0.5] * 1001, gid="b")
    axis.set(xlim=(0, 1000))
    titles = [title.text for title in part(figure).iter("title") if title.text.startswith("b")]
    assert len(titles) == 60
    assert (titles[0], titles[-1]) == ("b, epoch 0: 0.5", "b, epoch 1000: 0.5")


def test_panels_are_apart_with_axes_of_their_own():
    """Panels that shared an axis have its numbers and its name each, and no id twice."""
    tree = part(figure_of(panels=2))
    panels = tree.findall("div/svg")
    assert len(panels) == 2
    labels = [sum(1 for use in panel.iter("use")) for panel in panels]
    assert labels[0] == labels[1] > 0
    ids = [element.get("id") for element in tree.iter() if element.get("id")]
    assert len(set(ids)) == len(ids)
    assert {name.rpartition("-")[0].split("-")[1] for name in ids} <= {"1", "2"}


def test_a_panel_without_a_title_has_that_of_the_one_above():
    figure = Figure()
    axes = figure.subplots(2, 2)
    for axis, title in zip(axes[0], ("A", "B"), strict=True):
        axis.set_title(title)
    inline(figure, "a")
    assert [axis.get_title() for axis in axes.flat] == ["A", "B", "A", "B"]


def test_references_are_to_the_panels_own_ids():
    text = inline(figure_of(panels=2), "x").decode()
    used = set(re.findall(r'href="#([^"]+)"', text)) | set(re.findall(r"url\(#([^)]+)\)", text))
    assert used == set(re.findall(r' id="([^"]+)"', text)) != set()
    assert all(name.startswith(("x-1-", "x-2-")) for name in used)
    assert not re.search(r"<style|<metadata|<\?xml|<!DOCTYPE|xmlns|https?:", text)


def test_a_figure_is_the_same_each_time_and_other_forms_stay_as_they_are():
    forms = [drawn("a", figure_of, ".png", ".pdf", ".html") for _ in range(2)]
    assert forms[0] == forms[1]
    assert forms[0][".png"] == drawn("a", figure_of, ".png")[".png"]


def test_a_figure_without_a_legend_has_none():
    figure = Figure()
    figure.subplots().plot([0, 1], [0, 1], gid="a")
    tree = part(figure)
    assert tree.find("ul") is None
    assert [title.text for title in tree.iter("title")] == ["a, 0: 0", "a, 1: 1"]
