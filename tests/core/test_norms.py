"""Norms where squares of numbers leave the range of their type."""

import math
from fractions import Fraction

import pytest
import torch

from ireg.core import norms
from ireg.core.clipping import clipping_of
from ireg.core.lanczos import largest_eigenpair
from ireg.core.params import squared_norm, wide_squared_norm

SCALES = [1e-44, 1e-38, 1e-30, 1e-25, 1e-19, 1e-15, 1e-3, 1.0, 1e3, 1e15, 1e18, 1e20, 1e25, 1e30, 1e37]
SINGLE = {"rel": 1e-6, "abs": 0}


def vector(scale, dtype=torch.float32, seed=0):
    generator = torch.Generator().manual_seed(seed)
    one, other = (torch.randn(*shape, generator=generator, dtype=torch.float64) for shape in ((5,), (3, 2)))
    return {"a": (one * scale).to(dtype), "b": (other * scale).to(dtype), "none": torch.zeros(0, dtype=dtype)}


def exact(left, right):
    """⟨v, w⟩ in rational numbers."""
    pairs = ((left[name].flatten().tolist(), right[name].flatten().tolist()) for name in left)
    return sum(Fraction(x) * Fraction(y) for xs, ys in pairs for x, y in zip(xs, ys, strict=True))


def root(number):
    """√ of a rational number, also where it is no number of double precision."""
    shift = (number.numerator.bit_length() - number.denominator.bit_length()) // 2
    return math.ldexp(math.sqrt(number / Fraction(4) ** shift), shift)


@pytest.mark.parametrize("scale", SCALES)
def test_norms_and_squares_of_single_precision(scale):
    values = vector(scale)
    expected = exact(values, values)
    assert float(norms.square(values)) == pytest.approx(float(expected), **SINGLE)
    assert float(norms.norm(values)) == pytest.approx(root(expected), **SINGLE)
    assert float(norms.norm_of(values["a"])) == pytest.approx(root(exact(*[{"a": values["a"]}] * 2)), **SINGLE)
    assert float(wide_squared_norm(values)) == pytest.approx(float(expected), **SINGLE)
    if not 1e-21 < scale < 1e19:  # the plain sum of squares is wrong there
        assert float(squared_norm(values)) != pytest.approx(float(expected), **SINGLE)


@pytest.mark.parametrize("scale", [1e-300, 1e-200, 1e-150, 1e-30, 1.0, 1e30, 1e150, 1e200, 1e300])
def test_norms_of_double_precision(scale):
    values = vector(scale, torch.float64)
    assert float(norms.norm(values)) == pytest.approx(root(exact(values, values)), rel=1e-14, abs=0)
    own = root(exact(*[{"b": values["b"]}] * 2))
    assert float(norms.norm_of(values["b"])) == pytest.approx(own, rel=1e-14, abs=0)


@pytest.mark.parametrize("scale", [1e-15, 1e-3, 1.0, 1e3, 1e15])
def test_ordinary_results_are_those_of_the_plain_sum(scale):
    values, other = vector(scale), vector(1.0, seed=1)
    plain, unit = squared_norm(values), squared_norm(other)
    assert torch.equal(norms.square(values), plain)
    assert torch.equal(norms.norm(values), plain.sqrt())
    assert torch.equal(norms.norm_of(values["a"]), values["a"].norm())
    assert torch.equal(norms.ratio(values, other), (plain / unit).sqrt())
    along = sum((values[name] * other[name]).sum() for name in values)
    assert torch.allclose(norms.cosine(values, other), along / (plain * unit).sqrt(), rtol=1e-5)
    assert norms.cosine(values, other).dtype == norms.inner(values, other).dtype == torch.float32
    assert norms.in_range(values, other) == (values, other)


@pytest.mark.parametrize(("name", "step"), [("below", 0.9), ("above", 1.1)])
def test_both_sides_of_the_switch(name, step):
    tiny = float(torch.finfo(torch.float32).tiny)
    values = {"a": torch.tensor([math.sqrt(2 * tiny * step), 0.0])}
    found = norms.square(values)
    assert found.dtype == (torch.float64 if name == "below" else torch.float32)
    assert float(found) == pytest.approx(2 * tiny * step, **SINGLE)


@pytest.mark.parametrize(
    ("entry", "expected"), [(0.0, 0.0), (math.inf, math.inf), (-math.inf, math.inf), (math.nan, math.nan)]
)
def test_nothing_infinity_and_nan_stay_what_they_are(entry, expected):
    values = {"a": torch.tensor([0.0, entry]), "b": torch.zeros(2)}
    for found in (norms.square(values), norms.norm(values), norms.norm_of(values["a"])):
        assert float(found) == pytest.approx(expected, nan_ok=True)
    assert math.isnan(norms.norm({"a": torch.tensor([math.inf, math.nan])}))


def test_what_double_precision_cannot_hold_is_infinite():
    values = {"a": torch.full((4,), 1.5e308, dtype=torch.float64)}
    assert float(norms.norm(values)) == math.inf
    assert float(norms.square({"a": values["a"] * 1e-100})) == math.inf


@pytest.mark.parametrize(("left", "right"), [(1e-30, 1e-30), (1e30, 1e30), (1e-30, 1e30), (1e-12, 1e-12), (1e25, 1.0)])
def test_cosines_ratios_and_inner_products(left, right):
    one, other = vector(left), vector(right, seed=1)
    square, along, second = exact(one, one), exact(one, other), exact(other, other)
    assert float(norms.ratio(one, other)) == pytest.approx(root(square / second), rel=1e-5, abs=0)
    assert float(norms.cosine(one, other)) == pytest.approx(float(along) / root(square * second), rel=1e-5, abs=0)
    assert float(norms.inner(one, other)) == pytest.approx(float(along), rel=1e-5, abs=0)


@pytest.mark.parametrize("scale", [1e-30, 1e-3, 1e30])
def test_vectors_brought_into_range_keep_their_ratios(scale):
    one, other = vector(scale), vector(1e4 * scale, seed=1)
    found = norms.in_range(one, other)
    assert 1e-9 < float(squared_norm(found[0])) < 1e3
    assert float(exact(*found) / exact(one, other)) == pytest.approx(float(exact(found[0], found[0]) / exact(one, one)))


@pytest.mark.parametrize(("scale", "weight"), [(1e-30, 1e8), (1e25, 1e-8), (1.0, 1e8), (1e-22, 1e8)])
def test_weighted_squares(scale, weight):
    values, weights = vector(scale), vector(weight, seed=2)
    weights = {name: value.abs() for name, value in weights.items()}
    squares = {name: value.double().square() for name, value in values.items()}
    expected = float(exact(weights, squares))
    assert float(norms.weighted_square(weights, values)) == pytest.approx(expected, rel=1e-6, abs=0)
    assert float(norms.weighted_sum(weights, squares)) == pytest.approx(expected, rel=1e-6, abs=0)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([1e-200, 1e-200, 1e200, 1e200], 1.0),
        ([1e200, 1e200, 1e-200, 1e-200], 1.0),
        ([1e200, 1e200], math.inf),
        ([1e-200, 1e-200], 0.0),
        ([math.inf, 1e-200], math.inf),
        ([0.0, 1e300], 0.0),
        ([0.0, 1e300, 1e300], 0.0),  # in any order
        ([1e300, 1e300, 0.0], 0.0),
        ([math.nan, 1e300, 1e300], math.nan),
        ([0.0, math.inf, 1e300, 1e300], math.nan),
        ([-1e300, 1e300], -math.inf),
        ([3.0, 4.0], 12.0),
        ([0.51 * 2.0**50] * 1200 + [2.0**-50 / 0.51] * 1200, 1.0),  # and of their fractions
    ],
)
def test_products_of_many_numbers(values, expected):
    found = norms.multiplied([torch.tensor(value, dtype=torch.float64) for value in values])
    assert float(found) == pytest.approx(expected, rel=1e-11, abs=0, nan_ok=True)
    assert (found.dtype, found.shape) == (torch.float64, ())


@pytest.mark.parametrize("scale", [1e-200, 1e-30, 1.0, 1e30, 1e200])
def test_clipping_of_gradients_of_any_size(scale):
    before = {"w": torch.tensor([3.0, 4.0], dtype=torch.float64) * scale}
    found = clipping_of(before, {"w": 0.2 * before["w"]})
    assert (found.factor, found.norm) == (pytest.approx(0.2), pytest.approx(5 * scale, rel=1e-12, abs=0))


@pytest.mark.parametrize("scale", [1e-25, 1.0, 1e25, 6e37])
def test_eigenvalues_of_any_size(scale):
    matrix = scale * torch.diag(torch.tensor([1.0, 5.0, 2.0]))
    found = largest_eigenpair(lambda v: matrix @ v, torch.ones(3), tolerance=1e-6, products=9)
    assert found.value == pytest.approx(5 * scale, rel=1e-5, abs=0)


def test_a_ratio_of_squares_with_few_digits_has_all_of_its_own():
    """Squares of 1e-42 have three digits in single precision; their ratio is an ordinary number all the same."""
    upper, lower = ({"w": torch.tensor([value, value / 3])} for value in (1.2345678e-21, 7.654321e-22))
    assert float(norms.ratio(upper, lower)) == pytest.approx(1.2345678 / 0.7654321, rel=1e-6)


def test_a_ratio_whose_square_leaves_the_range_is_a_number_of_its_own():
    """Squares of 1e36 and 1e-36 have all their digits, and 1e72 is no number of single precision."""
    upper, lower = ({"w": torch.tensor([value])} for value in (1e18, 1e-18))
    assert float(norms.ratio(upper, lower)) == pytest.approx(1e36, rel=1e-6)
    assert float(norms.ratio(lower, upper)) == pytest.approx(1e-36, rel=1e-6, abs=0)
