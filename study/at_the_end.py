"""Where runs are at their end, by optimizer and rate."""

from __future__ import annotations

import pandas as pd

from ireg.statistics import mean_interval
from ireg.tables import markdown
from study.claims import BASE

COLUMNS = {
    "training loss": ("train/loss", 1.0, 2),
    "held-out error, %": ("holdout/error", 100.0, 2),
    "test error, %": ("test/error", 100.0, 2),
    "wrong labels learned, %": ("fit/memorized", 100.0, 1),
}
"""Title of each column: its tag, unit and decimal places."""


def at_the_end(cells: pd.DataFrame) -> str:
    """Write the values at the end, and test errors less those of each of SGD's rates with the same seeds.

    Args:
        cells: of runs with one or several rates an optimizer.

    Returns:
        A row an optimizer and rate: means over seeds, ± half of their interval.
    """
    last = cells[(cells["place"] == "end") & (cells["state"] == "done")].astype({"lr": float})
    of_base = {lr: rows.set_index("seed")["test/error"] for lr, rows in last[last["optimizer"] == BASE].groupby("lr")}
    rows = []
    for (optimizer, lr), of_rate in last.groupby(["optimizer", "lr"]):
        values = (
            mean_interval((unit * of_rate[tag]).tolist()).text(f".{places}f") for tag, unit, places in COLUMNS.values()
        )
        errors = of_rate.set_index("seed")["test/error"]
        less = (
            "" if optimizer == BASE else mean_interval((100 * (errors - base)).dropna().tolist()).text(".2f")
            for base in of_base.values()
        )
        rows.append([str(optimizer), f"{lr:g}", f"{len(of_rate)}", *values, *less])
    head = ["optimizer", "η", "seeds", *COLUMNS, *(f"points less SGD at {lr:g}" for lr in of_base)]
    return markdown(head, rows)
