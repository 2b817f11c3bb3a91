"""`python -m study.scripts.edge multirun/edge`: full batches at their edge.

From the runs of `experiment=edge` it writes docs/data/edge.csv, a row a run, and docs/figures/sharpness.png. The tables
of docs/curvature.md are made from that file; a test compares them.
"""

from collections.abc import Sequence
from functools import partial

import pandas as pd

from ireg.analysis.curvature import sharpness
from ireg.analysis.looks import COLOURS
from ireg.statistics import mean_interval
from ireg.system.command import framed, run_as_process
from ireg.tables import markdown
from study.scripts.published import DATA, pictured, published, written

CSV = DATA / "edge.csv"
NEAR = 0.9
"""Fraction of the edge from which on a run counts as at its edge."""
LOSSES = {"cross_entropy": "cross-entropy", "squared_error": "squared error"}


def measured(table: pd.DataFrame) -> pd.DataFrame:
    """Return a row a run, of its epochs between the first and the last at the edge.

    Args:
        table: of `ireg.load`.
    """
    records = []
    for (loss, optimizer, rate, seed), rows in table.groupby(["loss", "optimizer", "lr", "seed"]):
        seen = rows[rows["curvature/edge_fraction"].notna()].sort_values("epoch")
        near = seen[seen["curvature/edge_fraction"] > NEAR]["epoch"]
        there = seen[seen["epoch"].between(near.min(), near.max())]
        edge = there["curvature/edge_fraction"]
        records.append(
            {
                "loss": loss,
                "optimizer": optimizer,
                "lr": rate,
                "seed": seed,
                "sharpness at the start": rows.sort_values("epoch")["curvature/lambda_max"].iloc[0],
                "sharpness at the edge": there["curvature/lambda_max"].median(),
                "first": near.min(),
                "last": near.max(),
                "median": edge.median(),
                "low": edge.quantile(0.05),
                "high": edge.quantile(0.95),
                "loss first": there["train/loss"].iloc[0],
                "loss last": there["train/loss"].iloc[-1],
            }
        )
    rank = list(COLOURS)
    runs = pd.DataFrame(records)
    runs["rank"] = runs["optimizer"].map(rank.index)
    return runs.sort_values(["loss", "rank", "seed"], ignore_index=True).drop(columns="rank")


def table(runs: pd.DataFrame) -> str:
    """Write the table of docs/curvature.md: means over the seeds."""
    head = [
        "loss", "optimizer", "rate", "at the edge from epoch", "to epoch", "largest eigenvalue of H there",
        "fraction of the edge: median", "5 to 95 %",
    ]  # fmt: skip
    lines = []
    for (loss, optimizer, rate), rows in runs.groupby(["loss", "optimizer", "lr"], sort=False):
        lines.append(
            [
                LOSSES[loss],
                str(optimizer),
                f"{rate:g}",
                f"{rows['first'].mean():.0f} (loss {rows['loss first'].mean():.2f})",
                f"{rows['last'].mean():.0f} (loss {rows['loss last'].mean():.2f})",
                f"{rows['sharpness at the edge'].mean():.1f}",
                mean_interval(rows["median"].tolist()).text(".2f"),
                f"{rows['low'].mean():.2f} to {rows['high'].mean():.2f}",
            ]
        )
    return markdown(head, lines)


@framed
def main(arguments: Sequence[str] | None = None) -> int:
    """Write file, figure and page, and print the table."""
    runs, recorded = written("edge", measured, arguments)
    shown = runs[(runs["loss"] == "squared_error") & (runs["seed"] == 0)]
    pictured("sharpness", partial(sharpness, shown))
    print(published("edge", table(recorded), "docs/curvature.md"))
    return 0


if __name__ == "__main__":
    run_as_process(main)
