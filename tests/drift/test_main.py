"""`python -m ireg.drift` as a user calls it: files, tables, errors in one line."""

import csv
import json
import math
import os
import re
import subprocess
import sys

import pytest

from ireg.drift.__main__ import main
from ireg.drift.study import DRIFT
from ireg.drift.tables import HEADER, text, verdict
from tests.conftest import ROOT, read_only

FAST = ("--orders", "6", "--refinements", "2", "3", "--processes", "1")


RUNS = {
    "sgd": ("optimizer=sgd", "lr=0.05", "trainer.precision=64-true"),
    "adam": ("optimizer=adam", "lr=1e-3"),
    "adagrad": ("optimizer=adagrad", "lr=1e-3"),
}


@pytest.fixture
def one(tmp_path, small_run):
    small_run(tmp_path / "sgd", "terms=[]", "epochs=1", *RUNS["sgd"])
    return tmp_path


@pytest.fixture
def sweep(one, small_run):
    for name in ("adam", "adagrad"):
        small_run(one / name, "terms=[]", "epochs=1", *RUNS[name])
    return one


@pytest.mark.parametrize("name", ["drift.csv", "drift.png", "drift.json"])
def test_files_of_others_are_refused_before_the_measurement(one, capsys, name):
    (one / name).write_text('{"a": 1}')
    assert main([str(one / "sgd"), *FAST, "--output", str(one)]) == 2
    assert f"ireg did not write {name} there" in capsys.readouterr().err
    assert (one / name).read_text() == '{"a": 1}'


def test_one_run_from_the_command_line(one, capsys):
    assert main([str(one / "sgd"), *FAST]) == 0
    out, err = capsys.readouterr()
    assert "sgd: 26 epochs of training, and measurements as long as" in err  # 6 + 2 · 4 + 3 · 4
    assert "time left: " in err
    folder = one / "sgd" / "drift"
    assert {path.name for path in folder.iterdir()} == {"drift.json", "drift.csv", "drift.png"}
    assert (folder / "drift.png").read_bytes().startswith(b"\x89PNG")
    result = json.loads((folder / "drift.json").read_text())
    assert (result["run"], result["optimizer"], result["lr"], result["epoch"]) == ("sgd", "sgd", 0.05, 1)
    assert result["options"] | {"checkpoint": None} == {
        "orders": 6, "refinements": [2, 3], "shrinking": None, "seed": 0, "flow_lr": None, "checkpoint": None,
    }  # fmt: skip
    assert result["leading_flow_left_out"] is None
    assert result["leading_flow"]["estimates"]["k"][0] == pytest.approx(1, abs=0.5)
    with (folder / "drift.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert tuple(rows[0]) == HEADER
    assert result["small_steps"]["shrinking"] is None
    value, error = result["small_steps"]["kept"]["mean/equal C/squares"]
    (row,) = [row for row in rows if (row["place"], row["what"], row["quantity"]) == ("mean", "equal C", "squares")]
    assert row["part"] == "small steps, memory kept"
    assert (float(row["value"]), float(row["error"])) == (value, error)
    assert "Finite steps less small steps" in out
    assert f"sgd: curvature λ₁ {result['curvature']['steepest']:.3g}, smoothness " in out
    (row,) = [row for row in rows if row["quantity"] == "steepest"]
    assert (row["part"], float(row["value"])) == ("curvature", result["curvature"]["steepest"])
    assert "all k = 1 is the theorem" in out
    step = result["leading_flow"]["finite_step"]
    assert result["leading_flow"]["noise"] is None  # the control: SGD has no F, and all of its drift is finite steps
    assert step["rate"] == 0.05
    assert step["estimates"]["k"] == pytest.approx(result["leading_flow"]["estimates"]["k"], rel=1e-9)
    low, high = step["interval"]
    value, error = step["estimates"]["k"]
    assert (low, high) == pytest.approx((value - 4.302653 * error, value + 4.302653 * error), rel=1e-6)  # three pairs
    assert {row["rate"] for row in rows} == {"0.05"}
    (row,) = [row for row in rows if (row["part"], row["quantity"]) == ("finite step", "k low")]
    assert float(row["value"]) == low
    assert "Finite step alone: the drift less F at rate 0, against M + V; k = 1 is the theorem" in out


def test_the_leading_flow_at_another_rate(sweep, capsys):
    assert main([str(sweep / "adam"), *FAST, "--flow-lr", "1e-7"]) == 0
    out = capsys.readouterr().out
    (line,) = [line for line in out.splitlines() if "k_V" in line]
    assert line.split()[:2] == ["adam", "1e-07"]
    result = json.loads((sweep / "adam" / "drift" / "drift.json").read_text())
    assert result["lr"] == 1e-3
    assert result["leading_flow"]["lr"] == 1e-7
    assert result["leading_flow"]["estimates"]["strength predicted"][0] < result["predicted"]["strength"]
    assert (result["leading_flow"]["finite_step"]["rate"], result["leading_flow"]["noise"]["rate"]) == (1e-7, 0.0)
    with (sweep / "adam" / "drift" / "drift.csv").open() as file:
        rates = {(row["part"], float(row["rate"])) for row in csv.DictReader(file)}
    assert rates >= {("leading flow", 1e-7), ("finite step", 1e-7), ("noise of the preconditioner", 0.0)}
    assert ("small steps, memory kept", 1e-3) in rates
    (line,) = [line for line in out.splitlines() if " to " in line and line.startswith("adam ")]
    assert line.split()[1] == "1e-07"


def test_results_of_earlier_versions_are_read_and_their_tables_replaced(one, capsys):
    assert main([str(one / "sgd"), *FAST]) == 0
    capsys.readouterr()
    folder = one / "sgd" / "drift"
    earlier = json.loads((folder / "drift.json").read_text())
    del earlier["leading_flow"]["finite_step"], earlier["leading_flow"]["noise"]
    (folder / "drift.json").write_text(json.dumps(earlier))
    (folder / "drift.csv").write_text("run,optimizer,lr,part,place,what,quantity,value,error\n")
    assert main([str(one / "sgd"), *FAST]) == 0
    out, err = capsys.readouterr()
    assert "measured already" in err
    assert "all k = 1 is the theorem" in out
    assert "Finite step alone" not in out
    DRIFT.write([earlier], folder)
    assert "finite step" not in (folder / "drift.csv").read_text()
    assert main([str(one / "sgd"), *FAST, "--seed", "1", "--output", str(folder)]) == 0
    assert "Finite step alone" in capsys.readouterr().out


@pytest.mark.parametrize("change", [{"leading_flow": 3}, {"lr": "0.1"}, {"predicted": None}, {"curvature": {"x": []}}])
def test_a_kept_result_that_is_damaged_is_named(one, capsys, change):
    assert main([str(one / "sgd"), *FAST]) == 0
    path = one / "sgd" / "drift" / "drift.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    capsys.readouterr()
    assert main([str(one / "sgd"), *FAST]) == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert re.fullmatch(rf"error: {re.escape(str(path))}: damaged \(.*\); delete the folder, and measure again", line)


def test_a_run_is_not_measured_twice_with_the_same_options(one, capsys):
    assert main([str(one / "sgd"), *FAST]) == 0
    first = capsys.readouterr().out
    assert main([str(one / "sgd"), "--orders", "6", "--refinements", "3", "2"]) == 0
    again = capsys.readouterr()
    assert "measured already, kept as it is; to measure again, delete the folder" in again.err
    assert again.out == first
    assert main([str(one / "sgd"), *FAST, "--seed", "1"]) == 0
    other = capsys.readouterr()
    assert "measured already" not in other.err
    assert other.out != first


def test_a_whole_sweep_with_what_cannot_be_measured_passed_over(sweep, tmp_path_factory, capsys):
    status = json.loads((sweep / "sgd" / "status.json").read_text())
    (sweep / "sgd" / "status.json").write_text(json.dumps(status | {"state": "diverged"}))
    output = tmp_path_factory.mktemp("out")
    assert main([str(sweep), "--output", str(output), *FAST]) == 0
    out, err = capsys.readouterr()
    assert f"passed over: {sweep / 'sgd'}: the run is diverged" in err
    assert "adam: strength " in out
    assert "no leading flow: the predicted strength is" in out
    assert "adagrad: no leading flow: adagrad: its mean flow is known only where" in out
    assert {path.name for path in output.iterdir()} == {"adam", "adagrad", "drift.json", "drift.csv", "drift.png"}
    results = json.loads((output / "drift.json").read_text())
    assert [result["run"] for result in results] == ["adagrad", "adam"]
    assert results[1] == json.loads((output / "adam" / "drift.json").read_text())
    assert f"wrote {output / 'drift.png'}" in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--orders", "4"], "--orders 4: must be even and at least 6; orders come in pairs"),
        (["--orders", "7"], "--orders 7: must be even"),
        (["--refinements", "1", "2"], "--refinements 1 2: must be different integers of at least 2, like 2 4 8"),
        (["--refinements", "2", "2"], "--refinements 2 2: must be different"),
        (["--shrinking", "4", "1"], "--shrinking 4 1: must be different integers of at least 2, like 2 4 8"),
        (["--processes", "0"], "--processes 0: must be at least 1"),
        (["--flow-lr", "0"], "--flow-lr 0: must be a finite number above 0, like 1e-6"),
        (["--flow-lr", "nan"], "--flow-lr nan: must be a finite number above 0"),
        (["--flow-lr", "inf"], "--flow-lr inf: must be a finite number above 0"),
        (["--seed", "-1"], "--seed -1: must be at least 0"),
        (["--orders", "6", "--refinements", "2", "--shrinking", "2", "--processes", "1"], "no run there"),  # all taken
        ([], "no run there (no status.json); name a run's folder, like multirun/NAME/RUN"),
    ],
)
def test_errors_are_one_line(tmp_path, capsys, arguments, message):
    assert main([str(tmp_path), *arguments]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: ")
    assert message in err
    assert err.count("\n") == 1


def test_a_sweep_of_which_nothing_can_be_measured(tmp_path, capsys):
    for name in "ab":
        (tmp_path / name).mkdir()
        (tmp_path / name / "status.json").write_text('{"state": "failed"}')
    assert main([str(tmp_path)]) == 2
    assert capsys.readouterr().err.splitlines()[-1] == "error: none of the runs can be measured"


@pytest.mark.parametrize("content", ["{", "[]", "{}"])
def test_a_damaged_result_is_measured_again(one, content):
    folder = one / "sgd" / "drift"
    folder.mkdir()
    (folder / "drift.json").write_text(content)
    assert main([str(one / "sgd"), *FAST]) == 0
    assert json.loads((folder / "drift.json").read_text())["run"] == "sgd"


def test_a_place_that_cannot_be_written_is_refused_before_the_work(one, capsys):
    import ireg.drift.study  # noqa: F401

    with read_only(one):
        assert main(["sgd", *FAST]) == 2
    err = capsys.readouterr().err
    assert err == "error: sgd/drift: cannot be written; choose another place with --output DIR\n"


def test_a_figure_that_fails_costs_no_number(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("ireg.analysis.drift.drift_figure", lambda results: 1 / 0)
    assert {path.name for path in DRIFT.write([made_up("a")], tmp_path)} == {"drift.json", "drift.csv"}
    assert capsys.readouterr().err == "figure drift cannot be drawn: ZeroDivisionError: division by zero\n"


def test_help_is_answered_without_torch():
    environment = os.environ | {"PYTHONPROFILEIMPORTTIME": "1"}
    done = subprocess.run(
        [sys.executable, "-m", "ireg.drift", "--help"], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0
    assert done.stdout.startswith("usage: python -m ireg.drift")
    assert " torch" not in done.stderr


def test_verdicts():
    assert verdict([-0.5, 0.1]) == "lower"
    assert verdict([0.5, 0.1]) == "higher"
    assert verdict([0.15, 0.1]) == "not significant"
    assert verdict([None, None]) == "not significant"


def made_up(run, **estimates):
    names = ("time/loss", "time/squares", "equal C/full_batch", "equal C/squares", "position/loss", "plain/loss")
    return {
        "run": run, "optimizer": "sgd", "lr": 0.1, "curvature": None, "predicted": {"strength": 0.01, "alignment": 1.0},
        "small_steps": {
            "kept": {f"{place}/{name}": [0.5, 0.01] for place in ("mean", "ends") for name in names} | estimates,
            "shrinking": None,
        },
        "leading_flow": None, "leading_flow_left_out": "made up",
    }  # fmt: skip


def test_digits_follow_the_standard_error_and_nan_is_a_dash(tmp_path):
    result = made_up("a", **{"mean/equal C/squares": [None, None], "mean/time/loss": [0.123456, 0.0021],
                             "mean/time/squares": [0.1234567, 0.0]})  # fmt: skip
    lines = text([result]).splitlines()
    assert lines[2].split("  ")[0] == "a"
    assert "0.1235 ± 0.0021" in lines[2]
    assert " 0.123 " in lines[2]
    assert "–" in lines[2]
    assert lines[2].split()[:5] == ["a", "0.1", "kept", "mean", f"{math.exp(0.5):.4g}"]
    assert "a: strength 0.01 and alignment 1 are predicted at rate 0.1; no leading flow: made up" in lines
    assert {path.name for path in DRIFT.write([result], tmp_path)} == {"drift.json", "drift.csv", "drift.png"}
