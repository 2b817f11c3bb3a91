"""Folders that cannot be written to: one run's failure, and none at all of a run that is finished.

What is no file, or no folder, stands for missing permission: root, as in a container, needs none.
"""

import json
import pickle
import shutil
import sys
from types import ModuleType

import pytest
from hydra.core import utils
from hydra.core.utils import JobStatus

from ireg.sweeps import launch
from ireg.system.errors import UserError

SMALL = ["data.train_size=40", "data.test_size=20", "model.hidden=[4]", "batch_size=20", "epochs=1", "terms=[]"]


def test_a_folder_that_cannot_be_written_to_harms_no_other_run(tmp_path, forked_train):
    arguments = ["-m", *SMALL, "hydra.sweep.subdir=${seed}"]
    forked_train.start(*arguments, "seed=0", cwd=tmp_path)
    assert forked_train.wait() == 0
    (tmp_path / "log").unlink()
    sweep = tmp_path / "multirun" / "runs"
    finished = sweep / "0"
    (finished / "train.log").unlink()
    (finished / "train.log").mkdir()
    before = (finished / "status.json").stat().st_mtime_ns
    (sweep / "1").write_text("no folder")
    (sweep / "2").mkdir()
    (sweep / "2" / ".hydra").write_text("no folder")
    forked_train.start(*arguments, "seed=0,1,2,3", cwd=tmp_path)
    assert forked_train.wait() == 1
    log = (tmp_path / "log").read_text()
    assert "1 of 4 done already; to do one again, delete its folder" in log
    for name in ("1", "2/.hydra"):
        assert f"runs/{name}: File exists; choose another place, or repair this one" in log
    assert "error: multirun/runs/1: File exists; choose another place" in log
    assert "Traceback" not in log
    assert (finished / "status.json").stat().st_mtime_ns == before
    assert json.loads((sweep / "3" / "status.json").read_text())["state"] == "done"
    assert (sweep / "1").read_text() == "no folder"
    (sweep / "1").unlink()
    shutil.rmtree(sweep / "2")
    forked_train.start(*arguments, "seed=0,3", cwd=tmp_path)
    assert forked_train.wait() == 0  # all are finished


def test_a_finished_run_is_skipped_without_its_lock(tmp_path, small_run):
    value = small_run(tmp_path / "run", *SMALL)
    (tmp_path / "run" / ".lock").unlink()
    (tmp_path / "run" / ".lock").mkdir()
    assert small_run(tmp_path / "run", *SMALL) == value


def test_launchers_that_have_imported_hydras_own_call_ours(monkeypatch):
    launcher = ModuleType("launcher")
    launcher.run_job = launch.run_job.__wrapped__
    monkeypatch.setitem(sys.modules, "launcher", launcher)
    launch.register()
    assert launcher.run_job is utils.run_job is launch.run_job


@pytest.mark.parametrize(("error", "hydras_lines"), [(UserError("lr=-1: must be > 0"), 0), (ZeroDivisionError(), 1)])
def test_hydra_adds_a_line_to_errors_that_are_not_the_users_alone(capsys, error, hydras_lines):
    ended = launch.Ended(["lr=-1"], status=JobStatus.FAILED)
    ended.return_value = error
    with pytest.raises(type(error)):
        _ = ended.return_value
    assert capsys.readouterr().err.count("Error executing job with overrides: ['lr=-1']\n") == hydras_lines


def test_a_run_that_is_done_returns_its_value():
    ended = launch.Ended(["lr=1"])
    with pytest.raises(AssertionError):
        _ = ended.return_value
    ended.status, ended.return_value = JobStatus.COMPLETED, 0.25
    assert ended.return_value == 0.25
    assert pickle.loads(pickle.dumps(ended)) == ended  # joblib's workers send it
