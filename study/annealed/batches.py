"""Batch size and optimizer: rates tuned at each size, and five final runs at the best one.

    python -m study.annealed.batches

needs the trials and final runs of `mnist10k_30` at batches of 64; what is recorded is not run again.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pandas as pd

from ireg.system.command import framed, run_as_process
from study.annealed.plan import (
    FINAL_SEEDS,
    SETTINGS,
    TUNED,
    Trial,
    add_jobs,
    add_optimizers,
    add_places,
    calls,
    require_optimizers,
    rounded,
)
from study.annealed.trials import (
    AT_THE_END,
    KEY,
    chosen,
    chosen_trial,
    do_sweep,
    of_trial,
    put,
    recorded,
    rows_at_the_end,
    tuning_file,
)

SETTING = "mnist10k_30"
BASE_SIZE = 64
EXAMPLES = 8000

SIZES = (16, 256, 1024)
"""Beside 64, whose runs are the setting's own."""

FACTORS = (10**-0.75, 10**-0.25, 10**0.25, 10**0.75)
"""Of the rate of batches of 64 times the root of the sizes' ratio."""

TUNING_SEED = 0
SEEDS = FINAL_SEEDS[::2]
"""One of each draw."""

COLUMNS = ["batch_size", "stage", *KEY, "state", *AT_THE_END]


def batches_file(data: Path) -> Path:
    """Return the file of the runs at other batch sizes."""
    return data / f"batches_{SETTING}.csv"


def rates_at(best: Trial, size: int) -> list[Trial]:
    """List four rates, √10 apart, about the one of batches of 64 times √(size/64).

    Example:
        >>> [trial.lr for trial in rates_at(Trial("adamw", 1e-3, 0.0, 0.999), 256)]
        [0.00036, 0.0011, 0.0036, 0.011]
    """
    middle = best.lr * (size / BASE_SIZE) ** 0.5
    return [replace(best, lr=rounded(middle * factor)) for factor in FACTORS]


def of_size(table: pd.DataFrame, size: int, stage: str) -> pd.DataFrame:
    """Select the rows of a batch size that are of a stage, `rate` or `final`."""
    return table[(table["batch_size"] == size) & (table["stage"] == stage)]


def study_size(size: int, optimizer: str, data: Path, sweeps: Path, jobs: int) -> None:
    """Do what is not yet recorded of an optimizer at a batch size."""
    path = batches_file(data)
    trials = rates_at(chosen_trial(recorded(tuning_file(data, SETTING)), optimizer), size)
    _run(path, size, "rate", trials, [TUNING_SEED], sweeps, jobs)
    best = chosen(of_size(recorded(path, COLUMNS), size, "rate"), trials, runs=1)
    print(f"batches of {size}: {best}", flush=True)
    _run(path, size, "final", [best], SEEDS, sweeps, jobs)


def _run(
    path: Path, size: int, stage: str, trials: Sequence[Trial], seeds: Sequence[int], sweeps: Path, jobs: int
) -> None:
    folder = sweeps / f"annealed_batches_{SETTING}_{size}"
    there = of_size(recorded(path, COLUMNS), size, stage)
    missing = [trial for trial in trials if not set(seeds) <= set(of_trial(there, trial)["seed"])]
    epoch = -(-EXAMPLES // size)
    for overrides, those in calls(missing):
        further = [f"batch_size={size}", f"schedule.warmup={epoch}"]
        do_sweep("annealed_tuning", [*SETTINGS[SETTING], *overrides, *further], seeds, folder, jobs)
        rows = rows_at_the_end(folder, those, seeds).assign(batch_size=size, stage=stage)
        put(path, rows[[column for column in COLUMNS if column in rows]], ["batch_size", "stage", *KEY])


@framed
def main(arguments: Sequence[str] | None = None) -> int:
    """Do what is not yet recorded."""
    parser = argparse.ArgumentParser(
        prog="python -m study.annealed.batches",
        description=f"Tune each optimizer's rate at batches of {', '.join(map(str, SIZES))}, and do five final runs.",
    )
    add_optimizers(parser)
    add_places(parser)
    add_jobs(parser)
    given = parser.parse_args(arguments)
    require_optimizers(given.optimizer or ())
    for optimizer in given.optimizer or TUNED:
        for size in reversed(SIZES):
            study_size(size, optimizer, given.data, given.sweeps, given.jobs)
    return 0


if __name__ == "__main__":
    run_as_process(main)
