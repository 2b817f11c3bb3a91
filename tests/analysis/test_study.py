"""The study: cells recorded, rates chosen, claims decided, pages written."""

import math

import numpy as np
import pandas as pd
import pytest

from ireg.analysis.study import claims, rates
from ireg.analysis.study.__main__ import main
from ireg.analysis.study.cells import LOSSES, merged
from ireg.analysis.study.figures import FIGURES
from ireg.analysis.study.pages import tables_of
from ireg.analysis.study.tables import TABLES
from tests.conftest import ROOT

TAGS = ("train/loss", "holdout/error", "holdout/loss", "fit/memorized", "fit/clean_error", "norm/l2", "norm/distance",
        "margin/normalized_clean_median", "ireg/sgd", "ireg/own", "curvature/edge")  # fmt: skip


def finals(effects, seeds=5, noise=0.002, reached=LOSSES):
    """Final runs whose test errors differ from SGD's by known numbers, and whose seeds share most of their noise."""
    generator = np.random.default_rng(0)
    shared = 0.02 * generator.standard_normal(seeds)
    rows = []
    for optimizer, effect in effects.items():
        for seed in range(seeds):
            for place in ("epoch 50", "end", "holdout", *(f"loss {loss:g}" for loss in reached)):
                error = 0.2 + effect + shared[seed] + noise * generator.standard_normal()
                rows.append(
                    {"run": f"{optimizer}_{seed}", "state": "done", "optimizer": optimizer, "lr": 0.1, "seed": seed,
                     "place": place, "at": 10.0 + seed, "seconds": 3.0, "test/error": error, **dict.fromkeys(TAGS, 1.0)}
                )  # fmt: skip
    return pd.DataFrame(rows)


def test_a_planted_effect_is_found_and_none_where_there_is_none():
    found = claims.stated(finals({"sgd": 0.0, "adam": 0.05, "rmsprop": 0.0, "momentum": -0.05}))
    verdicts = {claim.optimizer: set() for claim in found}
    for claim in found:
        if claim.question == 1:
            verdicts[claim.optimizer].add(claims.verdict(claim))
    assert verdicts == {"adam": {"worse"}, "rmsprop": {"no worse"}, "momentum": {"better"}}
    adam = next(claim for claim in found if claim.optimizer == "adam" and claim.comparator == "equal fit")
    assert adam.difference.student.mean == pytest.approx(0.05, abs=0.003)
    assert adam.difference.count == 5
    assert adam.adjusted >= adam.difference.p


def test_without_pairing_the_same_effect_is_undecided():
    """Seeds differ by far more than the effect: the pairs carry the claim."""
    cells = finals({"sgd": 0.0, "adam": 0.015})
    shifted = cells["seed"].where(cells["optimizer"] == "sgd", (cells["seed"] + 1) % 5)
    paired, not_paired = claims.stated(cells), claims.stated(cells.assign(seed=shifted))
    assert claims.verdict(paired[3]) == "worse"
    assert claims.verdict(not_paired[3]) == "undecided"


def test_claims_of_a_data_set_are_adjusted_together():
    cells = finals({"sgd": 0.0, "adam": 0.004}, noise=0.004)
    alone, among = claims.stated(cells, elsewhere=0), claims.stated(cells)
    assert all(one.adjusted <= other.adjusted for one, other in zip(alone, among, strict=True))
    assert alone[0].adjusted < among[0].adjusted


def test_equal_fit_takes_the_levels_that_both_reach():
    cells = finals({"sgd": 0.0, "adam": 0.0}, seeds=2, noise=0.0)
    deep = cells["place"].isin(("loss 0.2", "loss 0.1"))
    cells.loc[deep & (cells["optimizer"] == "adam"), "test/error"] += 1.0  # where SGD does not come
    cells = cells[~(deep & (cells["optimizer"] == "sgd"))]
    assert claims.differences(cells, "adam", "test/error", claims.EQUAL_FIT) == pytest.approx([0.0, 0.0], abs=1e-12)
    assert claims.differences(cells, "adamw", "test/error", claims.EQUAL_FIT) == []
    missing = claims.stated(cells[cells["place"] != "end"])
    end = next(claim for claim in missing if claim.comparator == "end")
    assert math.isnan(end.difference.student.mean)
    assert "| adam | end | 0 | – | – |" in TABLES["claims"](cells[cells["place"] != "end"])


def test_ratios_are_of_logarithms():
    cells = finals({"sgd": 0.0, "adam": 0.0}, seeds=3)
    cells.loc[cells["optimizer"] == "adam", "at"] /= 4 * 1.0001 ** (cells["seed"] - 1)
    (speed,) = (claim for claim in claims.stated(cells) if claim.question == 2)
    assert math.exp(speed.difference.student.mean) == pytest.approx(0.25)
    assert "| adam | epochs to a training loss of 1 | 3 | 0.25 (0.25 to 0.25) |" in TABLES["ratios"](cells)


def tuning():
    held_out = {0.01: (0.4, 0.42), 0.1: (0.35, 0.37), 1.0: (0.36, 0.36), 10.0: (0.1, 0.1)}
    rows = [
        {"run": f"{lr}_{seed}", "state": "diverged" if lr == 10 and seed else "done", "optimizer": "sgd", "lr": lr,
         "seed": seed, "place": place, "at": 5.0, "holdout/error": value, "holdout/loss": 1 / lr,
         "test/error": 0.1 * (place != "test") + lr / 100}
        for lr, values in held_out.items() for seed, value in enumerate(values) for place in rates.CHOICES
    ]  # fmt: skip
    return pd.DataFrame(rows)


def test_the_rate_is_chosen_by_held_out_examples():
    (row,) = rates.chosen(tuning()).to_dict("records")
    # 0.1 and 1 have the same mean, of which the smaller is chosen; 10 has the lowest, and a run of it diverged.
    assert (row["lr"], row["holdout/error"], row["test/error"]) == (0.1, pytest.approx(0.36), pytest.approx(0.101))
    assert row["inside"]
    assert (row["lr by test"], row["lr by holdout loss"]) == (0.01, 1.0)
    assert row["test/error by test"] == pytest.approx(1e-4)
    assert "| sgd | 4 | 0.1 | yes | 5.0 | 36.00 % | 10.10 % | 1 |" in TABLES["rates"](tuning())


def test_a_best_rate_at_the_edge_is_marked():
    cells = tuning()
    cells = cells[cells["lr"] >= 0.1]
    assert not rates.chosen(cells)["inside"].item()
    assert "| 0.1 | **no** |" in TABLES["rates"](cells)
    with pytest.raises(ValueError, match="choice='luck': choose one of holdout, holdout loss, test"):
        rates.ranked(cells, "luck")


def test_cells_of_a_run_are_replaced_together():
    before = pd.DataFrame({"run": ["a", "a", "b"], "place": ["end", "loss 1", "end"], "x": [1, 2, 3]})
    after = pd.DataFrame({"run": ["a", "c"], "place": ["end", "end"], "x": [4, 5]})
    assert merged(before, after).to_numpy().tolist() == [["a", "end", 4], ["b", "end", 3], ["c", "end", 5]]


@pytest.mark.parametrize("name", TABLES)
def test_every_table_can_be_made(name):
    cells = tuning() if name == "rates" else finals({"sgd": 0.0, "adam": 0.05}, seeds=3, reached=(1.0, 0.4))
    lines = TABLES[name](cells).splitlines()
    assert len({line.count("|") for line in lines}) == 1
    assert len(lines) > 2


def test_a_page_may_ask_for_several_files_together(study, tmp_path):
    assert main(study("<!-- test_error of sweep+sweep -->\n<!-- /test_error of sweep+sweep -->\n")) == 0
    assert "| sgd | " in (tmp_path / "pages" / "page.md").read_text()


def test_measures_and_their_controls():
    """A measure that follows the error within every optimizer is found; the random one is not."""
    generator = np.random.default_rng(3)
    rows = [
        {"run": f"{optimizer}_{lr}_{seed}", "state": "done", "optimizer": optimizer, "lr": lr, "seed": seed, "at": 1.0,
         "place": "loss 1", "test/error": error, "good/measure": 2 * error, "poor/measure": generator.standard_normal()}
        for optimizer in ("sgd", "adam") for lr in range(6) for seed in range(3)
        for error in [0.1 * generator.standard_normal() + 0.2]
    ]  # fmt: skip
    lines = {
        line.split(" | ")[0].removeprefix("| "): line for line in TABLES["measures"](pd.DataFrame(rows)).splitlines()
    }
    assert "| – | – | 1.00 (1.00 to 1.00) | 1.00 | – |" in lines["`good/measure`"]
    assert {"planted", "random", "epochs to there"} < lines.keys()
    within = TABLES["measures_within"](pd.DataFrame(rows))
    assert "| measure | sgd | adam | other optimizer | other lr | other seed |" in within
    assert "| `good/measure` | 1.00 | 1.00 | 1.00 | 1.00 | 1.00 |" in within


@pytest.mark.parametrize("name", FIGURES)
def test_every_figure_can_be_drawn(name):
    figure = FIGURES[name](finals({"sgd": 0.0, "adam": 0.05}, seeds=3, reached=(1.0, 0.4)))
    assert len(figure.axes) == 3
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["sgd", "adam"]


@pytest.fixture
def study(tmp_path, make_run):
    """A function that writes a page, beside a sweep of two seeds, and returns the command's arguments."""
    for seed in (0, 1):
        losses, errors = ([value / (1 + epoch) for epoch in range(30)] for value in (2.3, 0.4 + seed / 10))
        tags = {"train/loss": losses, "test/error": errors, "time/epoch": [1.0] * 30}
        folder = make_run(f"sgd/sgd_seed={seed}", tags, {"seed": seed})
    (tmp_path / "pages").mkdir()

    def write(page):
        (tmp_path / "pages" / "page.md").write_text(page)
        return [str(folder), "--into", str(tmp_path / "pages")]

    return write


TABLE = "<!-- test_error of sweep -->\nold\n<!-- /test_error of sweep -->\n"


def test_a_sweep_is_recorded_and_its_page_written(tmp_path, study, capsys):
    arguments = study(TABLE)
    assert main(arguments) == 0
    assert capsys.readouterr().out.splitlines()[0] == f"recorded: {tmp_path / 'pages' / 'data' / 'sweep.csv'}"
    # ln C is linear between the middles of epochs 1 and 2, where it is 1.15 and 0.767: all that a passage of 1 needs.
    page = (tmp_path / "pages" / "page.md").read_text()
    assert "old" not in page
    assert page.splitlines()[1].startswith("| optimizer | 1.5 | 1.2 | 1 |")
    data = pd.read_csv(tmp_path / "pages" / "data" / "sweep.csv")
    assert set(data["run"]) == {"sgd_seed=0", "sgd_seed=1"}
    first = (tmp_path / "pages" / "data" / "sweep.csv").read_bytes()
    assert main(arguments) == 0
    assert (tmp_path / "pages" / "data" / "sweep.csv").read_bytes() == first


def test_the_commands_of_the_final_runs(tmp_path, capsys):
    (tmp_path / "data").mkdir()
    tuning().to_csv(tmp_path / "data" / "tuning.csv", index=False)
    assert main(["--finals", "tuning", "--into", str(tmp_path)]) == 0
    assert capsys.readouterr().out == "experiment=study_final optimizer=sgd lr=0.1\n"
    assert main(["--finals", "x", "--into", str(tmp_path)]) == 2
    assert "x.csv: no such file of the study; there are: tuning" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("page", "why"),
    [
        ("<!-- errors of sweep -->", "<!-- errors of sweep -->: no such table; choose one of rates, claims"),
        ("<!-- test_error of x -->", "x.csv: no such file of the study; there are: sweep"),
        ("![A](figures/norm_of_sweep.png)", "figures/norm_of_sweep.png: no such figure; choose one of errors, norms"),
        ("![A](figures/norms_of_sweep.png)", "norm/l2: no run of the sweep has measured it"),
        ("<!-- norm of sweep -->\n<!-- /norm of sweep -->", "norm/l2: no run of the sweep has measured it"),
    ],
)
def test_a_page_asks_for_what_there_is(study, capsys, page, why):
    assert main(study(page)) == 2
    assert why in capsys.readouterr().err


def test_the_pages_have_committed_numbers():
    folder = ROOT / "docs" / "study"
    for page in sorted(folder.glob("*.md")):
        text = page.read_text(encoding="utf-8")
        for name, table in tables_of(text, folder / "data"):
            assert text.split(f"<!-- {name} -->\n")[1].split(f"<!-- /{name} -->")[0] == table, (page, name)
