"""Which settings differ, seed by seed: at the end, or where they fit the training data equally well."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path

import pandas as pd

from ireg.analysis.load import is_seed, load, one_run_a_seed
from ireg.analysis.overview import Row, rows_of
from ireg.analysis.places import at_places, loss_place
from ireg.statistics import PairedDifference, holm, paired_difference
from ireg.system.errors import UserError

ALL_PAIRS = 5
"""Settings up to which all are compared with each other; more are compared with the best alone."""

LEVEL = 0.05
"""Below this p, adjusted by Holm's method, two settings differ significantly."""

LOSSES = (2.0, 1.5, 1.0, 0.7, 0.5, 0.3, 0.2, 0.1, 0.05, 0.03, 0.02, 0.01)
"""Training losses at which runs are compared, as far as all pass them."""

EQUAL_FIT, END, LOWEST = "equal_fit", "end", "lowest"
PLACES = (EQUAL_FIT, END, LOWEST)
"""Where settings are compared: at each training loss that all pass, at the end, at the lowest test error."""


@dataclass(frozen=True)
class Comparison:
    """Two settings, their means, their difference, and its p, adjusted for all comparisons."""

    left: str
    right: str
    means: tuple[float, float]
    difference: PairedDifference
    adjusted: float


def comparisons(summary: pd.DataFrame, criterion: str) -> list[Comparison]:
    """Compare the final values of settings by the seeds that both have done.

    Args:
        summary: of `summary.summarize`.
        criterion: the tag.

    Returns:
        The comparisons, best setting first; those with fewer than two seeds in common are left out. The p-values of
        all are adjusted by Holm's method.
    """
    return _adjusted(list(_pairs(summary, criterion)))


def compare(
    runs: pd.DataFrame | str | Path,
    at: str = END,
    tag: str = "test/error",
    losses: Sequence[float] = LOSSES,
) -> pd.DataFrame:
    """Compare settings seed by seed, at the end of training or at equal training loss.

    Equal epochs are not equal fit: one optimizer may have memorized what another has not begun to learn. At equal fit a
    run's value is the mean over its passage of a training loss, see `ireg.analysis.at_places`.

    Args:
        runs: of `ireg.load`, or the folder of a sweep. Runs that are not done are left out.
        at: `equal_fit`, at each of `losses` that every run passes; `end`, the mean over the last five epochs; or
            `lowest`, the epoch of the lowest test error, which is optimistic.
        tag: what is compared.
        losses: training losses.

    Returns:
        A row a pair of settings and place, with `place`, `setting`, `less` (the other setting), `seeds` that both have,
        `value` and `other` (means over these), `difference` with its 95 % interval `low` to `high` (Student), `p` of
        the paired t-test and `p_holm`, adjusted by Holm's method over all rows.

    Raises:
        UserError: there is no such place or tag, or no two settings have two seeds in common there.

    Example:
        >>> import pandas as pd
        >>> rows = [
        ...     {"run": f"{name}{seed}", "state": "done", "optimizer": name, "lr": 0.1, "batch_size": 32, "seed": seed,
        ...      "epoch": epoch, "time/epoch": 1.0, "train/loss": 2.0 / (1 + epoch), "test/error": error + seed / 100}
        ...     for name, error in (("adam", 0.3), ("sgd", 0.2)) for seed in (0, 1) for epoch in range(6)
        ... ]
        >>> found = compare(pd.DataFrame(rows), at="equal_fit", losses=[1.0, 0.5, 0.01])
        >>> found[["place", "setting", "less", "difference", "p_holm"]].round(6).values.tolist()
        [['loss 1', 'sgd', 'adam', -0.1, 0.0], ['loss 0.5', 'sgd', 'adam', -0.1, 0.0]]
    """
    table = runs if isinstance(runs, pd.DataFrame) else load(runs)
    placed = placed_runs(table, at, tag, losses)
    found = [
        {
            "place": place, "setting": pair.left, "less": pair.right, "seeds": pair.difference.count,
            "value": pair.means[0], "other": pair.means[1], "difference": pair.difference.student.mean,
            "low": pair.difference.student.low, "high": pair.difference.student.high,
            "p": pair.difference.p, "p_holm": pair.adjusted,
        }
        for place, pair in compared_at_places(placed, tag)
    ]  # fmt: skip
    if not found:
        raise UserError(f"at={at!r}: no two settings have two seeds in common there; run each with seed=0,1,2")
    return pd.DataFrame(found)


def compared_at_places(placed: pd.DataFrame, tag: str) -> list[tuple[str, Comparison]]:
    """Compare settings at each place of a table of `placed_runs`, with one adjustment of all p-values."""
    pairs = [
        (place, pair)
        for place in dict.fromkeys(placed["place"])
        for pair in _pairs(placed[placed["place"] == place], tag)
    ]
    adjusted = _adjusted([pair for _, pair in pairs])
    return [(place, pair) for (place, _), pair in zip(pairs, adjusted, strict=True)]


def placed_runs(table: pd.DataFrame, at: str, tag: str, losses: Sequence[float] = LOSSES) -> pd.DataFrame:
    """Return the values of finished runs where they are compared, a row a run and place.

    Args:
        table: of `ireg.load`.
        at: see `compare`.
        tag: what is compared.
        losses: training losses, see `compare`.

    Raises:
        UserError: there is no such place, or no such tag.
    """
    if at not in PLACES:
        raise UserError(f"at={at!r}: no such place; choose one of {', '.join(PLACES)}")
    if tag not in table:
        raise UserError(f"tag={tag!r}: no run has it; ireg terms lists what can be measured")
    done = table[table["state"] == "done"]
    placed = at_places(done, losses if at == EQUAL_FIT else (), tags=[tag])
    names = (
        passed_by_all(placed, losses, done["run"].nunique()) if at == EQUAL_FIT else [{END: "end", LOWEST: "test"}[at]]
    )
    return placed[placed["place"].isin(names)]


def passed_by_all(placed: pd.DataFrame, losses: Sequence[float], count: int) -> list[str]:
    """List the places of those training losses that all of so many runs of a table of `at_places` pass."""
    runs = placed.groupby("place")["run"].nunique()
    return [loss_place(loss) for loss in losses if runs.get(loss_place(loss)) == count]


def _pairs(summary: pd.DataFrame, criterion: str) -> Iterator[Comparison]:
    """Compare settings by the seeds that both have done, without adjustment."""
    if criterion not in summary or summary.empty:
        return
    rows = rows_of(summary, criterion)
    values = {row.name: _by_seed(row, criterion) for row in rows}
    names = list(values)
    for left, right in combinations(names, 2) if len(names) <= ALL_PAIRS else ((names[0], n) for n in names[1:]):
        common = values[left].index.intersection(values[right].index)
        if len(common) > 1:
            one, other = (values[name][common].tolist() for name in (left, right))
            difference = paired_difference(one, other)
            means = sum(one) / len(one), sum(other) / len(other)
            yield Comparison(left, right, means, difference, difference.p)


def _adjusted(pairs: Sequence[Comparison]) -> list[Comparison]:
    adjusted = holm([pair.difference.p for pair in pairs])
    return [replace(pair, adjusted=p) for pair, p in zip(pairs, adjusted, strict=True)]


def _by_seed(row: Row, criterion: str) -> pd.Series:
    """Return the final values of a setting's finished runs, by their seeds."""
    done = one_run_a_seed(row.runs[row.runs["state"] == "done"])
    seeds = [column for column in done.columns if is_seed(column)]
    keys = [tuple(map(str, key)) for key in done[seeds].to_numpy()]
    return pd.Series(done[criterion].astype(float).to_numpy(), index=keys).dropna()
