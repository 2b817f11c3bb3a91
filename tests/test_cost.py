"""How long a measurement is said to take beforehand."""

import pytest
import torch
from torch import nn
from torch.nn.functional import mse_loss

import ireg
from ireg import cost

FIXED, EACH = 0.5, 0.25


@pytest.fixture
def measured(monkeypatch):
    """A clock that a measurement sets forward by 0.5 s and 0.25 s for each minibatch, and what it was called with."""
    calls = []

    class Clock:
        now = 0.0

        def perf_counter(self):
            return self.now

    def measure(model, batches, *, optimizer, **given):
        calls.append((len(batches), given))
        clock.now += FIXED + EACH * given.get("num_batches", len(batches)) + (3.0 if len(calls) == 1 else 0.0)

    clock = Clock()
    monkeypatch.setattr(cost, "time", clock)
    monkeypatch.setattr(cost, "measure", measure)
    return calls


BATCHES = [(torch.full((2, 3), float(number)), torch.zeros(2, 1)) for number in range(40)]


def estimate(**asked):
    model = nn.Linear(3, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    return ireg.estimate_cost(model, BATCHES, optimizer=optimizer, criterion=mse_loss, **asked)


def test_time_is_linear_in_the_minibatches(measured):
    rates = [[0.1]] * 40
    assert estimate(rates=rates, terms="theory") == ireg.Cost(FIXED + 40 * EACH, EACH)
    assert [count for count, _ in measured] == [3, 3, 6]
    assert [len(given["rates"]) for _, given in measured] == [3, 3, 6]
    assert all(given["terms"] == "theory" and given["progress"] is False for _, given in measured)


def test_a_sample_is_drawn_as_it_will_be(measured):
    assert estimate(num_batches=20) == ireg.Cost(FIXED + 20 * EACH, EACH)
    assert [(count, given["num_batches"]) for count, given in measured] == [(40, 3), (40, 3), (40, 6)]


def test_few_minibatches_are_measured_themselves(measured):
    assert estimate(num_batches=5) == ireg.Cost(FIXED + 5 * EACH, 0.0)
    assert [given["num_batches"] for _, given in measured] == [3, 5]


@pytest.mark.parametrize("asked", [{"rates": [[0.1]] * 40}, {"num_batches": 8}, {"terms": "curvature"}])
def test_what_is_measured_takes_time(asked):
    found = estimate(**asked)
    assert 0 < found.seconds
    assert 0 <= found.per_minibatch < found.seconds


def test_it_refuses_as_measure_does():
    with pytest.raises(ValueError, match="num_batches=2"):
        estimate(num_batches=2)
    with pytest.raises(ValueError, match="there are no minibatches"):
        ireg.estimate_cost(nn.Linear(1, 1), [], optimizer=None)
