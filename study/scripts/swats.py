"""`python -m study.scripts.swats multirun/swats`: SWATS on the seed paper's experiment.

It writes docs/data/swats.csv, a row a run, and the table of docs/explicit.md; a test compares them. Adam and SGD alone
are those of docs/data/claims.csv.
"""

from collections.abc import Sequence

import pandas as pd

from ireg.statistics import mean_interval
from ireg.system.command import framed, run_as_process
from ireg.tables import markdown
from study.scripts.published import DATA, published, written

CSV = DATA / "swats.csv"
PUBLISHED = 1e-9
"""SWATS's tolerance, which experiment=swats has."""
KEY = ["relative", "tolerance", "seed"]
LAST = 10
"""Epochs at the end over which errors are averaged."""


def measured(table: pd.DataFrame) -> pd.DataFrame:
    """Return a row a run: when it switched, to which rate, and its last errors.

    Args:
        table: of `ireg.load`.
    """
    records = []
    for _, rows in table[table["optimizer"] == "switch"].groupby("run"):
        seen = rows.sort_values("epoch")
        after = seen[seen["switch/phase"] == 2]
        first = seen.iloc[0]
        records.append(
            {
                # Where all runs have one, `ireg.load` leaves it out: then it is the experiment's.
                "tolerance": first.get("optimizer.tolerance", PUBLISHED),
                "relative": bool(first.get("optimizer.relative", False)),
                "seed": first["seed"],
                "switched in epoch": after["epoch"].iloc[0] if len(after) else None,
                "rate": after["switch/lr"].iloc[0] if len(after) else None,
                "diverged": bool(first["state"] == "diverged"),
                **{tag: seen[tag].tail(LAST).mean() for tag in ("train/error", "test/error")},
                "estimate at epoch 20": seen[seen["epoch"] == 20]["switch/estimate"].iloc[0],
            }
        )
    return pd.DataFrame(records).sort_values(KEY)


def table(runs: pd.DataFrame) -> str:
    """Write the table of docs/explicit.md."""
    lines = []
    for row in runs.to_dict("records"):
        switched = not pd.isna(row["switched in epoch"])
        lines.append(
            [
                f"{row['tolerance']:g}{' of λ̂' if row['relative'] else ''}",
                f"{row['seed']}",
                f"{row['switched in epoch']:.0f}" if switched else "never",
                f"{row['rate']:.3f}" if switched else "–",
                *(
                    "diverged" if row["diverged"] else f"{100 * row[tag]:.1f} %"
                    for tag in ("train/error", "test/error")
                ),
            ]
        )
    claims = pd.read_csv(DATA / "claims.csv")
    for optimizer in ("adam", "sgd"):
        rows = claims[claims["optimizer"] == optimizer]
        errors = [mean_interval(rows[tag].tolist()) for tag in ("train/error", "test/error")]
        lines.append(
            [
                f"{optimizer} alone",
                f"{len(rows)} seeds",
                "",
                "",
                *(error.text(".1f", scale=100, unit=" %") for error in errors),
            ]
        )
    return markdown(["tolerance", "seed", "switched in epoch", "rate", "training error", "test error"], lines)


@framed
def main(arguments: Sequence[str] | None = None) -> int:
    """Write file and page, and print the table."""
    _, runs = written("swats", measured, arguments, key=KEY)
    print(published("swats", table(runs), "docs/explicit.md"))
    return 0


if __name__ == "__main__":
    run_as_process(main)
