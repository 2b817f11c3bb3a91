"""When a certificate holds, and when it does not."""

from dataclasses import replace
from math import isnan

import numpy as np
import pytest

from ireg.certify import CERTIFICATES, Outcome
from ireg.certify.certificate import CANCELLING, EXACT, TWO_PARAMETERS, Coefficient, fit, share

RATES = (0.4, 0.2, 0.1)
NONE = (0.0, 0.0, 0.0)


def curve(order, standard_errors=NONE):
    return fit(RATES, [3 * rate**order for rate in RATES], standard_errors)


RIGHT = Outcome(
    rates=RATES, plain=curve(1), modified=curve(2), controls={"wrong": curve(1)}, standard_errors=NONE, criterion=EXACT
)


def test_slopes_are_orders():
    assert curve(1.3).slope == pytest.approx(1.3)
    assert curve(1.3).uncertainty == 0


def test_the_standard_error_of_a_slope_is_that_of_the_fit():
    errors = [3 * rate**2 for rate in RATES]
    nudged = fit(RATES, [errors[0], errors[1], errors[2] * 1.001], NONE)
    assert curve(2, (0, 0, errors[2] * 0.001)).uncertainty == pytest.approx(2 - nudged.slope, rel=1e-3)


@pytest.mark.parametrize(
    "errors",
    [(1.0, float("nan"), 0.1), (1.0, float("inf"), 0.1), (1.0, 0.0, 0.1), (0.0, 0.5, 0.1), (1.0, 0.5, 0.0)],
)
def test_errors_without_logarithm_have_no_slope(errors):
    broken = fit(RATES, errors, NONE)
    assert isnan(broken.slope)
    assert not replace(RIGHT, modified=broken).holds
    assert replace(RIGHT, controls={"wrong": broken}).passes


def test_a_right_outcome_passes():
    assert RIGHT.holds
    assert RIGHT.rejected == ["wrong"]
    assert RIGHT.passes


@pytest.mark.parametrize(
    "wrong",
    [
        {"plain": curve(2)},
        {"modified": curve(1)},
        {"modified": curve(1.8)},
        {"modified": curve(2.2)},
        {"controls": {"wrong": curve(1), "also right": curve(2)}},
        {"modified": curve(1.6), "criterion": TWO_PARAMETERS},
        {"modified": curve(2.9), "criterion": TWO_PARAMETERS},
        {"modified": curve(4), "criterion": CANCELLING},
        {"coefficients": {"M": Coefficient(value=1.0, uncertainty=0.0), "V": Coefficient(value=1.1, uncertainty=0.0)}},
        {"coefficients": {"F": Coefficient(value=1.01, uncertainty=0.01)}},
        {"modified": curve(1.8, (0, 0, 0.01)), "criterion": TWO_PARAMETERS},
        {"controls": {"unsure": curve(1.2, (0, 0, 0.1))}},
    ],
)
def test_a_wrong_outcome_does_not(wrong):
    assert not replace(RIGHT, **wrong).passes


def test_slopes_that_cancelling_errors_explain_pass():
    assert replace(RIGHT, modified=curve(2.9), criterion=CANCELLING).passes
    assert replace(RIGHT, coefficients={"M": Coefficient(value=1.015, uncertainty=0.001)}).passes


def test_a_share_is_that_of_small_rates():
    effects = [np.array([2.0, -1.0]) * rate for rate in RATES]
    bent = [np.array([0.7, 0.2]) * rate**2 for rate in RATES]  # errors of the next order
    rests = [error - 0.1 * effect for error, effect in zip(bent, effects, strict=True)]
    found = share(RATES, rests, effects, NONE)
    assert found.value == pytest.approx(0.9, rel=1e-12)
    assert found.uncertainty == 0
    assert not found.holds
    assert share(RATES[::-1], rests[::-1], effects[::-1], NONE) == found
    assert share(RATES, bent, effects, NONE).holds


def test_the_standard_error_of_a_share_is_that_of_the_extrapolation():
    effects = [np.array([2.0, 0.0]) * rate for rate in RATES]
    errors = (0.0, 0.002, 0.001)
    nudges = [np.zeros(2), np.array([0.002, 0.0]), np.zeros(2)], [np.zeros(2), np.zeros(2), np.array([0.001, 0.0])]
    moved = [share(RATES, rests, effects, NONE).value - 1 for rests in nudges]
    found = share(RATES, [np.zeros(2)] * 3, effects, errors)
    assert found.uncertainty == pytest.approx(np.hypot(*moved), rel=1e-12)


def test_tied_rates_cannot_be_given():
    tied = next(certificate for certificate in CERTIFICATES if not certificate.experiment.free)
    with pytest.raises(ValueError, match="its rates are tied to 1 − ρ"):
        tied.run((0.1, 0.05))
