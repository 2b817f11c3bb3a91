"""The figure of the drift."""

import pytest

from ireg.analysis.drift import drift_figure


def result(optimizer, kept, shrinking=None, flow=None):
    def effects(effect):
        return {f"{place}/equal C/squares": effect for place in ("mean", "ends")}

    return {
        "optimizer": optimizer,
        "lr": 1e-3,
        "small_steps": {"kept": effects(kept), "shrinking": None if shrinking is None else effects(shrinking)},
        "leading_flow": None if flow is None else {"estimates": flow | {"strength predicted": [0.01, 0.0]}},
    }


def test_one_row_a_run_and_the_coefficients_beside():
    fitted = {"k_full_batch": [1.1, 0.1], "k_variance": [0.9, 0.2]}
    figure = drift_figure([
        result("momentum", [-0.01, 0.005], [-0.02, 0.01], flow=fitted),
        result("gd", [None, None], flow={"k_full_batch": [1, 0]}),
    ])  # fmt: skip
    mean, ends, coefficients = figure.axes
    assert [label.get_text() for label in mean.get_yticklabels()] == ["momentum, lr=0.001", "gd, lr=0.001"]
    assert [len(panel.containers) for panel in figure.axes] == [2, 2, 3]
    for panel in (mean, ends):
        for container, value, error in zip(panel.containers, (-0.01, -0.02), (0.005, 0.01), strict=True):
            line, _, (bar,) = container
            assert line.get_xdata() == pytest.approx([value])
            filled = line.get_markerfacecolor() == line.get_color()
            assert (line.get_marker(), filled) == (("o", True) if value == -0.01 else ("s", False))
            assert line.get_ydata() == pytest.approx([-0.15 if filled else 0.15])  # above one another in row 0
            assert bar.get_segments()[0][:, 0] == pytest.approx([value - 2 * error, value + 2 * error])
        assert panel.get_xscale() == "linear"
    assert coefficients.get_xscale() == "log"
    line, _, (bar,) = coefficients.containers[0]
    assert line.get_xdata() == pytest.approx([0.01])
    assert bar.get_segments()[0][:, 1] == pytest.approx([0.9, 1.3])
    assert [text.get_text() for text in figure.legends[0].texts] == ["memory kept", "memory shrinking"]
    assert mean.get_ylim() == (1.5, -0.5)  # the first run on top


def test_the_coefficient_of_the_finite_step_and_the_rates():
    flow = {"k_lag": [0.8, 0.1]}
    runs = [result("rmsprop", [None, None], flow=flow), result("sgd", [None, None], flow=flow)]
    runs[0]["leading_flow"] |= {"lr": 1e-7, "finite_step": {"estimates": {"k": [0.7, 0.05]}}}
    coefficients = drift_figure(runs).axes[2]
    assert coefficients.get_title() == "Fitted coefficients at rates 1e-07, 0.001,\nin units of the theorem's"
    line, _, (bar,) = coefficients.containers[-1]
    assert line.get_ydata() == pytest.approx([0.7])
    assert bar.get_segments()[0][:, 1] == pytest.approx([0.6, 0.8])
    labels = [text.get_text() for text in coefficients.get_legend().texts]
    assert labels[-1] == "$k$ of $M + V$, less $F$ at rate 0"
    assert len(coefficients.containers) == 3


def test_effects_over_decades_and_no_leading_flow():
    figure = drift_figure([result("adam", [-0.9, 0.1]), result("other", [0.0001, 0.1])])
    assert [panel.get_xscale() for panel in figure.axes] == ["symlog", "symlog"]


def test_nothing_to_draw_is_an_empty_figure():
    figure = drift_figure([result("adam", [None, None])])
    assert [panel.get_xscale() for panel in figure.axes] == ["linear", "linear"]
