"""Jackknife and extrapolation against closed forms."""

import numpy as np
import pytest

from ireg.statistics import Sample, jackknife, limit


def sample(values):
    total = sum(values)
    return Sample(total / len(values), [(total - value) / (len(values) - 1) for value in values])


def test_of_a_mean_it_is_the_textbook_standard_error():
    values = [1.0, 4.0, 2.0, 7.0]
    (estimate,) = jackknife(lambda means: {"mean": means["a"]}, {"a": sample(values)}).values()
    assert estimate.value == pytest.approx(np.mean(values))
    assert estimate.error == pytest.approx(np.std(values, ddof=1) / 2)


def test_the_bias_of_a_squared_mean_is_taken_off():
    values = [1.0, 4.0, 2.0, 7.0]
    (estimate,) = jackknife(lambda means: {"square": means["a"] ** 2}, {"a": sample(values)}).values()
    assert estimate.value == pytest.approx(np.mean(values) ** 2 - np.var(values, ddof=1) / 4)


def test_independent_samples_add_their_variances():
    a, b = [1.0, 4.0, 2.0], [3.0, 9.0, 4.0, 1.0]
    found = jackknife(lambda means: {"difference": means["a"] - means["b"]}, {"a": sample(a), "b": sample(b)})
    assert found["difference"].value == pytest.approx(np.mean(a) - np.mean(b))
    assert found["difference"].error == pytest.approx((np.var(a, ddof=1) / 3 + np.var(b, ddof=1) / 4) ** 0.5)


def test_one_pair_has_no_standard_error():
    with pytest.raises(ValueError, match="a standard error needs at least 2 pairs of orders, got 1"):
        jackknife(lambda means: {"mean": means["a"]}, {"a": Sample(1.0, [1.0])})


def test_the_limit_of_small_steps():
    assert limit({2: 5.0}) == 5.0
    assert limit({2: 3 + 1 / 2, 4: 3 + 1 / 4}) == pytest.approx(3)
    assert limit({8: 2.2, 2: 100.0, 4: 2.0}) == pytest.approx(2.4)  # the coarsest has no say
    values = {r: 3 + 5 / r + 7 / r**2 for r in (2, 4, 8)}
    assert limit(values) == pytest.approx(3 - 7 / 32)
    with pytest.raises(ValueError, match="needs at least one refinement"):
        limit({})
