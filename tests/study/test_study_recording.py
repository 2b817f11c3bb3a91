"""The study's command: runs recorded, and pages written."""

import math

import pandas as pd
import pytest

from ireg.system.errors import UserError
from study import rates
from study.__main__ import main
from study.cells import measured, merged
from tests.study.planted import basins_table, drift_table, tuning


def test_cells_of_a_run_are_replaced_together():
    before = pd.DataFrame({"run": ["a", "a", "b"], "place": ["end", "loss 1", "end"], "x": [1, 2, 3]})
    after = pd.DataFrame({"run": ["a", "c"], "place": ["end", "end"], "x": [4, 5]})
    assert merged(before, after).to_numpy().tolist() == [["a", "end", 4], ["b", "end", 3], ["c", "end", 5]]


def test_a_page_may_ask_for_several_files_together(study, tmp_path):
    assert main(study("<!-- fit of sweep+sweep -->\n<!-- /fit of sweep+sweep -->\n")) == 0
    assert "| sgd | " in (tmp_path / "pages" / "page.md").read_text()


@pytest.fixture
def study(tmp_path, make_run):
    """A function that writes a page, beside a sweep of two seeds, and returns the command's arguments."""
    for seed in (0, 1):
        losses, errors = ([value / (1 + epoch) for epoch in range(30)] for value in (2.3, 0.4 + seed / 10))
        tags = {"train/loss": losses, "test/error": errors, "fit/memorized": errors, "time/epoch": [1.0] * 30}
        folder = make_run(f"sgd/sgd_seed={seed}", tags, {"seed": seed})
    (tmp_path / "pages").mkdir()

    def write(page):
        (tmp_path / "pages" / "page.md").write_text(page)
        return [str(folder), "--into", str(tmp_path / "pages")]

    return write


TABLE = "<!-- fit of sweep -->\nold\n<!-- /fit of sweep -->\n"


def test_a_sweep_is_recorded_and_its_page_written(tmp_path, study, capsys):
    arguments = study(TABLE)
    assert main(arguments) == 0
    assert capsys.readouterr().out.splitlines()[0] == f"recorded: {tmp_path / 'pages' / 'data' / 'sweep.csv'}"
    # ln C is linear between the middles of epochs 1 and 2, where it is 1.15 and 0.767: all that a passage of 1 needs.
    page = (tmp_path / "pages" / "page.md").read_text()
    assert "old" not in page
    assert page.splitlines()[1].startswith(
        "| optimizer | test error, %, at 1 | test error, %, at 0.1 | noise learned, %,"
    )
    data = pd.read_csv(tmp_path / "pages" / "data" / "sweep.csv")
    assert set(data["run"]) == {"sgd_seed=0", "sgd_seed=1"}
    first = (tmp_path / "pages" / "data" / "sweep.csv").read_bytes()
    assert main(arguments) == 0
    assert (tmp_path / "pages" / "data" / "sweep.csv").read_bytes() == first


def test_a_run_under_two_names_is_refused(tmp_path, study, capsys):
    """Else each pair of seeds would have two values."""
    arguments = study("")
    assert main(arguments) == 0
    file = tmp_path / "pages" / "data" / "sweep.csv"
    before = file.read_bytes()
    run = next((tmp_path / "sweep").rglob("sgd_seed=1"))
    run.rename(run.with_name("sgd_data=toy_seed=1"))
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert "sgd_data=toy_seed=1 and sgd_seed=1 have the same setting and seed; leave one out" in error
    assert file.read_bytes() == before


def test_a_run_that_diverged_at_once_is_still_a_run(make_run):
    """Else its rate would be chosen by the seeds that are left."""
    good = {"train/loss": [2.3, 1.0, 0.5], "test/error": [0.9, 0.2, 0.2], "holdout/error": [0.9, 0.4, 0.4],
            "time/epoch": [1.0] * 3}  # fmt: skip
    make_run("tuning/lr=1_seed=0", good, {"seed": 0, "lr": 1.0, "optimizer.name": "sgd"})
    bad = {"train/loss": [2.3], "test/error": [0.9], "holdout/error": [0.9], "time/epoch": [1.0]}
    folder = make_run("tuning/lr=1_seed=1", bad, {"seed": 1, "lr": 1.0, "optimizer.name": "sgd"}, state="diverged")
    cells = measured(folder)
    assert cells[["run", "place"]].to_numpy().tolist()[-1] == ["lr=1_seed=1", "nowhere"]
    assert math.isnan(cells["test/error"].iloc[-1])
    assert rates.ranked(cells.assign(**{"holdout/loss": 1.0}), "holdout")["value"].tolist() == [math.inf]


@pytest.mark.parametrize(
    ("key", "value", "named"),
    [
        ("model.hidden", [16], r"model.hidden \(\[16\], \[8,8\]\)"),
        ("data.noise.rate", 0.5, r"data.noise.rate \(0.3, 0.5\)"),
    ],
)
def test_runs_of_two_kinds_are_not_recorded_together(make_run, key, value, named):
    for seed in (0, 1):
        make_run(f"one/seed={seed}", {"train/loss": [2.3], "test/error": [0.9]}, {"seed": seed})
    folder = make_run("one/other", {"train/loss": [2.3], "test/error": [0.9]}, {key: value})
    with pytest.raises(UserError, match=f"its runs differ in {named}, and the study's tables would mix them"):
        measured(folder)


@pytest.mark.parametrize(("name", "table"), [("basins", basins_table), ("drift", drift_table)])
def test_barriers_and_drift_are_recorded(tmp_path, name, table):
    folder = tmp_path / f"study_{name}"
    folder.mkdir()
    table().to_csv(folder / f"{name}.csv", index=False)
    assert main([str(folder), "--into", str(tmp_path / "pages")]) == 0
    assert len(pd.read_csv(tmp_path / "pages" / "data" / f"study_{name}.csv")) == {"basins": 15, "drift": 6}[name]


def test_the_commands_of_the_final_runs(tmp_path, capsys):
    (tmp_path / "data").mkdir()
    tuning().to_csv(tmp_path / "data" / "tuning.csv", index=False)
    assert main(["--finals", "tuning", "--into", str(tmp_path)]) == 0
    assert capsys.readouterr().out == "experiment=study_final optimizer=sgd lr=0.1\n"
    assert main(["--finals", "tuning", "--experiment", "study_start", "--into", str(tmp_path)]) == 0
    assert capsys.readouterr().out == "experiment=study_start optimizer=sgd lr=0.1\n"
    assert main(["--finals", "x", "--into", str(tmp_path)]) == 2
    assert "x.csv: no such file of the study; there are: tuning" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("page", "why"),
    [
        (
            "<!-- errors of sweep -->",
            "<!-- errors of sweep -->: no such table; choose one of answers, settings, claims, ratios, measures, rates",
        ),
        ("<!-- claims of x -->", "study_final_x.csv: no such file of the study; there are: sweep"),
        ("![A](figures/verdicts_of_x.png)", "study_final_x.csv: no such file of the study; there are: sweep"),
        ("<!-- answers of x -->", "study_final_x.csv: no such file of the study; there are: sweep"),
        ("<!-- fit of x -->", "x.csv: no such file of the study; there are: sweep"),
        ("<!-- measures of x -->", "study_tuning_x.csv: no such file of the study; there are: sweep"),
        (
            "![A](figures/norm_of_sweep.png)",
            "figures/norm_of_sweep.png: no such figure; choose one of verdicts, crossing",
        ),
        ("![A](figures/norms_of_sweep.png)", "norm/l2: no run of the sweep has measured it"),
        ("<!-- terms of sweep -->\n<!-- /terms of sweep -->", "ireg/own: no run of the sweep has measured it"),
    ],
)
def test_a_page_asks_for_what_there_is(study, capsys, page, why):
    assert main(study(page)) == 2
    assert why in capsys.readouterr().err
