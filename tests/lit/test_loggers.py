import csv

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

from ireg.lit.loggers import MetricsFile, TensorBoard
from tests.content import scalars


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
    tags = ["train/error", "ireg/own", "test/error"]
    logger = TensorBoard(tmp_path, {"optimizer": "sgd", "lr": 0.1, "model.hidden": [16, 16]}, tags)
    for epoch in range(3):
        logger.log_metrics({"test/error": 0.5 - epoch / 10, "ireg/sgd_se": 1e-3, "mine/own": 2.0}, step=epoch)
    logger.save()
    logger.finalize("success")
    found = scalars(tmp_path)
    assert [(step, round(value, 6)) for step, value in found["test/error"]] == [(0, 0.5), (1, 0.4), (2, 0.3)]
    events = EventAccumulator(str(tmp_path)).Reload()
    plugins = events.summary_metadata
    assert "custom_scalars__config__" in plugins
    assert [path.name.startswith("events.out") for path in tmp_path.iterdir()] == [True]
    # The metrics are those that will come, not those of the first row, and the errors stand first.
    content = plugins["_hparams_/experiment"].plugin_data.content
    experiment = HParamsPluginData.FromString(content).experiment
    assert [metric.name.tag for metric in experiment.metric_infos] == ["test/error", "train/error", "ireg/own"]
    assert {hyperparameter.name for hyperparameter in experiment.hparam_infos} == {"optimizer", "lr", "model.hidden"}


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
