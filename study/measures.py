"""Which measure goes with the test error: the page's table, and all associations as a file."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from ireg.analysis.association import Association, associations, controls, kendall
from ireg.analysis.places import loss_place
from ireg.statistics import Interval
from ireg.tables import markdown
from study.cells import valid_edges

ASSOCIATED = (1.2, 1.0, 0.4, 0.1)
"""Training losses at which measures are compared with the test error."""

FACTORS = ("optimizer", "lr", "seed")
CONTROLS = ("planted", "random")
SHOWN_RESAMPLES = 500
NO_MEASURES = ("test/error", "test/loss", "train/error", "train/loss", "fit/recovered")
"""What is no measure of a run: the result, and what equal fit holds alike."""


SHOWN_LOSSES = (1.0, 0.4, 0.1)
SHOWN = (
    "holdout/loss",
    "holdout/error",
    "ireg/sgd",
    "ireg/own",
    "norm/l2",
    "margin/normalized_median",
    *CONTROLS,
)
"""What the page's table has; the file has all."""


def measures(cells: pd.DataFrame) -> str:
    """Write how measures go with the test error at equal fit, over all pairs of runs."""
    shown = associated(cells, SHOWN_LOSSES, SHOWN)
    shown = shown[shown["pairs_of"] == "all"].set_index(["measure", "loss"])
    rows = []
    for name in (name for name in SHOWN if name in shown.index.get_level_values("measure")):
        row = [_named(name)]
        for loss in SHOWN_LOSSES:
            there = (name, loss) in shown.index
            row.append(_interval(*shown.loc[(name, loss), ["tau", "low", "high"]]) if there else "–")
        rows.append(row)
    return markdown(["measure", *(f"τ at {loss:g}" for loss in SHOWN_LOSSES)], rows)


def associated(
    cells: pd.DataFrame, losses: Sequence[float] = ASSOCIATED, among: Sequence[str] | None = None
) -> pd.DataFrame:
    """Compute how measures are associated with the test error at equal fit.

    Args:
        cells: of tuning and final runs.
        losses: training losses.
        among: names of measures; by default all that runs have.

    Returns:
        A row a training loss, measure and group of pairs of runs: `loss`, `measure`, `settings` (how many, of optimizer
        and rate, have measured it), `pairs_of`, `tau`, and `low` and `high` of all pairs.
    """
    tables = []
    for loss in losses:
        runs, names = with_controls(cells, loss)
        if runs.empty:
            continue
        names = [name for name in names if among is None or name in among]
        table = associations(runs, names, "test/error", FACTORS, resamples=0).rename(columns={"pairs of": "pairs_of"})
        settings = {name: len(runs.loc[runs[name].notna(), ["optimizer", "lr"]].drop_duplicates()) for name in names}
        whole = pd.DataFrame({name: association(runs, name)._asdict() for name in names})
        for side in ("low", "high"):
            table[side] = table["measure"].map(whole.loc[side]).where(table["pairs_of"] == "all")
        tables.append(table.assign(loss=loss, settings=table["measure"].map(settings)))
    columns = ["loss", "measure", "settings", "pairs_of", "tau", "low", "high"]
    return pd.concat(tables, ignore_index=True)[columns] if tables else pd.DataFrame(columns=columns)


def association(runs: pd.DataFrame, name: str) -> Association:
    """Compute how a measure goes with the test error, over runs."""
    settings = runs[["optimizer", "lr"]].apply(tuple, axis=1).tolist()
    return kendall(runs[name].tolist(), runs["test/error"].tolist(), settings, resamples=SHOWN_RESAMPLES)


def with_controls(cells: pd.DataFrame, loss: float) -> tuple[pd.DataFrame, list[str]]:
    """Return runs at a training loss, with controls, and measures' names."""
    runs = valid_edges(cells[cells["place"] == loss_place(loss)].reset_index(drop=True))
    runs = runs.assign(**controls(runs["test/error"].tolist()))
    tags = [tag for tag in runs if "/" in tag and tag not in NO_MEASURES and runs[tag].nunique() > 1]
    return runs, ["at", *tags, *CONTROLS]


def _named(name: str) -> str:
    return f"`{name}`" if "/" in name else name


def _interval(tau: float, low: float, high: float) -> str:
    return Interval(tau, low, high).with_ends()
