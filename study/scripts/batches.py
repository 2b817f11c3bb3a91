"""`python -m study.scripts.batches multirun/batches`: sharpness with smaller and smaller batches.

It writes docs/data/batches.csv, a row a run, of its last third. The table of docs/curvature.md is made from that file;
a test compares them.
"""

from collections.abc import Sequence

import pandas as pd

from ireg.statistics import mean_interval
from ireg.system.command import framed, run_as_process
from ireg.tables import markdown
from study.scripts.published import DATA, published, written

CSV = DATA / "batches.csv"
TAGS = ("curvature/lambda_max", "curvature/edge_fraction", "curvature/batch_sharpness", "curvature/gni")
NAMES = {
    "largest eigenvalue": "curvature/lambda_max",
    "batch sharpness": "curvature/batch_sharpness",
    "gradient-noise interaction": "curvature/gni",
}
LAST = 2 / 3
"""Share of the epochs before those that are looked at."""


def measured(table: pd.DataFrame) -> pd.DataFrame:
    """Return a row a run, with medians over its last third.

    Args:
        table: of `ireg.load`.
    """
    records = []
    for (noise, size, rate, seed), rows in table.groupby(["data.noise.kind", "batch_size", "lr", "seed"]):
        seen = rows[(rows["epoch"] >= LAST * rows["epoch"].max()) & rows[TAGS[1]].notna()]
        records.append(
            {
                "label noise": noise,
                "batch size": size,
                "lr": rate,
                "seed": seed,
                "epochs": rows["epoch"].max(),
                **{tag: seen[tag].median() for tag in TAGS},
                "train/loss": seen["train/loss"].median(),
            }
        )
    return pd.DataFrame(records).sort_values(
        ["label noise", "batch size", "seed"], ascending=[False, False, True], ignore_index=True
    )


def table(runs: pd.DataFrame) -> str:
    """Write the table of docs/curvature.md: means over the seeds."""
    head = ["labels", "batch size", "training loss", *(f"{name} over 2/η" for name in NAMES)]
    lines = []
    for (noise, size), rows in runs.groupby(["label noise", "batch size"], sort=False):
        columns = [rows["train/loss"], *(rows[tag] * rows["lr"] / 2 for tag in NAMES.values())]
        cells = [mean_interval(values.tolist()).text(".2f") for values in columns]
        labels = "right" if noise == "none" else "30 % wrong"
        lines.append([labels, f"{size}", *cells])
    return markdown(head, lines)


@framed
def main(arguments: Sequence[str] | None = None) -> int:
    """Write file and page, and print the table."""
    _, runs = written("batches", measured, arguments)
    print(published("batches", table(runs), "docs/curvature.md"))
    return 0


if __name__ == "__main__":
    run_as_process(main)
