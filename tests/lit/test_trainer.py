import math

import pytest
from lightning.pytorch.profilers import SimpleProfiler

from ireg.config.trainer_arguments import PRECISIONS
from ireg.lit.checkpoints import LastCheckpoint
from ireg.lit.trainer import NoProfiler, make_trainer
from ireg.system.errors import UserError


@pytest.mark.parametrize(("arguments", "kind"), [({}, NoProfiler), ({"profiler": "simple"}, SimpleProfiler)])
def test_steps_are_profiled_only_if_asked(tmp_path, arguments, kind):
    trainer = make_trainer(arguments, epochs=1, loggers=[], checkpoint=LastCheckpoint(tmp_path, run="a"))
    assert type(trainer.profiler) is kind
    with trainer.profiler.profile("outer"), trainer.profiler.profile("inner"):
        pass


def test_nothing_is_printed_or_kept_that_nobody_asked_for(tmp_path):
    checkpoint = LastCheckpoint(tmp_path, run="a")
    trainer = make_trainer({}, epochs=3, loggers=[], checkpoint=checkpoint)
    assert trainer.callbacks == [checkpoint]  # no bar, no summary, and no other checkpoints
    assert (trainer.loggers, trainer.max_epochs, trainer.num_sanity_val_steps) == ([], 3, math.inf)


def test_a_precision_that_the_device_does_not_have_is_refused(tmp_path):
    def make(precision):
        checkpoint = LastCheckpoint(tmp_path, run="a")
        return make_trainer({"accelerator": "cpu", "precision": precision}, epochs=1, loggers=[], checkpoint=checkpoint)

    with pytest.raises(UserError, match="trainer.precision=16-mixed: not on cpu; use trainer.precision=bf16-mixed$"):
        make("16-mixed")
    assert [make(precision).precision for precision in PRECISIONS if precision != "16-mixed"] == [
        "32-true",
        "64-true",
        "bf16-mixed",
    ]


def test_double_precision_is_refused_where_there_is_none(tmp_path, monkeypatch):
    monkeypatch.setattr("ireg.core.wide.WITHOUT_FLOAT64", frozenset({"cpu"}))
    given = {"epochs": 1, "loggers": [], "checkpoint": LastCheckpoint(tmp_path, run="a")}
    expected = "^trainer.precision=64-true: not on cpu; use trainer.precision=32-true, or trainer.accelerator=cpu$"
    with pytest.raises(UserError, match=expected):
        make_trainer({"accelerator": "cpu", "precision": "64-true"}, **given)
    assert make_trainer({"accelerator": "cpu", "precision": "32-true"}, **given).precision == "32-true"
