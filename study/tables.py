"""The tables of the study's pages, from its cells."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

import pandas as pd

from ireg.analysis.basins import ends
from ireg.analysis.looks import COLOURS
from ireg.analysis.places import loss_place
from ireg.statistics import Interval, mean_interval
from ireg.tables import markdown
from study.at_the_end import at_the_end
from study.cells import EDGE, LOSSES, edge_is_valid, values
from study.checkpoints import BARRIERS, DRIFT
from study.claims import above_floor
from study.rates import CHOICES, chosen
from study.reruns import reruns
from study.tied_pairs import over_ties
from study.ties import ties

LEVELS = tuple(map(loss_place, LOSSES))


def rates(cells: pd.DataFrame) -> str:
    """Write which rate is chosen, and what other choices would have given."""
    others = [choice for choice in CHOICES if choice != "holdout"]
    head = ["optimizer", "chosen η", "held-out error, %", "test error, %"]
    head += [f"η by {choice.replace('holdout', 'held-out')}: test error, %" for choice in others]
    rows = []
    for row in _in_order(chosen(cells)).to_dict("records"):
        inside = "" if row["inside"] else f", **at the edge of {row['rates']} rates**"
        line = [row["optimizer"], f"{row['lr']:g}{inside}", _percent(row["holdout/error"]), _percent(row["test/error"])]
        rows.append([*line, *(f"{row[f'lr by {one}']:g}: {_percent(row[f'test/error by {one}'])}" for one in others)])
    return markdown(head, rows)


BY_RATE = 0.7


def by_rate(cells: pd.DataFrame) -> str:
    """Write what each rate has at one training loss, a line an optimizer."""
    there = cells[cells["place"] == loss_place(BY_RATE)]
    most = int(there.groupby(["optimizer", "lr"]).size().max())
    rows = []
    for optimizer in optimizers(there):
        errors, epochs, norms = [], [], []
        for lr, of_rate in there[there["optimizer"] == optimizer].groupby("lr"):
            interval = mean_interval(of_rate["test/error"].tolist())
            fewer = f" ({len(of_rate)} seeds)" if len(of_rate) < most else ""
            errors.append(f"{lr:g}: {_percents(interval)}{fewer}")
            epochs.append(f"{of_rate['at'].mean():.3g}")
            norms.append(f"{values(of_rate, 'norm/l2').mean():.3g}")
        rows.append([optimizer, "; ".join(errors), ", ".join(epochs), ", ".join(norms)])
    head = ["optimizer", "η: test error, %", "epochs", "‖ω‖"]
    return f"{markdown(head, rows)}\n{most} seeds each, fewer where that is said.\n"


def barriers(cells: pd.DataFrame) -> str:
    """Write the barriers of the training loss between forks, and how far above the floor."""
    rows, most = [], max(len(of_pair) for _, of_pair in pairs_of_forks(cells))
    for (one, other), of_pair in pairs_of_forks(cells):
        fewer = f" ({len(of_pair)} checkpoints)" if len(of_pair) < most else ""
        row = [f"{ends(one, other)}{fewer}", interval_of(values(of_pair, f"{BARRIERS}/train/loss"))]
        above = above_floor(cells, one, other, f"{BARRIERS}/train/loss")
        rows.append([*row, "" if one == other else interval_of(above)])
    head = ["ends", "barrier", "above the floor"]
    return f"{markdown(head, rows)}\n{most} checkpoints each, fewer where that is said.\n"


def pairs_of_forks(cells: pd.DataFrame) -> Iterator[tuple[tuple[str, str], pd.DataFrame]]:
    """Yield each two optimizers' cells of barriers, in the order of legends."""
    pairs = cells[cells["place"] == BARRIERS]
    names = optimizers(pairs)
    for number, one in enumerate(names):
        for other in names[number:]:
            of_both = pairs[["optimizer", "other"]].isin((one, other)).all(axis=1)
            of_pair = pairs[of_both & ((pairs["optimizer"] == pairs["other"]) == (one == other))]
            if len(of_pair):
                yield (one, other), of_pair


SHOWN_DRIFT = {
    "k": "leading flow/k",
    "alignment": "leading flow/alignment",
    "residual": "leading flow/residual",
    "Δ ln Q, equal C, mean": "kept/mean/equal C/squares",
    "Δ ln Q, equal C, ends": "kept/ends/equal C/squares",
}


def drift(cells: pd.DataFrame) -> str:
    """Write the measured drift: coefficients, and what finite steps do."""
    measured = cells[cells["place"] == DRIFT]
    rows = []
    for optimizer in optimizers(measured):
        of_one = measured[measured["optimizer"] == optimizer]
        row = [optimizer, f"{of_one['lr'].iloc[0]:g}", f"{len(of_one)}"]
        rows.append([*row, *(interval_of(values(of_one, f"{DRIFT}/{name}")) for name in SHOWN_DRIFT.values())])
    return markdown(["optimizer", "η", "checkpoints", *SHOWN_DRIFT], rows)


Parts = Callable[[pd.DataFrame], Iterator[tuple[tuple[str, ...], pd.DataFrame]]]
"""From cells to a table's lines: what stands in front, and the cells of that line."""


def by_optimizer(cells: pd.DataFrame) -> Iterator[tuple[tuple[str, ...], pd.DataFrame]]:
    """Yield the optimizers, in the order of legends."""
    for optimizer in optimizers(cells):
        yield (optimizer,), cells[cells["optimizer"] == optimizer]


def at_one_rate(cells: pd.DataFrame) -> Iterator[tuple[tuple[str, ...], pd.DataFrame]]:
    """Yield the batch sizes at the commonest rate."""
    yield from _sizes(cells, cells["lr"])


def at_one_ratio(cells: pd.DataFrame) -> Iterator[tuple[tuple[str, ...], pd.DataFrame]]:
    """Yield the batch sizes at the commonest ratio of rate and size."""
    # Rates are written with a few digits.
    yield from _sizes(cells, (cells["lr"] / cells["batch_size"]).map(lambda ratio: float(f"{ratio:.3g}")))


def _sizes(cells: pd.DataFrame, alike: pd.Series) -> Iterator[tuple[tuple[str, ...], pd.DataFrame]]:
    most = cells.groupby(alike)["batch_size"].nunique().idxmax()
    for (size, rate), rows in cells[alike == most].groupby(["batch_size", "lr"]):
        yield (f"{size}", f"{rate:g}"), rows


class Column(NamedTuple):
    """A quantity of a table at training losses.

    Attributes:
        title: what its heads begin with.
        tag: a column of the cells.
        losses: one column of the table each.
        write: from a mean with its interval to a cell.
        valid: whether a line's mean can be read as what the table says; others are marked.
    """

    title: str
    tag: str
    losses: Sequence[float]
    write: Callable[[Interval], str]
    valid: Callable[[str, float], bool] = lambda part, mean: True


def at_losses(cells: pd.DataFrame, columns: Sequence[Column], part: str) -> list[str]:
    """Write one line's numbers of a table.

    Args:
        cells: of that line.
        columns: what is written.
        part: the line's name.
    """
    texts = []
    for column in columns:
        measured = values(cells, column.tag)
        for loss in column.losses:
            interval = mean_interval(measured[cells["place"] == loss_place(loss)].dropna().tolist())
            there = not math.isnan(interval.mean)
            mark = ", not valid" if there and not column.valid(part, interval.mean) else ""
            texts.append(column.write(interval) + mark)
    return texts


def heads(columns: Sequence[Column]) -> list[str]:
    """Write the heads of a table's columns."""
    return [f"{column.title} at {loss:g}" for column in columns for loss in column.losses]


def quantities(*columns: Column) -> Callable[[pd.DataFrame], str]:
    """Make the table of several quantities at training losses, a line an optimizer."""

    def table(cells: pd.DataFrame) -> str:
        rows = [[part, *at_losses(of_one, columns, part)] for (part, *_), of_one in by_optimizer(cells)]
        return markdown(["optimizer", *heads(columns)], rows)

    return table


def diffusive_share(cells: pd.DataFrame) -> pd.Series:
    """Compute the share of the norm's growth that comes by step length.

    It is of ‖y‖², of the settled weights y, and above 1 where the rest shrinks the norm.
    """
    by_length, along = (values(cells, f"path/settled_{kind}") for kind in ("diffusive", "radial"))
    return by_length / (by_length + along)


def norms(cells: pd.DataFrame) -> str:
    """Write norm, share of its growth by step length, and margin."""
    return quantities(
        Column("‖ω‖", "norm/l2", (1.0, 0.03), _number),
        Column("growth by step length, %,", "share", (BY_RATE,), _percents),
        Column("normalized margin", "margin/normalized_clean_median", (0.1,), _number),
    )(cells.assign(share=diffusive_share(cells)))


def sizes(cells: pd.DataFrame) -> str:
    """Write what sizes of minibatches have, first at one rate, then at one ratio of rate and size."""
    rows = [
        [*front, *at_losses(of_size, OF_SIZES, front[0])]
        for parts in (at_one_rate, at_one_ratio)
        for front, of_size in parts(cells)
    ]
    return markdown(["B", "η", *heads(OF_SIZES)], rows)


def _percents(interval: Interval) -> str:
    return interval.text(".2f", scale=100)


def interval_of(measured: Iterable[float]) -> str:
    """Write the mean of what there is, with its interval."""
    return _number(mean_interval([value for value in measured if math.isfinite(value)]))


def _number(interval: Interval) -> str:
    return interval.text(".3g", ".2g")


def _in_order(table: pd.DataFrame) -> pd.DataFrame:
    order = optimizers(table)
    return table.sort_values("optimizer", key=lambda names: names.map(order.index), kind="stable")


def optimizers(cells: pd.DataFrame) -> list[str]:
    """List the optimizers that there are, in the order of legends."""
    known = [*COLOURS, *sorted(set(cells["optimizer"]) - set(COLOURS))]
    return sorted(cells["optimizer"].unique(), key=known.index)


def _percent(value: float) -> str:
    return f"{100 * value:.2f}"


GIVEN = "Intervals are of 95 %, over seeds, given the data, the split and the draw of the noise."
"""What a page with intervals says once: all runs share these three."""

OF_SIZES = (
    Column("test error, %,", "test/error", (1.0,), _percents),
    Column("epochs", "at", (1.0,), _number),
    Column("‖ω‖", "norm/l2", (1.0,), _number),
    Column("equation 1", "ireg/sgd", (1.0,), _number),
)

TABLES: Mapping[str, Callable[[pd.DataFrame], str]] = {
    "rates": rates,
    "by_rate": by_rate,
    "fit": quantities(
        Column("test error, %,", "test/error", (1.0, 0.1), _percents),
        Column("noise learned, %,", "fit/memorized", (1.2,), _percents),
    ),
    "norms": norms,
    "barriers": barriers,
    "drift": drift,
    "terms": quantities(
        Column("own regularizer", "ireg/own", (1.0, 0.1), _number),
        Column("equation 1", "ireg/sgd", (1.0,), _number),
        Column("fraction of the edge", EDGE, (0.1,), _number, edge_is_valid),
    ),
    "sizes": sizes,
    "ties": ties,
    "at_the_end": at_the_end,
    "reruns": reruns,
    "over_ties": over_ties,
}
"""Of a file's cells, by the name that stands in a page's marks."""
