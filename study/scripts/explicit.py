"""`python -m study.scripts.explicit multirun/explicit`: penalties where a loss is first reached.

The penalties replace large rates or small minibatches. From the runs of docs/explicit.md it writes
docs/data/explicit.csv, a row a run and training loss. The tables of that page and of the study, and the figure, are
made from that file; a test compares the tables.
"""

from collections.abc import Mapping, Sequence
from functools import partial

import numpy as np
import pandas as pd
from matplotlib import colormaps
from matplotlib.figure import Figure

from ireg.analysis.places import first_at_most
from ireg.statistics import PairedDifference, mean_interval, paired_difference
from ireg.system.command import framed, run_as_process
from ireg.tables import markdown
from study.scripts.published import DATA, pictured, published, written

CSV = DATA / "explicit.csv"
LOSSES = (1.3, 1.0, 0.7, 0.5)
"""Training losses at which runs are compared."""
SETTING = ["data.holdout", "lr", "batch_size", "regularizer.name", "regularizer.method", "regularizer.strength"]
EXAMPLES, HELD_OUT = 10_000, 2_000
"""Of the data set; and held out of them by the experiment."""
TAGS = ("test/error", "fit/memorized")


def measured(table: pd.DataFrame) -> pd.DataFrame:
    """Return a row a run and training loss, where the loss is first reached.

    That place is by a line in the loss's logarithm between the epochs around it. It is no equal fit, see
    `ireg.analysis.places`.

    Args:
        table: of `ireg.load`.
    """
    records = []
    held_out = table["data.holdout"].fillna(0) if "data.holdout" in table else HELD_OUT  # alike in all runs
    table = table.assign(**{"data.holdout": held_out})
    for run, rows in table[table["state"].isin(("done", "diverged"))].groupby("run"):
        seen = rows.sort_values("epoch").reset_index(drop=True)
        setting = {key: seen[key].iloc[0] for key in (*SETTING, "seed")}
        for loss in LOSSES:
            reached = first_at_most(seen.index, seen["train/loss"], loss)
            if reached is None:
                continue
            at = {tag: float(np.interp(reached, seen.index, seen[tag])) for tag in ("epoch", *TAGS)}
            records.append({**setting, "run": run, "loss": loss, **at})
    return pd.DataFrame(records).drop(columns="run").sort_values([*SETTING, "seed"], kind="stable")


def table(runs: pd.DataFrame) -> str:
    """Write the table of docs/explicit.md."""
    head = ["examples", "η", "batch", "penalty", "λ", "seeds", *(f"test error at loss {loss:g}" for loss in LOSSES)]
    lines = []
    # The larger hold-out first, of which the minibatches are equal.
    for setting, rows in sorted(runs.groupby(SETTING, dropna=False), key=lambda group: -group[0][0]):
        held_out, rate, size, name, method, strength = setting
        penalty = "none" if name == "none" else f"{name}, {method}"
        cells = [
            f"{EXAMPLES - held_out:,.0f}",
            f"{rate:g}",
            f"{size:g}",
            penalty,
            "0" if name == "none" else f"{strength:g}",
        ]
        cells.append(f"{rows['seed'].nunique()}")
        for loss in LOSSES:
            interval = mean_interval(rows[rows["loss"] == loss]["test/error"].tolist())
            cells.append(interval.text(".1f", scale=100, unit=" %"))
        lines.append(cells)
    return markdown(head, lines)


Setting = dict[str, object]
SMALL: Setting = {"lr": 0.025, "batch_size": 64}
LARGE: Setting = {"lr": 0.1, "batch_size": 64}
LARGE_BATCH: Setting = {"data.holdout": 0, "lr": 0.5, "batch_size": 1024}
NONE: Setting = {"regularizer.name": "none"}
DIFFERENCES: Setting = {"regularizer.method": "differences", "regularizer.strength": 0.075}
EXACT: Setting = {"regularizer.name": "minibatch", "regularizer.method": "exact", "regularizer.strength": 0.075}
EQUAL: Setting = {"data.holdout": HELD_OUT}
UNEQUAL: Setting = {"data.holdout": 0}
"""8,000 = 125 · 64; of 10,000 = 156 · 64 + 16 the last minibatch has 16."""
PAIRS: dict[str, tuple[Setting, Setting]] = {
    "penalty by differences, less none": (EQUAL | SMALL | DIFFERENCES, EQUAL | SMALL | NONE),
    "the large rate, less the small": (EQUAL | LARGE | NONE, EQUAL | SMALL | NONE),
    "penalty by differences, less the large rate": (EQUAL | SMALL | DIFFERENCES, EQUAL | LARGE | NONE),
    "penalty by differences, less none; a last one of 16": (UNEQUAL | SMALL | DIFFERENCES, UNEQUAL | SMALL | NONE),
    "penalty by double backward, less none; a last one of 16": (UNEQUAL | SMALL | EXACT, UNEQUAL | SMALL | NONE),
    "the large rate, less the small; a last one of 16": (UNEQUAL | LARGE | NONE, UNEQUAL | SMALL | NONE),
    "batches of 1,024: penalty of 0.1, less none": (
        LARGE_BATCH | {"regularizer.name": "micro", "regularizer.strength": 0.1},
        LARGE_BATCH | NONE,
    ),
}
"""What is compared, seed by seed."""


def differences(runs: pd.DataFrame) -> dict[tuple[str, float], PairedDifference]:
    """Compare test errors seed by seed, by the pair's name and the training loss."""
    compared = {}
    for name, (one, other) in PAIRS.items():
        for loss in LOSSES:
            left, right = (_of(runs, setting, loss) for setting in (one, other))
            both = left.index.intersection(right.index)
            compared[name, loss] = paired_difference(left[both].tolist(), right[both].tolist())
    return compared


def pairs(runs: pd.DataFrame) -> str:
    """Write the table of paired differences."""
    compared = differences(runs)
    lines = []
    for name in PAIRS:
        cells = [name]
        for difference in (compared[name, loss] for loss in LOSSES):
            points = difference.student.text(".1f", scale=100)
            count, p = difference.count, difference.p
            cells.append(f"{points} ({count} pairs, p = {p:.1g})" if count > 1 else "–")
        lines.append(cells)
    return markdown(["test error, points", *(f"at loss {loss:g}" for loss in LOSSES)], lines)


def draw(runs: pd.DataFrame) -> Figure:
    """Draw the paired differences and their intervals, a colour a training loss."""
    compared = differences(runs)
    figure = Figure(figsize=(8.4, 4.2), layout="constrained")
    axis = figure.subplots()
    for number, loss in enumerate(LOSSES):
        shown = {name: compared[name, loss].student for name in PAIRS if compared[name, loss].count > 1}
        axis.errorbar(
            [100 * student.mean for student in shown.values()],
            [list(PAIRS).index(name) + (number - (len(LOSSES) - 1) / 2) / 6 for name in shown],
            xerr=[100 * student.half for student in shown.values()],
            fmt="o",
            markersize=4,
            capsize=2,
            linewidth=1,
            color=colormaps["viridis"](number / len(LOSSES)),
            label=f"at loss {loss:g}",
        )
    axis.axvline(0, color="0.5", linewidth=1)
    axis.set_yticks(range(len(PAIRS)), PAIRS)
    axis.invert_yaxis()
    axis.set_xlabel("difference of test errors, points")
    axis.spines[["top", "right"]].set_visible(False)
    figure.legend(*axis.get_legend_handles_labels(), loc="outside lower center", ncols=len(LOSSES), frameon=False)
    return figure


def _of(runs: pd.DataFrame, setting: Mapping[str, object], loss: float) -> pd.Series:
    here = np.logical_and.reduce([runs[key] == value for key, value in {**setting, "loss": loss}.items()])
    return runs[here].set_index("seed")["test/error"]


@framed
def main(arguments: Sequence[str] | None = None) -> int:
    """Write file and page, and print the table."""
    _, runs = written("explicit", measured, arguments, key=[*SETTING, "seed"])
    print(published("explicit", table(runs), "docs/explicit.md"))
    print(published("explicit_pairs", pairs(runs), "docs/explicit.md"))
    pictured("explicit", partial(draw, runs))
    return 0


if __name__ == "__main__":
    run_as_process(main)
