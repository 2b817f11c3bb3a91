"""Tune each optimizer of a setting in sequence, and do its final runs; nothing is done twice."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ireg import sweep
from ireg.analysis.load import load, runs
from ireg.analysis.places import at_places
from ireg.runs.find import run_folders
from ireg.runs.layout import HELD_OUT
from ireg.runs.readable import read_record
from ireg.system.files import replacing
from study.annealed.plan import (
    FINAL_SEEDS,
    SETTINGS,
    STAGES,
    TUNED,
    TUNING_SEEDS,
    Trial,
    calls,
    first_rates,
    trial_columns,
)
from study.cells import ENDED, LOSSES, merged
from study.ties import as_digits, wrong_at_places

KEY = [*trial_columns(), "seed"]
"""Columns that say which run a row is of."""

LEVELS = (*LOSSES, 0.01, 0.003)
"""Training losses at which final runs are compared."""

MIDDLE = 15
"""Epoch at which the noise scale and the curvature are read off: at the end the rate is zero."""

CHOOSES = "holdout/error"
"""What a trial is chosen by, after the last epoch."""

AT_THE_END = (
    "test/error",
    "test/loss",
    CHOOSES,
    "holdout/loss",
    "train/error",
    "train/loss",
    "fit/memorized",
    "norm/l2",
)
"""Of a tuning run, after the last epoch."""

WITHOUT_CURVATURE = ("terms.curvature=null",)
"""Of every second final run: it takes as long as the training."""

FAILED = 1.0
"""Held-out error of a trial of which a run diverged."""


def tuned(setting: str, optimizer: str, data: Path, sweeps: Path, jobs: int) -> Trial:
    """Tune an optimizer: its rate, then its decay, then its memory.

    Args:
        setting: of `SETTINGS`.
        optimizer: of `TUNED`.
        data: folder of the study's files.
        sweeps: folder of the runs.
        jobs: runs at once.

    Returns:
        The best of 14 trials.
    """

    def run(trials: Sequence[Trial]) -> pd.DataFrame:
        _tune(setting, trials, data, sweeps, jobs)
        return recorded(tuning_file(data, setting))

    return in_sequence(optimizer, run)


def chosen_trial(table: pd.DataFrame, optimizer: str) -> Trial:
    """Return the trial that an optimizer's recorded tuning runs choose."""
    return in_sequence(optimizer, lambda trials: table)


def in_sequence(optimizer: str, run: Callable[[Sequence[Trial]], pd.DataFrame]) -> Trial:
    """Choose a rate, then a decay, then a memory, each time from the best trial before.

    Args:
        optimizer: of `TUNED`.
        run: does trials, and returns the tuning runs that there are.
    """
    trials = first_rates(optimizer)
    best = chosen(run(trials), trials)
    for stage in STAGES:
        trials = stage(best)
        best = chosen(run(trials), [best, *trials])
    return best


def chosen(table: pd.DataFrame, trials: Sequence[Trial], runs: int = len(TUNING_SEEDS)) -> Trial:
    """Choose the trial of the lowest held-out error after the last epoch, the mean over its seeds.

    Args:
        table: of the tuning runs.
        trials: to choose among, of equal ones the first.
        runs: of each trial.

    Raises:
        ValueError: a trial has not been run with all seeds.
    """
    return min(trials, key=lambda trial: _held_out_error(table, trial, runs))


def _held_out_error(table: pd.DataFrame, trial: Trial, runs: int) -> float:
    rows = of_trial(table, trial)
    if len(rows) != runs:
        raise ValueError(f"{trial}: {len(rows)} of {runs} tuning runs are recorded")
    # To 12 digits: means that differ by rounding alone are equal.
    return float(f"{rows[CHOOSES].fillna(FAILED).mean():.12g}")


def of_trial(table: pd.DataFrame, trial: Trial) -> pd.DataFrame:
    """Select a trial's rows."""
    return table[np.array([alike(trial, Trial(*row)) for row in table[KEY[:4]].itertuples(index=False)], dtype=bool)]


def alike(one: Trial, other: Trial) -> bool:
    """Say whether two trials are the same, to the digits of a file."""
    numbers = ((one.lr, other.lr), (one.decay, other.decay), (one.memory, other.memory))
    return one.optimizer == other.optimizer and all(math.isclose(*pair, rel_tol=1e-5) for pair in numbers)


def recorded(path: Path, columns: Sequence[str] = KEY) -> pd.DataFrame:
    """Read a file of runs; without it there are none, in these columns."""
    return pd.read_csv(path, dtype={"wrong": str}) if path.exists() else pd.DataFrame(columns=list(columns))


def tuning_file(data: Path, setting: str) -> Path:
    """Return the file of a setting's tuning runs."""
    return data / f"tuning_{setting}.csv"


def final_file(data: Path, setting: str) -> Path:
    """Return the file of a setting's final runs."""
    return data / f"final_{setting}.csv"


def _tune(setting: str, trials: Sequence[Trial], data: Path, sweeps: Path, jobs: int) -> None:
    path = tuning_file(data, setting)
    missing = [trial for trial in trials if len(of_trial(recorded(path), trial)) < len(TUNING_SEEDS)]
    folder = sweeps / f"annealed_tuning_{setting}"
    for overrides, those in calls(missing):
        do_sweep("annealed_tuning", [*SETTINGS[setting], *overrides], TUNING_SEEDS, folder, jobs)
        put(path, rows_at_the_end(folder, those, TUNING_SEEDS))


def finish(setting: str, trial: Trial, data: Path, sweeps: Path, jobs: int) -> None:
    """Do a trial's final runs, and record them.

    Args:
        setting: of `SETTINGS`.
        trial: that was chosen.
        data: folder of the study's files.
        sweeps: folder of the runs.
        jobs: runs at once.
    """
    path = final_file(data, setting)
    folder = sweeps / f"annealed_final_{setting}"
    for seeds, terms in ((FINAL_SEEDS[::2], ()), (FINAL_SEEDS[1::2], WITHOUT_CURVATURE)):
        missing = [seed for seed in seeds if seed not in set(of_trial(recorded(path), trial)["seed"])]
        for overrides, _ in calls([trial]) if missing else ():
            do_sweep("annealed_final", [*SETTINGS[setting], *overrides, *terms], missing, folder, jobs)
            put(path, _final_rows(folder, trial, missing))


def do_sweep(experiment: str, overrides: Sequence[str], seeds: Sequence[int], folder: Path, jobs: int) -> None:
    """Do runs of an experiment.

    Args:
        experiment: of `conf/experiment`.
        overrides: further ones.
        seeds: of the runs.
        folder: of the sweep.
        jobs: runs at once.

    Raises:
        RuntimeError: no run has ended.
    """
    whole = [
        f"experiment={experiment}",
        *overrides,
        f"seed={','.join(map(str, seeds))}",
        f"hydra.launcher.n_jobs={jobs}",
    ]
    print(" ".join(whole), flush=True)
    try:
        sweep(whole, folder=folder, quiet=True)
    except RuntimeError:
        # It has no finished run to return: the runs may all have diverged, which is a result.
        if not (runs(folder)["state"] == "diverged").any():
            raise


def _trials_of(folder: Path) -> dict[str, Trial]:
    """Read of each run in a folder which trial it is of."""
    found = {}
    for path in run_folders(folder):
        record = read_record(path)
        if record is not None:
            found[path.relative_to(folder).as_posix()] = _trial_of(record["config"])
    return found


def _trial_of(config: Mapping[str, Any]) -> Trial:
    optimizer = config["optimizer"]
    memory = optimizer[TUNED[optimizer["name"]].memory_key[0].removeprefix("optimizer.")]
    return Trial(
        optimizer["name"],
        float(config["lr"]),
        float(optimizer["weight_decay"]),
        float(memory[-1] if isinstance(memory, list) else memory),
    )


def rows_at_the_end(folder: Path, trials: Sequence[Trial], seeds: Sequence[int]) -> pd.DataFrame:
    """Return a row a run of these trials: values and wrong examples after the last epoch."""
    trial_of = _trials_of(folder)
    rows = []
    for _, run in runs(folder).iterrows():
        trial = trial_of[run["run"]]
        if run["seed"] not in seeds or not any(alike(trial, other) for other in trials):
            continue
        row = {**asdict(trial), "seed": run["seed"], "state": run["state"]}
        if run["state"] == "done":
            row |= {tag: run.get(tag) for tag in AT_THE_END}
            best, end = wrong_at_places(folder / run["run"] / HELD_OUT)
            row |= {"best_epoch": best[1], "wrong": as_digits(end[2])}
        rows.append(row)
    return pd.DataFrame(rows)


def _final_rows(folder: Path, trial: Trial, seeds: Sequence[int]) -> pd.DataFrame:
    """Return a row a run and place of a trial's final runs."""
    table = load(folder)
    own = [run for run, other in _trials_of(folder).items() if alike(trial, other)]
    ended = table[table["run"].isin(own) & table["seed"].isin(seeds) & table["state"].isin(ENDED)]
    rows = at_places(ended, LEVELS, (MIDDLE,), last=1)
    tags = [column for column in rows if "/" in column]
    return rows.assign(**asdict(trial))[[*KEY, "state", "place", "at", "seconds", *tags]]


def put(path: Path, rows: pd.DataFrame, key: Sequence[str] = KEY) -> None:
    """Write rows into a file of runs, in place of those of the same runs.

    Args:
        path: of the file.
        rows: of new runs.
        key: columns that say which run a row is of.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    before = recorded(path)
    whole = merged(before, rows, key) if len(before) else rows
    with replacing(path) as temporary:
        whole.to_csv(temporary, index=False, float_format="%.6g")
