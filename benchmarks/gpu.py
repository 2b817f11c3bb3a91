"""`python -m benchmarks.gpu`: whether a GPU computes what the CPU does, and what terms cost there.

It runs the tests marked `gpu`, then trains networks from 20 thousand to 124 million weights and measures their terms,
in less than eight minutes. The results are one JSON file, and a section of docs/benchmarks.md.

Without a CUDA device it says NOT TESTED, writes nothing, and ends with exit code 0: nothing has failed. A test that
fails, or tests that do not end in time, end it with exit code 1 before anything is measured.
"""

import argparse
import json
import re
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from benchmarks import gpu_page
from benchmarks.case import ROOT
from benchmarks.gpu_networks import NETWORKS, SMALL, Network
from benchmarks.gpu_times import SAMPLE, measured
from ireg.system.command import EXIT_FAILED, framed, run_as_process
from ireg.system.files import write_text
from ireg.system.terminal import make_console

PAGE = ROOT / "docs" / "benchmarks.md"
OUTPUT = ROOT / "multirun" / "gpu.json"
TOTAL, OF_TESTS = 460, 150
"""Seconds of all, and of the tests."""
LEAST = 3
"""Seconds that a network needs at least."""


@framed
def main(arguments: Sequence[str] | None = None) -> int:
    """Run the tests, measure, and write what was found."""
    asked = _arguments(arguments)
    if asked.device == "cuda" and not torch.cuda.is_available():
        print(
            "NOT TESTED: there is no CUDA device; python -m benchmarks.gpu --device cpu --small tries the code without"
        )
        return 0
    start = time.perf_counter()
    passed = tested(asked.device, small=asked.small)
    if passed is None:
        return EXIT_FAILED
    networks = by_network(SMALL if asked.small else NETWORKS, torch.device(asked.device), start + TOTAL)
    found = report(asked, passed, networks, time.perf_counter() - start)
    for grid in (gpu_page.costs(found["networks"]), gpu_page.methods(found["networks"])):
        make_console(width=160).print(grid.rich())
    asked.output.parent.mkdir(parents=True, exist_ok=True)
    write_text(asked.output, json.dumps(found, indent=1) + "\n")
    print(f"wrote {asked.output}", file=sys.stderr)
    if asked.device == "cuda" and not asked.small:
        write_text(PAGE, gpu_page.put(PAGE.read_text(encoding="utf-8"), gpu_page.section(found)))
        print(f"wrote {PAGE}", file=sys.stderr)
    return 0


def _arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--device", choices=("cuda", "cpu"), default="cuda", help="cpu tries the code, and writes no page"
    )
    parser.add_argument("--small", action="store_true", help="small networks and few tests, in a minute on a CPU")
    parser.add_argument("--output", type=Path, default=OUTPUT, help="the JSON file (default multirun/gpu.json)")
    return parser.parse_args(arguments)


def tested(device: str, *, small: bool) -> str | None:
    """Run the tests of a device in a process of their own.

    Returns:
        How many passed, in words; None where one failed or they did not end in time, which is reported.
    """
    place = "tests/gpu/test_cuda.py" if device == "cuda" else "tests/gpu/test_on_cpu.py"
    command = [sys.executable, "-m", "pytest", "-q", "-x", place, *(["-k", "moments and mlp"] if small else [])]
    print(f"gpu: {' '.join(command[1:])}", file=sys.stderr, flush=True)
    try:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=OF_TESTS)
    except subprocess.TimeoutExpired:
        print(f"error: the tests did not end in {OF_TESTS} s; nothing was measured", file=sys.stderr)
        return None
    count = re.search(r"(\d+) passed", done.stdout)
    if done.returncode != 0 or count is None:
        print(done.stdout[-4000:] + done.stderr[-1000:], file=sys.stderr)
        print("error: the tests failed; nothing was measured", file=sys.stderr)
        return None
    return f"{count[1]} tests"


def by_network(networks: Mapping[str, Network], device: torch.device, end: float) -> dict[str, dict[str, Any]]:
    """Measure one network after the other, until `end`; what is left out is said on standard error."""
    found: dict[str, dict[str, Any]] = {}
    for name, network in networks.items():
        left = end - time.perf_counter()
        if left < LEAST:
            print(f"gpu: {name} is left out: no time is left", file=sys.stderr)
            continue
        print(f"gpu: {name}", file=sys.stderr, flush=True)
        try:
            figures = measured(replace(network, seconds=min(network.seconds, left)), device)
        except torch.OutOfMemoryError:  # of the network itself
            print(f"gpu: {name} is left out: not enough memory on the device", file=sys.stderr)
            continue
        found[name] = asdict(figures)
        for part, reason in figures.left_out.items():
            print(f"gpu: {name}, {part} is left out: {reason}", file=sys.stderr)
    return found


def report(
    asked: argparse.Namespace, passed: str, networks: Mapping[str, Mapping[str, Any]], seconds: float
) -> dict[str, Any]:
    """Return all that was found, as it is written to the file."""
    cuda = asked.device == "cuda"
    return {
        "device": torch.cuda.get_device_name() if cuda else "the CPU",
        "device_memory": torch.cuda.get_device_properties(0).total_memory if cuda else None,
        "torch": torch.__version__,
        "small": asked.small,
        "sample": SAMPLE,
        "tests": passed,
        "seconds": seconds,
        "networks": networks,
    }


if __name__ == "__main__":
    run_as_process(main)
