"""`python -m benchmarks.traces multirun/traces`: traces of the Hessian at equal fit.

From the runs of docs/curvature.md it writes docs/data/traces.csv, a row a run and training loss. The page's table is
made from that file; a test compares them.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

import ireg
from ireg.command import framed, run_as_process
from ireg.files import replacing
from ireg.statistics import mean_interval

CSV = Path(__file__).parents[1] / "docs" / "data" / "traces.csv"
LOSSES = (0.5, 0.2, 0.1)
"""Training losses at which runs are compared."""
TAGS = ("curvature/trace", "curvature/trace_root")
OPTIMIZERS = ("sgd", "momentum", "rmsprop", "adam")


def measured(table: pd.DataFrame) -> pd.DataFrame:
    """Return a row a run and training loss.

    It is of where the loss is first reached. Between the two measurements around it values are interpolated, both on
    logarithmic scales.

    Args:
        table: of `ireg.load`.
    """
    found = []
    for (optimizer, rate, seed), rows in table.groupby(["optimizer", "lr", "seed"]):
        seen = rows[rows[TAGS[0]].notna()].sort_values("epoch").reset_index()
        losses = np.log(seen["train/loss"].to_numpy())
        for loss in LOSSES:
            after = int(np.argmax(losses <= np.log(loss)))
            if not after:
                continue
            share = (losses[after - 1] - np.log(loss)) / (losses[after - 1] - losses[after])
            values = {
                tag: float(np.exp((1 - share) * np.log(seen[tag][after - 1]) + share * np.log(seen[tag][after])))
                for tag in TAGS
            }
            found.append({"optimizer": optimizer, "lr": rate, "seed": seed, "loss": loss, **values})
    return pd.DataFrame(found)


def table(runs: pd.DataFrame) -> str:
    """Write the table of docs/curvature.md."""
    head = ["optimizer", *(f"{name} at loss {loss:g}" for name in ("tr H", "Σ √H_ii") for loss in LOSSES)]
    lines = [head, ["---"] * len(head)]
    for optimizer in OPTIMIZERS:
        cells = [optimizer]
        for tag in TAGS:
            for loss in LOSSES:
                chosen = runs[(runs["optimizer"] == optimizer) & (runs["loss"] == loss)][tag]
                interval = mean_interval(chosen.tolist())
                cells.append(f"{interval.mean:.0f} ± {interval.half:.0f}")
        lines.append(cells)
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


@framed
def main(arguments: Sequence[str] | None = None) -> int:
    """Write the file, and print the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.traces", description="Write docs/data/traces.csv.")
    parser.add_argument("folder", metavar="FOLDER", help="of the runs, multirun/traces")
    runs = measured(ireg.load(parser.parse_args(arguments).folder))
    CSV.parent.mkdir(exist_ok=True)
    with replacing(CSV) as temporary:
        runs.to_csv(temporary, index=False, float_format="%.5g")
    print(table(pd.read_csv(CSV)))
    return 0


if __name__ == "__main__":
    run_as_process(main)
