import pytest
from lightning.pytorch.profilers import SimpleProfiler

from ireg.lit.checkpoints import LastCheckpoint
from ireg.lit.trainer import NoProfiler, make_trainer


@pytest.mark.parametrize(("arguments", "kind"), [({}, NoProfiler), ({"profiler": "simple"}, SimpleProfiler)])
def test_steps_are_profiled_only_if_asked(tmp_path, arguments, kind):
    trainer = make_trainer(arguments, epochs=1, loggers=[], checkpoint=LastCheckpoint(tmp_path, run="a"))
    assert type(trainer.profiler) is kind
    with trainer.profiler.profile("outer"), trainer.profiler.profile("inner"):
        pass
