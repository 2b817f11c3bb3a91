"""`python -m benchmarks.edge multirun/edge`: full batches at their edge.

From the runs of `experiment=edge` it writes docs/data/edge.csv, a row a run, and docs/figures/sharpness.png. The table
of docs/curvature.md is made from that file; a test compares them.
"""

import argparse
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import pandas as pd

import ireg
from ireg.analysis.curvature import sharpness
from ireg.analysis.looks import COLOURS, drawn
from ireg.command import framed, run_as_process
from ireg.files import replacing, write_bytes

DOCS = Path(__file__).parents[1] / "docs"
CSV = DOCS / "data" / "edge.csv"
NEAR = 0.9
"""Fraction of the edge from which on a run counts as at its edge."""


def measured(table: pd.DataFrame) -> pd.DataFrame:
    """Return a row a run, of its epochs at the edge.

    They are those between the first and the last.

    Args:
        table: of `ireg.load`.
    """
    found = []
    for (optimizer, rate), rows in table.groupby(["optimizer", "lr"]):
        seen = rows[rows["curvature/edge"].notna()].sort_values("epoch")
        near = seen[seen["curvature/edge"] > NEAR]["epoch"]
        there = seen[seen["epoch"].between(near.min(), near.max())]
        edge = there["curvature/edge"]
        found.append(
            {
                "optimizer": optimizer,
                "lr": rate,
                "sharpness at the start": rows.sort_values("epoch")["curvature/lambda_max"].iloc[0],
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
    return pd.DataFrame(found).sort_values("optimizer", key=lambda names: names.map(rank.index), ignore_index=True)


def table(runs: pd.DataFrame) -> str:
    """Write the table of docs/curvature.md."""
    head = ["optimizer", "rate", "at the edge from epoch", "to epoch", "fraction of the edge: median", "5 to 95 %"]
    lines = [head, ["---"] * len(head)]
    lines += [
        [
            str(row["optimizer"]),
            f"{row['lr']:g}",
            f"{row['first']:.0f} (loss {row['loss first']:.2f})",
            f"{row['last']:.0f} (loss {row['loss last']:.2f})",
            f"{row['median']:.2f}",
            f"{row['low']:.2f} to {row['high']:.2f}",
        ]
        for row in runs.to_dict("records")
    ]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


@framed
def main(arguments: Sequence[str] | None = None) -> int:
    """Write file and figure, and print the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.edge", description="Write docs/data/edge.csv.")
    parser.add_argument("folder", metavar="FOLDER", help="of the runs, multirun/edge")
    runs = ireg.load(parser.parse_args(arguments).folder)
    CSV.parent.mkdir(exist_ok=True)
    with replacing(CSV) as temporary:
        measured(runs).to_csv(temporary, index=False, float_format="%.5g")
    (content,) = drawn("sharpness", partial(sharpness, runs), ".png").values()
    write_bytes(DOCS / "figures" / "sharpness.png", content)
    print(table(pd.read_csv(CSV)))
    return 0


if __name__ == "__main__":
    run_as_process(main)
