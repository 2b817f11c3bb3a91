"""`python -m study.scripts.exchange FOLDER …`: exchange rates of `ireg drift --explicit` as a table.

From the explicit.csv of each folder it writes docs/data/exchange.csv, and the table of docs/explicit.md; a test
compares them.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from ireg.statistics import plus_minus
from ireg.system.command import framed, run_as_process
from ireg.system.files import replacing
from ireg.tables import markdown
from study.cells import merged
from study.scripts.published import DATA, published

CSV = DATA / "exchange.csv"
SETTING = ["optimizer", "data", "activation", "lr", "batch_size", "method"]


def table(rates: pd.DataFrame) -> str:
    """Write the table of docs/explicit.md."""
    lines = []
    for (optimizer, data, activation, rate, size, method), rows in rates.groupby(SETTING, sort=False):
        cells = [optimizer, data, activation, f"{rate:g}", f"{size:g}", method]
        for quantity in ("k", "cosine", "left", "implicit"):
            row = rows[rows["quantity"] == quantity].iloc[0]
            cells.append(plus_minus(row["value"], row["error"], ".3f"))
        lines.append(cells)
    head = [
        "optimizer",
        "data",
        "activation",
        "η",
        "batch",
        "penalty by",
        "k",
        "cosine",
        "left of ‖I‖²",
        "‖I‖ of the path",
    ]
    return markdown(head, lines)


def _of(folder: Path) -> pd.DataFrame:
    exchanged = pd.read_csv(folder / "explicit.csv")
    exchanged.insert(1, "data", exchanged["run"].str.extract(r"data=(\w+?)_", expand=False).fillna("mnist10k"))
    exchanged.insert(2, "activation", exchanged["run"].str.extract(r"activation=(\w+?)_", expand=False).fillna("relu"))
    return exchanged.drop(columns="run")


@framed
def main(arguments: Sequence[str] | None = None) -> int:
    """Write file and page, and print the table."""
    parser = argparse.ArgumentParser(
        prog="python -m study.scripts.exchange", description="Write docs/data/exchange.csv."
    )
    parser.add_argument("folders", metavar="FOLDER", nargs="+", type=Path, help="of ireg drift --explicit --output")
    parser.add_argument("--add", action="store_true", help="keep the rows of runs that are not in the folders")
    given = parser.parse_args(arguments)
    rates = pd.concat([_of(folder) for folder in given.folders])
    if given.add:
        rates = merged(pd.read_csv(CSV), rates, SETTING)
    with replacing(CSV) as temporary:
        rates.to_csv(temporary, index=False, float_format="%.5g")
    print(published("exchange", table(pd.read_csv(CSV)), "docs/explicit.md"))
    return 0


if __name__ == "__main__":
    run_as_process(main)
