"""Values of runs where they can be compared: at a training loss, an epoch, the best held-out error.

*Equal fit* is the mean over a run's passage of one training loss, as `at_places` takes it. Where a loss is *first
reached*, by `first_at_most`, is another place: a value there is no mean.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy.integrate import trapezoid

BAND = 1.1
"""A training loss c is passed between BAND · c and c/BAND."""


class Place(NamedTuple):
    """A part of a run, by its first and last epoch; both may lie between epochs."""

    name: str
    first: float
    last: float


def loss_place(loss: float) -> str:
    """Name the place of a training loss."""
    return f"loss {loss:g}"


def epoch_place(epoch: int) -> str:
    """Name the place of an epoch."""
    return f"epoch {epoch}"


def passage(epochs: Sequence[float], losses: Sequence[float], loss: float, band: float = BAND) -> Place | None:
    """Find where a run passes a training loss.

    It begins where the loss is first at most band · c, and ends where it is first at most c/band, or with the run. A
    loss that jumps back is passed once. Between epochs the logarithm is linear.

    Args:
        epochs: when the losses were measured.
        losses: positive.
        loss: c.
        band: above 1.

    Returns:
        The passage; None where the run begins below band · c, or does not reach c.

    Example:
        >>> place = passage([0, 1, 2], [4.0, 2.0, 1.0], 2.0, band=2**0.5)
        >>> place.name, round(place.first, 6), round(place.last, 6)
        ('loss 2', 0.5, 1.5)
    """
    first, reached, last = (first_at_most(epochs, losses, level) for level in (band * loss, loss, loss / band))
    if first is None or reached is None:
        return None
    return Place(loss_place(loss), first, float(epochs[-1]) if last is None else last)


def first_at_most(epochs: Sequence[float], losses: Sequence[float], level: float) -> float | None:
    """Find where a loss is first at most a level, its logarithm linear between epochs.

    Args:
        epochs: when the losses were measured.
        losses: positive.
        level: positive.

    Returns:
        An epoch, or a part of one; None where no loss is so low, or the first is.
    """
    logs = np.log(np.asarray(losses, dtype=float)) - math.log(level)
    after = int(np.argmax(logs <= 0))
    if after == 0:  # none is, or the first is
        return None
    share = logs[after - 1] / (logs[after - 1] - logs[after])
    return float(epochs[after - 1] + share * (epochs[after] - epochs[after - 1]))


def mean_between(epochs: Sequence[float], values: Sequence[float], first: float, last: float) -> float:
    """Average a quantity over a part of a run.

    It is linear between epochs, and each epoch has the same weight. At one epoch it is the value there.

    Args:
        epochs: when the values were measured, rising.
        values: finite.
        first: where the part begins.
        last: where it ends.

    Returns:
        The mean; nan where the part is not within the epochs.

    Example:
        >>> mean_between([0, 1, 2], [0.0, 1.0, 4.0], 0.0, 2.0)
        1.5
        >>> mean_between([0, 1, 2], [0.0, 1.0, 4.0], 1.5, 1.5)
        2.5
    """
    if not len(epochs) or first < epochs[0] or last > epochs[-1]:
        return math.nan
    if first == last:
        return float(np.interp(first, epochs, values))
    knots = np.array([first, *(epoch for epoch in epochs if first < epoch < last), last])
    return float(trapezoid(np.interp(knots, epochs, values), knots) / (last - first))


def loss_curve(rows: pd.DataFrame) -> tuple[list[float], list[float]]:
    """List a run's training losses, and the epochs at which they hold.

    The loss of an epoch is a mean over it, and stands at its middle. Row 0 is of the initial weights.

    Args:
        rows: of one run, by rising epoch.
    """
    epochs = rows["epoch"].astype(float)
    losses = rows["train/loss"].astype(float)
    usable = np.isfinite(losses) & (losses > 0)
    return (epochs.where(epochs == 0, epochs - 0.5)[usable].tolist(), losses[usable].tolist())


def places(rows: pd.DataFrame, losses: Sequence[float], epochs: Sequence[int], last: int = 5) -> Iterator[Place]:
    """List the places of a run.

    Args:
        rows: of one run, by rising epoch.
        losses: training losses, `loss c`.
        epochs: each is the mean over the `last` epochs up to it, `epoch e`.
        last: so many.

    Yields:
        Those that the run has. `holdout`, `holdout loss` and `test` are the epochs of the lowest `holdout/error`,
        `holdout/loss` and `test/error` after the first step, the first of equal ones. `end` is the last epochs.
    """
    curve = loss_curve(rows)
    for loss in losses:
        if (place := passage(*curve, loss)) is not None:
            yield place
    trained = rows[rows["epoch"] > 0]
    end = int(rows["epoch"].max())
    for epoch in epochs:
        if last <= epoch <= end:
            yield Place(epoch_place(epoch), epoch - last + 1, epoch)
    if end >= last:
        yield Place("end", end - last + 1, end)
    for name, tag in (("holdout", "holdout/error"), ("holdout loss", "holdout/loss"), ("test", "test/error")):
        if tag in trained and np.isfinite(trained[tag]).any():
            best = float(trained.loc[trained[tag].astype(float).idxmin(), "epoch"])
            yield Place(name, best, best)


def at_places(
    table: pd.DataFrame,
    losses: Sequence[float],
    epochs: Sequence[int] = (),
    tags: Sequence[str] | None = None,
    *,
    last: int = 5,
) -> pd.DataFrame:
    """Compute the values of runs at their places.

    Args:
        table: of `ireg.load`.
        losses: training losses.
        epochs: see `places`.
        tags: which; by default all but times.
        last: epochs that the end and each of `epochs` is a mean over.

    Returns:
        A row a run and place, with `run`, `state`, the configuration, `place`, `at` (the middle of its epochs),
        `seconds` (of training up to there, without the terms), and the tags. A tag that was not measured around a place
        is nan.
    """
    chosen = [tag for tag in table if "/" in tag and not tag.startswith("time/")] if tags is None else list(tags)
    described = [column for column in table if "/" not in column and column not in ("epoch", "nonfinite")]
    values_at = []
    for _, unsorted in table.groupby("run", sort=False):
        rows = unsorted.sort_values("epoch")
        measured = {tag: rows.loc[np.isfinite(rows[tag].astype(float)), ["epoch", tag]] for tag in chosen}
        # Row 0 takes no step. What time the terms took is no time of training.
        measured_time = rows["time/epoch"] if "time/epoch" in rows else pd.Series(math.nan, rows.index)
        spent = measured_time.where(rows["epoch"] > 0, 0.0)
        if "time/terms" in rows:
            spent = spent - rows["time/terms"].where(rows["epoch"] > 0, 0.0).fillna(0.0)
        seconds = spent.cumsum()
        for name, first, until in places(rows, losses, epochs, last):
            values = {
                tag: mean_between(of_tag["epoch"].tolist(), of_tag[tag].tolist(), first, until)
                for tag, of_tag in measured.items()
            }
            middle = (first + until) / 2
            time = float(np.interp(middle, rows["epoch"], seconds))
            values_at.append(
                {**rows.iloc[0][described].to_dict(), "place": name, "at": middle, "seconds": time, **values}
            )
    return pd.DataFrame(values_at, columns=[*described, "place", "at", "seconds", *chosen])
