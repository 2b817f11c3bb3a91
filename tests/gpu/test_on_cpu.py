"""The comparisons of the GPU's tests, tried on a CPU: between methods and types, with errors that they must see."""

from functools import partial

import pytest
import torch

from ireg.core.moments import METHODS, NotServedError, loop
from tests.gpu.comparison import (
    AUTO,
    NETWORKS,
    OF_ROWS,
    SERVED,
    TOLERANCES,
    choice,
    farthest,
    moments,
    trained,
    waits,
    waits_of_measurement,
    waits_of_steps,
)

WIDE, NARROW = torch.float64, torch.float32
counting = partial(waits, "cpu")


@pytest.mark.parametrize(("name", "method"), SERVED)
def test_every_method_gives_the_loops_moments(name, method):
    expected = moments(name, "loop", "cpu", WIDE)
    for dtype, tolerance in TOLERANCES.items():
        found = moments(name, method, "cpu", dtype)
        assert found.method == method
        assert farthest(found, expected) < tolerance / 10


@pytest.mark.parametrize("name", NETWORKS)
def test_the_other_methods_refuse_a_network(name):
    for method in METHODS:
        if (name, method) not in SERVED:
            with pytest.raises((NotServedError, ValueError)):
                moments(name, method, "cpu", WIDE)


@pytest.mark.parametrize("changed", ["mean", "sq_norms", "losses", "square"])
def test_an_error_of_a_millionth_is_seen(changed):
    expected = moments("cnn", "loop", "cpu", WIDE)
    assert farthest(expected, expected) == 0
    found = moments("cnn", "loop", "cpu", WIDE)
    value = getattr(found, changed)
    part = value["0.bias"] if isinstance(value, dict) else value
    part *= 1 + 1e-6
    assert 1e-7 < farthest(found, expected) < 2e-6


@pytest.mark.parametrize("name", NETWORKS)
def test_the_rows_of_a_training(name):
    wide, narrow = (trained(name, "cpu", dtype) for dtype in (WIDE, NARROW))
    assert len(wide) >= 8
    assert narrow == pytest.approx(wide, rel=OF_ROWS[NARROW] / 10, abs=1e-12)


@pytest.mark.parametrize("name", NETWORKS)
def test_autos_choice_on_a_cpu_and_on_an_accelerator(name):
    large = "loop" if AUTO[name] == "hooks" else AUTO[name]
    assert choice(name, "meta") == choice(name, "cpu") == AUTO[name]  # small minibatches
    assert choice(name, "meta", examples=600) == AUTO[name]
    assert choice(name, "cpu", examples=600) == large


@pytest.mark.parametrize(
    ("name", "method"),
    [*(pair for pair in SERVED if pair[0] in ("mlp", "cnn")), *((name, "auto") for name in NETWORKS)],
)
def test_a_measurement_waits_for_the_device_once_a_minibatch_at_most(name, method):
    waited, per_minibatch = waits_of_measurement(name, "cpu", counting, method=method)
    assert waited > 0  # each value is read at the end
    assert per_minibatch <= 1


@pytest.mark.parametrize("kept", [True, False])
@pytest.mark.parametrize("options", [{"population": 100}, {"sampling": "independent"}, {"terms": "noise"}])
def test_nor_do_samples_and_noise_scales_wait_longer(options, kept, monkeypatch):
    if not kept:
        monkeypatch.setattr("ireg.core.moments.compute.KEPT_MEMORY", 0)
    assert waits_of_measurement("cnn", "cpu", counting, **options)[1] <= 1


def test_a_step_that_a_monitor_sees_waits_for_nothing():
    counts = waits_of_steps("cnn", "cpu", counting, every_n_steps=5, num_batches=3, population=10)
    due = [counts.pop(4), counts.pop(-1)]
    assert min(due) > 10  # two measurements
    first = counts.pop(0), counts.pop(4 - 1)  # of each window: compared with a replay
    assert min(first) > 0
    assert max(counts) <= 1


def test_a_method_that_reads_a_number_of_each_parameter_is_seen(monkeypatch):
    monkeypatch.setattr(loop, "add_up", lambda parts: torch.tensor(sum(float(part) for part in parts)))
    assert waits_of_measurement("mlp", "cpu", counting, method="loop")[1] == 6  # parameters


@pytest.mark.parametrize(
    ("read", "count"),
    [
        (lambda values: float(values[0]), 1),
        (lambda values: values.tolist(), 1),
        (lambda values: values[values > 0], 1),
        (lambda values: bool(values.any()), 1),
        (lambda values: torch.equal(values, values + 1), 1),
        (lambda values: values.sum() + values[1:].max(), 0),
    ],
)
def test_what_is_a_wait(read, count):
    with waits("cpu") as counter:
        read(torch.arange(3.0))
    assert counter.count == count
    with waits("cuda") as counter:  # of another device
        read(torch.arange(3.0))
    assert counter.count == 0
