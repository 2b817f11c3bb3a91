"""What a window remembers of its steps, and when a measurement is due."""

import inspect
import math

import pytest
import torch

from ireg.options import Epoch, Options
from ireg.regularizers import FullBatch
from ireg.window import Cadence, Window, least_steps, require_windows


def filled(size, steps):
    """A window of steps with rates 1, 2, …"""
    window = Window(size, number=0)
    for step in range(steps):
        place = window.sample.place()
        if place is not None:
            window.put(place, step)
        window.settings.append(({"lr": step + 1, "momentum": step}, {"lr": 10.0, "d": 0.5}))
    return window


def test_memory_is_that_of_the_minibatches_that_are_held():
    window = Window(1, number=0)
    assert window.bytes == 0
    window.put(0, torch.zeros(3))
    assert window.bytes == 12
    window.put(0, (torch.zeros(4), torch.zeros(1)))
    assert window.bytes == 20


def test_an_epoch_has_the_windows_minibatches_rates_and_settings():
    known = Epoch(batches=["other"], modes={"": True}, settings=[({"lr": 99},)])
    found = filled(None, 3).epoch(known)
    assert (found.batches, found.population, found.modes) == ([0, 1, 2], None, {"": True})
    assert found.rates == [(1, 5.0), (2, 5.0), (3, 5.0)]
    assert len(found.settings) == 3
    assert found.settings[-1] == ({"lr": 3, "momentum": 2}, {"lr": 10.0, "d": 0.5})
    assert filled(None, 3).epoch(known, 12).population == 12
    assert [filled(2, 5).epoch(known, *given).population for given in ((), (12,))] == [5, 12]
    assert len(filled(2, 5).epoch(known).batches) == 2
    nothing = filled(4, 0).epoch(known)
    assert (nothing.batches, nothing.rates, nothing.settings) == ([], None, known.settings)


@pytest.mark.parametrize(
    ("options", "population", "steps"),
    [
        ({}, None, 1),
        ({}, 2, 2),
        ({}, 9, 3),
        ({"sampling": "independent"}, None, 2),
        ({"sampling": "independent", "num_batches": 5}, None, 3),
    ],
)
def test_the_steps_that_a_window_needs(options, population, steps):
    assert least_steps(Options(terms=["ireg/sgd"], **options), population) == steps


def test_what_needs_all_minibatches_has_no_windows():
    require_windows(Options(terms=["ireg/sgd"]), 9)
    with pytest.raises(ValueError, match="has no estimate from drawn minibatches"):
        require_windows(Options(terms=["curvature/gni"]), 9)
    with pytest.raises(ValueError, match="a regularizer is measured over all minibatches"):
        require_windows(Options(terms=["ireg/sgd"], regularizer=FullBatch(strength=0.1)), 9)


# When a measurement is due.


@pytest.fixture
def clock(monkeypatch):
    class Clock:
        now = 0.5

        def perf_counter(self):
            return self.now

    clock = Clock()
    monkeypatch.setattr("ireg.window.time", clock)
    return clock


def test_the_arguments_of_a_cadence():
    assert list(inspect.signature(Cadence).parameters) == ["every_n_steps", "max_cost", "group"]
    for steps in (0, -1):
        with pytest.raises(ValueError, match=f"^every_n_steps={steps}: must be at least 1$"):
            Cadence(every_n_steps=steps)
    for cost in (0.0, -0.5, math.nan):
        with pytest.raises(ValueError, match=f"^max_cost={cost}: must be above 0, "):
            Cadence(max_cost=cost)
    assert [step for step in range(4) if Cadence(every_n_steps=1, max_cost=0.5).is_due(step)] == [0, 1, 2, 3]


@pytest.mark.parametrize(("every", "population"), [(None, 4), (1, 4), (3, 4), (4, None), (5, 4), (8, None)])
def test_a_window_of_whole_epochs_has_them_all(every, population):
    assert Cadence(every_n_steps=every).population(4) == population


def test_a_measurement_is_followed_by_its_time_over_the_share(clock):
    cadence = Cadence(every_n_steps=3, max_cost=0.25)
    assert [step for step in range(1, 8) if cadence.is_due(step)] == [3, 6]  # its cost is not known yet
    clock.now = 10.0
    cadence.note(2.0, minibatches=4)
    clock.now = 17.5
    assert not cadence.is_affordable()
    clock.now = 18.0
    assert cadence.is_affordable()
    assert [step for step in range(7, 13) if cadence.is_due(step)] == [9, 12]


@pytest.mark.parametrize(
    ("each", "trained", "line"),
    [
        (0.5, 10.0, "take about 2 s, after 10 s of training"),
        (0.49, 10.0, None),  # it is short
        (0.8, 32.0, "take about 3 s, after 32 s of training"),
        (0.8, 33.0, None),  # it is little beside the training
    ],
)
def test_a_line_before_a_long_measurement(clock, each, trained, line):
    cadence = Cadence()
    clock.now = 7.0
    assert cadence.warning(10**6) is None  # nothing is known of it
    cadence.begin()
    cadence.note_gradient(each)
    clock.now += trained
    assert (line or "None") in str(cadence.warning(4))
    cadence.note(4 * each, minibatches=4)
    cadence.note_gradient(1000.0)  # no longer needed
    clock.now += trained
    assert (line or "None").replace("at least ", "") in str(cadence.warning(4))
