"""The figure of the certificates."""

import numpy as np
import pytest

from ireg.analysis.certificates import ErrorCurves, errors_against_rate


def curves(optimizer, abscissa, factor=1.0):
    rates = (0.1, 0.05, 0.025)
    return ErrorCurves(optimizer, abscissa, rates, rates, [factor * rate**2 for rate in rates])


def test_a_panel_for_each_optimizer_and_abscissa():
    given = [curves("sgd", "η"), curves("adam", "1 − ρ"), curves("adam", "η"), curves("sgd", "η", 2.0)]
    figure = errors_against_rate(given)
    panels = [axis for axis in figure.axes if axis.get_visible()]
    assert [(axis.get_title(), axis.get_xlabel()) for axis in panels] == [
        ("sgd", "η"),
        ("adam", "η"),
        ("adam", "1 − ρ"),
    ]
    assert [len(axis.lines) for axis in panels] == [6, 4, 4]


def test_guides_have_the_slopes_that_they_are_named_for():
    (axis, *_) = errors_against_rate([curves("sgd", "η")]).axes
    assert [line.get_ydata()[-1] for line in axis.lines[-2:]] == pytest.approx([0.6 * 0.025, 0.6 * 0.025**2])
    assert axis.get_xscale() == axis.get_yscale() == "log"
    assert [label.get_text() for label in axis.get_xticklabels()] == ["0.025", "0.05", "0.1"]  # too near for decades
    for line in axis.lines[-2:]:
        slope = np.polyfit(np.log(line.get_xdata()), np.log(line.get_ydata()), 1)[0]
        assert line.get_label() == f"slope {round(slope)}"
        assert slope == pytest.approx(round(slope))
