"""The tables of the study's pages, from its cells."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import pandas as pd

from ireg.analysis.association import associations, controls, kendall
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
            row, measured = [optimizer], values(of_one, tag)
            for place in LEVELS:
                of_place = measured[of_one["place"] == place].dropna().tolist()
                interval = mean_interval(of_place)
                row.append(write(interval.mean, interval.half) if of_place else "–")
            rows.append(row)
        return markdown(["optimizer", *(f"{loss:g}" for loss in LOSSES)], rows)

    return table


ASSOCIATED = (1.2, 1.0, 0.4, 0.1)
"""Training losses at which measures are compared with the test error."""

FACTORS = ("optimizer", "lr", "seed")
SHOWN_RESAMPLES = 500
NO_MEASURES = ("test/error", "test/loss", "train/error", "train/loss", "fit/recovered")
"""What is no measure of a run: the result, and what equal fit holds alike."""


def measures(cells: pd.DataFrame) -> str:
    """Write how measures go with the test error at equal fit."""
    head = ["measure", *(f"{what} at {loss:g}" for loss in ASSOCIATED for what in ("τ", "granulated"))]
    columns: dict[tuple[str, float], tuple[str, str]] = {}
    for loss in ASSOCIATED:
        runs, names = _with_controls(cells, loss)
        settings = runs[["optimizer", "lr"]].apply(tuple, axis=1).tolist()
        coefficients = _by_group(runs, names)
        for name in names:
            tau, low, high, _ = kendall(
                runs[name].tolist(), runs["test/error"].tolist(), settings, resamples=SHOWN_RESAMPLES
            )
            whole = f"{tau:.2f} ({low:.2f} to {high:.2f})" if math.isfinite(tau) else "–"
            columns[name, loss] = (whole, _coefficient(coefficients[name, "granulated"]))
    rows = []
    for name in dict.fromkeys(name for name, _ in columns):
        row = [_measure(name)]
        for loss in ASSOCIATED:
            row += columns.get((name, loss), ("–", "–"))
        rows.append(row)
    return markdown(head, rows)


def measures_within(cells: pd.DataFrame) -> str:
    """Write how measures go with the test error, by groups of pairs.

    It is at a training loss of 1, within each optimizer and over pairs that differ in one factor.
    """
    runs, names = _with_controls(cells, 1.0)
    found = _by_group(runs, names)
    groups = [*(f"optimizer {name}" for name in optimizers(runs)), *(f"other {factor}" for factor in FACTORS)]
    rows = [[_measure(name), *(_coefficient(found[name, group]) for group in groups)] for name in names]
    return markdown(["measure", *(group.removeprefix("optimizer ") for group in groups)], rows)


def _with_controls(cells: pd.DataFrame, loss: float) -> tuple[pd.DataFrame, list[str]]:
    runs = cells[cells["place"] == loss_place(loss)].reset_index(drop=True)
    runs = runs.assign(**controls(runs["test/error"].tolist()))
    tags = [tag for tag in runs if "/" in tag and tag not in NO_MEASURES and runs[tag].nunique() > 1]
    return runs, ["at", *tags, "planted", "random"]


def _by_group(runs: pd.DataFrame, names: Sequence[str]) -> dict[tuple[str, str], float]:
    found = associations(runs, names, "test/error", FACTORS, resamples=0)
    return {(row["measure"], row["pairs of"]): row["tau"] for row in found.to_dict("records")}


def _measure(name: str) -> str:
    return f"`{name}`" if "/" in name else {"at": "epochs to there"}.get(name, name)


def _coefficient(tau: float) -> str:
    return f"{tau:.2f}" if math.isfinite(tau) else "–"


def _percents(mean: float, half: float) -> str:
    return f"{_between(mean, half, 100)} %"


def _number(mean: float, half: float) -> str:
    return f"{mean:.3g}" if math.isnan(half) else f"{mean:.3g} ± {half:.2g}"


TABLES: Mapping[str, Callable[[pd.DataFrame], str]] = {
    "rates": rates,
    "claims": claims,
    "ratios": ratios,
    "measures": measures,
    "measures_within": measures_within,
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
