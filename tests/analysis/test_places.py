"""Values at equal fit, at epochs, and at the best by held-out examples."""

import math

import numpy as np
import pandas as pd
import pytest

from ireg.analysis.places import at_places, loss_curve, mean_between, passage, places


def test_a_known_crossing():
    """C = 2 e^(−t/10) passes c at 10 ln(2/c), and its band around it for as long on both sides."""
    epochs = np.arange(41)
    losses = 2 * np.exp(-epochs / 10)
    for loss in (1.5, 0.7, 0.1):
        found = passage(epochs, losses, loss, band=1.05)
        assert found.first == pytest.approx(10 * math.log(2 / loss / 1.05), rel=1e-9)
        assert found.last == pytest.approx(10 * math.log(2 / loss * 1.05), rel=1e-9)


def test_a_loss_that_jumps_back_is_passed_once():
    found = passage([0, 1, 2, 3, 4], [4.0, 1.0, 4.0, 1.0, 0.25], 1.0, band=2.0)
    assert found == ("loss 1", 0.5, pytest.approx(3.5))


@pytest.mark.parametrize(("losses", "what"), [([1.0, 0.5, 0.1], "begins below"), ([4.0, 3.0, 2.5], "does not reach")])
def test_a_loss_that_is_not_passed_has_no_place(losses, what):
    assert passage([0, 1, 2], losses, 2.0, band=1.1) is None, what


def test_a_passage_may_end_with_the_run():
    assert passage([0, 1, 2], [4.0, 2.0, 1.0], 1.05, band=1.1).last == 2


def test_means_are_integrals_of_lines():
    epochs, values = [0.0, 2.0, 3.0], [1.0, 5.0, 2.0]
    fine = np.linspace(0.5, 2.8, 200_001)
    assert mean_between(epochs, values, 0.5, 2.8) == pytest.approx(np.interp(fine, epochs, values).mean(), rel=1e-5)
    assert mean_between(epochs, values, 1.0, 1.0) == 3.0
    assert math.isnan(mean_between(epochs, values, 1.0, 3.5))
    assert math.isnan(mean_between([1.0], [1.0], 0.5, 1.0))
    assert math.isnan(mean_between([], [], 0.5, 1.0))


def table(losses, errors, **columns):
    count = len(losses)
    rows = {
        "run": "sgd_seed=0", "state": "done", "optimizer": "sgd", "seed": 0, "epoch": range(count), "nonfinite": "",
        "train/loss": losses, "test/error": errors, "time/epoch": [9.0] + [3.0] * (count - 1),
    }  # fmt: skip
    return pd.DataFrame(rows | columns)


def test_the_loss_of_an_epoch_stands_at_its_middle():
    assert loss_curve(table([2.0, 1.0, math.inf, 0.5], [0.9] * 4)) == ([0.0, 0.5, 2.5], [2.0, 1.0, 0.5])


def test_places_of_a_run():
    rows = table([2.3] * 12, [0.9, *np.linspace(0.5, 0.2, 10), 0.4])
    rows["holdout/error"] = [0.1, 0.5, 0.4, 0.3, 0.3, *[0.6] * 7]  # row 0 is no choice, of equal ones the first is
    found = {place.name: place[1:] for place in places(rows, [1.0], [4, 5, 8, 11, 12])}
    assert [place.name for place in places(rows, [], [], last=12)][:1] == ["holdout"]  # there are 11 epochs
    assert found == {
        "epoch 5": (1, 5),
        "epoch 8": (4, 8),
        "epoch 11": (7, 11),
        "end": (7, 11),
        "holdout": (3, 3),
        "test": (10, 10),
    }


def test_values_at_places():
    losses = 2.3 * np.exp(-np.arange(12) / 2)
    rows = table(losses, np.linspace(0.9, 0.2, 12), **{"time/terms": [1.0, np.nan] * 6})
    rows["norm/l2"] = [10.0, np.nan, 14.0, np.nan, 18.0, *[np.nan] * 7]
    rows["holdout/error"] = 0.5
    found = at_places(rows, [1.0, 0.5], [8]).set_index("place")
    first = passage(*loss_curve(rows), 1.0)
    middle = (first.first + first.last) / 2
    assert found.loc["loss 1", "at"] == pytest.approx(middle)
    assert found.loc["loss 1", "norm/l2"] == pytest.approx(10 + 2 * middle)  # measured every second epoch
    assert found.loc["loss 1", "test/error"] == pytest.approx(0.9 - 0.7 / 11 * middle)
    assert math.isnan(found.loc["epoch 8", "norm/l2"])  # measured up to epoch 4
    # Three seconds an epoch, of which the terms take one in every second.
    assert found.loc["epoch 8", "seconds"] == pytest.approx(6 * 3 - 3)
    assert {"run", "state", "optimizer", "seed", "place", "at", "seconds"} < set(found.reset_index())
    assert not [column for column in found if column.startswith("time/") or column in ("epoch", "nonfinite")]
    assert list(at_places(rows, [1.0], tags=["test/error"]).filter(like="/")) == ["test/error"]
    both = pd.concat([rows.assign(run="z"), rows.assign(run="a")])
    assert at_places(both, [1.0])["run"].drop_duplicates().tolist() == ["z", "a"]  # in the table's order
    assert {"run", "place", "test/error"} < set(at_places(rows[:0], [1.0]))  # of no runs there are no rows
