"""`ireg.sweep`: the command from Python."""

import json
import re
import subprocess

import pytest

import ireg
from ireg.commands import from_python
from ireg.system.errors import UserError

SMALL = ["epochs=1", "data=digits", "data.train_size=64", "data.test_size=64", "model.hidden=[8]"]


def test_the_runs_of_this_call_come_back_and_none_is_done_again(tmp_path, capfd, train):
    folder = tmp_path / "it's here"
    place = f"hydra.sweep.dir={from_python._quoted(folder)}"
    before = train("-m", "optimizer=sgd,adam", "lr=1e-3", *SMALL, place, cwd=tmp_path)
    assert before.returncode == 0, before.stderr
    written = {path: path.stat().st_mtime_ns for path in folder.glob("*/metrics.csv")}
    assert len(written) == 2
    found = ireg.sweep(["optimizer=sgd", "lr=1e-3,1e30", *SMALL], folder=folder)
    assert found["optimizer"].tolist() == ["sgd"]  # Adam's run is of another call
    assert found["lr"].tolist() == [1e-3]  # the other one has diverged
    assert found["test/error"].between(0, 1).all()
    assert {path: path.stat().st_mtime_ns for path in written} == written
    said = capfd.readouterr().out
    assert "1 of 2 done already" in said
    assert re.search(r"2 runs \((1 done, 1 diverged|1 diverged, 1 done)\)", said)


def test_a_quiet_call_writes_nothing(monkeypatch, make_run, capfd):
    folder = make_run("a", {"test/error": [0.9, 0.5]})
    commanded(monkeypatch, 0, ["1 run (1 done)"], {"folder": str(folder), "runs": ["a"]})
    assert ireg.sweep([], quiet=True)["run"].tolist() == ["a"]
    assert capfd.readouterr().out == ""
    assert ireg.sweep([])["run"].tolist() == ["a"]
    assert capfd.readouterr().out == "1 run (1 done)\n"


def commanded(monkeypatch, code, lines, asked=None):
    """A command that prints lines and ends with a code."""

    class Process:
        def __init__(self, command, **_):
            self.stdout = [f"{line}\n" for line in lines]
            if asked is not None:
                note = command[command.index("ireg.commands.from_python") + 1]
                with open(note, "w") as file:
                    json.dump(asked, file)

        def wait(self):
            return code

        def terminate(self):
            raise AssertionError

    monkeypatch.setattr(subprocess, "Popen", Process)


@pytest.mark.parametrize(
    ("code", "lines", "error", "text"),
    [
        (2, ["checking", "error: lr=-1.0: must be > 0"], UserError, "^lr=-1.0: must be > 0$"),
        (1, ["error: no room", ""], RuntimeError, "^the sweep has not begun: error: no room$"),
    ],
)
def test_a_command_that_is_refused_says_why(monkeypatch, code, lines, error, text):
    commanded(monkeypatch, code, lines)
    with pytest.raises(error, match=text):
        ireg.sweep(["lr=-1"], quiet=True)


def test_a_sweep_of_which_nothing_has_finished_says_so(monkeypatch, make_run):
    folder = make_run("a", None, state="failed", error="no room")
    commanded(monkeypatch, 1, ["1 of 1 runs failed"], {"folder": str(folder), "runs": ["a"]})
    with pytest.raises(RuntimeError, match="no run of .* has finished: 1 of 1 runs failed"):
        ireg.sweep([], quiet=True)


def test_a_string_is_no_list():
    with pytest.raises(UserError, match=r"^'seed=0': must be a list of strings, as \['seed=0'\]$"):
        ireg.sweep("seed=0")


def test_an_interrupted_call_ends_its_command(monkeypatch):
    ended = []

    class Process:
        def __init__(self, *_, **__):
            self.stdout = self

        def __iter__(self):
            raise KeyboardInterrupt

        def terminate(self):
            ended.append("terminated")

        def wait(self):
            ended.append("waited for")

    monkeypatch.setattr(from_python.subprocess, "Popen", Process)
    with pytest.raises(KeyboardInterrupt):
        ireg.sweep([], quiet=True)
    assert ended == ["terminated", "waited for"]
