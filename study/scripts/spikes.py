"""`python -m study.scripts.spikes multirun/spikes`: what comes before a spike of the loss.

From the runs of `experiment=spikes` it writes docs/data/spikes.csv, a row a spike or an alarm. The table of
docs/curvature.md is made from that file; a test compares them.

A spike begins at the step at which the loss is RISE times its smallest value of the last BEFORE steps. A false alarm is
a passage of `curvature/along_step` above 1 that no spike follows within BEFORE steps.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from ireg.system.command import framed, run_as_process
from ireg.tables import markdown
from study.scripts.published import DATA, published, written

CSV = DATA / "spikes.csv"
RISE = 1.2
BEFORE = 30
"""Steps."""
FIRST = 30
"""Step from which on is looked: before, training has just begun."""
MEASURES = {"along": "curvature/along_step", "edge": "curvature/edge_fraction"}


def measured(table: pd.DataFrame) -> pd.DataFrame:
    """Return a row a spike, and a row a false alarm.

    Args:
        table: of `ireg.load`; full batches, so that an epoch is a step.
    """
    records = []
    for seed, rows in table.groupby("seed"):
        ordered = rows.set_index("epoch").sort_index()
        # The loss of a row is that before its step.
        loss = ordered["train/loss"].shift(-1).to_numpy()
        above = {name: (ordered[tag] > 1).to_numpy() for name, tag in MEASURES.items()}
        spikes = _spikes(loss)
        for start, peak in spikes:
            window = slice(start - BEFORE, start)
            records.append(
                {
                    "seed": seed,
                    "step": start,
                    "kind": "spike",
                    "rise": loss[start : peak + 1].max() / loss[window].min(),
                    **{f"{name} leads by": _lead(values[window]) for name, values in above.items()},
                }
            )
        quiet = np.ones(len(loss), dtype=bool)
        for start, peak in spikes:
            quiet[start - BEFORE : peak + BEFORE] = False
        passages = [
            step
            for step in range(FIRST, len(loss) - BEFORE)
            if above["along"][step] and not above["along"][step - BEFORE : step].any() and quiet[step]
        ]
        for step in passages:
            rise = np.nanmax(loss[step : step + BEFORE]) / loss[step]
            records.append({"seed": seed, "step": step, "kind": "no spike", "rise": rise})
    return pd.DataFrame(records).sort_values(["seed", "step"], ignore_index=True)


def _spikes(loss: np.ndarray) -> list[tuple[int, int]]:
    """Return first and last step of each spike."""
    spikes: list[tuple[int, int]] = []
    for step in range(FIRST + BEFORE, len(loss) - 1):
        if loss[step] > RISE * loss[step - BEFORE : step].min():
            if spikes and step - spikes[-1][1] <= BEFORE:
                spikes[-1] = (spikes[-1][0], step)
            else:
                spikes.append((step, step))
    return spikes


def _lead(above: np.ndarray) -> float:
    """Count the steps since the first passage; nan without one."""
    return float(len(above) - above.argmax()) if above.any() else float("nan")


def table(rows: pd.DataFrame) -> str:
    """Write the table of docs/curvature.md."""
    head = [
        "seed", "spikes", "rise of the loss", "`along_step` above 1 before", "steps ahead",
        "`edge_fraction` above 1 before", "steps ahead", "passages of `along_step` without a spike", "rise there",
    ]  # fmt: skip
    lines = []
    for seed, of_seed in rows.groupby("seed"):
        spikes, others = (of_seed[of_seed["kind"] == kind] for kind in ("spike", "no spike"))
        cells = [str(seed), str(len(spikes)), f"{spikes['rise'].min():.2f} to {spikes['rise'].max():.2f}"]
        for name in MEASURES:
            lead = spikes[f"{name} leads by"].dropna()
            cells += [f"{len(lead)} of {len(spikes)}", f"{lead.min():.0f} to {lead.max():.0f}"]
        cells += [str(len(others)), f"{others['rise'].min():.2f} to {others['rise'].max():.2f}" if len(others) else ""]
        lines.append(cells)
    return markdown(head, lines)


@framed
def main(arguments: Sequence[str] | None = None) -> int:
    """Write file and page, and print the table."""
    _, rows = written("spikes", measured, arguments)
    print(published("spikes", table(rows), "docs/curvature.md"))
    return 0


if __name__ == "__main__":
    run_as_process(main)
