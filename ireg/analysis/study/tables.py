"""The tables of the study's pages, from its cells."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

import pandas as pd

from ireg.analysis.association import Association, associations, controls, kendall
from ireg.analysis.basins import ends
from ireg.analysis.looks import COLOURS
from ireg.analysis.pages import markdown
from ireg.analysis.places import loss_place
from ireg.analysis.study.cells import EDGE, LOSSES, edge_is_valid, valid_edges, values
from ireg.analysis.study.checkpoints import BARRIERS, DRIFT
from ireg.analysis.study.claims import above_floor
from ireg.analysis.study.rates import CHOICES, chosen
from ireg.analysis.study.tied_pairs import over_ties
from ireg.analysis.study.ties import ties
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


BY_RATE = 0.7


def by_rate(cells: pd.DataFrame) -> str:
    """Write what each rate has at one training loss."""
    there = cells[cells["place"] == loss_place(BY_RATE)]
    rows = []
    for optimizer in optimizers(there):
        for lr, of_rate in there[there["optimizer"] == optimizer].groupby("lr"):
            errors = mean_interval(of_rate["test/error"].tolist())
            rows.append([optimizer, f"{lr:g}", f"{len(of_rate)}", _percents(errors.mean, errors.half)])
            rows[-1] += [interval_of(of_rate["at"]), interval_of(values(of_rate, "norm/l2"))]
    return markdown(["optimizer", "η", "seeds", f"test error at {BY_RATE:g}", "epochs to there", "‖ω‖ there"], rows)


SHOWN_BARRIERS = ("train/loss", "train/error", "test/error", "distance")


def barriers(cells: pd.DataFrame) -> str:
    """Write the barriers between forks, and how far above the floor."""
    rows = []
    for (one, other), of_pair in pairs_of_forks(cells):
        row = [ends(one, other), f"{len(of_pair)}"]
        row += [interval_of(values(of_pair, f"{BARRIERS}/{quantity}")) for quantity in SHOWN_BARRIERS]
        above = above_floor(cells, one, other, f"{BARRIERS}/train/loss")
        rows.append([*row, "" if one == other else interval_of(above)])
    head = ["ends", "checkpoints", "training loss", "training error", "test error", "distance"]
    return markdown([*head, "training loss above the floor"], rows)


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
    "k_V": "leading flow/k_lag",
    "k_F": "leading flow/k_fluctuation",
    "residual": "leading flow/residual",
    "Δ ln C, equal time": "kept/mean/time/loss",
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


def levels(
    tag: str,
    write: Callable[[float, float], str],
    parts: Parts = by_optimizer,
    head: Sequence[str] = ("optimizer",),
    valid: Callable[[str, float], bool] = lambda part, mean: True,
) -> Callable[[pd.DataFrame], str]:
    """Make the table of a tag by training loss.

    Args:
        tag: a column of the cells.
        write: from mean and half of the interval to a cell.
        parts: the lines.
        head: of what stands in front of each line.
        valid: whether a line's mean can be read as what the table says; others are marked.
    """

    def table(cells: pd.DataFrame) -> str:
        rows = []
        for row, of_one in parts(cells):
            measured, line = values(of_one, tag), [*row]
            for place in LEVELS:
                of_place = measured[of_one["place"] == place].dropna().tolist()
                interval = mean_interval(of_place)
                mark = "" if valid(row[0], interval.mean) else ", not valid"
                line.append(write(interval.mean, interval.half) + mark if of_place else "–")
            rows.append(line)
        return markdown([*head, *(f"{loss:g}" for loss in LOSSES)], rows)

    return table


def diffusive_share(cells: pd.DataFrame) -> pd.Series:
    """Compute the share of the norm's growth that comes by step length.

    It is of ‖y‖², of the settled weights y, and above 1 where the rest shrinks the norm.
    """
    by_length, along = (values(cells, f"path/settled_{kind}") for kind in ("diffusive", "radial"))
    return by_length / (by_length + along)


def diffusive(cells: pd.DataFrame) -> str:
    """Write the share of the norm's growth that comes by step length."""
    return levels("share", _percents)(cells.assign(share=diffusive_share(cells)))


ASSOCIATED = (1.2, 1.0, 0.4, 0.1)
"""Training losses at which measures are compared with the test error."""

FACTORS = ("optimizer", "lr", "seed")
SHOWN_RESAMPLES = 500
NO_MEASURES = ("test/error", "test/loss", "train/error", "train/loss", "fit/recovered")
"""What is no measure of a run: the result, and what equal fit holds alike."""


def measures(cells: pd.DataFrame) -> str:
    """Write how measures go with the test error at equal fit.

    Beside each stands how many settings, of optimizer and rate, have measured it.
    """
    head = ["measure", "settings", *(f"{what} at {loss:g}" for loss in ASSOCIATED for what in ("τ", "granulated"))]
    columns: dict[tuple[str, float], tuple[str, str]] = {}
    counts: dict[str, int] = {}
    for loss in ASSOCIATED:
        runs, names = with_controls(cells, loss)
        coefficients = _by_group(runs, names)
        for name in names:
            tau, low, high, _ = association(runs, name)
            whole = f"{tau:.2f} ({low:.2f} to {high:.2f})" if math.isfinite(tau) else "–"
            counts[name] = max(
                counts.get(name, 0), len(runs.loc[runs[name].notna(), ["optimizer", "lr"]].drop_duplicates())
            )
            columns[name, loss] = (whole, _coefficient(coefficients[name, "granulated"]))
    rows = []
    for name in dict.fromkeys(name for name, _ in columns):
        row = [_measure(name), f"{counts[name]}"]
        for loss in ASSOCIATED:
            row += columns.get((name, loss), ("–", "–"))
        rows.append(row)
    return markdown(head, rows)


def association(runs: pd.DataFrame, name: str) -> Association:
    """Compute how a measure goes with the test error, over runs."""
    settings = runs[["optimizer", "lr"]].apply(tuple, axis=1).tolist()
    return kendall(runs[name].tolist(), runs["test/error"].tolist(), settings, resamples=SHOWN_RESAMPLES)


def measures_within(cells: pd.DataFrame) -> str:
    """Write how measures go with the test error, by groups of pairs.

    It is at a training loss of 1, within each optimizer and over pairs that differ in one factor.
    """
    runs, names = with_controls(cells, 1.0)
    found = _by_group(runs, names)
    groups = [*(f"optimizer {name}" for name in optimizers(runs)), *(f"other {factor}" for factor in FACTORS)]
    rows = [[_measure(name), *(_coefficient(found[name, group]) for group in groups)] for name in names]
    return markdown(["measure", *(group.removeprefix("optimizer ") for group in groups)], rows)


def with_controls(cells: pd.DataFrame, loss: float) -> tuple[pd.DataFrame, list[str]]:
    """Return runs at a training loss, with controls, and measures' names."""
    runs = valid_edges(cells[cells["place"] == loss_place(loss)].reset_index(drop=True))
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


def interval_of(measured: Iterable[float]) -> str:
    """Write the mean of what there is, with its interval."""
    there = [value for value in measured if math.isfinite(value)]
    interval = mean_interval(there)
    return _number(interval.mean, interval.half) if there else "–"


def _number(mean: float, half: float) -> str:
    return f"{mean:.3g}" if math.isnan(half) else f"{mean:.3g} ± {half:.2g}"


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


GIVEN = "Intervals are of 95 %, over seeds, given the data, the split and the draw of the noise."
"""What a table with intervals says below itself: all runs share these three."""


def given(table: Callable[[pd.DataFrame], str]) -> Callable[[pd.DataFrame], str]:
    """Make a table say what its intervals are conditional on."""

    def write(cells: pd.DataFrame) -> str:
        return f"{table(cells)}\n{GIVEN}\n"

    return write


WITH_INTERVALS: Mapping[str, Callable[[pd.DataFrame], str]] = {
    "by_rate": by_rate,
    "barriers": barriers,
    "drift": drift,
    "measures": measures,
    "test_error": levels("test/error", _percents),
    "memorized": levels("fit/memorized", _percents),
    "clean_error": levels("fit/clean_error", _percents),
    "epochs": levels("at", _number),
    "seconds": levels("seconds", _number),
    "norm": levels("norm/l2", _number),
    "margin": levels("margin/normalized_clean_median", _number),
    "sgd_term": levels("ireg/sgd", _number),
    "own_term": levels("ireg/own", _number),
    "edge": levels(EDGE, _number, valid=edge_is_valid),
    "diffusive": diffusive,
    **{
        f"{name}_{how}": levels(tag, write, parts, ("B", "η"))
        for name, parts in (("one_rate", at_one_rate), ("one_ratio", at_one_ratio))
        for how, tag, write in (
            ("test_error", "test/error", _percents),
            ("epochs", "at", _number),
            ("norm", "norm/l2", _number),
            ("sgd_term", "ireg/sgd", _number),
        )
    },
}

TABLES: Mapping[str, Callable[[pd.DataFrame], str]] = {
    "rates": rates,
    **{name: given(table) for name, table in WITH_INTERVALS.items()},
    "measures_within": measures_within,
    "ties": ties,
    "over_ties": given(over_ties),
}
"""Of a file's cells, by the name that stands in a page's marks."""
