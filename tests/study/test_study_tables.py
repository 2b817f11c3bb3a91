"""The study's tables and figures."""

import re

import numpy as np
import pandas as pd
import pytest

from study import claims, rates
from study.checkpoints import barriers
from study.comparisons import COMPARISONS
from study.figures import FIGURES
from study.measures import associated, measures
from study.pages import ASSOCIATED
from study.tables import GIVEN, TABLES
from tests.study.planted import basins_table, finals, measured_cells, tuning


def test_cells_of_barriers_and_drift():
    cells = measured_cells()
    assert not [tag for tag in cells if "position" in tag or "plain" in tag or "strength" in tag]
    assert claims.above_floor(cells, "adam", "sgd", claims.BARRIER) == claims.above_floor(
        cells, "sgd", "adam", claims.BARRIER
    )
    assert claims.above_floor(cells, "sgd", "rmsprop", claims.BARRIER) == []
    table = TABLES["barriers"](cells)
    assert "| sgd, another order | 0.0101 ± " in table
    assert "| sgd and momentum | 0.0207 ± " in table
    assert table.endswith("\n3 checkpoints each, fewer where that is said.\n")
    fewer = barriers(basins_table())
    fewer = fewer[~((fewer["other"] == "momentum") & (fewer["optimizer"] == "sgd") & (fewer["run"] == "sgd_seed=0"))]
    assert "| sgd and momentum (2 checkpoints) | " in TABLES["barriers"](fewer)
    assert "| adam | 0.1 | 3 | 0.808 ± " in TABLES["drift"](cells)


def test_the_rate_is_chosen_by_held_out_examples():
    (row,) = rates.chosen(tuning()).to_dict("records")
    # 0.1 and 1 have the same mean, of which the smaller is chosen; 10 has the lowest, and a run of it diverged.
    assert (row["lr"], row["holdout/error"], row["test/error"]) == (0.1, pytest.approx(0.36), pytest.approx(0.101))
    assert row["inside"]
    assert (row["lr by test"], row["lr by holdout loss"]) == (0.01, 1.0)
    assert row["test/error by test"] == pytest.approx(1e-4)
    assert "| sgd | 0.1 | 36.00 | 10.10 | 1: 11.00 | 0.1: 10.10 | 0.01: 0.01 |" in TABLES["rates"](tuning())


def test_a_best_rate_at_the_edge_is_marked():
    cells = tuning()
    cells = cells[cells["lr"] >= 0.1]
    assert not rates.chosen(cells)["inside"].item()
    assert "| 0.1, **at the edge of 3 rates** |" in TABLES["rates"](cells)
    with pytest.raises(ValueError, match="choice='luck': choose one of holdout, holdout loss, end, test"):
        rates.ranked(cells, "luck")


@pytest.mark.parametrize(
    "name",
    [
        name
        for name in (*TABLES, *COMPARISONS, *ASSOCIATED)
        if name not in ("ties", "over_ties", "reruns", "at_the_end")
    ],
)
def test_every_table_can_be_made(name):
    cells = tuning() if name == "rates" else finals({"sgd": 0.0, "adam": 0.05}, seeds=3, reached=(1.0, 0.7, 0.4))
    cells = pd.concat([cells, measured_cells()]) if name in ("barriers", "drift") else cells
    table, _, note = {**TABLES, **COMPARISONS, **ASSOCIATED}[name](cells).partition("\n\n")
    lines = table.splitlines()
    assert len({line.count("|") for line in lines}) == 1
    assert len(lines) > 2
    # What all intervals of a page are conditional on stands below its comparisons.
    assert note.rstrip().endswith(GIVEN) == (name == "claims")


def test_each_rate_is_shown_at_one_training_loss():
    cells = pd.concat([finals({"sgd": lr / 10}, noise=0.0).assign(lr=lr) for lr in (0.1, 0.2)])
    assert re.search(
        r"^\| sgd \| 0\.1: 2\d\.\d\d ± \d\.\d\d; 0\.2: 2\d\.\d\d ± \d\.\d\d \| 14\.4, 14\.4 \| 1, 1 \|\n\n5 s",
        TABLES["by_rate"](cells),
        re.MULTILINE,
    )
    fewer = cells[~((cells["lr"] == 0.2) & (cells["seed"] == 0))]
    assert re.search(r"; 0\.2: \d+\.\d+ ± \d+\.\d+ \(4 seeds\) \|", TABLES["by_rate"](fewer))


def test_sizes_of_minibatches_stand_at_one_rate_and_at_one_ratio():
    cells = pd.concat(
        [
            finals({"sgd": lr}, seeds=2, noise=0.0).assign(batch_size=size, lr=lr)
            for size, lr in ((16, 0.2), (64, 0.2), (256, 0.2), (16, 0.025), (64, 0.1), (256, 0.4), (1024, 1.6))
        ]
    )
    fronts = [line.split(" | ")[:2] for line in TABLES["sizes"](cells).splitlines()]
    assert fronts[:5] == [["| B", "η"], ["| ---", "---"], ["| 16", "0.2"], ["| 64", "0.2"], ["| 256", "0.2"]]
    assert fronts[5:] == [["| 16", "0.025"], ["| 64", "0.1"], ["| 256", "0.4"], ["| 1024", "1.6"]]


def test_measures_and_their_controls():
    """A measure that follows the error within every optimizer is found; the random one is not."""
    generator = np.random.default_rng(3)
    rows = [
        {"run": f"{optimizer}_{lr}_{seed}", "state": "done", "optimizer": optimizer, "lr": lr, "seed": seed, "at": 1.0,
         "place": "loss 1", "test/error": error, "good/measure": 2 * error, "poor/measure": generator.standard_normal()}
        for optimizer in ("sgd", "adam") for lr in range(6) for seed in range(3)
        for error in [0.1 * generator.standard_normal() + 0.2]
    ]  # fmt: skip
    found = associated(pd.DataFrame(rows))
    assert set(found["measure"]) == {"at", "good/measure", "poor/measure", "planted", "random"}
    assert set(found["loss"]) == {1.0}
    good = found[found["measure"] == "good/measure"].set_index("pairs_of")
    groups = {"optimizer sgd", "optimizer adam", "other optimizer", "other lr", "other seed"}
    assert set(good.index) == {"all", *groups, "granulated"}
    assert good[["tau", "settings"]].to_numpy().tolist() == [[1.0, 12]] * 7
    assert good.loc["all", ["low", "high"]].tolist() == [1.0, 1.0]
    assert good.drop(index="all")[["low", "high"]].isna().all(axis=None)
    assert abs(found.set_index(["measure", "pairs_of"]).loc[("poor/measure", "all"), "tau"]) < 0.4
    shown = measures(pd.DataFrame(rows).rename(columns={"good/measure": "norm/l2"})).splitlines()
    assert shown[2] == "| `norm/l2` | 1.00 (1.00 to 1.00) | – | – |"
    assert [line.split(" | ")[0] for line in shown[3:]] == ["| planted", "| random"]


PANELS = {"speed": 1, "barriers": 1, "batches": 2, "measures": 2}


@pytest.mark.parametrize("name", FIGURES)
def test_every_figure_can_be_drawn(name):
    cells = finals({"sgd": 0.0, "adam": 0.05}, seeds=3, reached=(1.0, 0.4))
    figure = FIGURES[name](measured_cells() if name in ("barriers", "drift") else cells)
    assert len(figure.axes) == PANELS.get(name, 3)
    if name in ("barriers", "drift"):
        labels = [label.get_text() for label in figure.axes[0].get_yticklabels()]
        assert labels == (["rmsprop", "adam"] if name == "drift" else
                          ["sgd, another order", "sgd and momentum", "sgd and adam", "momentum, another order",
                           "adam, another order"])  # fmt: skip
    elif name == "measures":
        assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == ["planted", "random"]
    else:
        labels = [text.get_text() for text in figure.legends[0].get_texts()]
        assert labels == (["B = 64"] if name == "batches" else ["sgd", "adam"])


@pytest.mark.parametrize("top", [0.03, 0.15, 0.9])
def test_ticks_say_where_they_are(top):
    cells = finals({"sgd": 0.0}, seeds=2)
    cells["test/error"] = 0.2 + np.linspace(0, top, len(cells))
    axis = FIGURES["errors"](cells).axes[0]
    axis.figure.draw_without_rendering()
    for place, label in zip(axis.get_yticks(), axis.get_yticklabels(), strict=True):
        assert float(label.get_text().removesuffix(" %").replace("−", "-")) == pytest.approx(100 * place, abs=1e-9)
