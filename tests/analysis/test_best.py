"""The best learning rate of tables whose answer can be seen, and how doubtful choices are told."""

import csv
import math

import pytest

from ireg.analysis import best_rates, runs, show, write
from ireg.analysis.best import default_criterion, print_best, print_doubts
from ireg.system.errors import UserError


@pytest.fixture
def grid(make_run):
    """A function that writes runs given as {lr: final test errors by seed} and returns the sweep's folder.

    Instead of a number stands a state, of a run without rows, or None for a seed that was not started.
    """

    def write_grid(rates, config=None, prefix="run"):
        for lr, finals in rates.items():
            for seed, final in enumerate(finals):
                settings = {"lr": lr, "seed": seed, **(config or {})}
                name = f"{prefix}-{lr}-{seed}"
                if isinstance(final, str) and final != "nan":
                    sweep = make_run(name, None, settings, state=final)
                elif final is not None:
                    sweep = make_run(name, {"test/error": [0.9, final], "train/error": [0.9, lr]}, settings)
        return sweep

    return write_grid


def the_row(sweep, criterion="test/error"):
    (row,) = best_rates(runs(sweep), criterion).to_dict("records")
    return row


def test_the_smallest_mean_wins_with_its_spread(grid):
    row = the_row(grid({0.01: [0.5, 0.7, 0.6], 0.1: [0.1, 0.2, 0.6], 1.0: [0.1, 0.9, 0.8]}))
    assert (row["optimizer"], row["batch_size"], row["criterion"]) == ("sgd", 64, "test/error")
    assert (row["lr"], row["n"], row["rates"], row["diverged"], row["incomplete"]) == (0.1, 3, 3, 0, 0)
    assert row["mean"] == pytest.approx(0.3, rel=1e-12)
    assert row["sd"] == pytest.approx(math.sqrt(0.07), rel=1e-12)  # (0.04 + 0.01 + 0.09) / 2
    assert (row["runner_up"], row["runner_up_mean"]) == (0.01, pytest.approx(0.6))
    assert row["warnings"] == ""


def test_an_optimizer_without_the_others_argument_has_its_row(grid):
    """Adam has no momentum: its empty setting is a setting."""
    for momentum in (0.0, 0.9):
        grid({0.1: [0.3], 1.0: [0.5 + momentum / 10]}, {"optimizer.momentum": momentum}, prefix=f"sgd-{momentum}")
    sweep = grid({0.1: [0.4], 1.0: [0.2]}, {"optimizer.name": "adam"}, prefix="adam")
    found = best_rates(runs(sweep))
    momenta = [None if math.isnan(momentum) else momentum for momentum in found["optimizer.momentum"]]
    assert list(zip(found["optimizer"], momenta, found["lr"], strict=True)) == [
        ("adam", None, 1.0),
        ("sgd", 0.0, 0.1),
        ("sgd", 0.9, 0.1),
    ]


@pytest.mark.parametrize(("second", "close"), [(0.35, True), (0.36, False)])
def test_a_runner_up_within_one_standard_error(grid, second, close):
    # Mean 0.3; sd 0.1, so that the standard error of four is 0.05 (0.3 ± √0.03/2 twice: 4 · 0.0075 / 3 = 0.01).
    deviation = math.sqrt(0.03) / 2
    best = [0.3 - deviation, 0.3 - deviation, 0.3 + deviation, 0.3 + deviation]
    row = the_row(grid({0.01: [0.9] * 4, 0.1: best, 1.0: [second - 1e-6] * 4}))
    assert row["lr"] == 0.1
    assert row["warnings"] == close * (
        "sgd: lr=1 is within one standard error of the best, lr=0.1: more seeds can tell them apart"
    )


def test_of_equal_means_the_smaller_rate_wins_and_is_doubtful(grid):
    # 0.1 + 0.2 and 0.15 + 0.15 differ in their last bit.
    row = the_row(grid({1.0: [0.15, 0.15], 0.1: [0.1, 0.2], 10.0: [0.9, 0.9], 0.01: [0.9, 0.9]}))
    assert (row["lr"], row["runner_up"]) == (0.1, 1.0)
    assert "lr=1 is within one standard error of the best, lr=0.1" in row["warnings"]


@pytest.mark.parametrize(
    ("rates", "warning"),
    [
        ({0.01: [0.1, 0.1], 0.1: [0.5, 0.5], 1.0: [0.7, 0.7]}, "lr=0.01, is the smallest rate tried, try smaller ones"),
        ({0.01: [0.7, 0.7], 0.1: [0.5, 0.5], 1.0: [0.1, 0.1]}, "lr=1, is the largest rate tried, try larger ones"),
    ],
)
def test_the_edge_of_the_grid(grid, rates, warning):
    assert the_row(grid(rates))["warnings"] == f"sgd: the best, {warning}"


def test_one_diverged_seed_spoils_a_rate_which_yet_was_tried(grid):
    row = the_row(grid({0.01: [0.5, 0.5], 0.1: [0.3, 0.3], 1.0: [0.1, "diverged"]}))
    assert (row["lr"], row["diverged"], row["incomplete"], row["warnings"]) == (0.1, 1, 0, "")


def test_a_final_nan_is_as_bad_as_divergence(grid):
    row = the_row(grid({0.01: [0.5, 0.5], 0.1: [0.3, 0.3], 1.0: [0.1, "nan"]}))
    assert (row["lr"], row["diverged"], row["warnings"]) == (0.1, 1, "")


def test_a_diverged_seed_decides_before_the_others_are_done(grid):
    row = the_row(grid({0.01: [0.5, 0.5], 0.1: [0.3, 0.3], 1.0: ["diverged", "running"]}))
    assert (row["lr"], row["diverged"], row["incomplete"], row["warnings"]) == (0.1, 1, 0, "")


def test_rates_that_lack_a_seed_are_not_ranked_and_said(grid):
    rates = {0.01: [0.4, 0.4, 0.4], 0.1: [0.3, 0.3, 0.3], 1.0: [0.1, 0.1, "interrupted"], 3.0: [0.1, "failed", None]}
    row = the_row(grid(rates))
    assert (row["lr"], row["rates"], row["incomplete"]) == (0.1, 4, 2)
    assert row["warnings"] == (
        "sgd: the best, lr=0.1, is the largest rate tried, try larger ones; sgd: not ranked, for lack of a seed's "
        "final test/error: lr=1 (2 of 3 seeds), lr=3 (1 of 3 seeds, 1 failed)"
    )


def test_an_unfinished_run_has_no_final_value(make_run):
    make_run("a", {"test/error": [0.9, 0.5]}, {"lr": 0.1})
    sweep = make_run("b", {"test/error": [0.9, 0.1]}, {"lr": 0.01}, state="running")
    assert the_row(sweep)["lr"] == 0.1


def test_a_seed_counts_once(make_run):
    """A run that measures other terms is the same sample; a rate is not complete by having it twice."""
    for lr, seed, every, error in ((0.1, 0, 1, 0.1), (0.1, 0, 2, 0.1), (0.01, 0, 1, 0.3), (0.01, 1, 1, 0.5)):
        config = {"lr": lr, "seed": seed, "terms.every": every}
        sweep = make_run(f"{lr}-{seed}-{every}", {"test/error": [0.9, error]}, config)
    row = the_row(sweep)
    assert (row["lr"], row["n"], row["mean"]) == (0.01, 2, 0.4)
    assert "lr=0.1 (1 of 2 seeds)" in row["warnings"]


def test_every_rate_diverged(grid):
    row = the_row(grid({0.1: ["diverged"] * 2, 1.0: [0.3, "diverged"]}))
    assert [math.isnan(row[column]) for column in ("lr", "mean", "sd", "runner_up")] == [True] * 4
    assert (row["n"], row["diverged"], row["warnings"]) == (0, 2, "sgd: every rate diverged, try smaller ones")


def test_nothing_is_done_yet(grid):
    row = the_row(grid({0.1: [0.3, "running"], 1.0: [0.5, None]}))
    assert math.isnan(row["lr"])
    assert row["warnings"].startswith("sgd: no rate can be ranked yet; sgd: not ranked, for lack of")


def test_one_seed_has_no_standard_error(grid):
    row = the_row(grid({0.01: [0.5], 0.1: [0.3], 1.0: [0.4]}))
    assert (row["lr"], row["n"]) == (0.1, 1)
    assert math.isnan(row["sd"])
    assert row["warnings"] == "sgd: one seed: how far the choice depends on it is unknown"


def test_batch_sizes_are_groups_of_their_own(grid):
    grid({0.01: [0.4, 0.4], 0.1: [0.3, 0.3], 1.0: [0.5, 0.5]}, {"batch_size": 32}, "small")
    sweep = grid({0.1: [0.4, 0.4], 1.0: [0.2, 0.2], 10.0: [0.5, 0.5]}, {"batch_size": 64}, "large")
    best = best_rates(runs(sweep)).set_index("batch_size")
    assert best["lr"].to_dict() == {32: 0.1, 64: 1.0}
    assert best["warnings"].tolist() == ["", ""]


def test_an_optimizers_own_rate_is_no_setting_but_its_other_arguments_are(make_run):
    """Even one that goes with the rate: its effect is not the rate's."""
    for lr, momentum, error in ((0.1, 0.0, 0.4), (0.01, 0.0, 0.5), (1.0, 0.9, 0.1)):
        config = {"lr": lr, "optimizer.lr": lr, "optimizer.momentum": momentum}
        sweep = make_run(f"{lr}-{momentum}", {"test/error": [0.9, error]}, config)
    best = best_rates(runs(sweep))
    assert list(best.columns[:4]) == ["optimizer", "batch_size", "optimizer.momentum", "criterion"]
    assert best.set_index("optimizer.momentum")["lr"].to_dict() == {0.0: 0.1, 0.9: 1.0}
    assert "sgd, optimizer.momentum=0.9: lr=1 is the only rate to choose from" in best["warnings"].iloc[1]


def test_a_single_rate_of_every_optimizer_is_no_choice(grid):
    assert best_rates(runs(grid({0.1: [0.3, 0.4]}))) is None


def test_another_criterion_chooses_another_rate(grid):
    sweep = grid({0.01: [0.5, 0.5], 0.1: [0.3, 0.3]})  # whose training error is the rate
    assert the_row(sweep, "train/error")["lr"] == 0.01
    with pytest.raises(UserError, match="criterion='fit/x': no run has measured it; choose one of test/error, train/e"):
        best_rates(runs(sweep), "fit/x")
    with pytest.raises(UserError, match="criterion='lr': no run has measured it"):
        best_rates(runs(sweep), "lr")


def test_nothing_measured_is_no_error_unless_a_criterion_is_asked_for(grid):
    sweep = grid({0.01: ["failed"], 0.1: ["failed"]})
    assert write(sweep) == [sweep / "summary.csv", sweep / "report.html"]
    with pytest.raises(UserError, match="choose one of nothing: no run has measured anything yet"):
        write(sweep, "test/error")


def test_the_file_holds_the_table_and_the_terminal_its_doubts(grid, capsys):
    grid({0.01: [0.25, 0.75], 0.1: [0.125, 0.25], 1.0: [0.5, 0.5]})
    adam = {"optimizer.name": "adam"}
    sweep = grid({0.01: [0.25, 0.25], 0.1: [0.5, 0.5], 1.0: ["diverged"] * 2}, adam, "adam")
    assert sweep / "summary_best.csv" in write(sweep)
    with (sweep / "summary_best.csv").open(newline="") as file:
        rows = {row["optimizer"]: row for row in csv.DictReader(file)}
    assert {name: float(row["lr"]) for name, row in rows.items()} == {"sgd": 0.1, "adam": 0.01}
    assert (float(rows["sgd"]["mean"]), rows["adam"]["diverged"]) == (0.1875, "1")
    capsys.readouterr()
    print_best(best_rates(runs(sweep)))
    print_doubts(best_rates(runs(sweep)))
    out = capsys.readouterr().out
    (line,) = [line for line in out.splitlines() if line.split()[:1] == ["sgd"]]
    assert line.split() == ["sgd", "0.1", "18.75", "±", "8.84", "%", "2", "3", "0", "0", "0.01"]
    assert [line for line in out.splitlines() if line.startswith("warning")] == [
        "warning: adam: the best, lr=0.01, is the smallest rate tried, try smaller ones"
    ]
    assert "test/error chose these rates, so its means here are optimistic" in out
    assert "--criterion TAG chooses by another tag" in out


def test_the_optimizers_stand_in_the_order_of_their_runs(grid):
    grid({0.1: [0.2], 0.2: [0.3]}, {"optimizer.name": "sgd"}, prefix="a")
    sweep = grid({0.1: [0.2], 0.2: [0.3]}, {"optimizer.name": "adam"}, prefix="b")
    assert best_rates(runs(sweep), "test/error")["optimizer"].tolist() == ["sgd", "adam"]


def test_held_out_examples_choose_where_all_runs_have_them(make_run, capsys):
    """The test error would choose the other rate."""
    for lr, held_out, error in ((0.1, 0.3, 0.2), (0.2, 0.4, 0.1)):
        for seed in (0, 1):
            tags = {"test/error": [0.9, error + seed / 100], "holdout/error": [0.9, held_out + seed / 100]}
            folder = make_run(f"held/run-{lr}-{seed}", tags, {"lr": lr, "seed": seed})
    assert default_criterion(runs(folder)) == "holdout/error"
    show(folder)
    assert "held-out error 30.00, 31.00 %" in capsys.readouterr().out
    show(folder, "test/error")
    assert "test error 10.00, 11.00 %" in capsys.readouterr().out
    # One run without them, and all are compared by what all have.
    make_run("held/run-0.3-0", {"test/error": [0.9, 0.5]}, {"lr": 0.3, "seed": 0})
    assert default_criterion(runs(folder)) == "test/error"
