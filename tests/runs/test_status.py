import json
import math
import re
import subprocess
import sys
from importlib.metadata import PackageNotFoundError

import pytest

import ireg
from ireg.runs import software
from ireg.runs.lock import locked
from ireg.runs.ownership import finished
from ireg.runs.status import Status, config_hash, read_status
from ireg.system.errors import UserError
from ireg.system.termination import Terminated

ADDED = {
    "loss": "cross_entropy",
    "regularizer": {"name": "none"},
    "sampling": "epoch",
    "max_steps": None,
    "schedule": {"name": "constant", "warmup": 0, "final": 0.0},
    "weight_average": {"name": "none", "decay": 0.999},
}
"""Keys that there were not at first, with what a run without them did."""
CONFIG = {
    "name": "a",
    "lr": 0.1,
    "epochs": 3,
    "threads": 1,
    "data": {"root": "here", "source": {"root": "here"}, "holdout": None, "context": None},
    **ADDED,
}


def test_the_hash_is_that_of_before_there_was_a_choice_of_losses():
    before = {key: value for key, value in CONFIG.items() if key not in ("loss", "regularizer", "sampling")}
    before["data"] = {key: value for key, value in CONFIG["data"].items() if key != "holdout"}
    assert config_hash(before) == config_hash(CONFIG) != config_hash(CONFIG | {"loss": "squared_error"})
    assert config_hash(CONFIG) != config_hash(CONFIG | {"sampling": "independent"})
    assert config_hash(CONFIG) != config_hash(CONFIG | {"data": CONFIG["data"] | {"holdout": 5}})


def test_the_hash_is_that_of_before_kernels_were_chosen_automatically():
    def with_kernel(fused):
        return config_hash(CONFIG | {"trainer": {"fused": fused}})

    assert with_kernel("auto") == with_kernel(False) != with_kernel(True)


def test_the_hash_knows_what_changes_the_result():
    elsewhere = CONFIG | {"name": "b", "data": {"root": "there", "source": {"root": "there"}}}
    assert config_hash(CONFIG) == config_hash(elsewhere)
    watched = CONFIG | {"checkpoint": {"every": 5}, "objective": "test/loss", "trainer": {"profiler": "simple"}}
    assert config_hash(CONFIG | {"trainer": {}}) == config_hash(watched)
    assert config_hash(CONFIG | {"trainer": {}}) != config_hash(CONFIG | {"trainer": {"precision": "64-true"}})
    assert config_hash(CONFIG) != config_hash(CONFIG | {"lr": 0.2})
    assert config_hash(CONFIG) == config_hash(dict(reversed(CONFIG.items())))
    assert CONFIG["data"] == {"root": "here", "source": {"root": "here"}, "holdout": None, "context": None}


def test_what_was_added_is_in_no_hash_of_a_run_without_it():
    plain = CONFIG | {"terms": {"every": 1}}
    assert config_hash(plain) == config_hash(CONFIG | {"terms": {"every": 1, "every_n_steps": None}})
    assert config_hash({key: value for key, value in CONFIG.items() if key not in ADDED}) == config_hash(CONFIG)
    for key, other in (
        ("max_steps", 3),
        ("schedule", {"name": "constant", "warmup": 5, "final": 0.0}),
        ("weight_average", {"name": "ema", "decay": 0.999}),
        ("data", CONFIG["data"] | {"context": 64}),
        ("terms", {"every": 1, "every_n_steps": 3}),
    ):
        assert config_hash(plain | {key: other}) != config_hash(plain)


def test_a_status_follows_a_run(tmp_path):
    status = Status(tmp_path, CONFIG)
    first = read_status(tmp_path)
    assert (first["state"], first["epochs"], first["epochs_done"], first["error"]) == ("running", 3, 0, None)
    assert first["config"] == CONFIG
    assert {"python", "torch", "lightning", "ireg"} == set(first["versions"])
    status.row(0, {"time/epoch": 9.0, "test/error": 0.9})
    assert read_status(tmp_path)["epoch_seconds"] is None
    status.row(1, {"time/epoch": 2.0, "test/error": 0.5})
    status.row(2, {"time/epoch": 4.0, "test/error": math.nan, "train/loss": math.inf})
    later = read_status(tmp_path)
    assert (later["epochs_done"], later["epoch_seconds"]) == (2, 3.0)
    assert later["final"] == {"time/epoch": 4.0, "test/error": "nan", "train/loss": "inf"}
    status.end("done")
    last = read_status(tmp_path)
    assert last["state"] == "done"
    assert last["started"] <= last["ended"]


def test_a_resumed_run_counts_the_seconds_of_its_epochs_alone(tmp_path):
    """Not those of row 0, and those of the last row once."""
    rows = {epoch: {"time/epoch": seconds} for epoch, seconds in enumerate((9.0, 2.0, 4.0))}
    status = Status(tmp_path, CONFIG)
    status.begin(rows)
    resumed = read_status(tmp_path)
    assert (resumed["epochs_done"], resumed["epoch_seconds"], resumed["starts"][-1]["epoch"]) == (2, 3.0, 2)
    status.row(3, {"time/epoch": 6.0})
    assert read_status(tmp_path)["epoch_seconds"] == 4.0
    unbroken = Status(tmp_path / "unbroken", CONFIG)
    unbroken.begin({})
    for epoch, row in {**rows, 3: {"time/epoch": 6.0}}.items():
        unbroken.row(epoch, row)
    assert read_status(tmp_path / "unbroken")["epoch_seconds"] == 4.0
    status.begin({0: rows[0]})
    assert (read_status(tmp_path)["epochs_done"], read_status(tmp_path)["epoch_seconds"]) == (0, None)


@pytest.mark.parametrize(
    ("error", "state", "text"),
    [
        (RuntimeError("out of luck"), "failed", "RuntimeError: out of luck"),
        (UserError("lr=-1: must be > 0"), "failed", "lr=-1: must be > 0"),
        (KeyboardInterrupt(), "interrupted", "interrupted (SIGINT)"),
        (Terminated(), "interrupted", "terminated (SIGTERM)"),
    ],
)
def test_how_a_run_ended_is_recorded_and_raised(tmp_path, error, state, text):
    status = Status(tmp_path, CONFIG)
    with pytest.raises(type(error)), status.recorded():
        raise error
    last = read_status(tmp_path)
    assert last["state"] == state
    assert last["error"] == text
    assert last["ended"] is not None


@pytest.mark.parametrize(
    ("state", "is_finished"), [("done", True), ("diverged", True), ("running", False), ("failed", False)]
)
def test_finished_runs_are_told_from_others(tmp_path, state, is_finished):
    assert finished(tmp_path, CONFIG) is None
    Status(tmp_path, CONFIG).update(state=state)
    assert (finished(tmp_path, CONFIG) is not None) == is_finished


def test_another_configuration_is_refused_and_named(tmp_path):
    Status(tmp_path, CONFIG).end("done")
    other = CONFIG | {"lr": 0.2, "name": "b"}
    with pytest.raises(UserError, match=r"another configuration \(lr: 0.1 there, 0.2 here\); choose another folder"):
        finished(tmp_path, other)


@pytest.mark.parametrize(
    ("there", "here", "difference"),
    [
        (1, 1.0, None),
        (0.0, 0, None),
        (-0.0, 0, None),
        ([0, 0.999], [0.0, 0.999], None),
        ({"a": [{"b": 1}]}, {"a": [{"b": 1.0}]}, None),
        (10**16, 1e16, None),
        (2**53, 2**53 + 1, f"{2**53} there, {2**53 + 1} here"),
        (float(2**53), 2**53 + 1, f"{float(2**53)} there, {2**53 + 1} here"),
        (True, 1, "True there, 1 here"),
        (1.0, True, "1.0 there, True here"),
        ([False], [0], "[False] there, [0] here"),
        (1, "1", "1 there, 1 here"),
        (None, "null", "None there, null here"),
    ],
)
def test_a_value_has_several_spellings(tmp_path, there, here, difference):
    Status(tmp_path, CONFIG | {"optimizer": {"eps": there}}).end("done")
    other = CONFIG | {"optimizer": {"eps": here}}
    if difference is None:
        assert finished(tmp_path, other)["state"] == "done"
    else:
        with pytest.raises(UserError, match=re.escape(f"(optimizer.eps: {difference});")):
            finished(tmp_path, other)


def test_a_value_that_is_missing_is_no_null(tmp_path):
    Status(tmp_path, CONFIG | {"optimizer": {}}).end("done")
    with pytest.raises(UserError, match=r"\(optimizer.foreach: nothing there, None here\);"):
        finished(tmp_path, CONFIG | {"optimizer": {"foreach": None}})


def test_a_run_keeps_its_hash_under_another_spelling(tmp_path):
    first = Status(tmp_path, CONFIG | {"optimizer": {"eps": 0}}).fields["config_hash"]
    respelled = CONFIG | {"optimizer": {"eps": 0.0}}
    assert Status(tmp_path, respelled).fields["config_hash"] == first  # its checkpoints bear it
    assert Status(tmp_path, CONFIG | {"optimizer": {"eps": 0.5}}).fields["config_hash"] not in (
        first,
        config_hash(respelled),
    )


def test_a_damaged_status_is_named(tmp_path):
    (tmp_path / "status.json").write_text("{")
    with pytest.raises(
        UserError, match=r"status.json: not readable as JSON \(.*\); if a run wrote it, delete this file alone"
    ):
        read_status(tmp_path)


def test_a_folder_is_held_by_one_process(tmp_path):
    code = f"from pathlib import Path; from ireg.runs.lock import locked\nwith locked(Path({str(tmp_path)!r})): pass"
    with locked(tmp_path):
        inside = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    after = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert f"{tmp_path} is in use by another process; wait for it" in inside.stderr
    assert inside.returncode == 1
    assert after.returncode == 0


def test_the_version_is_the_sources_own(tmp_path, monkeypatch):
    """Which need not be installed: `python train.py` runs in a clone, too."""

    def version(package):
        if package == "ireg":
            raise PackageNotFoundError(package)
        return "1.0"

    monkeypatch.setattr(software, "version", version)
    assert Status(tmp_path, CONFIG).fields["versions"]["ireg"] == ireg.__version__


def test_the_commit_is_that_of_the_checkout_that_the_package_is_the_top_of(tmp_path, monkeypatch):
    for name in ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE"):
        monkeypatch.delenv(name, raising=False)
    place = tmp_path / "ireg" / "runs" / "software.py"
    place.parent.mkdir(parents=True)
    place.touch()
    monkeypatch.setattr(software, "__file__", str(place))
    assert software.git() is None  # no checkout

    def call(*arguments):
        given = ["-c", "user.name=a", "-c", "user.email=a@b.c", "-c", "commit.gpgsign=false"]
        done = subprocess.run(["git", "-C", tmp_path, *given, *arguments], check=True, capture_output=True, text=True)
        return done.stdout.strip()

    call("init", "-q")
    call("add", "ireg")
    call("commit", "-q", "-m", "Add the package")
    (tmp_path / "untracked").touch()
    expected = {"commit": call("rev-parse", "HEAD"), "dirty": False}
    assert software.git() == expected
    place.write_text("changed", encoding="utf-8")
    assert software.git() == expected | {"dirty": True}
    (tmp_path / "within" / "ireg" / "runs").mkdir(parents=True)
    monkeypatch.setattr(software, "__file__", str(tmp_path / "within" / "ireg" / "runs" / "software.py"))
    assert software.git() is None  # another project's


def test_git_is_told_or_null(tmp_path, monkeypatch):
    monkeypatch.delenv("GIT_DIR", raising=False)
    git = Status(tmp_path, CONFIG).fields["git"]
    assert git is None or (len(git["commit"]) == 40 and git["dirty"] in (True, False))
    monkeypatch.setenv("PATH", str(tmp_path))
    assert Status(tmp_path, CONFIG).fields["git"] is None
    json.loads((tmp_path / "status.json").read_text())


def test_targets_of_earlier_versions_are_those_of_today(tmp_path):
    config = {"data": {"source": {"_target_": "ireg.datasets.idx"}}, "epochs": 1, "threads": 1}
    (tmp_path / "status.json").write_text(json.dumps({"state": "done", "config": config, "config_hash": "1"}))
    source = {"_target_": "ireg.data.idx.idx"}
    present = config | {"data": {"source": source, "holdout": None, "context": None}} | ADDED
    assert read_status(tmp_path)["config"] == present
    assert finished(tmp_path, present)["state"] == "done"
    assert Status(tmp_path, present).fields["config_hash"] == "1"
