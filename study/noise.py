"""Runs at equal memorized noise: where they have learned the same share of the wrong labels."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pandas as pd

from ireg.analysis.places import loss_place
from study.cells import LOSSES

MEMORIZED = "fit/memorized"

SHARES = (0.1, 0.2, 0.4, 0.6, 0.8)
"""Shares of the wrong labels at which runs are compared."""


def share_place(share: float) -> str:
    """Name the place of a memorized share.

    Example:
        >>> share_place(0.1)
        'memorized 10 %'
    """
    return f"memorized {100 * share:g} %"


def at_shares(cells: pd.DataFrame, shares: Sequence[float] = SHARES) -> pd.DataFrame:
    """Compute the values of runs where they first have memorized a share of the wrong labels.

    They are read off the cells of the training losses, in the order of training. Between the last of them below the
    share s and the first at s or above, all is linear in the memorized share.

    Args:
        cells: of runs, with `fit/memorized`.
        shares: between 0 and 1.

    Returns:
        A row a run and share that it passes: `optimizer`, `lr`, `seed`, `place`, `at` and the tags. A run that is above
        a share at its first loss, or never at it, has no row.
    """
    tags = ["at", *(column for column in cells if "/" in column)]
    described = ["optimizer", "lr", "seed"]
    records: list[dict[str, object]] = []
    if MEMORIZED in cells:
        of_losses = cells[cells["place"].isin(list(map(loss_place, LOSSES))) & cells[MEMORIZED].notna()]
        for key, rows in of_losses.groupby(described):
            records += (
                {**dict(zip(described, key, strict=True)), **row}
                for row in _of_run(rows.sort_values("at"), shares, tags)
            )
    return pd.DataFrame(records, columns=[*described, "place", *tags])


def _of_run(rows: pd.DataFrame, shares: Sequence[float], tags: Sequence[str]) -> Iterator[dict[str, object]]:
    memorized, values = rows[MEMORIZED].to_numpy(dtype=float), rows[list(tags)].to_numpy(dtype=float)
    for share in shares:
        after = int((memorized >= share).argmax())
        if after == 0:  # none is, or the first is
            continue
        part = (share - memorized[after - 1]) / (memorized[after] - memorized[after - 1])
        there = values[after - 1] + part * (values[after] - values[after - 1])
        yield {"place": share_place(share), **dict(zip(tags, there.tolist(), strict=True))}
