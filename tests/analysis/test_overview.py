"""A sweep on one screen: what stands there, and that it fits."""

import re

import pytest
import scipy.stats

from ireg.analysis import load, runs
from ireg.analysis.compare import comparisons
from ireg.analysis.overview import NAMED, ROWS, print_failures, print_overview, rows_of
from ireg.analysis.summary import summarize
from ireg.analysis.verdict import SHOWN, verdict
from ireg.system.terminal import make_console


def summary_of(sweep):
    return summarize(runs(sweep), load(sweep))


def shown(sweep, width, criterion="test/error"):
    console = make_console(width=width, record=True, quiet=False, file=open("/dev/null", "w"))  # noqa: SIM115
    print_overview(summary_of(sweep), sweep, criterion, console)
    console.file.close()
    return console.export_text().splitlines()


def best(sweep, criterion="test/error"):
    return verdict(summary_of(sweep), criterion)


@pytest.fixture
def grid(make_run):
    """Four optimizers, two rates, two seeds, with names as long as they get."""
    for number, optimizer in enumerate(("sgd", "momentum", "rmsprop", "adam")):
        for rate in (0.001, 0.01):
            for seed in (0, 1):
                error = 0.1 + 0.05 * number + rate + 0.01 * seed
                tags = {
                    "train/error": [0.9, error / 2], "test/error": [0.9, error], "fit/memorized": [0.1, 0.5],
                    "norm/l2": [18.0, 123.456], "ireg/sgd": [1e-3, 1.23456e-17], "ireg/own": [1e-3, 2.5e-5],
                    "time/epoch": ["", 1.5],
                }  # fmt: skip
                config = {"optimizer.name": optimizer, "lr": rate, "seed": seed, "data.noise.rate": 0.3 + rate}
                sweep = make_run(f"{optimizer}_data.noise.rate={0.3 + rate}_lr={rate}_seed={seed}", tags, config)
    return sweep


@pytest.mark.parametrize("width", [50, 80, 120, 200])
def test_it_fits_and_no_number_is_broken(grid, width):
    lines = shown(grid, width)
    assert len(lines) <= 40
    assert max(map(len, lines[1:])) <= width
    assert lines[0].endswith("16 runs (16 done)")
    table = "\n".join(lines)
    for optimizer, number in (("sgd", 0), ("adam", 3)):
        first = 100 * (0.101 + 0.05 * number)
        assert f"{first:.2f}, {first + 1:.2f} %" in table
        assert re.search(rf"^{optimizer} ", table, re.M)
    if width == 200:
        assert "1.23e-17" in table
        assert "123.5" in table
    assert "mean ± half of the 95 % interval over the seeds" not in lines


def test_three_seeds_have_an_interval(make_run):
    for seed in range(3):
        sweep = make_run(f"r{seed}", {"test/error": [0.9, 0.1 + 0.01 * seed]}, {"seed": seed})
    lines = shown(sweep, 80)
    half = 100 * scipy.stats.t.ppf(0.975, 2) * 0.01 / 3**0.5
    assert f"11.00 ± {half:.2f} %" in lines[2]
    assert lines[-1] == "mean ± half of the 95 % interval over the seeds"


def test_the_best_stands_first_and_is_named(make_run):
    for name, lr, error in (("sgd", 0.1, 0.1), ("sgd", 1.0, 0.1005), ("adam", 0.1, 0.3), ("rmsprop", 0.1, 0.4)):
        for seed in range(3):
            found = error + 0.001 * ((seed * (2 if lr == 1 else 1)) % 3)
            tags = {"test/error": [0.9, found], "train/error": [0.9, found / 2]}
            sweep = make_run(f"{name}{lr}{seed}", tags, {"optimizer.name": name, "lr": lr, "seed": seed})
    lines = shown(sweep, 120)
    assert lines[1].split()[:3] == ["setting", "seeds", "test"]
    assert re.match(r"sgd lr=0.1 +3 ", lines[2])
    (line,) = best(sweep)
    pairs = {pair.right: pair.adjusted for pair in comparisons(summary_of(sweep), "test/error")[:3]}
    assert pairs["adam lr=0.1"] < 0.05 < pairs["sgd lr=1"]
    assert line == (
        f"best: sgd lr=0.1, test error 10.10 ± {100 * scipy.stats.t.ppf(0.975, 2) * 0.001 / 3**0.5:.2f} %, not "
        f"significantly better than sgd lr=1 (p = {pairs['sgd lr=1']:.2g})"
    )
    assert best(sweep, "train/error")[0].startswith("best: sgd lr=0.1, training error 5.05")
    assert shown(sweep, 120, "train/error")[1].split()[2:4] == ["training", "error"]


def test_many_that_are_not_different_are_counted(make_run):
    for number in range(NAMED + 3):
        for seed in (0, 1):
            tags = {"test/error": [0.9, 0.1 + 0.01 * ((seed + number) % 2)]}
            sweep = make_run(f"{number}{seed}", tags, {"lr": number + 1, "seed": seed})
    (line,) = best(sweep)
    assert re.search(r", not significantly better than sgd lr=\d \(p = \d.*\) and .* and 3 more$", line)
    assert line.count("p = ") == SHOWN


@pytest.mark.parametrize(
    ("seeds", "second", "end"),
    [
        (1, 0.5, "; one seed has no test"),
        (3, 0.5, ", significantly better than the other"),
    ],
)
def test_what_tells_the_best(make_run, seeds, second, end):
    for seed in range(seeds):
        for name, error in (("sgd", 0.1), ("adam", second)):
            tags = {"test/error": [0.9, error + 0.001 * seed]}
            sweep = make_run(f"{name}{seed}", tags, {"optimizer.name": name, "seed": seed})
    (line,) = best(sweep)
    assert line.endswith(end)


def test_what_has_not_left_its_start_is_never_best(make_run):
    losses = {"sgd": [2.3041, 2.30219], "adam": [2.304, 2.27]}  # fallen by 0.08 % and by 1.5 %
    for name, error in (("sgd", 0.1), ("adam", 0.5)):
        tags = {"train/loss": losses[name], "test/error": [0.9, error]}
        sweep = make_run(name, tags, {"optimizer.name": name})
    assert [row.name for row in rows_of(summary_of(sweep), "test/error")] == ["adam", "sgd"]
    note = "note: sgd has not left its start (training loss 2.304 → 2.302); take a larger lr or more epochs"
    assert best(sweep) == ["best: adam, test error 50.00 %", note]


def test_where_no_setting_has_left_its_start_none_is_best(make_run):
    for name in ("sgd", "adam"):
        sweep = make_run(name, {"train/loss": [2.3, 2.3], "test/error": [0.9, 0.5]}, {"optimizer.name": name})
    assert [line.split()[0] for line in best(sweep)] == ["note:", "note:"]


@pytest.mark.parametrize(
    ("key", "values", "name"), [("epochs", (1, 2), "epochs"), ("data.name", ("a", "b"), "data"), ("lr", (1, 2), None)]
)
def test_there_is_no_best_across_lengths_and_data(make_run, key, values, name):
    for number, value in enumerate(values):
        sweep = make_run(f"r{number}", {"test/error": [0.9, 0.5 - number / 10]}, {key: value})
    (line,) = best(sweep)
    if name is None:
        assert line.startswith("best: sgd lr=2, ")
    else:
        assert line == f"no best: settings differ in {name}; compare those that do not"


def test_runs_that_are_not_done_are_counted_and_come_last(make_run):
    tags = {"test/error": [0.9, 0.5]}
    make_run("a", tags, {"lr": 0.1})
    make_run("b", tags, {"lr": 0.1, "seed": 1}, state="failed", error="no")
    make_run("c", {"test/error": [0.9, "nan"]}, {"lr": 1.0}, state="diverged")
    sweep = make_run("d", {"test/error": [0.9, 0.4]}, {"lr": 0.01}, state="running")
    rows = rows_of(summary_of(sweep), "test/error")
    assert [(row.name, row.seeds) for row in rows] == [
        ("sgd lr=0.1", "1, 1 failed"), ("sgd lr=1", "0, 1 diverged"), ("sgd lr=0.01", "0, 1 running")
    ]  # fmt: skip
    lines = shown(sweep, 80)
    assert lines[0].endswith("4 runs (1 done, 1 failed, 1 diverged, 1 running)")
    assert best(sweep) == []  # no other setting is done
    assert not any("interval" in line for line in lines)  # one seed each


def test_many_settings_are_counted(make_run):
    for number in range(ROWS + 5):
        sweep = make_run(f"r{number}", {"test/error": [0.9, 0.5]}, {"lr": 0.1 + number})
    lines = shown(sweep, 80)
    assert "and 5 settings more: --full shows all" in lines
    assert len(lines) <= 40


def test_where_no_setting_has_a_value_none_is_best(make_run):
    make_run("a", {"test/error": [0.9, 0.5]}, {"lr": 0.1}, state="failed", error="no")
    sweep = make_run("b", {"test/error": [0.9, "nan"]}, {"lr": 1.0}, state="diverged")
    lines = shown(sweep, 80)
    assert len(lines) == 4  # a title, the heads, two settings
    assert best(sweep) == []


def test_the_best_of_several_alone_stands_out(make_run):
    def bold(sweep):
        console = make_console(width=80, record=True, quiet=False, file=open("/dev/null", "w"))  # noqa: SIM115
        print_overview(summary_of(sweep), sweep, "test/error", console)
        console.file.close()
        return [line.split()[1] for line in console.export_text(styles=True).splitlines() if "\x1b[1;32m" in line]

    sweep = make_run("a", {"test/error": [0.9, 0.5]}, {"lr": 0.1})
    assert bold(sweep) == []
    assert len(bold(make_run("b", {"test/error": [0.9, 0.25]}, {"lr": 1.0}))) == 1


def test_one_run_has_no_best(make_run):
    sweep = make_run("a", {"test/error": [0.9, 0.5]})
    lines = shown(sweep, 80)
    assert lines[0].endswith("1 run (1 done)")
    assert lines[1].split()[0] == "setting"  # also above a shorter name
    assert best(sweep) == []


def test_a_reason_is_said_once(make_run, capsys):
    for number in range(NAMED + 2):
        make_run(f"r{number}", None, {"lr": number}, state="failed", error="no\nroom")
    make_run("silent", None, {"lr": 98}, state="failed")
    sweep = make_run("other", None, {"lr": 99}, state="failed", error="no data")
    print_failures(summary_of(sweep), sweep)
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "7 of 7 runs failed:"
    assert sorted(lines[1:]) == sorted([
        f"  r0, r1, r2 and 2 more: no room (see {sweep / 'r0' / 'train.log'})",
        f"  other: no data (see {sweep / 'other' / 'train.log'})",
        f"  silent: no reason is recorded (see {sweep / 'silent' / 'train.log'})",
    ])  # fmt: skip
