"""`python -m study.scripts.own_terms multirun/own_terms`: what finite steps add to five optimizers.

It writes docs/data/own_terms.csv, a row a run and epoch, and table and figure of docs/optimizers.md; a test compares
them. The runs are those of experiment=own_terms.
"""

from collections.abc import Sequence
from functools import partial

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from ireg.analysis.looks import colour_of
from ireg.statistics import Interval, mean_interval
from ireg.system.command import framed, run_as_process
from ireg.tables import markdown
from study.scripts.published import DATA, pictured, published, written

CSV = DATA / "own_terms.csv"
OPTIMIZERS = ("sgd", "momentum", "adam", "muon", "lion")
KEY = ["optimizer", "seed", "epoch"]
OWN, STRENGTH, NOISE = "ireg/own_full_batch", "ireg/strength", "noise/step"
TITLES = {
    OWN: "own term of full batches",
    STRENGTH: "strength of what finite steps add",
    NOISE: "share of the step that noise changes",
}


def measured(table: pd.DataFrame) -> pd.DataFrame:
    """Return a row a run and measured epoch.

    The strength is that of the mean flow, or of full batches where no mean flow is known.

    Args:
        table: of `ireg.load`.
    """
    rows = table[table[OWN].notna()].copy()
    rows[STRENGTH] = rows[STRENGTH].fillna(rows[f"{STRENGTH}/full_batch"])
    rows["full batches"] = rows[f"{STRENGTH}/full_batch"].notna()
    return rows[[*KEY, "lr", "train/loss", "test/error", OWN, STRENGTH, "full batches", NOISE]].sort_values(KEY)


def at(rows: pd.DataFrame, optimizer: str, epoch: int, tag: str) -> Interval:
    """Return the mean over the seeds, with its 95 % interval."""
    chosen = rows[(rows["optimizer"] == optimizer) & (rows["epoch"] == epoch)][tag]
    return mean_interval(chosen.astype(float).tolist())


def table(rows: pd.DataFrame) -> str:
    """Write the table of docs/optimizers.md: the first and the last epoch after the start."""
    epochs = sorted(epoch for epoch in rows["epoch"].unique() if epoch > 0)
    lines = []
    for optimizer in OPTIMIZERS:
        rate = rows[rows["optimizer"] == optimizer]["lr"].iloc[0]
        for epoch in (epochs[0], epochs[-1]):
            loss, own, strength, noise = (
                at(rows, optimizer, epoch, tag) for tag in ("train/loss", OWN, STRENGTH, NOISE)
            )
            lines.append(
                [
                    optimizer,
                    f"{rate:g}",
                    f"{epoch}",
                    loss.text(".2f"),
                    own.text(".2g", ".1g"),
                    strength.text(".3g"),
                    noise.text(".2f"),
                ]
            )
    return markdown(["optimizer", "η", "epoch", "training loss", *(f"`{tag}`" for tag in TITLES)], lines)


def draw(rows: pd.DataFrame) -> Figure:
    """Draw the three numbers over epochs, a line an optimizer, with bars of 95 % over the seeds."""
    figure = Figure(figsize=(9.6, 3.2), layout="constrained")
    for axis, (tag, title) in zip(figure.subplots(1, 3, sharex=True), TITLES.items(), strict=True):
        for optimizer in OPTIMIZERS:
            of_one = rows[(rows["optimizer"] == optimizer) & (rows["epoch"] > 0)]
            epochs = sorted(of_one["epoch"].unique())
            intervals = [at(of_one, optimizer, epoch, tag) for epoch in epochs]
            dashed = bool(of_one["full batches"].all()) and tag == STRENGTH
            axis.errorbar(
                epochs, [interval.mean for interval in intervals], yerr=[interval.half for interval in intervals],
                fmt="o--" if dashed else "o-", markersize=3, linewidth=1.2, elinewidth=0.8,
                color=colour_of(optimizer), label=optimizer,
            )  # fmt: skip
        if tag != NOISE:
            axis.set_yscale("log", nonpositive="clip")
        axis.set_title(title, fontsize="medium")
        axis.set_xlabel("epoch")
        axis.spines[["top", "right"]].set_visible(False)
    figure.axes[-1].set_ylim(-0.02, 1.02)
    figure.axes[0].set_xticks(np.unique(rows["epoch"][rows["epoch"] > 0]))
    handles, names = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=len(OPTIMIZERS), frameon=False)
    return figure


@framed
def main(arguments: Sequence[str] | None = None) -> int:
    """Write file, page and figure, and print the table."""
    _, rows = written("own_terms", measured, arguments, key=KEY)
    print(published("own_terms", table(rows), "docs/optimizers.md"))
    pictured("own_terms", partial(draw, rows))
    return 0


if __name__ == "__main__":
    run_as_process(main)
