import gc
import json
import logging
import math
from dataclasses import asdict
from importlib.util import find_spec
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hydra.core.utils import JobReturn
from omegaconf import OmegaConf

from ireg.config.read import read
from ireg.config.schema import ALWAYS_MEASURED
from ireg.experiment.build import make_classifier, make_data, make_model
from ireg.experiment.run import _trainer
from ireg.lit.data import NoisyImages
from ireg.runs import metrics
from ireg.runs.checkpoints import Resumption
from ireg.runs.status import Status, read_status
from ireg.sweeps.callback import RunsCallback
from ireg.system.errors import UserError
from tests.conftest import ROOT


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


@pytest.mark.parametrize("tag", ["test/error", "fit/memorized", "ireg/sgd"])
def test_a_run_returns_its_objective(tmp_path, small_run, tag):
    assert small_run(tmp_path, f"objective={tag}") == read_status(tmp_path)["final"][tag]
    assert small_run(tmp_path, f"objective={tag}") == read_status(tmp_path)["final"][tag]  # done already
    assert small_run(tmp_path, "objective=norm/l2") == read_status(tmp_path)["final"]["norm/l2"]


def test_a_run_that_diverges_returns_infinity(tmp_path, small_run):
    assert small_run(tmp_path, "lr=1e30") == math.inf
    assert small_run(tmp_path, "lr=1e30") == math.inf


def test_an_objective_that_the_optimizer_does_not_have_is_told(tmp_path, small_run):
    overrides = ("terms=[rmsprop]", "objective=ireg/rmsprop")
    with pytest.raises(UserError, match="objective=ireg/rmsprop: the run is done and has no such value; it has train/"):
        small_run(tmp_path, *overrides)
    assert read_status(tmp_path)["state"] == "done"


@pytest.mark.parametrize(
    ("overrides", "match"),
    [
        (["objective=test/erorr"], "objective=test/erorr: choose one of train/loss, .* test/error, .* ireg/sgd"),
        (["terms=[]", "objective=ireg/sgd"], "objective=ireg/sgd: choose one of train/loss, "),
        (["checkpoint.every=0"], "checkpoint.every=0: must be an integer of at least 1"),
    ],
)
def test_objective_and_checkpoints_are_checked(composed, overrides, match):
    with pytest.raises(UserError, match=match):
        read(composed(*overrides))


def test_what_every_run_measures_is_known(tmp_path, small_run):
    small_run(tmp_path, "terms=[]")
    assert set(read_status(tmp_path)["final"]) == set(ALWAYS_MEASURED)


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


def test_a_run_of_a_version_without_a_key_is_the_same_run(tmp_path, small_run, caplog):
    small_run(tmp_path)
    status = json.loads((tmp_path / "status.json").read_text())
    assert status["config"]["terms"].pop("num_batches") is None
    (tmp_path / "status.json").write_text(json.dumps(status))
    small_run(tmp_path)
    assert "done already, kept as it is" in caplog.text
    with pytest.raises(UserError, match=r"another configuration \(terms.num_batches: None there, 3 here\)"):
        small_run(tmp_path, "terms.num_batches=3")


def test_a_folder_of_another_run_is_refused(tmp_path, small_run):
    small_run(tmp_path)
    with pytest.raises(UserError, match=r"another configuration \(lr: 0.001 there, 0.5 here; optimizer.lr: .*\)"):
        small_run(tmp_path, "lr=0.5")
    assert read_status(tmp_path)["state"] == "done"


@pytest.mark.parametrize(
    ("overrides", "match"),
    [
        (["optimizer=momentum", "optimizer.momentum=-1"], "optimizer=momentum: Invalid momentum value: -1"),
        (
            ["optimizer=muon"],
            r"optimizer=muon: Muon only supports 2D .*; use optimizer=muon_adamw, or model=mlp with .*bias=false",
        ),
        (["+optimizer.speed=9"], "optimizer=sgd: .*unexpected keyword argument 'speed'"),
        (["+optimizer.momentum=fast"], "optimizer=sgd: .*not supported between instances of 'str'"),
        (["optimizer=adam", "optimizer.betas=[0.9]"], "optimizer=adam: list index out of range"),
        pytest.param(
            ["optimizer=lion"],
            r"optimizer=lion: the library pytorch_optimizer is not installed; .*pip install -e '.\[optimizers\]'",
            marks=pytest.mark.skipif(find_spec("pytorch_optimizer") is not None, reason="it is installed"),
        ),
        (["data.num_classes=5"], r"train=True: labels from 0 to 9; must be in \[0, 5\)"),
        (["trainer.accelerator=tpu"], "trainer: "),
        (["model._target_=ireg.models.Nothing"], "model: .*ireg.models.Nothing"),
        (["terms.ireg.sgd._target_=ireg.terms.implicit.nothing"], "terms.ireg.sgd: .*ireg.terms.implicit.nothing"),
        (["terms.ireg.sgd._target_=math.pi"], "terms.ireg.sgd: Expected a callable target"),
        (["terms.ireg.sgd._target_=torch.nn.Linear"], "terms.ireg.sgd: torch.nn.Linear is no function of a snapshot"),
        (["terms.ireg.sgd._partial_=false"], "terms.ireg.sgd: .* missing 1 required positional argument: 'snapshot'"),
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


@pytest.mark.parametrize(
    ("override", "attribute", "value"),
    [
        ("batch_size=48", "batch_size", 48),
        ("optimizer=gd", "batch_size", None),
        ("seed=3", "seed", 3),
        ("data.num_classes=11", "num_classes", 11),
        ("data.noise.kind=pairflip", "noise_kind", "pairflip"),
        ("data.noise.rate=0.125", "noise_rates", {"train": 0.125, "test": 0.0}),
        ("data.noise.test_rate=0.5", "noise_rates", {"train": 0.3, "test": 0.5}),
        ("data.noise.seed=4", "noise_seed", 4),
        ("data.train_size=70", "sizes", {"train": 70, "test": None}),
        ("data.test_size=70", "sizes", {"train": None, "test": 70}),
        ("data.subset_seed=5", "subset_seed", 5),
        ("data.eval_batch_size=6", "eval_batch_size", 6),
        ("data.standardize=false", "shift", 0.0),
        ("data.standardize=true", "shift", 0.1307),
        ("data.standardize=true", "scale", 0.3081),
        ("data.num_train=10001", "num_examples", {"train": 10001, "test": 10000}),
    ],
)
def test_every_key_of_the_data_reaches_the_data_module(composed, monkeypatch, override, attribute, value):
    monkeypatch.setattr(NoisyImages, "setup", lambda self: None)
    assert getattr(make_data(read(composed(override))), attribute) == value


def test_every_key_of_the_terms_reaches_the_classifier(composed):
    settings = read(composed("terms.every=7", "terms.method=vmap", "seed=9", "terms=[l2,sgd]"))
    classifier = make_classifier(settings, torch.nn.Linear(2, 2))
    measured = classifier.measurement
    assert (measured.terms_every, measured.options.method, measured.seed) == (7, "vmap", 9)
    assert set(measured.terms) == {"norm/l2", "ireg/sgd"}


def test_a_term_that_is_switched_off_is_not_measured(tmp_path, small_run):
    small_run(tmp_path, "terms=[sgd,full_batch,l2]", "terms.ireg.sgd=null", "objective=norm/l2")
    assert {tag for tag in read_status(tmp_path)["final"] if tag.split("/")[0] in ("ireg", "norm")} == {
        "ireg/full_batch",
        "norm/l2",
    }


@pytest.mark.parametrize("name", ["lion", "signum"])
def test_optimizers_of_the_extra_train_and_are_measured(tmp_path, small_run, name):
    require_library(name)
    small_run(tmp_path, f"optimizer={name}", "lr=3e-4", "terms=theory")
    row = (tmp_path / "metrics.csv").read_text().splitlines()[0]
    assert "ireg/own_full_batch" in row
    assert "ireg/strength/full_batch" in row


def test_a_term_that_is_not_made_for_the_optimizer_is_refused_at_the_start(composed):
    settings = read(composed("optimizer=adagrad", "terms=fluctuation"))
    with pytest.raises(UserError, match="optimizer=adagrad: adagrad: its mean flow is known only where"):
        make_classifier(settings, torch.nn.Linear(2, 2))


def test_theory_gives_what_is_known_of_any_optimizer(tmp_path, small_run, caplog):
    """Rprop has no rule, and no flow either: a line says so, and the run goes on."""
    small_run(tmp_path, "optimizer._target_=torch.optim.Rprop", "terms=theory")
    lines = [record.message for record in caplog.records if "nor is a flow of full batches" in record.message]
    assert len(lines) == 1
    assert lines[0].startswith("Rprop: no rule is known for it; nor is a flow of full batches: a step ")
    header = (tmp_path / "metrics.csv").read_text().splitlines()[0]
    assert "ireg/sgd" in header
    assert "strength" not in header


@pytest.mark.parametrize(("optimizer", "fused"), [("sgd", True), ("adam", True), ("adamw", True), ("rmsprop", None)])
def test_fused_optimizers_where_they_exist(composed, caplog, optimizer, fused):
    def made(*overrides):
        settings = read(composed(f"optimizer={optimizer}", *overrides))
        return make_classifier(settings, torch.nn.Linear(2, 2)).configure_optimizers().param_groups[0]

    assert made().get("fused") == made("trainer.fused=true").get("fused") == fused
    assert not made("trainer.fused=false").get("fused")
    for kernel in ("foreach", "fused") if fused else ("foreach",):
        assert made(f"+optimizer.{kernel}=false")[kernel] is False
    clipped = ("trainer.precision=bf16-mixed", "+trainer.gradient_clip_val=1")
    assert not made(*clipped).get("fused")
    notice = "trainer.fused=true: torch.optim.RMSprop has no fused kernel; its ordinary one is used"
    assert (notice in caplog.text) == (fused is None)


def require_library(name):
    if name in ("lion", "signum"):
        pytest.importorskip("pytorch_optimizer", reason="NOT TESTED: pip install -e '.[optimizers]'")


OPTIMIZERS = sorted(path.stem for path in (ROOT / "conf" / "optimizer").glob("*.yaml"))


# Muon has one kernel only.
@pytest.mark.parametrize("name", [name for name in OPTIMIZERS if not name.startswith("muon")])
def test_kernels_for_many_tensors_give_the_bits_of_a_loop(composed, name):
    require_library(name)

    def trained(*overrides):
        generator = torch.Generator().manual_seed(0)
        parameters = [
            torch.nn.Parameter(torch.randn(shape, generator=generator)) for shape in ((50, 300), (50,), (3, 50))
        ]
        classifier = make_classifier(read(composed(f"optimizer={name}", *overrides)), torch.nn.Linear(2, 2))
        optimizer = classifier.make_optimizer(parameters)
        for _ in range(5):
            for parameter in parameters:
                parameter.grad = torch.randn(parameter.shape, generator=generator)
            optimizer.step()
        return optimizer.param_groups[0]["foreach"], parameters

    (many, ends), (loop, expected) = trained("trainer.fused=false"), trained("+optimizer.foreach=false")
    assert (many, loop) == (None if name in ("adafactor", "nadam") else True, False)
    assert all(torch.equal(one, other) for one, other in zip(ends, expected, strict=True))


@pytest.mark.parametrize(
    ("integers", "floats"),
    [
        (("optimizer=adam", "optimizer.betas=[0,0.999]"), ("optimizer.betas=[0.0,0.999]",)),
        (("optimizer=adamw", "optimizer.betas=[0,0]", "optimizer.eps=1"), ("optimizer.betas=[0.0,0.0]",)),
        (("optimizer=rmsprop", "optimizer.alpha=0", "optimizer.eps=1", "optimizer.momentum=0"), ("optimizer.eps=1.0",)),
        (("optimizer=adagrad", "optimizer.eps=1", "+optimizer.lr_decay=0"), ("optimizer.lr_decay=0.0",)),
        (("optimizer=nesterov", "lr=1", "optimizer.momentum=1"), ("lr=1.0", "optimizer.momentum=1.0")),
        (("+optimizer.weight_decay=1", "optimizer.lr=1", "lr=1"), ("optimizer.lr=1.0", "optimizer.weight_decay=1.0")),
    ],
)
def test_integers_train_as_the_equal_floats(composed, integers, floats):
    def trained(*overrides):
        torch.manual_seed(0)
        classifier = make_classifier(read(composed(*overrides)), torch.nn.Linear(3, 2))
        optimizer = classifier.configure_optimizers()
        for _ in range(3):
            optimizer.zero_grad()
            classifier.model(torch.ones(4, 3)).square().mean().backward()
            optimizer.step()
        return classifier.model.weight

    assert torch.equal(trained(*integers), trained(*integers, *floats))


def test_what_a_profiler_writes_is_in_the_run_folder(tmp_path, small_run, monkeypatch):
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    small_run(tmp_path / "run", "+trainer.profiler=pytorch", "terms=[]", "epochs=1")
    (trace,) = (tmp_path / "run").glob("*.pt.trace.json")
    assert "training_step" in trace.read_text()
    assert list((tmp_path / "elsewhere").iterdir()) == []


@pytest.mark.parametrize(
    ("overrides", "shown"),
    [
        ([], "symmetric 0.3"),
        (["data.noise.kind=none"], "none"),
        (["data.noise.rate=0"], "none"),
        (["data.noise.kind=pairflip", "data.noise.rate=1"], "pairflip 1"),
    ],
)
def test_tensorboard_shows_the_noise(tmp_path, composed, monkeypatch, overrides, shown):
    monkeypatch.setattr("ireg.experiment.build.TensorBoard", lambda folder, hyperparameters, *_, **__: hyperparameters)
    monkeypatch.setattr("ireg.lit.trainer.make_trainer", lambda *_, loggers, **__: loggers[1])
    status = Status(tmp_path, asdict(settings := read(composed(*overrides))))
    status.update(batch_size=64)
    assert _trainer(settings, tmp_path, status, Resumption(None, {}))["noise"] == shown


def test_tensorboard_has_a_column_for_what_was_set(tmp_path, composed, monkeypatch):
    monkeypatch.setattr("ireg.experiment.build.TensorBoard", lambda folder, hyperparameters, *_, **__: hyperparameters)
    monkeypatch.setattr("ireg.lit.trainer.make_trainer", lambda *_, loggers, **__: loggers[1])
    overrides = ["optimizer=momentum", "optimizer.momentum=0.5", "model.hidden=[8]", "lr=1e-2", "name=x", "+a=b=c"]
    (tmp_path / ".hydra").mkdir()
    (tmp_path / ".hydra" / "overrides.yaml").write_text("".join(f"- {override}\n" for override in overrides))
    status = Status(tmp_path, asdict(settings := read(composed(*overrides[:4]))))
    status.update(batch_size=64)
    columns = _trainer(settings, tmp_path, status, Resumption(None, {}))
    assert (columns["optimizer.momentum"], columns["model.hidden"], columns["a"]) == (0.5, "[8]", "b=c")
    assert columns["lr"] == 0.01
    assert "name" not in columns


def test_lists_reach_their_receivers_as_plain_ones(composed):
    """OmegaConf's own lists are no plain values: a checkpoint with one cannot be loaded with weights_only."""
    settings = read(composed("optimizer=adam", "+model.kept=[1]", f"model._target_={__name__}.Keeping"))
    model = make_model(settings, SimpleNamespace(input_shape=(2,)))
    assert type(model.kept) is list
    group = make_classifier(settings, model).configure_optimizers().param_groups[0]
    assert type(group["betas"]) in (list, tuple)


class Keeping(torch.nn.Linear):
    def __init__(self, input_shape, num_classes, kept, **_):
        super().__init__(math.prod(input_shape), num_classes)
        self.kept = kept


def test_complex_weights_have_no_fused_kernel(composed):
    settings = read(composed("optimizer=adam", "terms=[]"))
    model = torch.nn.Linear(2, 2, dtype=torch.complex64)
    assert not make_classifier(settings, model).configure_optimizers().param_groups[0].get("fused")


def test_an_optimizer_without_a_reader_trains_without_terms(tmp_path, small_run):
    assert 0 < small_run(tmp_path, "optimizer._target_=torch.optim.NAdam", "terms=[]") < 1


def test_training_cut_short_is_a_failure(tmp_path, small_run, monkeypatch):
    from ireg.lit.module import Classifier

    original = Classifier.on_train_epoch_end

    def stop(self):
        self.trainer.should_stop = True
        original(self)

    monkeypatch.setattr(Classifier, "on_train_epoch_end", stop)
    with pytest.raises(RuntimeError, match="training ended after 1 of 2 epochs"):
        small_run(tmp_path)
    assert read_status(tmp_path)["state"] == "failed"


def test_a_run_is_running_until_its_last_row_is_written(tmp_path, small_run, monkeypatch):
    original, seen = metrics.Table.write, []

    def noting(self, epoch, row):
        seen.append((epoch, read_status(tmp_path)["state"]))
        original(self, epoch, row)

    monkeypatch.setattr(metrics.Table, "write", noting)
    small_run(tmp_path)
    assert seen == [(0, "running"), (1, "running"), (2, "running")]
    assert read_status(tmp_path)["state"] == "done"


def test_checkpoints_are_written_beside_their_place(tmp_path, monkeypatch):
    from ireg.lit.trainer import AtomicCheckpointIO

    monkeypatch.setattr(torch, "save", lambda *arguments, **options: (_ for _ in ()).throw(OSError("disk full")))
    (tmp_path / "last.ckpt").write_text("the one before")
    with pytest.raises(OSError, match="disk full"):
        AtomicCheckpointIO().save_checkpoint({"a": 1}, tmp_path / "last.ckpt")
    assert [path.name for path in tmp_path.iterdir()] == ["last.ckpt"]
    assert (tmp_path / "last.ckpt").read_text() == "the one before"


def test_a_sweep_does_not_keep_its_runs_configurations():
    given = JobReturn(cfg=OmegaConf.create({"a": 1}), hydra_cfg=OmegaConf.create({"b": 2}))
    given.return_value = 0.5
    RunsCallback().on_job_end(config=OmegaConf.create(), job_return=given)
    assert (given.cfg, given.hydra_cfg, given._return_value) == (None, None, 0.5)


@pytest.mark.slow
def test_runs_leave_nothing_in_memory(tmp_path, small_run):
    """One process does all runs of a sweep: none of a run's objects may outlive it."""

    def alive():
        gc.collect()
        objects = gc.get_objects()
        kept = [
            kind.__name__ for kind in map(type, objects) if kind.__name__ in ("Trainer", "Classifier", "NoisyImages")
        ]
        return len(objects), kept

    counts = []
    for number in range(6):
        small_run(tmp_path / str(number), "optimizer=adam", "epochs=1")
        count, kept = alive()
        counts.append(count)
        assert kept == []
    assert counts[-1] - counts[2] < 300  # one network's training makes thousands
