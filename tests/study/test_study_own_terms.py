"""The page's table and figure of five optimizers' own terms are those of the committed runs."""

import numpy as np
import pandas as pd
import pytest
import scipy.stats

from study.scripts import own_terms
from tests.conftest import ROOT


def committed():
    return pd.read_csv(own_terms.CSV)


def test_the_page_has_committed_numbers():
    text = (ROOT / "docs" / "optimizers.md").read_text(encoding="utf-8")
    between = text.split("<!-- own_terms -->\n")[1].split("<!-- /own_terms -->")[0]
    assert between == own_terms.table(committed())


def test_the_runs_are_those_of_the_experiment():
    rows = committed()
    assert {name: sorted(of["seed"].unique()) for name, of in rows.groupby("optimizer")} == {
        name: [10, 11, 12, 13, 14] for name in own_terms.OPTIMIZERS
    }
    assert sorted(rows[rows["epoch"] > 0]["epoch"].unique()) == [10, 20, 30]
    said = (ROOT / "conf" / "experiment" / "own_terms.yaml").read_text(encoding="utf-8")
    for name, of in rows.groupby("optimizer"):
        (rate,) = of["lr"].unique()
        assert f"optimizer={name} lr={rate:.1e}".replace(".0e", "e").replace("e-0", "e-") in said


def made(seeds=3):
    rows = []
    for optimizer in own_terms.OPTIMIZERS:
        for seed in range(seeds):
            for epoch in (0, 10, 20):
                known = optimizer in ("sgd", "adam")
                rows.append({
                    "optimizer": optimizer, "seed": seed, "epoch": epoch, "lr": 0.1, "train/loss": 1.0,
                    "test/error": 0.1, own_terms.OWN: np.nan if epoch == 0 and optimizer == "adam" else 2.0 + seed,
                    own_terms.STRENGTH: 0.5 if known else np.nan,
                    f"{own_terms.STRENGTH}/full_batch": np.nan if known else 0.0 if optimizer == "lion" else 0.25,
                    own_terms.NOISE: 0.75,
                })  # fmt: skip
    return pd.DataFrame(rows)


def test_the_strength_is_that_of_full_batches_where_there_is_no_other():
    rows = own_terms.measured(made())
    assert rows.groupby("optimizer")[own_terms.STRENGTH].first().to_dict() == {
        "sgd": 0.5, "momentum": 0.25, "adam": 0.5, "muon": 0.25, "lion": 0.0
    }  # fmt: skip
    assert len(rows) == 15 * 3 - 3  # before its first step Adam has none
    half = scipy.stats.t.ppf(0.975, 2) / 3**0.5
    interval = own_terms.at(rows, "sgd", 10, own_terms.OWN)
    assert (interval.mean, interval.half) == (pytest.approx(3.0), pytest.approx(half))
    lines = own_terms.table(rows).splitlines()[2:]
    assert len(lines) == 10
    assert lines[0].strip("| ").split(" | ")[:4] == ["sgd", "0.1", "10", "1.00 ± 0.00"]


def test_the_figure_has_a_line_an_optimizer():
    figure = own_terms.draw(own_terms.measured(made()))
    assert [axis.get_title() for axis in figure.axes] == [*own_terms.TITLES.values()]
    own, strength, noise = figure.axes
    assert [line.get_label() for line in own.containers] == [*own_terms.OPTIMIZERS]
    assert own.containers[0].lines[0].get_xdata().tolist() == [10, 20]
    dashed = {line.get_label() for line in strength.containers if line.lines[0].get_linestyle() == "--"}
    assert dashed == {"momentum", "muon", "lion"}
    assert noise.get_yscale() == "linear"
