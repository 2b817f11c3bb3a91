"""`python -m benchmarks.explicit multirun/explicit`: penalties at equal fit.

They stand in place of large rates and of small minibatches.

From the runs of docs/explicit.md it writes docs/data/explicit.csv, a row a run and training loss. The page's tables are
made from that file; a test compares them.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from benchmarks.study import DATA, published, written
from ireg.analysis.pages import markdown
from ireg.analysis.places import first_at_most
from ireg.command import framed, run_as_process
from ireg.statistics import mean_interval, paired_difference

CSV = DATA / "explicit.csv"
LOSSES = (1.3, 1.0, 0.7, 0.5)
"""Training losses at which runs are compared."""
SETTING = ["lr", "batch_size", "regularizer.name", "regularizer.method", "regularizer.strength"]
TAGS = ("test/error", "fit/memorized")


def measured(table: pd.DataFrame) -> pd.DataFrame:
    """Return a row a run and training loss.

    It is of where the loss is first reached: linear in its logarithm between the epochs around it.

    Args:
        table: of `ireg.load`.
    """
    found = []
    for run, rows in table[table["state"].isin(("done", "diverged"))].groupby("run"):
        seen = rows.sort_values("epoch").reset_index(drop=True)
        setting = {key: seen[key].iloc[0] for key in (*SETTING, "seed")}
        for loss in LOSSES:
            reached = first_at_most(seen.index, seen["train/loss"], loss)
            if reached is None:
                continue
            at = {tag: float(np.interp(reached, seen.index, seen[tag])) for tag in ("epoch", *TAGS)}
            found.append({**setting, "run": run, "loss": loss, **at})
    return pd.DataFrame(found).drop(columns="run").sort_values([*SETTING, "seed"], kind="stable")


def table(runs: pd.DataFrame) -> str:
    """Write the table of docs/explicit.md."""
    head = ["η", "batch", "penalty", "λ", "seeds", *(f"test error at loss {loss:g}" for loss in LOSSES)]
    lines = []
    for setting, rows in runs.groupby(SETTING, dropna=False, sort=True):
        rate, size, name, method, strength = setting
        penalty = "none" if name == "none" else f"{name}, {method}"
        cells = [f"{rate:g}", f"{size:g}", penalty, "0" if name == "none" else f"{strength:g}"]
        cells.append(f"{rows['seed'].nunique()}")
        for loss in LOSSES:
            interval = mean_interval(rows[rows["loss"] == loss]["test/error"].tolist())
            cells.append(_percent(interval.mean, interval.half))
        lines.append(cells)
    return markdown(head, lines)


SMALL, LARGE = {"lr": 0.025, "batch_size": 64}, {"lr": 0.1, "batch_size": 64}
LARGE_BATCH = {"lr": 0.5, "batch_size": 1024}
NONE = {"regularizer.name": "none"}
DIFFERENCES = {"regularizer.method": "differences", "regularizer.strength": 0.075}
EXACT = {"regularizer.name": "minibatch", "regularizer.method": "exact", "regularizer.strength": 0.075}
PAIRS = {
    "penalty by differences, less none": (SMALL | DIFFERENCES, SMALL | NONE),
    "penalty by double backward, less none": (SMALL | EXACT, SMALL | NONE),
    "the large rate, less the small": (LARGE | NONE, SMALL | NONE),
    "penalty by differences, less the large rate": (SMALL | DIFFERENCES, LARGE | NONE),
    "large batch, less small": (LARGE_BATCH | NONE, LARGE | NONE),
    "large batch: penalty of 0.1, less none": (
        LARGE_BATCH | {"regularizer.name": "micro", "regularizer.strength": 0.1},
        LARGE_BATCH | NONE,
    ),
}
"""What is compared, seed by seed."""


def pairs(runs: pd.DataFrame) -> str:
    """Write the table of paired differences."""
    lines = []
    for name, (one, other) in PAIRS.items():
        cells = [name]
        for loss in LOSSES:
            left, right = (_of(runs, setting, loss) for setting in (one, other))
            both = left.index.intersection(right.index)
            found = paired_difference(left[both].tolist(), right[both].tolist())
            points = f"{100 * found.student.mean:.1f} ± {100 * found.student.half:.1f}"
            cells.append(f"{points} ({found.count} pairs, p = {found.p:.1g})" if found.count > 1 else "–")
        lines.append(cells)
    return markdown(["test error, points", *(f"at loss {loss:g}" for loss in LOSSES)], lines)


def _of(runs: pd.DataFrame, setting: Mapping[str, object], loss: float) -> pd.Series:
    here = np.logical_and.reduce([runs[key] == value for key, value in {**setting, "loss": loss}.items()])
    return runs[here].set_index("seed")["test/error"]


def _percent(mean: float, half: float) -> str:
    if np.isnan(mean):
        return "–"
    return f"{100 * mean:.1f} %" if np.isnan(half) else f"{100 * mean:.1f} ± {100 * half:.1f} %"


@framed
def main(arguments: Sequence[str] | None = None) -> int:
    """Write file and page, and print the table."""
    _, runs = written("explicit", measured, arguments, key=[*SETTING, "seed"])
    print(published("explicit", table(runs), "docs/explicit.md"))
    print(published("explicit_pairs", pairs(runs), "docs/explicit.md"))
    return 0


if __name__ == "__main__":
    run_as_process(main)
