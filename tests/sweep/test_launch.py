"""Folders that cannot be written to: one run's failure, and none at all of a run that is finished.

What is no file, or no folder, stands for missing permission: root, as in a container, needs none.
"""

import json
import shutil
import sys
from types import ModuleType

from hydra.core import utils

from ireg.sweep import launch

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
