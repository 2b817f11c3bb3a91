"""Jackknife and extrapolation against closed forms."""

import numpy as np
import pytest
import scipy.stats

from ireg.statistics import (
    Interval,
    OverSeeds,
    Sample,
    holm,
    jackknife,
    limit,
    mean_interval,
    paired_difference,
    plus_minus,
)


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


# Intervals and comparisons.


def test_the_interval_covers_the_mean_as_often_as_it_says():
    """10,000 samples of 5 normal values, vectorized for the count and one by one for some."""
    values = np.random.default_rng(0).normal(2.0, 3.0, (10_000, 5))
    means, errors = values.mean(1), values.std(1, ddof=1) / 5**0.5
    half = scipy.stats.t.ppf(0.975, 4) * errors
    for row, mean, width in zip(values[:20].tolist(), means, half, strict=False):
        assert mean_interval(row) == pytest.approx((mean, mean - width, mean + width), rel=1e-12)
    found = [mean_interval(row) for row in values.tolist()]
    covered = np.mean([interval.low <= 2.0 <= interval.high for interval in found])
    assert 0.94 <= covered <= 0.96
    wrong = np.mean(np.abs(means - 2.0) <= scipy.stats.norm.ppf(0.975) * errors)  # a negative control
    assert wrong < 0.9


def test_an_interval_needs_two_values():
    assert mean_interval([3.0])[0] == 3.0
    assert np.isnan(mean_interval([3.0])[1:]).all()
    assert np.isnan(mean_interval([])).all()
    assert mean_interval([2.0, 2.0]) == (2.0, 2.0, 2.0)
    assert mean_interval([1.0, 2.0, 3.0], level=0.5).half < mean_interval([1.0, 2.0, 3.0]).half


def test_the_paired_test_is_scipys():
    rng = np.random.default_rng(1)
    left, right = rng.normal(0.3, 1, 8).tolist(), rng.normal(0, 1, 8).tolist()
    found, expected = paired_difference(left, right), scipy.stats.ttest_rel(left, right)
    interval = expected.confidence_interval(0.95)
    assert found.p == pytest.approx(expected.pvalue, rel=1e-10)
    assert found.student == pytest.approx((np.mean(left) - np.mean(right), interval.low, interval.high), rel=1e-10)
    assert found.count == 8
    assert found.error == pytest.approx(scipy.stats.sem(np.subtract(left, right)), rel=1e-10)


def test_a_setting_against_itself_and_a_planted_difference():
    values = np.random.default_rng(2).normal(10, 5, 6)
    same = paired_difference(values.tolist(), values.tolist())
    assert (same.student.mean, same.p) == (0.0, 1.0)
    shifted = paired_difference((values + 0.5).tolist(), values.tolist())
    assert shifted.student.mean == pytest.approx(0.5)
    assert shifted.p < 1e-10  # hidden from an unpaired test by the seeds' spread
    noise = np.random.default_rng(3).normal(0, 0.1, 6)
    planted = paired_difference((values + 0.5 + noise).tolist(), values.tolist())
    assert planted.p < 0.01
    assert planted.student.low > 0
    assert scipy.stats.ttest_ind(values + 0.5 + noise, values).pvalue > 0.5


def test_a_margin_is_tested_on_one_side():
    values = np.random.default_rng(4).normal(0.2, 1.0, 7)
    found = paired_difference(values.tolist(), [0.0] * 7)
    for margin in (-0.5, 0.0, 1.0):
        expected = scipy.stats.ttest_1samp(values, margin, alternative="less").pvalue
        assert found.p_at_least(margin) == pytest.approx(expected, rel=1e-10, abs=0)
    equal = paired_difference([1.0, 1.0], [0.5, 0.5])
    assert [equal.p_at_least(margin) for margin in (0.4, 0.5, 0.6)] == [1.0, 1.0, 0.0]
    assert np.isnan(paired_difference([1.0], [0.0]).p_at_least(0.5))


def test_pairs_that_are_too_few_or_do_not_match():
    one = paired_difference([1.0], [2.0])
    assert (one.student.mean, one.count) == (-1.0, 1)
    assert np.isnan([one.p, one.error, one.student.low]).all()
    two = paired_difference([1.0, 2.0], [0.0, 3.0])
    assert not np.isnan([two.p, two.student.low]).any()
    with pytest.raises(ValueError, match="2 and 1 values: pairs need as many on both sides"):
        paired_difference([1.0, 2.0], [1.0])


def test_holms_adjustment():
    # By hand: 0.01 · 4, then 0.015 · 3 = 0.045, 0.03 · 2 = 0.06, 0.05 · 1 raised to 0.06.
    assert holm([0.03, 0.01, 0.05, 0.015]) == pytest.approx([0.06, 0.04, 0.06, 0.045])
    assert holm([0.6, 0.7]) == [1.0, 1.0]
    adjusted = holm([0.02, float("nan"), 0.04])
    assert adjusted[0] == 0.04
    assert np.isnan(adjusted[1])
    assert holm([]) == []


def test_holm_keeps_the_chance_of_any_wrong_rejection():
    p_values = np.random.default_rng(5).uniform(size=(4000, 5))
    wrong = np.mean([min(holm(row.tolist())) < 0.05 for row in p_values])
    assert 0.035 <= wrong <= 0.06
    assert np.mean(p_values.min(1) < 0.05) > 0.2  # without it


def test_alternatives_of_which_one_is_true_count_once():
    # By hand: two keys are left at 0.01 and 0.02; at 0.03 and 0.9 one is.
    assert holm([0.01, 0.03, 0.02, 0.9], ["a", "a", "b", "a"]) == pytest.approx([0.02, 0.04, 0.04, 0.9])
    assert holm([0.03, 0.01, 0.05], ["a", "b", "c"]) == holm([0.03, 0.01, 0.05])


@pytest.mark.parametrize("true", [0.0, 1.0])
def test_tests_of_zero_and_of_a_margin_together_keep_the_chance_of_any_wrong_rejection(true):
    """All differences are 0, or all are at the margin: of each comparison one hypothesis is true."""
    values = np.random.default_rng(6).normal(true, 1.0, (4000, 4, 5))
    of_zero = scipy.stats.ttest_1samp(values, 0.0, axis=2).pvalue
    of_margin = scipy.stats.ttest_1samp(values, 1.0, axis=2, alternative="less").pvalue
    p_values = np.stack([of_zero, of_margin], axis=2).reshape(4000, 8)
    adjusted = np.array([holm(row.tolist(), [0, 0, 1, 1, 2, 2, 3, 3]) for row in p_values])
    wrong = float(np.mean(adjusted[:, int(true) :: 2].min(1) < 0.05))
    assert 0.03 <= wrong <= 0.06  # the standard error is 0.0035


def test_how_intervals_are_written():
    interval = Interval(0.1234, 0.1034, 0.1434)
    assert interval.text() == "0.123 ± 0.02"
    assert interval.text(".1f", scale=100, unit=" %") == "12.3 ± 2.0 %"
    assert interval.text("+.1f", ".3f", scale=100) == "+12.3 ± 2.000"
    assert Interval(0.5, 0.25, 1.0).with_ends(".2f", scale=100) == "50.00 (25.00 to 100.00)"
    assert plus_minus(1234.5, 2.0, ",.1f") == "1,234.5 ± 2.0"


def test_what_there_is_not_is_not_written_as_a_number():
    one, none = mean_interval([0.25]), mean_interval([])
    assert (one.text(".1f", scale=100, unit=" %"), none.text(".1f", unit=" %")) == ("25.0 %", "–")
    assert (one.with_ends(), none.with_ends()) == ("0.25", "–")


def test_an_interval_over_seeds_needs_three_values():
    assert OverSeeds((1.0, 2.0, 3.0)).has_interval
    assert not OverSeeds((1.0, 2.0)).has_interval
    assert not OverSeeds((1.0, 2.0, float("nan"))).has_interval
