"""CUDA against the CPU: moments by method and network, rows of trainings, auto's choice, waits for the device."""

import warnings
from contextlib import contextmanager
from functools import partial
from types import SimpleNamespace

import pytest
import torch

from tests.gpu.comparison import (
    AUTO,
    NETWORKS,
    OF_ROWS,
    SERVED,
    TOLERANCES,
    WITH_TF32,
    choice,
    farthest,
    moments,
    trained,
    waits,
    waits_of_measurement,
    waits_of_steps,
)

if not torch.cuda.is_available():
    pytest.skip("CUDA is NOT TESTED: there is no such device", allow_module_level=True)
pytestmark = pytest.mark.gpu
WIDE, NARROW = torch.float64, torch.float32


@contextmanager
def products_in(precision):
    """Let products of float32 matrices and convolutions be in `highest` precision, or in TensorFloat32 by `high`."""
    before = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    try:
        torch.set_float32_matmul_precision(precision)
        torch.backends.cudnn.allow_tf32 = precision != "highest"
        yield
    finally:
        torch.set_float32_matmul_precision(before[0])
        torch.backends.cudnn.allow_tf32 = before[1]


@pytest.mark.parametrize("dtype", TOLERANCES, ids=str)
@pytest.mark.parametrize(("name", "method"), SERVED)
def test_the_moments_of_the_cpu(name, method, dtype):
    with products_in("highest"):
        found = moments(name, method, "cuda", dtype)
    assert found.method == method
    assert {value.device.type for value in (found.losses, found.sq_norms, *found.mean.values())} == {"cuda"}
    assert farthest(found, moments(name, "loop", "cpu", WIDE)) < TOLERANCES[dtype]


@pytest.mark.parametrize(("name", "method"), SERVED)
def test_the_moments_with_tensor_float_32(name, method):
    with products_in("high"):
        found = moments(name, method, "cuda", NARROW)
    assert farthest(found, moments(name, "loop", "cpu", WIDE)) < WITH_TF32


@pytest.mark.parametrize("name", NETWORKS)
def test_autos_choice(name):
    assert choice(name, "cuda") == AUTO[name]
    assert choice(name, "cuda", examples=600) == AUTO[name]  # where a CPU takes the loop instead of hooks


@pytest.mark.parametrize("precision", ["highest", "high"])
@pytest.mark.parametrize("name", NETWORKS)
def test_autos_choice_serves_the_network(name, precision):
    """Hooks compare a gradient with that of the loop, and give way to it where rounding differs by too much."""
    with products_in(precision):
        assert moments(name, "auto", "cuda", NARROW).method == AUTO[name]


@pytest.mark.parametrize("options", [{}, {"every_n_steps": 4, "population": 9, "num_batches": 3}], ids=["all", "some"])
@pytest.mark.parametrize("dtype", OF_ROWS, ids=str)
@pytest.mark.parametrize("name", NETWORKS)
def test_the_rows_of_a_training(name, dtype, options):
    with products_in("highest"):
        here, there = (trained(name, device, dtype, **options) for device in ("cpu", "cuda"))
    assert there == pytest.approx(here, rel=OF_ROWS[dtype], abs=1e-12)


@pytest.mark.parametrize("terms", ["theory", "noise", ["curvature/lambda_max"]], ids=str)
def test_the_other_sets_of_terms(terms):
    here, there = (trained("cnn", device, WIDE, terms=terms) for device in ("cpu", "cuda"))
    assert there == pytest.approx(here, rel=1e-5, abs=1e-12)  # an eigenvalue is iterated up to a residual


@pytest.mark.parametrize("method", ["auto", "loop", "backward", "vmap"])
@pytest.mark.parametrize("name", NETWORKS)
def test_a_training_is_the_same_with_and_without_a_monitor(name, method):
    """Deterministic kernels, since atomic sums differ from one call to the next in any case."""
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        watched, bare = (
            trained(name, "cuda", NARROW, method=method, terms=terms)["norm/l2"] for terms in ("default", ["norm/l2"])
        )
    finally:
        torch.use_deterministic_algorithms(before)
    assert watched == bare


@contextmanager
def warned():
    """Count what torch itself says is waited for."""
    before = torch.cuda.get_sync_debug_mode()
    found = SimpleNamespace(count=0)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            yield found
        finally:
            torch.cuda.set_sync_debug_mode(before)
            found.count = sum("synchronizing CUDA operation" in str(warning.message) for warning in caught)


@pytest.mark.parametrize("counting", [partial(waits, "cuda"), warned], ids=["operations", "warnings"])
@pytest.mark.parametrize(("name", "method"), [*SERVED, *((name, "auto") for name in NETWORKS)])
def test_a_measurement_waits_for_the_device_once_a_minibatch_at_most(name, method, counting):
    waited, per_minibatch = waits_of_measurement(name, "cuda", counting, method=method)
    assert waited > 0  # each value is read at the end, so that the count sees something
    assert per_minibatch <= 1


@pytest.mark.parametrize("counting", [partial(waits, "cuda"), warned], ids=["operations", "warnings"])
def test_a_step_that_a_monitor_sees_waits_for_nothing(counting):
    counts = waits_of_steps("cnn", "cuda", counting, every_n_steps=5, num_batches=3, population=10)
    assert min(counts[4], counts[9]) > 0  # two measurements
    assert max(counts[1:4] + counts[6:9]) <= 1  # the first of a window is compared with a replay
