"""`python -m benchmarks.gpu`: its measurements in small on a CPU, its page, and how it ends."""

import json
from dataclasses import asdict, replace

import pytest
import torch

from benchmarks import gpu, gpu_page, gpu_times
from benchmarks.gpu_networks import NETWORKS, SMALL, Training
from tests.conftest import ROOT

CPU = torch.device("cpu")
without_cuda = pytest.mark.skipif(torch.cuda.is_available(), reason="of a machine without CUDA")


@pytest.fixture(scope="module")
def figures():
    return gpu_times.measured(replace(SMALL["mlp"], seconds=60), CPU)


def test_a_network_is_measured(figures):
    assert (figures.weights, figures.model_memory, figures.auto) == (64 * 16 + 16 + 160 + 10, 4 * 1210, "layers")
    assert set(figures.terms) == {"loop", "vmap", "ghost", "layers", "hooks", "backward"}
    assert 0 < figures.training_memory < figures.terms_memory
    assert len(figures.overhead) == gpu_times.TURNS
    assert figures.left_out == {}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["cnn", "gpt2"])
def test_what_has_no_time_is_left_out_and_said(name):
    found = gpu_times.measured(replace(SMALL[name], seconds=0.01), CPU)
    assert found.step > 0
    assert found.terms_memory > 0
    assert (found.terms, found.overhead) == ({}, [])
    assert {"overhead", "terms by loop"} <= found.left_out.keys()


@pytest.mark.slow
def test_a_method_that_serves_no_such_network_is_left_out_with_its_reason():
    training, clock = Training(SMALL["cnn"], CPU), gpu_times.Clock(CPU, 60)
    found = gpu_times.measured(replace(SMALL["cnn"], seconds=0), CPU)
    gpu_times._terms(training, clock, found)
    assert "layers" not in found.terms
    assert "Linear" in found.left_out["terms by layers"]


def test_what_has_no_memory_is_left_out(monkeypatch):
    def full(*_):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(gpu_times, "_overhead", full)
    full.__name__ = "_overhead"
    found = gpu_times.measured(replace(SMALL["mlp"], seconds=0), CPU)
    assert found.left_out["overhead"] == "not enough memory on the device"
    monkeypatch.setattr(gpu_times, "Training", full)
    assert gpu.by_network({"mlp": SMALL["mlp"]}, CPU, end=float("inf")) == {}


def test_the_networks_fit_into_eight_minutes(capsys):
    assert sum(network.seconds for network in NETWORKS.values()) + gpu.OF_TESTS <= gpu.TOTAL < 480
    assert gpu.by_network(NETWORKS, CPU, end=0.0) == {}
    assert "gpt2 is left out: no time is left" in capsys.readouterr().err
    with torch.device("meta"):
        assert sum(value.numel() for value in NETWORKS["gpt2"].make().parameters()) == 124_439_808


def test_the_page_keeps_one_section_of_the_gpu(tmp_path, figures):
    found = {"mlp": asdict(figures), "gpt2": asdict(figures) | {"overhead": [], "left_out": {"overhead": "too long"}}}
    common = {"device": "a device", "torch": "2", "sample": 8, "seconds": 61.2, "tests": "9 tests"}
    section = gpu_page.section(common | {"networks": found})
    assert "- gpt2, overhead: too long." in section
    assert "which took 61 s, on a device, torch 2" in section
    assert "\n| gpt2 | 1,210 | 8 |" in section
    page = tmp_path / "page.md"
    assert gpu_page.section_of(page) == gpu_page.NOT_TESTED
    page.write_text(gpu_page.put("# A page\n\nText.\n", section))
    assert gpu_page.section_of(page) == section
    twice = gpu_page.put(gpu_page.put(page.read_text(), section), gpu_page.NOT_TESTED)
    assert twice == f"# A page\n\nText.\n\n{gpu_page.NOT_TESTED}"


def test_the_page_in_the_repository_says_what_was_tested():
    assert gpu_page.section_of(ROOT / "docs" / "benchmarks.md").startswith(gpu_page.TITLE)


@without_cuda
def test_without_a_device_one_line_says_so(tmp_path, capsys):
    output = tmp_path / "gpu.json"
    assert gpu.main(["--output", str(output)]) == 0
    assert capsys.readouterr().out.startswith("NOT TESTED: there is no CUDA device")
    assert not output.exists()


@pytest.mark.parametrize("passed", ["6 tests", None])
def test_the_file_is_written_once_the_tests_have_passed(tmp_path, monkeypatch, passed):
    monkeypatch.setattr(gpu, "tested", lambda device, small: passed)
    monkeypatch.setattr(gpu, "by_network", lambda *_: {})
    output = tmp_path / "new" / "gpu.json"
    code = gpu.main(["--device", "cpu", "--small", "--output", str(output)])
    assert (code, output.exists()) == ((0, True) if passed else (1, False))
    if passed:
        assert json.loads(output.read_text())["device"] == "the CPU"


@pytest.mark.parametrize(
    ("stdout", "code", "expected"),
    [
        ("12 passed in 3 s", 0, "12 tests"),
        ("1 failed, 3 passed", 1, None),
        ("1 skipped", 5, None),
        ("1 skipped", 0, None),
    ],
)
def test_what_the_tests_said(monkeypatch, stdout, code, expected):
    called = []

    def run(command, **options):
        called.append((command, options["timeout"]))
        return gpu.subprocess.CompletedProcess(command, code, stdout, "")

    monkeypatch.setattr(gpu.subprocess, "run", run)
    assert gpu.tested("cuda", small=False) == expected
    assert called[0][0][-1] == "tests/gpu/test_cuda.py"
    assert called[0][1] == gpu.OF_TESTS


def test_tests_that_do_not_end(monkeypatch, capsys):
    def run(command, **options):
        raise gpu.subprocess.TimeoutExpired(command, options["timeout"])

    monkeypatch.setattr(gpu.subprocess, "run", run)
    assert gpu.tested("cpu", small=True) is None
    assert "did not end in 150 s" in capsys.readouterr().err


@pytest.mark.slow
def test_the_whole_command_in_small(tmp_path):
    output = tmp_path / "gpu.json"
    assert gpu.main(["--device", "cpu", "--small", "--output", str(output)]) == 0
    found = json.loads(output.read_text())
    assert set(found["networks"]) == set(SMALL)
    assert int(found["tests"].split()[0]) >= 6
