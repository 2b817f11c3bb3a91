import csv
import re
from types import SimpleNamespace

import pytest
import torch
from lightning.pytorch.loggers import Logger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams.api_pb2 import STATUS_FAILURE, STATUS_SUCCESS
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

from ireg.config.schema import Logging
from ireg.core.moments.needs import Need
from ireg.experiment.build import make_loggers
from ireg.lit.histograms import Histograms
from ireg.lit.loggers import MetricsFile, TensorBoard
from ireg.system.errors import UserError
from tests.content import run_content, scalars


def test_a_row_an_epoch_and_new_tags_at_any_time(tmp_path):
    heard = []
    logger = MetricsFile(tmp_path / "metrics.csv", lambda epoch, row: heard.append((epoch, dict(row))))
    logger.log_metrics({"a/b": 0.1}, step=0)
    logger.log_metrics({"a/b": float("nan"), "c/d": float("inf")}, step=1)
    rows = list(csv.reader((tmp_path / "metrics.csv").open()))
    assert rows == [["epoch", "a/b", "c/d"], ["0", "0.1", ""], ["1", "nan", "inf"]]
    assert [epoch for epoch, _ in heard] == [0, 1]
    assert (logger.name, logger.version) == ("metrics.csv", "")


def test_the_same_epoch_again_replaces_its_row(tmp_path):
    logger = MetricsFile(tmp_path / "metrics.csv", lambda epoch, row: None)
    logger.log_metrics({"x/y": 1.0}, step=1)
    logger.log_metrics({"x/y": 2.0}, step=1)
    assert (tmp_path / "metrics.csv").read_text() == "epoch,x/y\n1,2.0\n"


def test_a_row_without_an_epoch_is_refused(tmp_path):
    with pytest.raises(ValueError, match="step must be the number of completed epochs, got None"):
        MetricsFile(tmp_path / "metrics.csv", lambda epoch, row: None).log_metrics({"x/y": 1.0})


def test_tensorboard_has_scalars_hyperparameters_and_charts(tmp_path):
    logger = TensorBoard(tmp_path, {"optimizer": "sgd", "lr": 0.1, "model.hidden": [16, 16], "fused": True})
    for epoch in range(3):
        logger.log_metrics({"test/error": 0.5 - epoch / 10, "ireg/sgd_se": 1e-3, "mine/own": 2.0}, step=epoch)
    logger.save()
    logger.finalize("success")
    found = scalars(tmp_path)
    assert [(step, round(value, 6)) for step, value in found["test/error"]] == [(0, 0.5), (1, 0.4), (2, 0.3)]
    plugins = EventAccumulator(str(tmp_path)).Reload().summary_metadata
    assert "custom_scalars__config__" in plugins
    assert [path.name.startswith("events.out") for path in tmp_path.iterdir()] == [True]
    start = _hparams(plugins, "session_start_info").hparams
    assert start["optimizer"].string_value == "sgd"
    assert start["lr"].number_value == 0.1
    assert start["model.hidden"].string_value == "[16, 16]"
    assert start["fused"].bool_value is True
    assert _hparams(plugins, "session_end_info").status == STATUS_SUCCESS
    # The columns are found by TensorBoard, over all runs it sees: those of one run would hide the others'.
    assert "_hparams_/experiment" not in plugins


def _hparams(plugins, part):
    content = HParamsPluginData.FromString(plugins[f"_hparams_/{part}"].plugin_data.content)
    return getattr(content, part)


def test_a_run_that_diverged_has_failed_and_one_that_broke_off_has_no_end(tmp_path):
    for folder, last, ending in (("a", float("inf"), "success"), ("b", 0.1, "failed")):
        logger = TensorBoard(tmp_path / folder, {"lr": 0.1}, with_charts=False)
        logger.log_metrics({"train/loss": last}, step=0)
        logger.finalize(ending)
    plugins = EventAccumulator(str(tmp_path / "a")).Reload().summary_metadata
    assert _hparams(plugins, "session_end_info").status == STATUS_FAILURE
    assert "custom_scalars__config__" not in plugins
    assert "_hparams_/session_end_info" not in EventAccumulator(str(tmp_path / "b")).Reload().summary_metadata


def test_each_tag_says_what_it_means(tmp_path):
    logger = TensorBoard(tmp_path, {})
    for epoch in range(2):
        logger.log_metrics({"ireg/sgd": 0.5, "ireg/sgd_se": 0.1, "mine/own": 2.0}, step=epoch)
    logger.finalize("success")
    described = {
        tag: data.summary_description for tag, data in EventAccumulator(str(tmp_path)).Reload().summary_metadata.items()
    }
    assert "SGD's implicit regularizer, for every optimizer" in described["ireg/sgd"]
    assert "`η/(4m) Σ_k ‖g_k‖²`" in described["ireg/sgd"]
    assert "Smith et al. 2021" in described["ireg/sgd"]
    assert described["ireg/sgd_se"].startswith("standard error of: SGD's")
    assert described["mine/own"] == ""


def test_histograms_and_a_further_logger_leave_the_run_as_it_is(tmp_path, small_run):
    small_run(tmp_path / "plain", "optimizer=adam", "logger=csv")
    further = ["+logger.further._target_=lightning.pytorch.loggers.CSVLogger", f"+logger.further.save_dir={tmp_path}"]
    small_run(tmp_path / "more", "optimizer=adam", "logger.histograms=true", *further)
    assert not list((tmp_path / "plain").glob("events*"))
    plain, more = (run_content(tmp_path / name) for name in ("plain", "more"))
    assert plain["metrics.csv"] == more["metrics.csv"]
    assert plain["checkpoints/last.ckpt"] == more["checkpoints/last.ckpt"]
    events = EventAccumulator(str(tmp_path / "more" / "histograms"), {"histograms": 0}).Reload()
    tags = events.Tags()["histograms"]
    assert "gradients/norm" in tags
    assert sum(tag.startswith("weights/") for tag in tags) == 4  # two layers, weights and biases
    norms = events.Histograms("gradients/norm")
    assert [norm.step for norm in norms] == [0, 1, 2]
    assert norms[0].histogram_value.num == 7  # minibatches of 200 examples by 32
    rows = list(csv.DictReader(next(tmp_path.glob("lightning_logs/*/metrics.csv")).open()))
    assert [int(row["step"]) for row in rows] == [0, 1, 2]
    assert rows[-1]["test/error"]


def test_histograms_leave_out_what_is_not_finite_and_drop_what_a_resumed_run_writes_again(tmp_path):
    params = {"w": torch.tensor([1.0, float("nan")]), "b": torch.tensor([float("inf")])}
    seen = SimpleNamespace(params=params, needs=Need.MEAN)
    for first in (0, 1):
        histograms = Histograms(tmp_path, first=first)
        for epoch in range(first, 3):
            histograms(epoch, seen)
    events = EventAccumulator(str(tmp_path / "histograms"), {"histograms": 0}).Reload()
    assert events.Tags()["histograms"] == ["weights/w"]
    assert [(entry.step, entry.histogram_value.num) for entry in events.Histograms("weights/w")] == [
        (0, 1), (1, 1), (2, 1),
    ]  # fmt: skip


def test_a_further_logger_begins_with_the_rows_there_are(tmp_path):
    class Kept(Logger):
        name, version = "kept", ""

        def __init__(self):
            super().__init__()
            self.seen = []

        def log_metrics(self, metrics, step=None):
            self.seen.append((step, metrics))

        def log_hyperparams(self, params):
            self.seen.append(params)

    settings = Logging(tensorboard=False, further={"_target_": "tests.lit.test_loggers.kept"})
    kept.make = Kept
    (made,) = make_loggers(
        settings, tmp_path, hyperparameters={"lr": 1}, with_charts=True, earlier={1: {"a": 1.0}, 0: {}}, replaced=[]
    )
    assert made.seen == [{"lr": 1}, (0, {}), (1, {"a": 1.0})]


def kept():
    return kept.make()


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("builtins.dict", "logger.further: builtins.dict makes a dict; name a Logger"),
        ("lightning.pytorch.loggers.Nonsense", "logger.further: Error loading 'lightning.pytorch.loggers.Nonsense'"),
    ],
)
def test_a_further_logger_that_is_none_is_refused(tmp_path, target, message):
    settings = Logging(tensorboard=False, further={"_target_": target})
    with pytest.raises(UserError, match=re.escape(message)):
        make_loggers(settings, tmp_path, hyperparameters={}, with_charts=True, earlier={}, replaced=[])


def test_weights_and_biases_offline(tmp_path, small_run):
    pytest.importorskip("wandb", reason="wandb is not installed: pip install -e '.[wandb]' tests logger=wandb")
    for name in ("one", "two"):  # in one process, as in a sweep
        small_run(tmp_path / name, "logger=wandb", "logger.further.offline=true")
        assert len(list((tmp_path / name / "wandb").glob("offline-run-*/*.wandb"))) == 1


def test_mlflow_offline(tmp_path, small_run):
    mlflow = pytest.importorskip("mlflow", reason="mlflow is not installed: pip install -e '.[mlflow]' tests it")
    pytest.importorskip("sqlalchemy", reason="mlflow is not installed with its data base")
    place = f"sqlite:///{tmp_path}/mlflow.db"
    small_run(tmp_path / "run", "logger=mlflow", f"logger.further.tracking_uri={place}", "name=mine")
    (found,) = mlflow.search_runs(experiment_names=["mine"], output_format="list", search_all_experiments=False)
    assert found.data.metrics["test/error"] == float(
        list(csv.DictReader((tmp_path / "run" / "metrics.csv").open()))[-1]["test/error"]
    )
    assert found.data.params["optimizer"] == "sgd"
