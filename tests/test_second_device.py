"""Everything on a device without double precision, imitated, against the same on the CPU."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from ireg.core.wide import WideSum, brought, has_float64, in_reach, wide
from tests.second_device import CONTROLS, cases

pytest.importorskip("torch.utils.backend_registration")
PYTHON_BACKEND = hasattr(torch.utils.backend_registration, "_setup_privateuseone_for_python_backend")
ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """{case: [numbers here, numbers there or an error]}, all of one process."""
    if not PYTHON_BACKEND:
        pytest.skip(f"torch {torch.__version__} has no backend in Python")
    output = tmp_path_factory.mktemp("second_device") / "found.json"
    done = subprocess.run(
        [sys.executable, "-m", "tests.second_device", str(output)], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(output.read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", cases())
def test_the_numbers_of_the_cpu(name, found):
    here, there = found[name]
    assert there == pytest.approx(here, rel=2e-5, abs=1e-12)  # sums of single precision in another order


@pytest.mark.parametrize("name", CONTROLS)
def test_taken_for_a_device_with_double_precision_it_refuses(name, found):
    assert found[f"{name}, control"][1] == "TypeError: apple has no torch.float64"


def test_which_devices_have_double_precision():
    assert [has_float64(torch.device(name)) for name in ("cpu", "cuda", "meta", "mps")] == [True, True, True, False]


def test_double_precision_where_there_is_some_is_no_copy():
    values = torch.ones(2, dtype=torch.float64)
    assert wide(values) is values
    assert in_reach(values) is values
    assert wide(torch.tensor([True, False])).tolist() == [1.0, 0.0]
    assert brought(values, torch.ones((), dtype=torch.bfloat16)).dtype == torch.bfloat16


def summed(monkeypatch, values, *, without):
    monkeypatch.setattr("ireg.core.wide.WITHOUT_FLOAT64", frozenset({"cpu"} if without else ()))
    total = WideSum(torch.device("cpu"))
    for value in values:
        total.add(value)
    return float(total)


@pytest.mark.parametrize("without", [False, True])
def test_a_long_sum_keeps_its_digits(monkeypatch, without):
    values = [torch.tensor(1e8), *[torch.tensor(0.7)] * 1000, torch.tensor(-1e8)]
    exact = 1000 * float(torch.tensor(0.7))
    assert float(sum(values)) != pytest.approx(exact, rel=1e-2)  # the plain sum
    # What is left out is itself a sum of single precision, of a thousand numbers up to 700.
    assert summed(monkeypatch, values, without=without) == pytest.approx(exact, rel=3e-5)


@pytest.mark.parametrize("without", [False, True])
def test_a_sum_that_is_not_finite(monkeypatch, without):
    numbers = [torch.tensor(1.0), torch.tensor(float("inf"))]
    assert summed(monkeypatch, numbers, without=without) == float("inf")
    assert summed(monkeypatch, [*numbers, torch.tensor(float("nan"))], without=without) != float("inf")
