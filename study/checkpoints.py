"""What is measured from runs' checkpoints, as cells: barriers and drift."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import pandas as pd

BARRIERS, DRIFT = "barrier", "drift"
"""Places of these cells."""

PAIR = ["run", "first", "second", "matched", "quantity"]

KEPT = {
    "small steps, memory kept": ("mean", "ends"),
    "small steps, memory shrinking": ("mean", "ends"),
    "leading flow": ("path",),
    "finite step": ("path",),
    "noise of the preconditioner": ("path",),
}
"""Parts of drift.csv, and their places, that the study has."""

OF_STEPS = ("time/loss", "time/squares", "equal C/squares")


def pair_means(pairs: pd.DataFrame) -> pd.DataFrame:
    """Average the pairs of two optimizers, run by run.

    Args:
        pairs: of basins.csv. Those with the same order are left out.
    """
    others = pairs[pairs["first_order"] != pairs["second_order"]]
    return others.groupby(PAIR, sort=False)["value"].mean().reset_index()


def barriers(pairs: pd.DataFrame) -> pd.DataFrame:
    """Make cells of the barriers between forks.

    Args:
        pairs: of basins.csv.

    Returns:
        A row a run and two optimizers, `optimizer` and `other`: `barrier/train/loss` and further quantities, between
        ends as they are.
    """
    means = pair_means(pairs)
    table = means[~means["matched"]].pivot(index=PAIR[:3], columns="quantity", values="value").reset_index()
    table = table.rename(columns={"first": "optimizer", "second": "other"})
    quantities = {name: f"{BARRIERS}/{name}" for name in table if name not in ("run", "optimizer", "other")}
    return table.rename(columns=quantities).assign(place=BARRIERS).rename_axis(columns=None)


def drifts(rows: pd.DataFrame) -> pd.DataFrame:
    """Make cells of the measured drift.

    Args:
        rows: of drift.csv.

    Returns:
        A row a run: `drift/leading flow/k` and further estimates; `drift/kept/mean/equal C/squares` and further effects
        of finite steps.
    """
    named = rows[[place in KEPT.get(part, ()) for part, place in zip(rows["part"], rows["place"], strict=True)]]
    steps = named["part"].str.startswith("small steps")
    name = (named["what"] + "/" + named["quantity"]).where(steps, named["quantity"])
    named = named[~steps | name.isin(OF_STEPS)]
    part = named["part"].str.removeprefix("small steps, memory ")
    tag = DRIFT + "/" + (part + "/" + named["place"]).where(steps, part) + "/" + name
    table = named.assign(tag=tag).pivot(index=["run", "optimizer", "lr"], columns="tag", values="value")
    return table.reset_index().assign(place=DRIFT).rename_axis(columns=None)


FILES: Mapping[str, Callable[[pd.DataFrame], pd.DataFrame]] = {"basins.csv": barriers, "drift.csv": drifts}
"""What stands in a folder of measurements, and how it is made to cells."""
