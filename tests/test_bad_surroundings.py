"""What can be wrong around a run: a full disk, an unwritable place, a second process, a clock that was set back.

Damaged files of a run that goes on are in test_resume.py.
"""

import errno
import json
import os
import pathlib
import resource
import signal
import subprocess
import time

import pytest

from ireg.experiment import run as run_module
from ireg.lit.module import Classifier
from ireg.runs.status import read_status
from ireg.system.errors import UserError
from tests.conftest import ROOT, command
from tests.content import differences, run_content
from tests.system.test_termination import SMALL, until
from tests.test_resume import ARGUMENTS, break_at, break_off


def test_a_full_disk_is_one_line_and_the_run_goes_on_when_there_is_room(tmp_path, small_run, train):
    """A limit on the size of files stands for the disk: the first checkpoint does not fit."""
    arguments = [*SMALL, "epochs=2", "hydra.run.dir=run"]
    result = subprocess.run(
        command(*arguments),
        cwd=tmp_path,
        capture_output=True,
        text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, 40_000)),
    )
    assert result.returncode == 2
    line = "run/checkpoints/last.ckpt: File too large; choose another place, or repair this one"
    assert result.stderr.strip().splitlines()[-1] == f"error: {tmp_path}/{line}"
    assert "Traceback" not in result.stderr
    status = read_status(tmp_path / "run")
    assert (status["state"], status["epochs_done"]) == ("failed", 1)
    assert "File too large" in status["error"]
    assert list((tmp_path / "run" / "checkpoints").iterdir()) == []
    assert train(*arguments, cwd=tmp_path).returncode == 0
    small_run(tmp_path / "unbroken", "lr=1e-2", "epochs=2")
    content = {name: value for name, value in run_content(tmp_path / "run").items() if not name.startswith(".hydra")}
    assert differences(content, run_content(tmp_path / "unbroken")) == []


def test_a_disk_that_becomes_full_loses_nothing(tmp_path, small_run, monkeypatch, caplog):
    """Neither the checkpoint nor the note of the failure can be written; the checkpoint before is still there."""
    small_run(tmp_path / "unbroken", *ARGUMENTS)
    full = OSError(errno.ENOSPC, "No space left on device")
    with monkeypatch.context() as patch:
        written = []

        def write_bytes(self, data):
            written.append(self)
            if len(written) == 4:
                patch.setattr(pathlib.Path, "write_text", lambda *_, **__: (_ for _ in ()).throw(full))
                raise full
            return original(self, data)

        original = pathlib.Path.write_bytes
        patch.setattr(pathlib.Path, "write_bytes", write_bytes)
        with pytest.raises(OSError, match="No space left on device: .*last.ckpt"):
            small_run(tmp_path / "run", *ARGUMENTS)
    assert "the run failed, which cannot be noted there (No space left on device)" in caplog.text
    assert read_status(tmp_path / "run")["state"] == "running"  # as far as could be noted; no process holds it
    small_run(tmp_path / "run", *ARGUMENTS)
    assert read_status(tmp_path / "run")["starts"][-1]["epoch"] == 3
    assert differences(run_content(tmp_path / "run"), run_content(tmp_path / "unbroken")) == []


def test_a_place_where_nothing_can_be_written_is_one_line(tmp_path, train):
    (tmp_path / "file").write_text("not a folder")
    result = train(*SMALL, "hydra.run.dir=file/run", cwd=tmp_path)
    assert result.returncode == 2
    assert result.stderr.strip().splitlines()[-1].startswith("error: ")
    assert "file/run" in result.stderr
    assert "choose another place, or repair this one" in result.stderr
    assert "Traceback" not in result.stderr


def test_a_second_process_on_the_same_run_refuses_and_harms_nothing(tmp_path, forked_train, small_run):
    run = tmp_path / "run"
    process = forked_train.start(*SMALL, "epochs=100000", "hydra.run.dir=run", cwd=tmp_path)
    until(lambda: (run / "checkpoints" / "last.ckpt").exists())
    before = read_status(run)["starts"]
    with pytest.raises(UserError, match="run is in use by another process; wait for it, or choose another folder"):
        small_run(run, "lr=1e-2", "epochs=100000")
    assert read_status(run)["starts"] == before
    assert read_status(run)["state"] == "running"
    os.kill(process, signal.SIGTERM)
    assert forked_train.wait() == 143


def test_a_clock_that_was_set_back_changes_nothing(tmp_path, small_run, monkeypatch):
    small_run(tmp_path / "unbroken", *ARGUMENTS)
    with monkeypatch.context() as patch:
        break_at(patch, Classifier, "training_step", 24)
        break_off(tmp_path / "run", small_run, *ARGUMENTS)
    begun = read_status(tmp_path / "run")["started"]
    clock = time.time
    monkeypatch.setattr(time, "time", lambda: clock() - 40_000_000)
    monkeypatch.setattr("ireg.runs.status.now", lambda: "2020-01-01T00:00:00+00:00")
    small_run(tmp_path / "run", *ARGUMENTS)
    status = read_status(tmp_path / "run")
    assert (status["started"], status["ended"]) == (begun, "2020-01-01T00:00:00+00:00")
    assert status["epoch_seconds"] > 0
    assert differences(run_content(tmp_path / "run"), run_content(tmp_path / "unbroken")) == []


# A run again from its folder alone.


def test_a_run_is_done_again_from_its_folder_alone(tmp_path, small_run, capsys):
    small_run(tmp_path / "run", *ARGUMENTS)
    before = run_content(tmp_path / "run")
    assert run_module.main([str(tmp_path / "run"), "--into", str(tmp_path / "again")]) == 0
    assert differences(run_content(tmp_path / "again"), before) == []
    assert "mnist10k" in (tmp_path / "again" / "train.log").read_text()
    assert run_module.main([str(tmp_path / "run"), "--quiet"]) == 0  # done already
    assert differences(run_content(tmp_path / "run"), before) == []


def test_a_folder_without_a_run_is_one_line(tmp_path, capsys):
    assert run_module.main([str(tmp_path)]) == 2
    assert "no run there (no status.json); name a run's folder" in capsys.readouterr().err


@pytest.mark.slow
def test_the_command_goes_on_with_a_broken_off_run(tmp_path, small_run, monkeypatch):
    with monkeypatch.context() as patch:
        break_at(patch, Classifier, "training_step", 24)
        break_off(tmp_path / "run", small_run, *ARGUMENTS)
    result = subprocess.run(
        [*command()[:1], "-m", "ireg.run", str(tmp_path / "run")], cwd=ROOT, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr
    assert [start["epoch"] for start in read_status(tmp_path / "run")["starts"]] == [0, 3]
    assert json.loads((tmp_path / "run" / "status.json").read_text())["state"] == "done"
