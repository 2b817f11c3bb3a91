"""Settings against each other: seed by seed, at equal fit, over rates."""

import numpy as np
import pytest
import scipy.stats

from ireg.analysis import figures, load, runs
from ireg.analysis.compare import ALL_PAIRS, comparisons
from ireg.analysis.summary import summarize
from ireg.system.errors import UserError


def compared(sweep, criterion="test/error"):
    return comparisons(summarize(runs(sweep), load(sweep)), criterion)


@pytest.fixture
def grid(make_run):
    def make(errors, *, states=None):
        """One run for each optimizer and seed, from its final test errors."""
        for name, values in errors.items():
            for seed, error in enumerate(values):
                state = (states or {}).get((name, seed), "done")
                sweep = make_run(
                    f"{name}-{seed}", {"test/error": [0.9, error]}, {"optimizer.name": name, "seed": seed}, state=state
                )
        return sweep

    return make


def test_a_planted_difference_is_found_seed_by_seed(grid):
    base = [0.30, 0.50, 0.40, 0.20]
    found = compared(grid({"sgd": base, "adam": [value - 0.05 + 0.001 * n for n, value in enumerate(base)]}))
    (comparison,) = found
    assert (comparison.left, comparison.right, comparison.difference.count) == ("adam", "sgd", 4)
    expected = scipy.stats.ttest_rel([-0.05, -0.049, -0.048, -0.047], [0.0] * 4)
    assert comparison.difference.p == pytest.approx(expected.pvalue, rel=1e-6)
    assert comparison.adjusted == comparison.difference.p < 0.001
    assert comparison.difference.student.mean == pytest.approx(-0.0485)


def test_a_criterion_that_no_run_has_compares_nothing(grid):
    assert compared(grid({"sgd": [0.1, 0.2], "adam": [0.1, 0.3]}), "holdout/error") == []


def test_p_values_are_adjusted_over_the_table(grid):
    rng = np.random.default_rng(0)
    errors = {
        name: (0.3 + 0.1 * n + 0.01 * rng.normal(size=4)).tolist() for n, name in enumerate(("sgd", "adam", "gd"))
    }
    found = compared(grid(errors))
    assert [(one.left, one.right) for one in found] == [("sgd", "adam"), ("sgd", "gd"), ("adam", "gd")]
    smallest = min(found, key=lambda one: one.difference.p)
    assert smallest.adjusted == pytest.approx(3 * smallest.difference.p)


def test_many_settings_are_compared_with_the_best_alone(grid):
    names = ["sgd", "adam", "gd", "rmsprop", "adamw", "nadam"]
    assert len(names) > ALL_PAIRS
    found = compared(grid({name: [0.1 * n + 0.1, 0.1 * n + 0.12] for n, name in enumerate(names)}))
    assert {one.left for one in found} == {"sgd"}
    assert [one.right for one in found] == names[1:]


def test_as_many_settings_as_allowed_are_compared_with_each_other(grid):
    names = ["sgd", "adam", "gd", "rmsprop", "adamw"]
    assert len(names) == ALL_PAIRS
    assert len(compared(grid({name: [0.1 * n + 0.1, 0.1 * n + 0.12] for n, name in enumerate(names)}))) == 10


def test_seeds_that_one_of_both_lacks_are_left_out(grid):
    states = {("adam", 2): "failed"}
    found = compared(grid({"sgd": [0.3, 0.5, 0.4], "adam": [0.2, 0.3, 0.9], "gd": [0.5]}, states=states))
    assert [(one.left, one.right, one.difference.count) for one in found] == [("adam", "sgd", 2)]


# Figures.


def test_at_equal_fit_a_point_is_an_epoch(make_run):
    tags = {"train/loss": [2.0, 1.0, 0.5], "test/error": [0.9, 0.3, 0.4], "norm/l2": [1.0, 2.0, 3.0]}
    make_run("a", tags, {"seed": 0})
    sweep = make_run("b", {**tags, "test/error": [0.9, "nan", 0.5]}, {"seed": 1})
    figure = figures.equal_fit(load(sweep))
    assert len(figure.axes) == 2  # no run has measured ireg/own
    first, second = figure.axes[0].get_lines()
    assert np.column_stack([first.get_xdata(), first.get_ydata()]).tolist() == [[2.0, 0.9], [1.0, 0.3], [0.5, 0.4]]
    assert second.get_xdata().tolist() == [2.0, 0.5]
    assert figure.axes[0].xaxis_inverted()
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["sgd (2 seeds)"]
    assert figure.legends[0].get_title().get_text() == "a line is a run, a point an epoch"
    with pytest.raises(UserError, match="no run has measured train/loss"):
        figures.equal_fit(load(sweep).drop(columns="train/loss"))


def test_errors_over_rates(make_run):
    for rate in (0.1, 0.01):
        for seed in (0, 1):
            error = rate + 0.1 * seed
            make_run(f"s{rate}{seed}", {"test/error": [0.9, error]}, {"lr": rate, "optimizer.lr": rate, "seed": seed})
    make_run("far", {"test/error": [0.9, 0.8]}, {"lr": 1.0, "optimizer.lr": 1.0}, state="diverged")
    sweep = make_run("one", {"test/error": [0.9, 0.2]}, {"optimizer.name": "adam", "lr": 0.1, "optimizer.lr": 0.1})
    figure = figures.rates(load(sweep))
    points, mean = figure.axes[0].get_lines()
    assert sorted(zip(points.get_xdata(), points.get_ydata(), strict=True)) == [
        (0.01, 0.01), (0.01, 0.11), (0.1, 0.1), (0.1, 0.2)
    ]  # fmt: skip
    assert dict(zip(mean.get_xdata(), mean.get_ydata(), strict=True)) == pytest.approx({0.01: 0.06, 0.1: 0.15})
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["sgd"]  # Adam has one rate
    assert figure.axes[0].get_xscale() == "log"


def test_one_rate_is_no_figure(make_run):
    with pytest.raises(UserError, match="no optimizer has two learning rates"):
        figures.rates(load(make_run("a", {"test/error": [0.9, 0.5]})))


def test_sharpness_has_the_edge_at_one(make_run):
    tags = {"curvature/lambda_max": [1.0, 20.0], "curvature/edge_fraction": [0.05, 1.0], "train/loss": [2.0, 1.0]}
    figure = figures.FIGURES["sharpness"](load(make_run("a", tags)))
    assert [axis.get_ylabel() for axis in figure.axes] == 2 * ["largest eigenvalue of H", "fraction of the edge"]
    for axis in figure.axes[1::2]:  # over epochs, and against training loss
        assert [list(line.get_ydata()) for line in axis.get_lines()] == [[0.05, 1.0], [1, 1]]
    assert [axis.get_xlabel() for axis in figure.axes] == 2 * ["epochs"] + 2 * ["training loss"]


def test_traces(make_run):
    figure = figures.FIGURES["traces"](load(make_run("a", {"curvature/trace": [1.0, 20.0]})))
    assert [axis.get_ylabel() for axis in figure.axes] == ["trace of H"]  # without a loss to draw it against


def test_growth_is_summed_from_the_beginning(make_run):
    none = ""
    tags = {"path/settled_radial": [none, -2.0, 1.0], "path/settled_diffusive": [none, 1.0, 3.0]}
    tags |= {"train/loss": [2.0, 1.0, 0.5]}
    table = load(make_run("a", tags))
    figure = figures.FIGURES["growth"](table)
    for radial, diffusive, share in (figure.axes[:3], figure.axes[3:]):
        assert list(radial.get_lines()[0].get_ydata()) == [0, -2, -1]
        assert list(diffusive.get_lines()[0].get_ydata()) == [0, 1, 4]
        assert [value for value in share.get_lines()[0].get_ydata() if value == value] == [1 / 3, 4 / 5]
    with pytest.raises(UserError, match="no run has measured path/settled_diffusive"):
        figures.FIGURES["growth"](table.drop(columns="path/settled_diffusive"))


def test_growth_is_not_summed_over_gaps(make_run):
    none = ""
    tags = {"path/settled_radial": [none, none, 1.0], "path/settled_diffusive": [none, none, 3.0]}
    with pytest.raises(UserError, match=r"not measured in each epoch; it can be drawn with terms\.path\.every=1"):
        figures.FIGURES["growth"](load(make_run("a", tags)))
