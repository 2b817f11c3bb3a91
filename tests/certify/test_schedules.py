"""Memory at rates and momenta that change has coefficients of its own, and those of the mean rate are seen."""

import pytest

from ireg.certify import schedules
from ireg.certify.schedules import SCHEDULES, Schedule, all_schedules, certify_schedule
from ireg.core.optimizers import state

MOMENTUM = Schedule(arguments={"momentum": 0.5})


@pytest.mark.parametrize("name", SCHEDULES)
def test_the_order_is_right_and_those_of_the_controls_are_not(name):
    found = all_schedules({name: SCHEDULES[name]})[name]
    assert found.holds
    assert found.slope == pytest.approx(3, abs=0.02)
    assert len(found.controls) >= 3
    assert any("the mean rate" in control for control in found.controls)
    assert max(found.controls.values()) < 2.25


def test_memory_longer_than_the_epoch(monkeypatch):
    monkeypatch.setattr(schedules, "RUN_OUT", 600)
    monkeypatch.setattr(schedules, "HIGHEST", 2**-11)
    rising = Schedule(arguments={"momentum": 0.9}, rates=(0.1, 1.0, 0.8, 0.02))
    found = certify_schedule(rising)
    assert found.slope == pytest.approx(3, abs=0.02)
    assert max(found.controls.values()) < 2.5


@pytest.mark.parametrize("which", [0, 1])
def test_wrong_constants_are_seen(monkeypatch, which):
    right = state.pair_coefficients

    def wrong(filters, num_batches):
        values = list(right(filters, num_batches))
        values[which] *= 1.1
        return tuple(values)

    monkeypatch.setattr(state, "pair_coefficients", wrong)
    assert certify_schedule(MOMENTUM).slope < 2.9
