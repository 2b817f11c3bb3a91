"""Rank correlations over many runs: against another implementation, and with known answers."""

import math

import numpy as np
import pandas as pd
import pytest
from scipy.stats import kendalltau

from ireg.analysis.association import associations, controls, differing_in_one, kendall


def test_it_is_scipys_with_ties():
    generator = np.random.default_rng(1)
    x, y = generator.integers(0, 6, 40).astype(float), generator.integers(0, 6, 40).astype(float)
    found = kendall(x, y, list(range(40)))
    assert found.tau == pytest.approx(kendalltau(x, y).statistic, rel=1e-12)
    assert found.pairs == 40 * 39 / 2
    assert found.low < found.tau < found.high


def test_runs_without_a_value_do_not_count():
    found = kendall([1.0, 2.0, math.nan, 4.0], [1.0, 2.0, 0.0, math.inf], list("abcd"))
    assert (found.tau, found.pairs) == (1.0, 1)
    assert math.isnan(kendall([1.0, 1.0], [1.0, 2.0], list("ab")).tau)  # a constant
    assert math.isnan(kendall([math.nan], [1.0], ["a"]).low)
    assert math.isnan(kendall([], [], []).tau)


def test_lengths_are_checked():
    with pytest.raises(ValueError, match="1 measures, 2 results, 2 settings: must be as many"):
        kendall([1.0], [1.0, 2.0], list("ab"))


def runs(optimizers=4, rates=5, seeds=3):
    return pd.DataFrame(
        [
            {"optimizer": f"o{o}", "lr": rate, "seed": seed}
            for o in range(optimizers) for rate in range(rates) for seed in range(seeds)
        ]
    )  # fmt: skip


def test_pairs_that_differ_in_one_factor():
    table = runs()
    found = differing_in_one(table, ["optimizer", "lr", "seed"], "lr")
    assert found.sum() == 60 * 4
    for i, j in zip(*np.nonzero(found), strict=True):
        one, other = table.iloc[i], table.iloc[j]
        assert (one["optimizer"], one["seed"]) == (other["optimizer"], other["seed"])
        assert one["lr"] != other["lr"]
    with pytest.raises(ValueError, match="factor 'batch': choose one of optimizer, lr"):
        differing_in_one(table, ["optimizer", "lr"], "batch")


def test_a_planted_measure_is_found_and_a_random_one_is_not():
    table = runs()
    generator = np.random.default_rng(0)
    table["error"] = generator.standard_normal(20).repeat(3) + 0.1 * generator.standard_normal(60)
    settings = table[["optimizer", "lr"]].apply(tuple, axis=1).tolist()
    misses = {"planted": 0, "random": 0}
    for seed in range(40):
        table = table.assign(**controls(table["error"], seed=seed))
        for name in misses:
            found = kendall(table[name], table["error"], settings, resamples=300)
            misses[name] += found.low <= 0 <= found.high
    assert misses["planted"] <= 2  # not found
    assert misses["random"] >= 35  # not found, as it should: in 95 of 100


def test_runs_of_one_setting_are_drawn_together():
    """Both numbers are the settings': runs that repeat them, drawn one by one, would make the interval too narrow."""
    table = runs(optimizers=5, rates=4, seeds=4).sample(frac=1, random_state=3, ignore_index=True)
    settings = list(zip(table["optimizer"], table["lr"], strict=True))
    generator = np.random.default_rng(5)
    covered = {"settings": 0, "runs": 0}
    for _ in range(100):
        measure, result = (dict(zip(sorted(set(settings)), generator.standard_normal(20), strict=True)) for _ in "xy")
        x, y = ([of[setting] for setting in settings] for of in (measure, result))
        for name, drawn in (("settings", settings), ("runs", list(range(len(table))))):
            found = kendall(x, y, drawn, resamples=200)
            covered[name] += found.low <= 0 <= found.high
    assert covered["settings"] >= 90
    assert covered["runs"] <= 80
    # The same settings, whatever they are called and in whichever order the runs come.
    table = table.assign(x=x, y=y)
    found = associations(table, ["x"], "y", ["optimizer", "lr", "seed"], resamples=200).set_index("pairs of").loc["all"]
    assert (found["low"], found["high"]) == kendall(x, y, settings, resamples=200)[1:3]
    assert (found["low"], found["high"]) != kendall(x, y, list(range(len(table))), resamples=200)[1:3]


def test_a_measure_may_go_with_the_result_across_optimizers_alone():
    """Within each optimizer it goes the other way: the mean over all pairs hides it, the granulated one does not."""
    table = runs()
    of_optimizer = table["optimizer"].str[1:].astype(float)
    table["error"] = 10 * of_optimizer + table["lr"] + table["seed"] / 10
    table["measure"] = 10 * of_optimizer - table["lr"] - table["seed"] / 10
    found = associations(table, ["measure"], "error", ["optimizer", "lr", "seed"]).set_index("pairs of")["tau"]
    assert found["all"] > 0.5
    assert found["optimizer o2"] == found["other lr"] == found["other seed"] == -1.0
    assert found["other optimizer"] == 1.0
    assert found["granulated"] == pytest.approx(-1 / 3)
