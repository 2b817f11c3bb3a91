"""How the terms' pass grows: its seconds and its memory."""

import statistics
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from benchmarks.case import Case, pass_flops
from benchmarks.memory import Memory, in_fresh_process
from benchmarks.sides import by_project, prepared
from ireg.experiment import build

GRID: dict[str, Sequence[int]] = {
    "num_examples": (1250, 2500, 5000, 10_000),
    "width": (64, 128, 256, 512),
    "batch_size": (16, 32, 64, 128, 256),
}
OPTIMIZERS = ("sgd", "rmsprop")
EPOCHS = 3


@dataclass(frozen=True)
class Point:
    """Median seconds of one case's terms' pass, and the operations of its matrix products."""

    case: Case
    seconds: float
    flops: int


def seconds(base: Case, grid: dict[str, Sequence[int]] = GRID) -> dict[str, list[Point]]:
    """Measure the terms' pass by axis: one field of the case varies, the others are those of `base`."""
    known: dict[Case, Point] = {}
    points: dict[str, list[Point]] = {}
    for axis, values in grid.items():
        for optimizer in OPTIMIZERS:
            for value in values:
                changes: dict[str, Any] = {"num_examples": max(grid["num_examples"]), axis: value}
                case = replace(base, optimizer=optimizer, **changes)
                if case not in known:  # the axes cross
                    known[case] = _point(case)
                points.setdefault(axis, []).append(known[case])
    return points


def memory(base: Case, sizes: Sequence[int] = GRID["num_examples"]) -> list[tuple[Case, Memory]]:
    """Measure peak memory of the terms' pass over many minibatches, each number of them in a new process."""
    cases = [replace(base, optimizer=optimizer, num_examples=size) for optimizer in OPTIMIZERS for size in sizes]
    peaks = []
    for case in cases:
        print(f"memory: {case}", file=sys.stderr, flush=True)
        peaks.append((case, in_fresh_process(case)))
    return peaks


def _point(case: Case) -> Point:
    print(f"growth: {case}", file=sys.stderr, flush=True)
    settings, data = prepared(case)
    flops = pass_flops(build.make_model(settings, data), len(data.train_inputs))
    values = [epoch.terms for epoch in by_project(case, EPOCHS) if epoch.terms is not None]
    return Point(case, statistics.median(values), flops)
