"""`python -m study.scripts.traces multirun/traces`: traces where a loss is first reached.

From the runs of docs/curvature.md it writes docs/data/traces.csv, a row a run and training loss. The page's table is
made from that file; a test compares them.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from ireg.analysis.places import first_at_most
from ireg.statistics import mean_interval
from ireg.system.command import framed, run_as_process
from ireg.tables import markdown
from study.scripts.published import DATA, published, written

CSV = DATA / "traces.csv"
LOSSES = (0.5, 0.2, 0.03, 0.003)
"""Training losses at which runs are compared."""
TAGS = ("curvature/trace", "curvature/trace_root")
OPTIMIZERS = ("sgd", "momentum", "rmsprop", "adam")


def measured(table: pd.DataFrame) -> pd.DataFrame:
    """Return a row a run and training loss, where the loss is first reached.

    That is no equal fit, see `ireg.analysis.places`. Between the two measurements around it values are interpolated,
    both on logarithmic scales.

    Args:
        table: of `ireg.load`.
    """
    records = []
    for (optimizer, rate, seed), rows in table.groupby(["optimizer", "lr", "seed"]):
        seen = rows[rows[TAGS[0]].notna()].sort_values("epoch").reset_index()
        for loss in LOSSES:
            reached = first_at_most(seen.index, seen["train/loss"], loss)
            if reached is None:
                continue
            values = {tag: float(np.exp(np.interp(reached, seen.index, np.log(seen[tag])))) for tag in TAGS}
            records.append({"optimizer": optimizer, "lr": rate, "seed": seed, "loss": loss, **values})
    return pd.DataFrame(records)


def table(runs: pd.DataFrame) -> str:
    """Write the table of docs/curvature.md."""
    head = ["optimizer", *(f"{name} at loss {loss:g}" for name in ("tr H", "Σ √H_ii") for loss in LOSSES)]
    lines = []
    for optimizer in OPTIMIZERS:
        cells = [optimizer]
        for tag in TAGS:
            for loss in LOSSES:
                chosen = runs[(runs["optimizer"] == optimizer) & (runs["loss"] == loss)][tag]
                cells.append(mean_interval(chosen.tolist()).text(".0f"))
        lines.append(cells)
    return markdown(head, lines)


@framed
def main(arguments: Sequence[str] | None = None) -> int:
    """Write file and page, and print the table."""
    _, runs = written("traces", measured, arguments)
    print(published("traces", table(runs), "docs/curvature.md"))
    return 0


if __name__ == "__main__":
    run_as_process(main)
