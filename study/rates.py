"""Choose learning rates from a grid."""

from __future__ import annotations

import math

import pandas as pd

CHOICES = {
    "holdout": "holdout/error",
    "holdout loss": "holdout/loss",
    "end": "holdout/error",
    "test": "test/error",
}
"""Place of a run, and the tag whose mean over seeds chooses; the first is the study's."""


def ranked(cells: pd.DataFrame, choice: str) -> pd.DataFrame:
    """Rank each optimizer's rates by a choice.

    Args:
        cells: of the tuning runs.
        choice: of `CHOICES`.

    Returns:
        A row a rate: `optimizer`, `lr`, `value` (the mean over seeds of the tag at the place; infinity where a run
        diverged), `test/error` there, `seeds`. The best of each optimizer comes first, of equal ones the smaller.

    Raises:
        ValueError: no such choice.
    """
    if choice not in CHOICES:
        raise ValueError(f"choice={choice!r}: choose one of {', '.join(CHOICES)}")
    diverged = set(map(tuple, cells.loc[cells["state"] == "diverged", ["optimizer", "lr"]].to_numpy()))
    records = []
    for (optimizer, lr), of_rate in cells.groupby(["optimizer", "lr"]):
        rows = of_rate[of_rate["place"] == choice]
        value = math.inf if (optimizer, lr) in diverged else float(rows[CHOICES[choice]].mean())
        records.append(
            {
                "optimizer": optimizer,
                "lr": lr,
                "value": value,
                "test/error": float(rows["test/error"].mean()),
                "epoch": float(rows["at"].mean()),
                "seeds": len(rows),
            }
        )
    # To 12 digits: means that differ by rounding alone are a tie, which the smaller rate wins.
    order = pd.DataFrame(records).assign(rank=lambda table: table["value"].map(lambda value: float(f"{value:.12g}")))
    return order.sort_values(["optimizer", "rank", "lr"]).drop(columns="rank").reset_index(drop=True)


NEAR = 0.005
"""Rates whose held-out error is within this share of the best one's are shown beside it.

It is no test: which rates held-out examples separate is not decided by it.
"""


def tied(cells: pd.DataFrame, optimizer: str, within: float = NEAR) -> list[float]:
    """List an optimizer's rates that are near the best by held-out examples.

    Args:
        cells: of the tuning runs.
        optimizer: whose.
        within: largest difference of the mean held-out error from the best rate's.

    Returns:
        Rising rates, the best among them; none where every rate has diverged.
    """
    rows = ranked(cells[cells["optimizer"] == optimizer], "holdout")
    best = float(rows["value"].iloc[0])
    # To 12 digits: what is at the limit counts.
    near = rows["value"].map(lambda value: math.isfinite(value) and float(f"{value - best:.12g}") <= within)
    return sorted(rows.loc[near, "lr"].astype(float).tolist())


def chosen(cells: pd.DataFrame) -> pd.DataFrame:
    """Choose each optimizer's rate.

    Args:
        cells: of the tuning runs.

    Returns:
        A row an optimizer: `optimizer`; the rate `lr` that held-out examples choose, their error there and its epoch,
        and the test error of those runs; `inside`, whether smaller and larger rates were tried; for each other choice
        its rate and test error.
    """
    records = []
    for optimizer, rows in ranked(cells, "holdout").groupby("optimizer", sort=False):
        best, rates = rows.iloc[0], rows["lr"]
        row = {
            "optimizer": optimizer,
            "rates": len(rates),
            "lr": best["lr"],
            "inside": bool(rates.min() < best["lr"] < rates.max()),
            "epoch": best["epoch"],
            "holdout/error": best["value"],
            "test/error": best["test/error"],
        }
        for choice in [name for name in CHOICES if name != "holdout"]:
            other = ranked(cells[cells["optimizer"] == optimizer], choice).iloc[0]
            row |= {f"lr by {choice}": other["lr"], f"test/error by {choice}": other["test/error"]}
        records.append(row)
    return pd.DataFrame(records)
