"""The tables of the study's pages, from its cells."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import pandas as pd

from ireg.analysis.looks import COLOURS
from ireg.analysis.pages import markdown
from ireg.analysis.places import loss_place
from ireg.analysis.study.cells import LOSSES, values
from ireg.analysis.study.claims import stated, verdict
from ireg.analysis.study.rates import CHOICES, chosen
from ireg.statistics import mean_interval

LEVELS = tuple(map(loss_place, LOSSES))


def rates(cells: pd.DataFrame) -> str:
    """Write which rate is chosen, and what other choices would have given."""
    others = [choice for choice in CHOICES if choice != "holdout"]
    head = ["optimizer", "rates", "chosen η", "inside", "epoch", "held-out error", "test error"]
    head += [f"{what} by {choice.replace('holdout', 'held-out')}" for choice in others for what in ("η", "test error")]
    rows = []
    for row in _in_order(chosen(cells)).to_dict("records"):
        cells_of = [row["optimizer"], f"{row['rates']}", f"{row['lr']:g}", "yes" if row["inside"] else "**no**"]
        cells_of += [f"{row['epoch']:.1f}", _percent(row["holdout/error"]), _percent(row["test/error"])]
        for choice in others:
            cells_of += [f"{row[f'lr by {choice}']:g}", _percent(row[f"test/error by {choice}"])]
        rows.append(cells_of)
    return markdown(head, rows)


def claims(cells: pd.DataFrame) -> str:
    """Write the stated comparisons of test errors."""
    rows = []
    for claim in stated(cells):
        if claim.question != 1:
            continue
        name, difference = [claim.optimizer, claim.comparator, f"{claim.difference.count}"], claim.difference
        if difference.count < 2:
            rows.append([*name, *["–"] * 5])
            continue
        rows.append(
            [
                *name,
                _between(difference.student.mean, difference.student.half, 100),
                f"{100 * difference.bootstrap.low:.2f} to {100 * difference.bootstrap.high:.2f}",
                f"{difference.p:.2g}",
                f"{claim.adjusted:.2g}",
                verdict(claim),
            ]
        )
    head = ["less SGD", "comparator", "pairs", "difference, points", "BCa", "p", "adjusted p", "verdict"]
    return markdown(head, rows)


def ratios(cells: pd.DataFrame) -> str:
    """Write the stated comparisons that are ratios: epochs, and norms."""
    rows = []
    for claim in stated(cells):
        if claim.question == 1:
            continue
        name, difference = [claim.optimizer, claim.quantity.removeprefix("ln ")], claim.difference
        if difference.count < 2:
            rows.append([*name, f"{difference.count}", *["–"] * 3])
            continue
        mean, low, high = (math.exp(value) for value in difference.student)
        ratio = f"{mean:.3g} ({low:.3g} to {high:.3g})"
        rows.append([*name, f"{difference.count}", ratio, f"{difference.p:.2g}", f"{claim.adjusted:.2g}"])
    return markdown(["over SGD", "quantity", "pairs", "ratio", "p", "adjusted p"], rows)


def levels(tag: str, write: Callable[[float, float], str]) -> Callable[[pd.DataFrame], str]:
    """Make the table of a tag by optimizer and training loss.

    Args:
        tag: a column of the cells.
        write: from mean and half of the interval to a cell.
    """

    def table(cells: pd.DataFrame) -> str:
        rows = []
        for optimizer in optimizers(cells):
            of_one = cells[cells["optimizer"] == optimizer]
            row = [optimizer]
            for place in LEVELS:
                of_place = values(of_one, tag)[of_one["place"] == place].dropna().tolist()
                interval = mean_interval(of_place)
                row.append(write(interval.mean, interval.half) if of_place else "–")
            rows.append(row)
        return markdown(["optimizer", *(f"{loss:g}" for loss in LOSSES)], rows)

    return table


def _percents(mean: float, half: float) -> str:
    return f"{_between(mean, half, 100)} %"


def _number(mean: float, half: float) -> str:
    return f"{mean:.3g}" if math.isnan(half) else f"{mean:.3g} ± {half:.2g}"


TABLES: Mapping[str, Callable[[pd.DataFrame], str]] = {
    "rates": rates,
    "claims": claims,
    "ratios": ratios,
    "test_error": levels("test/error", _percents),
    "memorized": levels("fit/memorized", _percents),
    "clean_error": levels("fit/clean_error", _percents),
    "epochs": levels("at", _number),
    "seconds": levels("seconds", _number),
    "norm": levels("norm/l2", _number),
    "sgd_term": levels("ireg/sgd", _number),
    "own_term": levels("ireg/own", _number),
    "edge": levels("curvature/edge", _number),
}
"""By the name that stands in a page's marks."""


def _in_order(table: pd.DataFrame) -> pd.DataFrame:
    order = optimizers(table)
    return table.sort_values("optimizer", key=lambda names: names.map(order.index), kind="stable")


def optimizers(cells: pd.DataFrame) -> list[str]:
    """List the optimizers that there are, in the order of legends."""
    known = [*COLOURS, *sorted(set(cells["optimizer"]) - set(COLOURS))]
    return sorted(cells["optimizer"].unique(), key=known.index)


def _percent(value: float) -> str:
    return f"{100 * value:.2f} %"


def _between(mean: float, half: float, factor: float) -> str:
    return f"{factor * mean:.2f}" if math.isnan(half) else f"{factor * mean:.2f} ± {factor * half:.2f}"
