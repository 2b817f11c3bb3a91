"""Sides in turns, measured in one process, so that what else the machine does affects all of them."""

import gc
import sys
import time
from dataclasses import dataclass

import torch

from benchmarks.case import Case, pass_flops
from benchmarks.sides import ORDINARY, SIDES, THEORY, prepared
from benchmarks.times import Result
from ireg.experiment import build


@dataclass(frozen=True, kw_only=True)
class Effort:
    """How long a case is measured.

    Attributes:
        epochs: of each side in a turn.
        skipped: of these, the first ones that are not counted.
        min_turns: turns taken in any case.
        max_turns: turns taken at most.
        seconds: no further turn begins after so many.
        ordinary_turns: of the first turns, those in which the ordinary way takes part, with one epoch counted.
        theory_turns: the same of `terms=theory`.
    """

    epochs: int
    skipped: int
    min_turns: int
    max_turns: int
    seconds: float
    ordinary_turns: int
    theory_turns: int


def measured(case: Case, effort: Effort) -> Result:
    """Measure one case, and tell the progress on stderr."""
    torch.set_num_threads(case.threads)
    settings, data = prepared(case)
    sizes = len(data.train_inputs), len(data.test_inputs)
    result = Result(case, sizes, pass_flops(build.make_model(settings, data), sizes[0]))
    del data
    rare = {ORDINARY: effort.ordinary_turns, THEORY: effort.theory_turns}
    start = time.perf_counter()
    for turn in range(effort.max_turns):
        if turn >= effort.min_turns and time.perf_counter() - start > effort.seconds:
            break
        print(f"{case}: turn {turn + 1}", file=sys.stderr, flush=True)
        for side in _order(turn):
            if turn >= rare.get(side, effort.max_turns):
                continue
            gc.collect()
            epochs = effort.skipped + 1 if side in rare else effort.epochs
            result.turns.setdefault(side, []).append(SIDES[side](case, epochs)[effort.skipped :])
    return result


def _order(turn: int) -> list[str]:
    """Return the sides of a turn: each begins with another one, and none always follows the same one."""
    names = list(SIDES)
    shift = turn % len(names)
    return names[shift:] + names[:shift]
