"""docs/explicit.md has the numbers of the committed files, and these are made as it says."""

import pandas as pd
import pytest

from benchmarks import penalties
from study.cells import merged
from study.checkpoints import pair_means
from study.scripts import basins, exchange, explicit, swats
from tests.conftest import ROOT

STUDIES = {made.CSV.stem: (made.table, made.CSV) for made in (exchange, explicit, swats, basins, penalties)}
STUDIES["explicit_pairs"] = (explicit.pairs, explicit.CSV)


@pytest.mark.parametrize("name", STUDIES)
def test_the_page_has_committed_numbers(name):
    table, path = STUDIES[name]
    text = (ROOT / "docs" / "explicit.md").read_text(encoding="utf-8")
    assert text.split(f"<!-- {name} -->\n")[1].split(f"<!-- /{name} -->")[0] == table(pd.read_csv(path))


def test_the_figure_has_a_bar_a_training_loss_and_pair():
    runs = pd.read_csv(explicit.CSV)
    drawn = explicit.draw(runs).axes[0].containers
    counted = sum(difference.count > 1 for difference in explicit.differences(runs).values())
    assert len(drawn) == len(explicit.LOSSES)
    assert sum(len(bars.lines[0].get_xdata()) for bars in drawn) == counted == 27


def test_errors_are_those_where_a_loss_is_first_reached():
    losses, errors = (2.0, 1.3, 0.65, 1.3, 0.5), (0.9, 0.3, 0.5, 0.4, 0.6)
    rows = [
        {"run": "a", "state": "done", "lr": 0.1, "batch_size": 64, "seed": 0, "regularizer.name": "none",
         "regularizer.method": None, "regularizer.strength": None, "epoch": epoch, "train/loss": loss,
         "test/error": error, "fit/memorized": 0.0}
        for epoch, (loss, error) in enumerate(zip(losses, errors, strict=True))
    ]  # fmt: skip
    found = explicit.measured(pd.DataFrame(rows)).set_index("loss")
    assert found.loc[1.3, "epoch"] == pytest.approx(1)
    assert found.loc[1.3, "test/error"] == pytest.approx(0.3)
    middle = (1.3 * 0.65) ** 0.5  # half the way in the logarithm
    assert 0.65 < 0.7 < middle < 1.0
    assert 1.5 < found.loc[0.7, "epoch"] < 2
    assert found.loc[0.5, "epoch"] == pytest.approx(4)
    assert "| 8,000 | 0.1 | 64 | none | 0 | 1 | 30.0 % |" in explicit.table(found.reset_index())


def test_rows_of_other_runs_are_kept():
    before = pd.DataFrame({"name": ["a", "a", None], "seed": [0, 1, 0], "loss": [1, 1, 1]})
    after = pd.DataFrame({"name": [None, "a"], "seed": [0, 2], "loss": [2, 2]})
    # A missing name is None or nan, as pandas has it.
    found = merged(before, after, ["name", "seed"]).fillna({"name": "nan"}).to_numpy(dtype=object)
    assert [[*map(str, row)] for row in found] == [
        ["a", "0", "1"],
        ["a", "1", "1"],
        ["a", "2", "2"],
        ["nan", "0", "2"],
    ]


def test_a_run_that_never_switched_says_so():
    rows = [
        {"run": run, "optimizer": "switch", "optimizer.tolerance": 1e-9, "optimizer.relative": False, "seed": run,
         "state": "diverged" if run == 2 else "done", "epoch": epoch,
         "switch/phase": 2 if run and epoch > 20 else 1, "switch/lr": 0.5, "train/error": 0.1, "test/error": 0.2,
         "switch/estimate": 0.3}
        for run in (0, 1, 2) for epoch in range(31)
    ]  # fmt: skip
    found = swats.measured(pd.DataFrame(rows))
    assert found["switched in epoch"].fillna(0).tolist() == [0, 21, 21]
    assert "| 1e-09 | 0 | never | – | 10.0 % | 20.0 % |" in swats.table(found)
    assert "| 1e-09 | 1 | 21 | 0.500 | 10.0 % | 20.0 % |" in swats.table(found)
    assert "| 1e-09 | 2 | 21 | 0.500 | diverged | diverged |" in swats.table(found)


def test_the_floor_is_that_of_other_orders():
    rows = [
        {"run": run, "first": one, "second": other, "first_order": 0, "second_order": order, "matched": False,
         "quantity": quantity, "value": value + run / 10 + (order == 0) * 100}
        for run in (0, 1)
        for one, other, value in (("sgd", "sgd", 1.0), ("sgd", "adam", 4.0), ("adam", "adam", 2.0))
        for order in (0, 1)
        for quantity in basins.QUANTITIES
    ]  # fmt: skip
    found = pair_means(pd.DataFrame(rows))
    assert found["value"].max() < 10  # pairs with one order are left out
    assert "| sgd and adam | 4.05 ± 0.64 |" in basins.table(found)
    assert basins.table(found).splitlines()[3].count("| 2.5 ± ") == 2


def test_a_penalty_is_timed_by_each_method(monkeypatch):
    monkeypatch.setattr(penalties, "PAIRS", 2)
    monkeypatch.setattr(penalties, "FEW", 2)
    monkeypatch.setattr(penalties, "MINIBATCHES", 2)
    found = penalties.ratios()
    assert len(found) == 2 * len(penalties.PENALTIES) + len(penalties.OTHERS)
    assert (found["ratio"] > 0).all()
    assert len(penalties.table(found).splitlines()) == 2 + len(penalties.PENALTIES) + len(penalties.OTHERS)
