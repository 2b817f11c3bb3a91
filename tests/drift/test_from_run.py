"""A run taken up where it ended, and every run that cannot be."""

import json

import pytest
import torch
from torch.nn.functional import cross_entropy

from ireg.drift.from_run import load
from ireg.drift.orders import follow, measure
from ireg.drift.small_steps import refine
from ireg.runs.find import find_runs
from ireg.system.errors import UserError


@pytest.mark.parametrize("name", ["gd", "nesterov", "rmsprop", "adagrad", "adamw"])
def test_an_optimizer_goes_on_from_its_checkpoint(tmp_path, small_run, name):
    small_run(tmp_path, f"optimizer={name}", "lr=1e-3", "terms=[]")
    start = load(tmp_path, seed=3)
    checkpoint = torch.load(tmp_path / "checkpoints" / "last.ckpt", weights_only=True)
    assert (start.epoch, start.folder, start.config.optimizer["name"], start.problem.seed) == (2, tmp_path, name, 3)
    module, optimizer = start.problem.begin()
    for parameter, weight in module.named_parameters():
        assert torch.equal(weight, checkpoint["state_dict"][f"model.{parameter}"])
    for index, state in checkpoint["optimizer_states"][0]["state"].items():
        known = optimizer.state[optimizer.param_groups[0]["params"][index]]
        assert all(torch.equal(torch.as_tensor(known[key]), torch.as_tensor(state[key])) for key in state)
    assert start.problem.batch_size == (200 if name == "gd" else 32)
    refine(optimizer, 2)
    assert all(stop.weights.isfinite().all() for stop in follow(start.problem, 2, 0))


def test_the_loss_is_that_of_the_run(tmp_path, small_run):
    small_run(tmp_path, "lr=0.1", "terms=[]")
    problem = load(tmp_path, seed=0).problem
    parts = problem.partition("measured minibatches")
    with torch.no_grad():
        expected = sum(float(cross_entropy(problem.module(x), y)) for x, y in parts) / 7
    assert measure(problem, problem.weights)[0] == pytest.approx(expected, rel=1e-5)
    final = json.loads((tmp_path / "status.json").read_text())["final"]
    assert expected == pytest.approx(final["train/loss"], rel=0.2)


def test_runs_in_double_precision_and_with_fused_kernels(tmp_path, small_run):
    small_run(tmp_path, "optimizer=adam", "trainer.precision=64-true", "trainer.accelerator=cpu", "trainer.fused=true")
    problem = load(tmp_path, seed=0).problem
    assert problem.inputs.dtype == torch.float64
    module, optimizer = problem.begin()
    assert next(module.parameters()).dtype == torch.float64
    assert optimizer.param_groups[0]["fused"] is None
    assert follow(problem, 1, 0)[0].weights.isfinite().all()


def status(folder, **fields):
    path = folder / "status.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


@pytest.fixture
def run_folder(tmp_path, small_run):
    small_run(tmp_path, "terms=[]")
    return tmp_path


@pytest.mark.parametrize("state", ["running", "diverged", "failed", "interrupted"])
def test_runs_that_are_not_done_are_refused(run_folder, state):
    status(run_folder, state=state)
    with pytest.raises(UserError, match=f"the run is {state}; its drift can be measured once a run is done"):
        load(run_folder, seed=0)


def test_a_folder_without_a_run_is_refused(tmp_path):
    with pytest.raises(
        UserError, match=r"no run there \(no status.json\); name a run's folder, like multirun/NAME/RUN"
    ):
        load(tmp_path, seed=0)
    for path in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(UserError, match="no run there"):
            find_runs([path])


def test_missing_and_damaged_checkpoints_are_refused(run_folder):
    checkpoint = run_folder / "checkpoints" / "last.ckpt"
    other = torch.load(checkpoint, weights_only=True)
    other["state_dict"]["model.1.weight"] = torch.zeros(1)
    torch.save(other, checkpoint)
    with pytest.raises(UserError, match="last.ckpt: is not as it was written; run the training again"):
        load(run_folder, seed=0)
    torch.save({"state_dict": {}}, checkpoint)
    with pytest.raises(UserError, match="last.ckpt: "):
        load(run_folder, seed=0)
    checkpoint.write_bytes(b"not a checkpoint")
    with pytest.raises(UserError, match="last.ckpt: cannot be read .*; run the training again"):
        load(run_folder, seed=0)
    checkpoint.unlink()
    with pytest.raises(UserError, match="there is no such checkpoint; run the training again"):
        load(run_folder, seed=0)


@pytest.mark.parametrize(("key", "value"), [("gradient_clip_val", 1.0), ("precision", "bf16-mixed")])
def test_training_that_is_not_repeated_is_refused(run_folder, key, value):
    config = json.loads((run_folder / "status.json").read_text())["config"]
    config["trainer"][key] = value
    status(run_folder, config=config)
    with pytest.raises(UserError, match=f"trainer.{key}={value} is not repeated here"):
        load(run_folder, seed=0)


def test_minibatches_of_no_epoch_are_refused(run_folder):
    config = json.loads((run_folder / "status.json").read_text())["config"]
    status(run_folder, config=config | {"sampling": "independent"})
    with pytest.raises(UserError, match="sampling=independent is not repeated here; measure a run with sampling=epoch"):
        load(run_folder, seed=0)


def test_an_optimizer_without_rule_is_refused(run_folder):
    config = json.loads((run_folder / "status.json").read_text())["config"]
    config["optimizer"] |= {"_target_": "torch.optim.ASGD"}
    config["terms"] = {"every": 1, "method": "auto"}
    status(run_folder, config=config)
    with pytest.raises(UserError, match="ASGD: unknown optimizer"):
        load(run_folder, seed=0)


def test_runs_are_found_at_any_depth_and_once(tmp_path):
    for name in ("sweep/b", "sweep/a", "one"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "status.json").write_text("{}")
    (tmp_path / "sweep" / "summary.csv").write_text("")
    (tmp_path / "sweep" / "figures").mkdir()
    paths = [tmp_path / "one", tmp_path / "sweep" / "b", tmp_path / "sweep", tmp_path / "sweep" / "summary.csv"]
    assert find_runs(paths) == [tmp_path / name for name in ("one", "sweep/b", "sweep/a")]
