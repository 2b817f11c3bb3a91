"""The figure of the drift."""

import pytest

from ireg.analysis.drift import drift_figure


def result(optimizer, effect, flow=None):
    return {
        "optimizer": optimizer,
        "lr": 1e-3,
        "predicted": {"strength": 0.01, "alignment": 1.0},
        "small_steps": {"mean/equal C/squares": effect, "mean/time/squares": [-0.02, 0.01]},
        "leading_flow": None if flow is None else {"estimates": flow},
    }


def test_one_row_a_run_and_the_coefficients_beside():
    fitted = {"k_full_batch": [1.1, 0.1], "k_variance": [0.9, 0.2]}
    figure = drift_figure([result("sgd", [-0.01, 0.005], fitted), result("gd", [None, None], {"k_full_batch": [1, 0]})])
    effects, coefficients = figure.axes
    assert [label.get_text() for label in effects.get_yticklabels()] == ["sgd, lr=0.001", "gd, lr=0.001"]
    assert [len(effects.containers), len(coefficients.containers)] == [3, 3]
    line, _, (bar,) = effects.containers[0]
    assert line.get_xdata() == pytest.approx([-0.01])
    assert bar.get_segments()[0][:, 0] == pytest.approx([-0.02, 0.0])  # two standard errors
    line, _, (bar,) = coefficients.containers[0]
    assert line.get_xdata() == pytest.approx([0.01])
    assert bar.get_segments()[0][:, 1] == pytest.approx([0.9, 1.3])
    assert effects.get_xscale() == "linear"


def test_effects_over_decades_and_no_leading_flow():
    figure = drift_figure([result("adam", [-0.9, 0.1]), result("other", [0.0001, 0.1])])
    (effects,) = figure.axes
    assert effects.get_xscale() == "symlog"


def test_nothing_to_draw_is_an_empty_figure():
    figure = drift_figure([result("adam", [None, None]) | {"small_steps": {
        "mean/equal C/squares": [None, None], "mean/time/squares": [None, None]}}])  # fmt: skip
    assert figure.axes[0].get_xscale() == "linear"
