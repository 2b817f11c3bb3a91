"""`python -m study.scripts.norms multirun/norms`: by which part the norm grows.

From runs with `terms=path` it writes docs/data/norms.csv, a row a run, and docs/figures/growth.png. The table of
docs/curvature.md is made from that file; a test compares them.
"""

from collections.abc import Sequence
from functools import partial

import pandas as pd

from ireg.analysis.curvature import growth
from ireg.analysis.looks import COLOURS
from ireg.statistics import mean_interval
from ireg.system.command import framed, run_as_process
from ireg.tables import markdown
from study.scripts.published import DATA, pictured, published, written

CSV = DATA / "norms.csv"
PARTS = tuple(f"path/{of}{part}" for of in ("", "settled_") for part in ("radial", "diffusive", "whole"))


def measured(table: pd.DataFrame) -> pd.DataFrame:
    """Return a row a run, with the sums over all epochs.

    Args:
        table: of `ireg.load`.
    """
    records = []
    for (optimizer, rate, seed), rows in table.groupby(["optimizer", "lr", "seed"]):
        ordered = rows.sort_values("epoch")
        records.append(
            {
                "optimizer": optimizer,
                "lr": rate,
                "seed": seed,
                "epochs": ordered["epoch"].iloc[-1],
                "norm at the start": ordered["norm/l2"].iloc[0],
                "norm at the end": ordered["norm/l2"].iloc[-1],
                **{tag: ordered[tag].sum() for tag in PARTS},
            }
        )
    rank = list(COLOURS)
    return pd.DataFrame(records).sort_values(
        "optimizer", key=lambda names: names.map(rank.index), kind="stable", ignore_index=True
    )


def table(runs: pd.DataFrame) -> str:
    """Write the table of docs/curvature.md: means over the seeds."""
    head = [
        "optimizer", "norm at the end", "growth of ‖ω‖²", "diffusive, in ω", "diffusive, in settled weights",
        "its share", "whole steps of the epochs", "their share",
    ]  # fmt: skip
    lines = []
    for optimizer, rows in runs.groupby("optimizer", sort=False):
        settled = rows["path/settled_diffusive"]
        grown = settled + rows["path/settled_radial"]
        digits = 0 if grown.mean() > 1000 else 1 if grown.mean() > 100 else 2
        sums = (rows["path/radial"] + rows["path/diffusive"], rows["path/diffusive"])
        cells = [_cell(rows["norm at the end"], 1), *(_cell(values, digits) for values in sums)]
        for part in (settled, rows["path/settled_whole"]):
            cells += [_cell(part, digits), f"{_cell(100 * part / grown, 1)} %"]
        lines.append([str(optimizer), *cells])
    return markdown(head, lines)


def _cell(values: pd.Series, digits: int) -> str:
    return mean_interval(values.tolist()).text(f",.{digits}f")


@framed
def main(arguments: Sequence[str] | None = None) -> int:
    """Write file, figure and page, and print the table."""
    runs, recorded = written("norms", measured, arguments)
    pictured("growth", partial(growth, runs))
    print(published("norms", table(recorded), "docs/curvature.md"))
    return 0


if __name__ == "__main__":
    run_as_process(main)
