import csv

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from ireg.lit.loggers import MetricsFile, TensorBoard


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
    logger = TensorBoard(tmp_path, {"optimizer": "sgd", "lr": 0.1})
    for epoch in range(3):
        logger.log_metrics({"test/error": 0.5 - epoch / 10}, step=epoch)
    logger.save()
    logger.finalize("success")
    events = EventAccumulator(str(tmp_path), size_guidance={"scalars": 0}).Reload()
    assert [(event.step, round(event.value, 6)) for event in events.Scalars("test/error")] == [
        (0, 0.5),
        (1, 0.4),
        (2, 0.3),
    ]
    plugins = events.summary_metadata
    assert "_hparams_/experiment" in plugins
    assert "custom_scalars__config__" in plugins
    assert [path.name.startswith("events.out") for path in tmp_path.iterdir()] == [True]
