"""The figures on the optimizers' own regularization."""

import pytest

from ireg.analysis import load, mean_flow
from ireg.catalogue import CATALOGUE
from ireg.system.errors import UserError


def dots(axis):
    """Points marked as inside of the expansion, of each curve that has any."""
    found = [line for line in axis.get_lines() if line.get_marker() == "o"]
    return [list(zip(line.get_xdata().tolist(), line.get_ydata().tolist(), strict=True)) for line in found]


def test_dots_are_where_the_whole_correction_is_weak(make_run):
    tags = {
        "ireg/strength": [0.1, 0.4, 0.3],
        "ireg/alignment": [1.0, -0.5, 0.25],
        "ireg/strength_memory": [2.0, 0.2, 0.2],
        "ireg/alignment_memory": [0.75, 0.5, -0.5],
    }
    figure = mean_flow.mean_flow(load(make_run("x", tags)))
    strength, memory, alignment, alignment_memory = figure.axes
    assert dots(strength) == [[(0, 0.1), (2, 0.3)]]
    assert dots(memory) == [[(0, 2.0), (2, 0.2)]]  # by the whole, not by the part
    assert dots(alignment) == [[(0, 1.0), (2, 0.25)]]
    assert dots(alignment_memory) == [[(0, 0.75), (2, -0.5)]]
    (curve,) = [line for line in alignment.get_lines() if line.get_label() == "sgd"]
    assert curve.get_ydata().tolist() == [1.0, -0.5, 0.25]
    assert strength.get_yscale() == "log"
    assert alignment.get_yscale() == "linear"
    assert strength.get_ylim() == (0.05, 4.0)
    assert strength.get_title() == CATALOGUE["ireg/strength"].axis
    assert memory.get_title() == CATALOGUE["ireg/strength_memory"].axis


def test_a_mean_over_seeds_is_weak_if_it_is_in_every_seed(make_run):
    make_run("0", {"ireg/strength": [0.1, 0.1], "ireg/alignment": [0.5, 0.5]})
    sweep = make_run("1", {"ireg/strength": [0.2, 0.4], "ireg/alignment": [0.25, 0.5]}, {"seed": 1})
    figure = mean_flow.mean_flow(load(sweep))
    assert dots(figure.axes[1]) == [[(0, 0.375)]]


def test_optimizers_without_a_part_have_no_curve_in_its_panel(make_run):
    make_run("a", {"ireg/strength": [0.1], "ireg/alignment": [1.0]})
    tags = {"ireg/strength": [0.2], "ireg/alignment": [0.5], "ireg/strength_lag": [0.1], "ireg/alignment_lag": [-1.0]}
    figure = mean_flow.mean_flow(load(make_run("b", tags, {"optimizer.name": "adam"})))
    labels = [{line.get_label() for line in axis.get_lines()} & {"sgd", "adam"} for axis in figure.axes]
    assert labels == [{"sgd", "adam"}, {"adam"}, {"sgd", "adam"}, {"adam"}]


def test_alignments_that_were_not_measured_have_empty_panels(make_run):
    figure = mean_flow.mean_flow(load(make_run("x", {"ireg/strength": [0.1, 0.4, 0.3]})))
    strength, alignment = figure.axes
    assert dots(strength) == [[(0, 0.1), (2, 0.3)]]
    assert dots(alignment) == [[]]


def test_own_regularization_beside_what_the_paper_has(make_run):
    make_run("a", {"ireg/sgd": [2.0], "ireg/own": [2.0]})
    tags = {"ireg/sgd": [3.0, 4.0], "ireg/rmsprop": [0.0, 1e-12], "ireg/own": ["", 5.0]}
    figure = mean_flow.own_regularization(load(make_run("b", tags, {"optimizer.name": "adam"})))
    assert [axis.get_title().split(":")[0] for axis in figure.axes] == ["ireg/sgd", "ireg/rmsprop", "ireg/own"]
    (curve,) = [line for line in figure.axes[2].get_lines() if line.get_label() == "adam"]
    assert (curve.get_xdata().tolist(), curve.get_ydata().tolist()) == ([1], [5.0])


@pytest.mark.parametrize(
    ("draw", "tag"), [(mean_flow.mean_flow, "ireg/strength"), (mean_flow.own_regularization, "ireg/own")]
)
def test_what_was_not_measured_is_said(make_run, draw, tag):
    with pytest.raises(UserError, match=f"no run has measured {tag}"):
        draw(load(make_run("x", {"train/error": [1.0]})))
