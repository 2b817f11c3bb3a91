import io
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from rich.console import Console

import ireg
from ireg.runs.lock import is_locked, locked
from ireg.runs.status import Status, note_killed, read_status
from ireg.sweeps import __main__ as command
from ireg.sweeps.callback import _print_final_values
from ireg.sweeps.plan import add_to_plan, read_plan
from ireg.sweeps.report import report
from ireg.sweeps.table import look, render
from ireg.system.errors import UserError
from tests.conftest import ROOT, read_only

CONFIG = {"epochs": 10, "threads": 1}
ROW = {"time/epoch": 2.0, "train/error": 0.25, "test/error": 0.5}


def make_run(folder, state, done=3, error=None):
    folder.mkdir(parents=True)
    status = Status(folder, CONFIG)
    for epoch in range(done + 1):
        status.row(epoch, ROW)
    status.update(state=state, error=error)
    return folder


def printed(folder, **options):
    output = io.StringIO()
    assert command.show(folder, once=True, console=Console(file=output, **options)) == 0
    return output.getvalue()


def row_of(text, name):
    (line,) = [line for line in text.splitlines() if line.strip().startswith(name)]
    return line.split()


@pytest.fixture
def sweep(tmp_path):
    """One run of every state."""
    for state in ("done", "diverged", "interrupted"):
        make_run(tmp_path / f"a_{state}", state, done=10 if state == "done" else 3)
    make_run(tmp_path / "a_failed", "failed", error="OSError: no\nroom")
    make_run(tmp_path / "a_killed", "running")
    make_run(tmp_path / "a_running", "running", done=4)
    add_to_plan(tmp_path, {"a_waiting": ["seed=9"]})
    return tmp_path


def test_every_state_is_told_apart(sweep):
    with locked(sweep / "a_running"):
        text = printed(sweep, width=150)
    assert text.splitlines()[0].startswith(
        "1 running, 1 failed, 2 interrupted, 1 waiting, 1 diverged, 1 done | time left"
    )
    assert row_of(text, "a_running") == ["a_running", "running", "4/10", "25.0", "%", "50.0", "%", "0:12"]
    assert row_of(text, "a_failed")[-3:] == ["OSError:", "no", "room"]
    assert row_of(text, "a_killed")[1:3] == ["interrupted", "3/10"]
    assert row_of(text, "a_killed")[-7:] == ["killed", "(its", "process", "ended", "without", "a", "word)"]
    assert row_of(text, "a_waiting") == ["a_waiting", "waiting"]
    names = [line.split()[0] for line in text.splitlines() if line.startswith("  a_")]
    assert names == [
        f"a_{word}" for word in ("running", "failed", "interrupted", "killed", "waiting", "diverged", "done")
    ]
    assert read_status(sweep / "a_killed")["state"] == "running"  # looking changes nothing


def test_looking_needs_no_writing(tmp_path):
    run = make_run(tmp_path / "a", "running", done=4)
    with locked(run), read_only(tmp_path):
        assert row_of(printed(Path()), "a")[:3] == ["a", "running", "4/10"]
    with read_only(tmp_path):
        assert row_of(printed(Path()), "a")[:2] == ["a", "interrupted"]


@pytest.mark.parametrize("name", ["m[abc]", "m[/abc]", "m[red]:100:"])
def test_a_name_is_shown_as_it_is(tmp_path, capsys, name):
    folder = make_run(tmp_path / name, "failed", error=f"[/b] of {name}")
    assert row_of(printed(tmp_path), name)[0] == name
    assert f"[/b] of {name}" in printed(tmp_path)
    _print_final_values(folder)
    assert f"{folder}: failed after 3 epochs\n" in capsys.readouterr().out


def test_time_left_counts_what_waits(tmp_path):
    make_run(tmp_path / "a", "running", done=4)
    add_to_plan(tmp_path, {"b": [], "c": []})
    with locked(tmp_path / "a"):
        assert "1 running, 2 waiting | time left: 0:56" in printed(
            tmp_path
        )  # (6 + 10 + 10) epochs and two starts of 2 s
    assert "1 interrupted, 2 waiting\n" in printed(tmp_path)


def test_runs_are_called_by_what_differs(tmp_path):
    add_to_plan(tmp_path, {"x": ["seed=0", "lr=1"], "y": ["seed=1", "lr=1"]})
    assert [run.name for run in look(tmp_path)] == ["seed=0", "seed=1"]
    make_run(tmp_path / "z", "done")  # of which nothing is known
    assert {run.name for run in look(tmp_path)} == {"x", "y", "z"}


@pytest.mark.parametrize("at_once", [1, 2])
def test_so_many_runs_and_no_more_are_done_again_at_once(tmp_path, monkeypatch, at_once):
    alive, most = [], [0]

    class Process:
        def __init__(self, arguments, env):
            assert arguments[1:4] == ["-P", "-m", "ireg.run"]
            assert env["PYTHONPATH"].split(os.pathsep)[0] == str(Path(ireg.__file__).parents[1])
            self.folder = Path(arguments[4])
            alive.append(self)
            most[0] = max(most[0], len(alive))

        def poll(self):
            return None if self in alive else 0

        def terminate(self):
            assert not alive

        def wait(self):
            return int(self.folder.name)

    monkeypatch.setattr(command.subprocess, "Popen", Process)
    monkeypatch.setattr(command.time, "sleep", lambda seconds: alive.pop(0))
    assert command._in_processes([tmp_path / str(code) for code in (0, 1, 0, 3)], at_once) == [0, 1, 0, 3]
    assert most[0] == at_once


def test_a_table_that_is_too_long_says_what_it_leaves_out(sweep):
    output = Console(file=io.StringIO(), width=150)
    output.print(render(look(sweep), rows=2))
    text = output.file.getvalue()
    assert "and 2 interrupted, 1 waiting, 1 diverged, 1 done more" in " ".join(text.split())
    assert "a_done" not in text


def test_a_pipe_gets_all_rows_in_full_width(sweep):
    (sweep / "a_done").rename(sweep / ("long" * 40))
    text = printed(sweep)
    assert "long" * 40 in text


def test_a_terminal_is_kept_up_to_date_until_no_run_goes_on(tmp_path, monkeypatch):
    folder = make_run(tmp_path / "a", "running")
    looks = []

    def one_epoch_later(seconds):
        looks.append(seconds)
        status = json.loads((folder / "status.json").read_text())
        state = "done" if len(looks) == 3 else "running"
        (folder / "status.json").write_text(json.dumps(status | {"epochs_done": 3 + len(looks), "state": state}))

    monkeypatch.setattr(time, "sleep", one_epoch_later)
    output = io.StringIO()
    with locked(folder):
        command.show(tmp_path, once=False, console=Console(file=output, force_terminal=True, width=100, height=30))
    assert looks == [command.REFRESH_SECONDS] * 3
    assert all(f"{epoch}/10" in output.getvalue() for epoch in (3, 4, 5, 6))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(["status", "nowhere"], "nowhere: no such folder"), (["retry", "."], "no runs there \\(no status.json\\)")],
)
def test_a_folder_without_runs_is_one_line(tmp_path, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(tmp_path)
    assert command.main(arguments) == 2
    assert re.match(f"error: .*{message}.*\n$", capsys.readouterr().err)


@pytest.mark.parametrize("jobs", ["0", "two", "-1"])
def test_a_wrong_number_of_jobs_is_refused(tmp_path, capsys, jobs):
    assert command.main(["retry", str(tmp_path), "--jobs", jobs]) == 2
    assert "must be an integer of at least 1" in capsys.readouterr().err


def test_a_plan_grows_and_a_damaged_one_is_named(tmp_path):
    assert read_plan(tmp_path) == {}
    add_to_plan(tmp_path / "new", {"a": ["lr=1"]})
    add_to_plan(tmp_path / "new", {"b": []})
    assert read_plan(tmp_path / "new") == {"a": ["lr=1"], "b": []}
    (tmp_path / "new" / "sweep.json").write_text("[]")
    with pytest.raises(UserError, match="sweep.json: not a list of runs .*; delete it"):
        read_plan(tmp_path / "new")


def test_killed_runs_are_noted_and_others_left(sweep):
    with locked(sweep / "a_running"):
        for name in ("a_running", "a_killed", "a_done", "a_failed"):
            note_killed(sweep / name)
    assert [read_status(sweep / f"a_{name}")["state"] for name in ("running", "killed", "done", "failed")] == [
        "running",
        "interrupted",
        "done",
        "failed",
    ]
    assert read_status(sweep / "a_killed")["error"] == "killed (its process ended without a word)"
    assert not (sweep / "a_waiting").exists()


def test_whether_a_folder_is_held(tmp_path):
    assert not is_locked(tmp_path)
    assert list(tmp_path.iterdir()) == []
    with locked(tmp_path):
        assert is_locked(tmp_path)
    assert not is_locked(tmp_path)


def test_a_look_at_the_lock_keeps_no_run_from_starting(tmp_path):
    code = (
        "import sys, time; from pathlib import Path; from ireg.runs.lock import locked\n"
        "with locked(Path(sys.argv[1])): print('held', flush=True); time.sleep(0.5)"
    )
    other = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, cwd=ROOT)
    assert other.stdout.readline() == b"held\n"
    with locked(tmp_path):  # waits for it
        assert other.wait() == 0


# Real runs.


def fail_on_the_device(sweep, small_run):
    """Two runs that cannot be done, and one that is."""
    for name, value in (("good", "cpu"), ("bad", "tpu"), ("worse", "tpu")):
        try:
            small_run(sweep / name, f"trainer.accelerator={value}")
        except UserError:
            assert name != "good"


def test_the_report_lists_failures_with_their_logs(tmp_path, small_run, capsys):
    fail_on_the_device(tmp_path, small_run)
    (tmp_path / ".summary.tmp-abcd1_34.csv").write_text("left behind")
    report(tmp_path)
    output = capsys.readouterr()
    lines = output.err.splitlines()
    assert lines[0] == "2 of 3 runs failed:"
    assert lines[1].startswith("  bad, worse: trainer: ")
    assert len(lines) == 2
    assert lines[1].endswith(f"(see {tmp_path / 'bad' / 'train.log'})")
    assert (tmp_path / "summary.csv").exists()
    assert not (tmp_path / ".summary.tmp-abcd1_34.csv").exists()


def test_only_failed_runs_are_done_again(tmp_path, small_run, capfd):
    fail_on_the_device(tmp_path, small_run)
    path = tmp_path / "bad" / "status.json"  # its fault is mended, the other's is not
    status = json.loads(path.read_text())
    status["config"]["trainer"]["accelerator"] = "cpu"
    status["config_hash"] = read_status(tmp_path / "good")["config_hash"]
    path.write_text(json.dumps(status))
    before = (tmp_path / "good" / "status.json").read_text()
    assert command.main(["retry", str(tmp_path), "--jobs", "2"]) == 1
    assert [read_status(tmp_path / name)["state"] for name in ("good", "bad", "worse")] == ["done", "done", "failed"]
    assert (tmp_path / "good" / "status.json").read_text() == before
    assert (tmp_path / "bad" / "metrics.csv").read_text().count("\n") == 4
    assert "1 of 3 runs failed:" in capfd.readouterr().err


def test_nothing_to_do_again(tmp_path, small_run, capsys):
    small_run(tmp_path / "good")
    assert command.main(["retry", str(tmp_path)]) == 0
    assert "no run has failed" in capsys.readouterr().out


@pytest.mark.slow
def test_doing_again_ends_its_processes_when_it_is_told_to_end(tmp_path, small_run):
    small_run(tmp_path / "long", "epochs=1")
    path = tmp_path / "long" / "status.json"
    status = json.loads(path.read_text())
    status["config"]["epochs"] = 100_000
    from ireg.runs.status import config_hash

    path.write_text(json.dumps(status | {"state": "failed", "config_hash": config_hash(status["config"])}))
    process = subprocess.Popen([sys.executable, "-m", "ireg.sweeps", "retry", str(tmp_path)], cwd=ROOT)
    while (read_status(tmp_path / "long")["state"], read_status(tmp_path / "long")["epochs_done"] > 1) != (
        "running",
        True,
    ):
        assert process.poll() is None
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGTERM)
    assert process.wait(timeout=60) == 143
    assert read_status(tmp_path / "long")["state"] == "interrupted"
