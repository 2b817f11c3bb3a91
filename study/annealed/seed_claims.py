"""What the paper's claims are about, in the second study: norms, speed, and the own terms, by setting."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import pandas as pd

from ireg.analysis.places import epoch_place, loss_place
from ireg.statistics import Interval, mean_interval
from ireg.tables import markdown
from study.annealed.plan import BASE, TUNED
from study.annealed.trials import LEVELS, MIDDLE
from study.annealed.writing import LABELS, ratio, title_of

OWN, OWN_FULL = "ireg/own", "ireg/own_full_batch"
"""Muon and Lion have the second alone."""


def quantities(cells_of: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """Compute what the claims are about, a row a setting, optimizer and quantity.

    Args:
        cells_of: final runs by setting.

    Returns:
        `setting`, `optimizer`, `quantity`, `at`, and the `mean`, `low`, `high` of values over draws, each the mean of
        its seeds: of the norm at the end and of the epochs to the lowest stated training loss that all runs reach the
        logarithm of the ratio to momentum's; of the own term in the middle of training its share of the training loss.
    """
    rows = []
    for setting, cells in cells_of.items():
        level = lowest_common_level(cells)
        for optimizer in (name for name in TUNED if name in set(cells["optimizer"])):
            found: list[tuple[str, str, Interval]] = []
            if optimizer != BASE:
                found.append(("ln norm", "end", _ratio(cells, optimizer, "end", "norm/l2")))
                if level is not None:
                    found.append(("ln epochs", level, _ratio(cells, optimizer, level, "at")))
            middle = epoch_place(MIDDLE)
            own = OWN if _values(cells, optimizer, middle, OWN).notna().any() else OWN_FULL
            shares = _values(cells, optimizer, middle, own) / _values(cells, optimizer, middle, "train/loss")
            found.append((f"{own} over train/loss", middle, _over_draws(shares)))
            rows += [
                {"setting": setting, "optimizer": optimizer, "quantity": quantity, "at": at, **interval._asdict()}
                for quantity, at, interval in found
            ]
    return pd.DataFrame(rows)


def lowest_common_level(cells: pd.DataFrame) -> str | None:
    """Return the place of the lowest stated training loss that all runs reach; None without one."""
    runs = cells.groupby(["optimizer", "seed"]).ngroups
    reached = [
        loss_place(loss)
        for loss in LEVELS
        if cells[cells["place"] == loss_place(loss)].groupby(["optimizer", "seed"]).ngroups == runs
    ]
    return reached[-1] if reached else None


def _values(cells: pd.DataFrame, optimizer: str, place: str, tag: str) -> pd.Series:
    rows = cells[(cells["optimizer"] == optimizer) & (cells["place"] == place)].set_index("seed")
    return rows[tag].astype(float) if tag in rows else pd.Series(math.nan, index=rows.index)


def _ratio(cells: pd.DataFrame, optimizer: str, place: str, tag: str) -> Interval:
    one, base = (_values(cells, name, place, tag) for name in (optimizer, BASE))
    return _over_draws(np.log(one / base))


def _over_draws(values: pd.Series) -> Interval:
    kept = values.dropna()
    return mean_interval(kept.groupby([seed // 2 for seed in kept.index]).mean().tolist())


def claims_table(found: pd.DataFrame) -> str:
    """Write the quantities, a row a setting and optimizer.

    Args:
        found: of `quantities`.
    """
    rows = []
    for (setting, optimizer), those in found.groupby(["setting", "optimizer"], sort=False):
        by_quantity = {row["quantity"]: row for _, row in those.iterrows()}
        norm, epochs = by_quantity.get("ln norm"), by_quantity.get("ln epochs")
        own = next(row for quantity, row in by_quantity.items() if quantity.startswith("ireg/"))
        part = "" if own["quantity"].startswith(f"{OWN} ") else ", full batch's part"
        rows.append(
            [
                title_of(str(setting)),
                LABELS[str(optimizer)],
                "–" if norm is None else ratio(_interval(norm)),
                "–" if epochs is None else f"{ratio(_interval(epochs))}, to a {epochs['at']}",
                f"{_interval(own).with_ends('.2g', scale=100)}{part}",
            ]
        )
    head = ["data, network, noise", "optimizer", "‖ω‖ over momentum's, end", "epochs over momentum's"]
    return markdown([*head, "own term, % of the training loss"], rows)


def _interval(row: pd.Series) -> Interval:
    return Interval(row["mean"], row["low"], row["high"])
