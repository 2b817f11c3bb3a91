"""Norms at the ends of the range of numbers."""

import math

import pytest
import torch

from ireg.core.params import squared_norm, wide_squared_norm


@pytest.mark.parametrize("scale", [1e-38, 1e-12, 1.0, 1e30])
def test_a_norm_beyond_the_range_of_single_precision(scale):
    values = {"a": torch.tensor([3.0, 0.0]) * scale, "b": torch.tensor([[-4.0]]) * scale}
    expected = squared_norm({name: value.double() for name, value in values.items()})
    assert float(wide_squared_norm(values)) == pytest.approx(float(expected), rel=1e-6, abs=0)


@pytest.mark.parametrize(
    ("entry", "expected"), [(0.0, 0.0), (math.inf, math.inf), (-math.inf, math.inf), (math.nan, math.nan)]
)
def test_nothing_infinity_and_nan_stay_what_they_are(entry, expected):
    found = wide_squared_norm({"a": torch.tensor([0.0, entry]), "b": torch.zeros(2)})
    assert float(found) == pytest.approx(expected, nan_ok=True)


def test_a_parameter_without_an_element_adds_nothing():
    assert float(wide_squared_norm({"a": torch.tensor([3.0, 4.0]), "b": torch.zeros(0, 2)})) == pytest.approx(25)


def test_what_double_precision_cannot_hold_is_infinite():
    assert float(wide_squared_norm({"a": torch.tensor([1e200], dtype=torch.float64)})) == math.inf
