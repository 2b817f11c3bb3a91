"""`train.py` as a user calls it: errors in one line, and a real sweep read back."""

import csv
import json
import os
import re
import signal
import subprocess
import time
from contextlib import chdir

import pytest
from hydra.errors import MissingConfigException

import ireg
from ireg.config.errors import explain
from ireg.sweeps.callback import _lowest
from ireg.system.command import called
from tests.conftest import call_train, command
from tests.content import differences, run_content, scalars

SMALL = ["data.train_size=200", "data.test_size=100", "model.hidden=[16]", "batch_size=32"]


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["lr=-1"], "error: lr=-1.0: must be a finite number > 0"),
        (["optimizer=rmspro"], "error: optimizer=rmspro: no such choice, did you mean rmsprop?"),
        (["terms=foo"], "error: terms=foo: no such choice; choose one of adaptive"),
        (["lrr=1"], "error: lrr: no such key, did you mean lr?"),
        (["optimizer=[sgd,adam]"], "error: optimizer: choose one, not a list"),
        (
            ["trainer.accelerator=abacus"],
            "error: trainer.accelerator=abacus: choose one of auto, cpu, cuda, gpu, mps, tpu",
        ),
        (["hydra/launcher=foo"], "error: hydra/launcher=foo: no such choice; choose one of basic, joblib, slurm,"),
        (["-m", "lr=interval(0,1)"], "error: BasicSweeper does not support sweep type : INTERVAL_SWEEP"),
        (["hydra.run.dir=/proc/x"], "error: /proc/x: No such file or directory; choose another place"),
        (["-m", "hydra.sweep.dir=/proc/x"], "error: /proc/x: No such file or directory; choose another place"),
        (["lr=[1"], "error: lr=[1: cannot be read; write key=value"),
        (["-m", "lr=1e-3,-1"], "error: lr=-1.0: must be a finite number > 0"),
        (["-m", "optimizer=adam,null"], "error: Config group override must be"),
        (["-cn", "experiment/demo"], "error: -cn experiment/demo: a part of the configuration is not the whole"),
        (["-m", "lr=1e-3,0.001"], "two runs of the sweep would share it"),
    ],
)
def test_a_wrong_configuration_is_one_line_before_torch_is_imported(train, tmp_path, arguments, line):
    result = train(*arguments, cwd=tmp_path)
    assert result.returncode == 2
    assert line in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1
    assert "Traceback" not in result.stderr
    assert list(tmp_path.iterdir()) == []  # nothing was begun


def test_torch_is_not_imported_for_a_wrong_configuration(train, tmp_path):
    result = train("lr=-1", cwd=tmp_path, PYTHONPROFILEIMPORTTIME="1")
    assert "hydra" in result.stderr
    assert " torch" not in result.stderr
    assert "lightning" not in result.stderr


def test_the_traceback_is_there_if_asked_for(train, tmp_path):
    result = train("lr=-1", cwd=tmp_path, HYDRA_FULL_ERROR="1")
    assert result.returncode == 2
    assert "Traceback" in result.stderr
    assert "error: lr=-1.0" in result.stderr


def test_help_names_groups_and_keys(train, tmp_path):
    result = train("--help", cwd=tmp_path)
    assert result.returncode == 0
    optimizers = "adafactor adagrad adam adamw gd lion momentum muon muon_adamw nadam nesterov rmsprop sgd signum"
    assert optimizers in " ".join(result.stdout.split())
    assert "batch_size=64" in result.stdout


def test_the_version_is_ours_and_not_hydras(train, tmp_path):
    result = train("--version", cwd=tmp_path)
    assert (result.returncode, result.stdout, result.stderr) == (0, f"ireg {ireg.__version__}\n", "")


def test_damaged_data_are_one_line(train, tmp_path):
    raw = tmp_path / "data" / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for name in (
        "train-images-idx3-ubyte",
        "train-labels-idx1-ubyte",
        "t10k-images-idx3-ubyte",
        "t10k-labels-idx1-ubyte",
    ):
        (raw / name).write_bytes(b"not an image")
    result = train("data=mnist", "epochs=1", cwd=tmp_path)
    assert result.returncode == 2
    assert "Traceback" not in result.stderr
    assert "train-images-idx3-ubyte has md5" in result.stderr
    assert "expected 6bbc9ace898e44ae57da46a324031adb" in result.stderr


def test_a_single_run_shows_its_final_values(train, tmp_path):
    result = call_train("epochs=1", "lr=1e-2", *SMALL, "hydra.run.dir=here", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert "site-packages" not in result.stderr  # no library's warnings
    assert "here: done after 1 epoch\n" in result.stdout
    assert re.search(r"test/error +. +\d+\.\d\d % ", result.stdout)
    with chdir(tmp_path):
        what_next = [f"{what}: {called(tool, 'here')}" for what, tool in (("report", "analysis"), ("browse", "browse"))]
    assert result.stdout.splitlines()[-2:] == what_next
    assert (tmp_path / "here" / ".hydra" / "config.yaml").exists()
    assert "wrong" in (tmp_path / "here" / "train.log").read_text()
    again = train("epochs=1", "lr=1e-2", *SMALL, "hydra.run.dir=here", cwd=tmp_path)
    assert again.returncode == 0
    assert "here: done already, kept as it is" in again.stderr


def test_the_best_epoch_is_named_where_it_is_not_the_last():
    rows = {0: {"test/error": 0.1}, 1: {"test/error": 0.5}, 2: {"test/error": 0.25}, 3: {"test/error": 0.3}}
    assert list(_lowest(rows, "epoch")) == ["best: test error 25.00 % after epoch 2, 30.00 % at the end"]
    held_out = {number: row | {"holdout/error": row["test/error"] / 2} for number, row in rows.items()}
    assert list(_lowest(held_out, "row")) == ["best: held-out error 12.50 % after row 2, 15.00 % at the end"]
    assert list(_lowest({number: rows[number] for number in (0, 1, 2)}, "epoch")) == []
    assert list(_lowest({0: {"test/error": 0.1}, 1: {"test/error": float("nan")}, 2: {}}, "epoch")) == []


SIZES = ["data.train_size=2000", "data.test_size=500"]
GRID = ["optimizer=sgd,rmsprop", "lr=1e-3,1e30", "epochs=2", "model.hidden=[32]", "batch_size=250", "name=test", *SIZES]


@pytest.fixture(scope="module")
def sweep(tmp_path_factory, forked_train):
    """Two optimizers and a rate that fails to train, for two epochs on the embedded data, in several processes."""
    folder = tmp_path_factory.mktemp("sweep")
    result = forked_train.call("-m", "hydra/launcher=joblib", *GRID, cwd=folder)
    return result, folder / "multirun" / "test"


def names(folder):
    return sorted(path.name for path in folder.iterdir() if path.is_dir() and path.name not in ("figures", "summary"))


def test_a_sweep_goes_on_over_a_run_that_diverges(sweep):
    result, folder = sweep
    assert result.returncode == 0, result.stderr
    states = {name: json.loads((folder / name / "status.json").read_text())["state"] for name in names(folder)}
    assert {name.split("_")[0] for name in states} == {"sgd", "rmsprop"}
    diverged = {name for name, state in states.items() if state == "diverged"}
    assert "sgd_lr=1e+30_batch_size=250_data.test_size=500_data.train_size=2000_model.hidden=32_epochs=2" in diverged
    assert all("lr=0.001" in name for name, state in states.items() if state == "done")
    assert len(states) == 4


def trained(folder):
    """What the runs of a sweep have written, without Hydra's account of how they were started."""
    return {
        name: {file: value for file, value in run_content(folder / name).items() if not file.startswith(".hydra")}
        for name in names(folder)
    }


def test_runs_one_after_the_other_are_bit_equal_to_runs_side_by_side(sweep, forked_train, tmp_path):
    _, folder = sweep
    forked_train.start("-m", *GRID, cwd=tmp_path)
    assert forked_train.wait() == 0
    one, other = trained(folder), trained(tmp_path / "multirun" / "test")
    assert len(one) == 4
    assert differences(one, other) == []


@pytest.mark.slow
def test_more_values_add_runs_and_leave_the_others(tmp_path, forked_train):
    folder = tmp_path / "multirun" / "grow"
    arguments = ["-m", "epochs=1", *SMALL, "name=grow"]
    forked_train.start(*arguments, "seed=0,1", cwd=tmp_path)
    assert forked_train.wait() == 0
    files = [path for name in names(folder) for path in (folder / name).glob("*") if path.is_file()]
    before = {path: path.stat().st_mtime_ns for path in files if path.name not in ("train.log", ".lock")}
    forked_train.start(*arguments, "seed=0,1,2", cwd=tmp_path)
    assert forked_train.wait() == 0
    assert [path for path, time in before.items() if path.stat().st_mtime_ns != time] == []
    assert len(names(folder)) == len(json.loads((folder / "sweep.json").read_text())["runs"]) == 3
    assert (tmp_path / "log").read_text().count("2 of 3 done already; to do one again, delete its folder\n") == 1
    assert "kept as it is" not in (tmp_path / "log").read_text()  # once, and not for each
    with (folder / "summary.csv").open() as file:
        assert sorted(row["seed"] for row in csv.DictReader(file)) == ["0", "1", "2"]
    files = {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file() and path.name != ".lock"}
    (tmp_path / "log").unlink()
    forked_train.start(*arguments, "seed=0,1,2", cwd=tmp_path)
    assert forked_train.wait() == 0
    log = (tmp_path / "log").read_text()
    assert log.startswith("3 of 3 done already; to do one again, delete its folder\n")
    assert "3 runs (3 done)" in log
    assert {path: path.stat().st_mtime_ns for path in files if path.name != "sweep.json"}.items() <= files.items()
    next(folder.glob("*/metrics.csv")).touch()  # newer than the summary, as after a kill before it was written
    forked_train.start(*arguments, "seed=0,1,2", cwd=tmp_path)
    assert forked_train.wait() == 0
    assert (folder / "summary.csv").stat().st_mtime_ns > files[folder / "summary.csv"]


def test_a_sweep_with_a_folder_of_another_configuration_is_refused(tmp_path, forked_train):
    arguments = ["-m", *SMALL, "seed=0,1", "hydra.sweep.subdir=${seed}"]
    forked_train.start(*arguments, "epochs=1", cwd=tmp_path)
    assert forked_train.wait() == 0
    forked_train.start(*arguments, "epochs=2", cwd=tmp_path)
    assert forked_train.wait() == 2
    assert "holds a run of another configuration (epochs: 1 there, 2 here)" in (tmp_path / "log").read_text()


def test_event_files_hold_what_metrics_csv_holds(sweep):
    _, folder = sweep
    for optimizer in ("sgd", "rmsprop"):
        run = (
            folder
            / f"{optimizer}_lr=0.001_batch_size=250_data.test_size=500_data.train_size=2000_model.hidden=32_epochs=2"
        )
        events = scalars(run)
        with (run / "metrics.csv").open() as file:
            rows = list(csv.DictReader(file))
        tags = set(rows[0]) - {"epoch"}
        assert set(events) == tags
        assert ("ireg/rmsprop" in tags) == (optimizer == "rmsprop")
        for tag in tags:
            seen = events[tag]
            expected = [(int(row["epoch"]), float(row[tag])) for row in rows if row[tag]]
            assert [step for step, _ in seen] == [epoch for epoch, _ in expected]
            assert len(expected) == (2 if optimizer == "rmsprop" and "ireg/own" in tag else 3)  # own: after a step
            assert [value for _, value in seen] == pytest.approx([value for _, value in expected], rel=1e-6)


def test_a_sweep_ends_with_table_and_figures(sweep):
    result, folder = sweep
    assert "rmsprop" in result.stdout
    assert "diverged" in result.stdout
    with (folder / "summary.csv").open() as file:
        assert len(list(csv.DictReader(file))) == 4
    figures = {path.name for path in (folder / "figures").iterdir()}
    stems = (
        "training_error",
        "test_error",
        "implicit_regularization",
        "parameter_norm",
        "memorization",
        "own_regularization",
        "equal_fit",
        "rates",
    )
    assert figures == {f"{stem}.{suffix}" for stem in stems for suffix in ("png", "pdf")}
    page = (folder / "report.html").read_text()
    assert page.count("</figure>") == len(stems)
    assert "<dt>command</dt><dd><code>python train.py -m " in page
    assert f"report: {folder / 'report.html'}" in result.stdout


def test_a_failing_run_harms_no_other_and_the_sweep_says_so(train, tmp_path):
    events = ("optimizer=switch", "optimizer.lr=0.1", "optimizer.at=epoch:1,never")
    result = train("-m", *events, "epochs=1", *SMALL, cwd=tmp_path)
    assert result.returncode == 1
    states = [json.loads(path.read_text())["state"] for path in sorted(tmp_path.glob("multirun/runs/*/status.json"))]
    assert sorted(states) == ["done", "failed"]
    lines = [
        line for line in result.stderr.splitlines() if line.startswith("error: optimizer=switch: at=never: must be")
    ]
    assert len(lines) == 1
    assert "Error executing job" not in result.stderr
    assert "Traceback" not in result.stderr
    assert (tmp_path / "multirun" / "runs" / "summary.csv").exists()
    assert "failed" in result.stdout


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("TerminatedWorkerError", "a worker process was killed, for want of memory perhaps"),  # joblib's
        ("UncompletedJobError", "a run's job ended without a word: killed, or out of memory"),  # submitit's
    ],
)
def test_a_run_that_is_lost_is_one_line(name, line):
    told = explain(type(name, (Exception,), {})("a long story\nof many lines"))
    assert told.startswith(line)
    assert "the same command resumes" in told
    assert "\n" not in told


def test_the_launcher_for_slurm_may_be_missing():
    line = explain(MissingConfigException("…", missing_cfg_file="hydra/launcher/submitit_slurm"))
    assert (
        line == "hydra/launcher=slurm: the launcher for Slurm is not installed; pip install -e '.[slurm]' in the clone"
    )


@pytest.mark.slow
def test_ctrl_c_ends_a_sweep_with_its_summary(tmp_path):
    process = subprocess.Popen(
        command("-m", "seed=0,1", "epochs=100000", "hydra.sweep.subdir=${seed}", *SMALL),
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        # A shell's background job ignores Ctrl-C, and so would what it starts.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        text=True,
        start_new_session=True,
    )
    first = tmp_path / "multirun" / "runs" / "0"
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and not (first / "checkpoints" / "last.ckpt").exists():
        time.sleep(0.2)
    os.kill(process.pid, signal.SIGINT)
    output, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    assert errors.endswith("interrupted; the same command resumes\n")
    assert "Traceback" not in errors
    assert json.loads((first / "status.json").read_text())["state"] == "interrupted"
    assert "interrupted" in output
    assert (first.parent / "summary.csv").exists()
