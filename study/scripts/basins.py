"""`python -m study.scripts.basins FOLDER`: the barriers that `ireg basins` has measured.

From FOLDER's basins.csv it writes docs/data/basins.csv, the mean of each two optimizers' pairs by run, and the table of
docs/explicit.md; a test compares them.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from ireg.analysis.basins import ends
from ireg.basins.study import QUANTITIES
from ireg.statistics import mean_interval
from ireg.system.command import framed, run_as_process
from ireg.system.files import replacing
from ireg.tables import markdown
from study.checkpoints import pair_means
from study.scripts.published import DATA, published

CSV = DATA / "basins.csv"


def table(means: pd.DataFrame) -> str:
    """Write the table of docs/explicit.md."""
    lines = []
    as_is = means[~means["matched"]]
    values = {key: rows.set_index("run")["value"] for key, rows in as_is.groupby(["first", "second", "quantity"])}
    for one, other in as_is[["first", "second"]].drop_duplicates().itertuples(index=False):
        cells = [ends(one, other)]
        for quantity in QUANTITIES:
            own = values[one, other, quantity]
            cells.append(_written(own))
        for quantity in ("train/loss", "test/error"):
            if one == other:
                cells.append("")
                continue
            floor = (values[one, one, quantity] + values[other, other, quantity]) / 2
            cells.append(_written(values[one, other, quantity] - floor))
        lines.append(cells)
    head = ["ends", *QUANTITIES, "train/loss above the floor", "test/error above the floor"]
    return markdown(head, lines)


def _written(values: pd.Series) -> str:
    return mean_interval(values.tolist()).text(".3g", ".2g")


@framed
def main(arguments: Sequence[str] | None = None) -> int:
    """Write file and page, and print the table."""
    parser = argparse.ArgumentParser(prog="python -m study.scripts.basins", description="Write docs/data/basins.csv.")
    parser.add_argument("folder", metavar="FOLDER", type=Path, help="of ireg basins --output")
    means = pair_means(pd.read_csv(parser.parse_args(arguments).folder / "basins.csv"))
    with replacing(CSV) as temporary:
        means.to_csv(temporary, index=False, float_format="%.5g")
    print(published("basins", table(pd.read_csv(CSV)), "docs/explicit.md"))
    return 0


if __name__ == "__main__":
    run_as_process(main)
