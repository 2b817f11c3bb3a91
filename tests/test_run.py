import json
import logging

import numpy as np
import pytest
import torch

from ireg.errors import UserError
from ireg.sweep.status import read_status


def test_a_run_folder_holds_everything(tmp_path, small_run):
    value = small_run(tmp_path, "optimizer=adam", "data.noise.test_rate=0.1")
    names = {path.name.split(".")[0] if path.name.startswith("events") else path.name for path in tmp_path.iterdir()}
    assert names == {"metrics.csv", "events", "labels.npz", "checkpoints", "status.json", ".lock"}
    status = read_status(tmp_path)
    assert (status["state"], status["epochs_done"], status["batch_size"], status["device"]) == ("done", 2, 32, "cpu")
    assert status["wrong_labels"] == 0.3
    assert status["final"]["test/error"] == value
    assert status["config"]["optimizer"]["name"] == "adam"
    labels = np.load(tmp_path / "labels.npz")
    assert labels["corrupted"].sum() == 60
    assert ((labels["observed"] != labels["clean"]) == labels["corrupted"]).all()
    assert labels["test_corrupted"].sum() == 10
    assert len(labels["indices"]) == len(set(labels["indices"])) == 200
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["last.ckpt"]
    assert torch.load(tmp_path / "checkpoints" / "last.ckpt", weights_only=True)["epoch"] == 1


def test_a_finished_run_is_not_repeated(tmp_path, small_run, caplog):
    value = small_run(tmp_path)
    before = (tmp_path / "metrics.csv").stat().st_mtime_ns
    with caplog.at_level(logging.WARNING):
        assert small_run(tmp_path) == value
    assert (tmp_path / "metrics.csv").stat().st_mtime_ns == before
    assert "done already, kept as it is; to run it again, delete the folder" in caplog.text


def test_an_unfinished_run_starts_afresh(tmp_path, small_run):
    small_run(tmp_path)
    expected = (tmp_path / "metrics.csv").read_text().splitlines()[0]
    status = json.loads((tmp_path / "status.json").read_text())
    (tmp_path / "status.json").write_text(json.dumps(status | {"state": "running"}))
    (tmp_path / "metrics.csv").write_text("epoch\n7\n")
    small_run(tmp_path)
    lines = (tmp_path / "metrics.csv").read_text().splitlines()
    assert lines[0] == expected
    assert [line.split(",")[0] for line in lines[1:]] == ["0", "1", "2"]
    assert len(list(tmp_path.glob("events.out.tfevents.*"))) == 1


def test_a_folder_of_another_run_is_refused(tmp_path, small_run):
    small_run(tmp_path)
    with pytest.raises(UserError, match=r"another configuration \(lr: 0.001 there, 0.5 here; optimizer.lr: .*\)"):
        small_run(tmp_path, "lr=0.5")
    assert read_status(tmp_path)["state"] == "done"


@pytest.mark.parametrize(
    ("overrides", "match"),
    [
        (["optimizer=momentum", "optimizer.momentum=-1"], "optimizer=momentum: Invalid momentum value: -1"),
        (["+optimizer.speed=9"], "optimizer=sgd: .*unexpected keyword argument 'speed'"),
        (["model.hidden=[0]"], r"model: widths \[784, 0, 10\]: each must be at least 1"),
        (["model._target_=ireg.models.Nothing"], "model: .*ireg.models.Nothing"),
        (["terms.ireg.sgd._target_=ireg.terms.implicit.nothing"], "terms: .*ireg.terms.implicit.nothing"),
        (["trainer.accelerator=abacus"], "trainer: .*abacus"),
        (["+trainer.max_epochs=3"], "trainer.max_epochs: set by ireg itself; remove it"),
        (["+trainer.speed=3"], "trainer: .*unexpected keyword argument 'speed'"),
        (["trainer.devices=2", "trainer.accelerator=cpu"], "trainer.devices=2: a run uses one device"),
        (["data.num_train=9999"], "data.num_train=9999: the source holds 10000 train examples"),
    ],
)
def test_errors_that_only_the_receiver_can_find(tmp_path, small_run, overrides, match):
    with pytest.raises(UserError, match=match) as error:
        small_run(tmp_path, *overrides)
    assert "\n" not in str(error.value)
    status = read_status(tmp_path)
    assert status["state"] == "failed"
    assert str(error.value) in status["error"]


def test_a_failure_amid_training_is_recorded_and_raised(tmp_path, small_run, monkeypatch):
    from ireg.lit.module import Classifier

    def fail(self, batch, batch_index):
        raise RuntimeError("a cosmic ray")

    monkeypatch.setattr(Classifier, "training_step", fail)
    with pytest.raises(RuntimeError, match="a cosmic ray"):
        small_run(tmp_path)
    assert read_status(tmp_path)["error"] == "RuntimeError: a cosmic ray"
    assert read_status(tmp_path)["state"] == "failed"


def test_threads_are_set_by_each_run(tmp_path, small_run):
    small_run(tmp_path, "threads=2")
    assert torch.get_num_threads() == 2
