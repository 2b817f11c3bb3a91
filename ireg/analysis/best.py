"""Fair tuning: each optimizer's best learning rate in a sweep, and how far to trust it.

A sweep is over rates and seeds.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from ireg.analysis.load import is_measured, is_seed, one_run_a_seed, setting_columns
from ireg.analysis.summary import plain, print_tables, rich_table, spread
from ireg.system.errors import UserError

CRITERION = "test/error"
HELD_OUT = "holdout/error"
"""What chooses rates where held-out examples were measured; `CRITERION` does elsewhere."""


@dataclass(frozen=True)
class _Rate:
    """One learning rate of a group, and its verdict: complete, diverged, or, with neither, incomplete."""

    lr: float
    values: list[float]  # final values of the seeds that are done
    diverged: bool
    complete: bool
    progress: str

    @property
    def mean(self) -> float:
        return statistics.fmean(self.values)

    @property
    def sd(self) -> float:
        return statistics.stdev(self.values) if len(self.values) > 1 else math.nan

    @property
    def rank(self) -> tuple[float, float]:
        # To 12 digits: means that differ by rounding alone, as 0.1 + 0.2 and 0.15 + 0.15, are a tie.
        return float(f"{self.mean:.12g}"), self.lr


def default_criterion(runs: pd.DataFrame) -> str:
    """Return the tag that chooses rates where the user names none.

    Held-out examples choose where there are any: the error that chose is optimistic, and the test set's is then not.

    Args:
        runs: a row a run, its final values.

    Returns:
        `holdout/error` if every run that is done has measured it, else `test/error`.
    """
    done = runs[runs["state"] == "done"]
    if HELD_OUT in runs and len(done) and bool(done[HELD_OUT].notna().all()):
        return HELD_OUT
    return CRITERION


def best_rates(runs: pd.DataFrame, criterion: str = CRITERION) -> pd.DataFrame | None:
    """Return each optimizer's best learning rate.

    The best has the smallest mean over seeds of the final value of the tag `criterion`; of equal ones it is the
    smallest rate. Whatever else separates runs (batch size, an optimizer's other arguments, label noise, epochs) makes
    groups of their own and is not averaged over. In a group

    - a rate at which a seed diverged, or ended with a value that is not finite, is infinitely bad;
    - any other rate that lacks the final value of a seed of its group (unfinished, failed, never started, or the tag
      is not measured) is incomplete: it is not ranked, since means over different seeds do not compare.

    The mean that chose a rate is an optimistic estimate of the same tag: it is the luckiest of several. With the
    default it has seen the test set. Choose by another tag, or repeat the chosen rate with seeds that had no say.

    Columns: the group's; `criterion`; `lr` (the best), `mean`, `sd` (of a sample, divisor n - 1), `n` (seeds); `rates`
    (how many were tried), `diverged` and `incomplete` (how many of them are); `runner_up` (a rate) and
    `runner_up_mean`; `warnings`, separated by "; ": the best is the smallest or largest of the rates that are ranked or
    diverged, the runner-up's mean is within one standard error (sd / √n) of the best's, there is one seed or one rate
    only, rates are incomplete, nothing can be ranked. What does not exist is empty.

    Args:
        runs: the table of `load.runs`.
        criterion: the tag that chooses.

    Returns:
        A row a group, with these columns; None if no group has two rates.

    Raises:
        UserError: no run has the tag.
    """
    tags = [column for column in runs.columns if "/" in column and not column.startswith("time/")]
    if criterion not in tags:
        known = ", ".join(tags) if tags else "nothing: no run has measured anything yet"
        raise UserError(f"criterion={criterion!r}: no run has measured it; choose one of {known}")
    columns = _group_columns(runs)
    varied = [column for column in columns[1:] if len(runs[column].drop_duplicates()) > 1]
    groups = [
        (dict(zip(columns, key, strict=True)), _rates(rows, criterion))
        for key, rows in runs.groupby(columns, dropna=False, sort=False)
    ]
    if all(len(rates) < 2 for _, rates in groups):
        return None
    rows = []
    for values, rates in groups:
        name = ", ".join([plain(values["optimizer"]), *(f"{column}={plain(values[column])}" for column in varied)])
        rows.append(values | {"criterion": criterion} | _choose(name, rates, criterion))
    return pd.DataFrame(rows)


def _group_columns(runs: pd.DataFrame) -> list[str]:
    """List what separates settings beside the learning rate and its copies, as an optimizer's own `lr` is."""
    copies = [column for column in runs.columns if column != "lr" and runs[column].equals(runs["lr"])]
    return [column for column in setting_columns(runs.drop(columns=copies).assign(lr=0.0)) if column != "lr"]


def _rates(rows: pd.DataFrame, criterion: str) -> list[_Rate]:
    """Judge each rate of a group, smallest first."""
    num_seeds = len(_seeds(rows))
    return [_judge(float(lr), one_run_a_seed(of_rate), criterion, num_seeds) for lr, of_rate in rows.groupby("lr")]


def _seeds(rows: pd.DataFrame) -> set[tuple[str, ...]]:
    columns = [column for column in rows.columns if is_seed(column)]
    return set(map(tuple, rows[columns].astype(str).to_numpy()))


def _judge(lr: float, rows: pd.DataFrame, criterion: str, num_seeds: int) -> _Rate:
    finite = np.isfinite(rows[criterion].astype(float))
    done = rows["state"] == "done"
    diverged = (rows["state"] == "diverged") | (done & is_measured(rows, criterion) & ~finite)
    values = rows.loc[done & finite, criterion].astype(float).tolist()
    failed = int((rows["state"] == "failed").sum())
    progress = f"{len(values)} of {num_seeds} seeds" + (f", {failed} failed" if failed else "")
    return _Rate(lr, values, bool(diverged.any()), not diverged.any() and len(values) == num_seeds, progress)


def _choose(name: str, rates: Sequence[_Rate], criterion: str) -> dict[str, Any]:
    """Return a group's row: the best rate, what it is compared with, and warnings."""
    ranked = sorted((rate for rate in rates if rate.complete), key=lambda rate: rate.rank)
    incomplete = [rate for rate in rates if not rate.complete and not rate.diverged]
    best, runner_up = [*ranked[:2], None, None][:2]
    warnings = _doubts(best, runner_up, [rate for rate in rates if rate not in incomplete])
    if incomplete:
        listed = ", ".join(f"lr={plain(rate.lr)} ({rate.progress})" for rate in incomplete)
        warnings.append(f"not ranked, for lack of a seed's final {criterion}: {listed}")
    return {
        "lr": best.lr if best else math.nan,
        "mean": best.mean if best else math.nan,
        "sd": best.sd if best else math.nan,
        "n": len(best.values) if best else 0,
        "rates": len(rates),
        "diverged": sum(rate.diverged for rate in rates),
        "incomplete": len(incomplete),
        "runner_up": runner_up.lr if runner_up else math.nan,
        "runner_up_mean": runner_up.mean if runner_up else math.nan,
        "warnings": "; ".join(f"{name}: {warning}" for warning in warnings),
    }


def _doubts(best: _Rate | None, runner_up: _Rate | None, judged: Sequence[_Rate]) -> list[str]:
    """Say why more rates or seeds might lead to another choice.

    `judged` are the ranked and the diverged rates.
    """
    if best is None:
        return ["every rate diverged, try smaller ones"] if judged else ["no rate can be ranked yet"]
    doubts = []
    if len(judged) == 1:
        doubts.append(f"lr={plain(best.lr)} is the only rate to choose from")
    elif best.lr == judged[0].lr:
        doubts.append(f"the best, lr={plain(best.lr)}, is the smallest rate tried, try smaller ones")
    elif best.lr == judged[-1].lr:
        doubts.append(f"the best, lr={plain(best.lr)}, is the largest rate tried, try larger ones")
    if len(best.values) == 1:
        doubts.append("one seed: how far the choice depends on it is unknown")
    elif runner_up is not None and runner_up.rank[0] - best.rank[0] <= best.sd / math.sqrt(len(best.values)):
        doubts.append(
            f"lr={plain(runner_up.lr)} is within one standard error of the best, lr={plain(best.lr)}: "
            "more seeds can tell them apart"
        )
    return doubts


def print_best(best: pd.DataFrame) -> None:
    """Print the table of `best_rates`."""
    criterion = best["criterion"].iloc[0]
    group = list(best.columns[: best.columns.get_loc("criterion")])
    shown = [column for column in group if column == "optimizer" or len(best[column].drop_duplicates()) > 1]
    texts = [spread(criterion, mean, sd) for mean, sd in zip(best["mean"], best["sd"], strict=True)]
    title = f"Best learning rate: mean ± standard deviation of {criterion} over n seeds"
    columns = [*shown, "lr", criterion, "n", "rates", "diverged", "incomplete", "runner_up"]
    print_tables([rich_table(title, best.assign(**{criterion: texts}), columns)])


def warnings_of(best: pd.DataFrame) -> list[str]:
    """List the warnings of `best_rates`."""
    return [line for line in "; ".join(best["warnings"]).split("; ") if line]


def print_doubts(best: pd.DataFrame) -> None:
    """Print the warnings of `best_rates`, a line each, and at last what the numbers may not be used for."""
    criterion = best["criterion"].iloc[0]
    for line in warnings_of(best):
        print(f"warning: {line}")
    print(
        f"note: {criterion} chose these rates, so its means here are optimistic, each the luckiest of several; "
        "--criterion TAG chooses by another tag, and new seeds at the chosen rate had no say in the choice"
    )
