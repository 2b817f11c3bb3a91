"""The summary's numbers against hand-worked ones, and what of them is printed."""

import csv
import math
import statistics

import pandas as pd
import pytest
from rich.console import Console

from ireg.analysis import figures, load, runs, write
from ireg.analysis.summary import plain, print_summary, rich_table, summarize, summarize_settings


def summary_of(sweep):
    return summarize(runs(sweep), load(sweep))


def printed(summary, width=300):
    console = Console(width=width, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    print_summary(summary, console)
    console.file.close()
    return console.export_text()


def test_one_row_a_run(make_run):
    tags = {
        "train/error": [0.9, 0.5, 0.25],
        "test/error": [0.9, 0.125, 0.125],
        "fit/memorized": ["", 0.5, 0.75],
        "ireg/rmsprop": ["", "", ""],
        "time/epoch": ["", 1.5, 2.0],
    }
    row = summary_of(make_run("a", tags, {"epochs": 2})).iloc[0]
    assert row[["run", "state", "epochs_done", "epochs", "optimizer", "lr", "seed"]].tolist() == [
        "a", "done", 2, 2, "sgd", 0.1, 0
    ]  # fmt: skip
    assert row[["train/error", "test/error", "fit/memorized"]].tolist() == [0.25, 0.125, 0.75]
    assert row[["best_test_error", "best_epoch", "seconds"]].tolist() == [0.125, 1, 3.5]  # the first of equal ones
    assert math.isnan(row["ireg/rmsprop"])
    assert "time/epoch" not in row


def test_the_best_error_of_a_diverged_run_is_a_finite_one(make_run):
    tags = {"test/error": [0.9, 0.5, "nan"], "train/loss": [1.0, 2.0, "inf"]}
    row = summary_of(make_run("a", tags, state="diverged", error="loss is inf")).iloc[0]
    assert row[["best_test_error", "best_epoch", "error"]].tolist() == [0.5, 1, "loss is inf"]
    assert set(row["nonfinite"].split()) == {"test/error", "train/loss"}


def test_a_run_without_metrics_has_a_row(make_run):
    make_run("good", {"test/error": [0.9, 0.5], "time/epoch": ["", 1.0]})
    summary = summary_of(make_run("bad", None, state="failed", error="no data")).set_index("run")
    assert summary.loc["bad", "error"] == "no data"
    assert summary.loc["bad", ["test/error", "best_test_error", "best_epoch", "seconds"]].isna().all()
    assert summary.loc["good", "best_epoch"] == 1


@pytest.fixture
def seeds(make_run):
    """Three seeds of SGD (0.1, 0.2, 0.6 at the end) and two of Adam, one of which diverged."""
    for seed, error in enumerate((0.1, 0.2, 0.6)):
        make_run(f"sgd-{seed}", {"test/error": [0.9, error], "ireg/sgd": [1e-3, error / 100]}, {"seed": seed})
    adam = {"optimizer.name": "adam"}
    make_run("adam-0", {"test/error": [0.9, 0.3], "ireg/sgd": [1e-3, 1e-5]}, adam)
    return make_run(
        "adam-1", {"test/error": [0.9, "nan"], "ireg/sgd": [1, "nan"]}, adam | {"seed": 1}, state="diverged"
    )


def test_mean_and_standard_deviation_over_seeds(seeds):
    settings = summarize_settings(summary_of(seeds)).set_index("optimizer")
    assert settings.loc["sgd", ["runs", "n"]].tolist() == [3, 3]
    assert settings.loc["sgd", "test/error.mean"] == pytest.approx(0.3, rel=1e-12)
    # Divisor n - 1: (0.04 + 0.01 + 0.09) / 2 = 0.07.
    assert settings.loc["sgd", "test/error.sd"] == pytest.approx(math.sqrt(0.07), rel=1e-12)
    assert settings.loc["sgd", "ireg/sgd.sd"] == pytest.approx(statistics.stdev([1e-3, 2e-3, 6e-3]), rel=1e-12)
    assert settings.loc["adam", ["runs", "n", "test/error.mean"]].tolist() == [2, 1, 0.3]
    assert math.isnan(settings.loc["adam", "test/error.sd"])


def test_no_settings_table_without_repeats(make_run):
    make_run("a", {"test/error": [0.9]}, {"batch_size": 32})
    assert summarize_settings(summary_of(make_run("b", {"test/error": [0.9]}))) is None


def test_different_batch_sizes_are_different_settings(make_run):
    for size in (32, 64):
        for seed in (0, 1):
            sweep = make_run(f"{size}-{seed}", {"test/error": [size / 100]}, {"batch_size": size, "seed": seed})
    settings = summarize_settings(summary_of(sweep)).set_index("batch_size")
    assert settings["test/error.mean"].to_dict() == {32: 0.32, 64: 0.64}
    assert settings["n"].tolist() == [2, 2]


@pytest.mark.parametrize("count", [1, 3, 5, 6, 10, 11])
def test_every_tag_has_a_column(make_run, count):
    terms = {f"ireg/t{number}": [1.0, 2.0] for number in range(count)}
    losses = {f"norm/n{number}": [1.0, 2.0] for number in range(count)}
    sweep = make_run("a", {"test/error": [0.9, 0.5], **terms, **losses})
    titles = printed(summary_of(sweep)).splitlines()
    columns = [word for line in titles for word in line.split() if word.startswith(("ireg/", "norm/"))]
    assert sorted(columns) == sorted([*terms, *losses])


def test_printed_numbers(seeds):
    text = printed(summary_of(seeds))
    assert "every run: lr=0.1, batch_size=64" in text
    assert "30.00 ± 26.46 %" in text
    assert "3.000e-03 ± 2.646e-03" in text
    assert "60.00 % @ 1" in text
    (diverged,) = [line for line in text.splitlines() if line.split()[:2] == ["adam-1", "diverged"]]
    assert diverged.split()[3:6] == ["adam", "1", "nan"]


def test_brackets_in_names_and_errors_are_printed(make_run):
    sweep = make_run("[bold]hidden=[8]", None, state="failed", error="[data] root is missing")
    text = printed(summary_of(sweep))
    assert "[bold]hidden=[8]" in text
    assert "[data] root is missing" in text


def test_nothing_is_cut_off_on_a_narrow_terminal(seeds):
    text = printed(summary_of(seeds), width=60)
    assert "…" not in text
    assert max(map(len, text.splitlines())) <= 60


def test_epochs_that_differ_are_shown_with_the_settings(make_run):
    for epochs in (1, 2):
        for seed in (0, 1):
            tags = {"test/error": [0.5] * (epochs + 1)}
            sweep = make_run(f"{epochs}-{seed}", tags, {"epochs": epochs, "seed": seed})
    settings = summarize_settings(summary_of(sweep))
    assert settings["epochs"].tolist() == [1, 2]
    assert "epochs" in printed(summary_of(sweep)).partition("Settings:")[2]


def test_csv_has_full_precision(make_run):
    sweep = make_run("a", {"test/loss": [0.1 + 0.2], "ireg/full_batch": [1.2345678901234567e-11]})
    assert sweep / "summary.csv" in write(sweep)
    with (sweep / "summary.csv").open(newline="") as file:
        (row,) = csv.DictReader(file)
    assert float(row["test/loss"]) == 0.1 + 0.2
    assert float(row["ireg/full_batch"]) == 1.2345678901234567e-11


@pytest.mark.parametrize(
    ("value", "text"),
    [(64.0, "64"), (1e-05, "1e-05"), (0.001, "0.001"), (True, "true"), (None, ""), (float("nan"), ""), ("l2", "l2")],
)
def test_plain_values(value, text):
    assert plain(value) == text


def test_a_setting_without_one_of_the_columns_has_a_row(make_run):
    for seed in (0, 1):
        make_run(f"plain-{seed}", {"test/error": [0.5]}, {"seed": seed})
        sweep = make_run(f"momentum-{seed}", {"test/error": [0.25]}, {"seed": seed, "optimizer.momentum": 0.9})
    settings = summarize_settings(summary_of(sweep))
    assert settings["test/error.mean"].tolist() == [0.25, 0.5]
    assert settings["optimizer.momentum"].isna().tolist() == [False, True]


def test_a_seed_counts_once(make_run):
    """Runs that differ in what they measure only, or in their folder's name, are no further samples."""
    values = {"test/error": [0.9, 0.25]}
    sweep = make_run("a", values, {"seed": 0, "terms.every": 1})
    make_run("b", values, {"seed": 0, "terms.every": 2})
    make_run("c", {"test/error": [0.9, 0.75]}, {"seed": 1, "terms.every": 1})
    summary = summarize(runs(sweep), load(sweep))
    (setting,) = summarize_settings(summary).to_dict("records")
    assert len(summary) == setting["runs"] == 3
    assert setting["n"] == 2
    assert setting["test/error.mean"] == 0.5
    (label,) = figures.test_error(load(sweep)).axes[0].get_legend_handles_labels()[1]
    assert label == "sgd (2 seeds)"


def test_numbers_stand_on_the_right():
    rows = pd.DataFrame({"seed": [1], "optimizer": ["sgd"], "best_test_error": ["–"], "norm/l2": ["–"]})
    columns = rich_table("t", rows, list(rows)).columns
    assert [column.justify for column in columns] == ["right", "left", "right", "right"]
