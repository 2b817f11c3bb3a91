"""The study's stated comparisons: paired differences, with p-values for all of them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from ireg.analysis.places import loss_place
from ireg.analysis.study.checkpoints import BARRIERS, DRIFT
from ireg.statistics import PairedDifference, holm, paired_difference

EQUAL_FIT = tuple(map(loss_place, (1.0, 0.7, 0.4, 0.2, 0.1)))
COMPARATORS: Mapping[str, tuple[str, ...]] = {
    "equal epochs": ("epoch 50",),
    "equal fit": EQUAL_FIT,
    "best by hold-out": ("holdout",),
    "end": ("end",),
}
"""The places that a comparator averages over, as far as both runs of a pair have them."""

MARGIN = 0.01
"""A test error is no worse if the interval lies below this difference."""

LEVEL = 0.05

BASE = "sgd"
OTHERS = ("momentum", "rmsprop", "adam", "adamw")
"""What is compared, and the optimizers that are compared with it."""

BARRIER = f"{BARRIERS}/train/loss"
COEFFICIENT = f"{DRIFT}/leading flow/k"


@dataclass(frozen=True, kw_only=True)
class Claim:
    """One stated comparison.

    Attributes:
        question: its number.
        quantity: what is compared.
        comparator: of `COMPARATORS`, or how else it is compared.
        optimizer: the one that it is about.
        difference: its value less SGD's, over pairs of seeds; of questions 4 and 5 what `quantity` says, over runs.
        adjusted: p by Holm's method, over all claims that were stated together.
    """

    question: int
    quantity: str
    comparator: str
    optimizer: str
    difference: PairedDifference
    adjusted: float = math.nan


def differences(
    cells: pd.DataFrame, optimizer: str, tag: str, places: Sequence[str], *, logarithm: bool = False
) -> list[float]:
    """List an optimizer's values less SGD's, seed by seed.

    Args:
        cells: of the final runs.
        optimizer: whose.
        tag: which.
        places: the mean over those at which both runs of a pair have a value.
        logarithm: take the values' natural logarithm first.

    Returns:
        A number a seed that both have at one of the places at least, by rising seed.
    """
    one, other = (_values(cells, name, tag, places) for name in (optimizer, BASE))
    both = pd.DataFrame({"one": one, "other": other}).dropna()
    if logarithm:
        both = both.map(math.log)
    return (both["one"] - both["other"]).groupby("seed").mean().sort_index().tolist()


def _values(cells: pd.DataFrame, optimizer: str, tag: str, places: Sequence[str]) -> pd.Series:
    """One optimizer's values, by seed and place."""
    rows = cells[(cells["optimizer"] == optimizer) & cells["place"].isin(places)]
    return rows.set_index(["seed", "place"])[tag].astype(float)


def stated(cells: pd.DataFrame) -> list[Claim]:
    """Make the comparisons that the protocol states.

    Args:
        cells: of the final runs, the barriers and the drift. Of each optimizer's rates the first is compared with
            others; further ones of SGD may have momentum's effective rate.

    Returns:
        All 29 claims. One that has not two values has a difference of nan, and its p is nan; Holm's method counts it
        with p = 1.
    """
    found = [*_of_training(_first_rates(cells)), *_of_basins(cells), *_of_drift(cells)]
    p_values = [claim.difference.p for claim in found]
    adjusted = holm([1.0 if math.isnan(p) else p for p in p_values])
    return [
        replace(claim, adjusted=math.nan if math.isnan(p) else value)
        for claim, p, value in zip(found, p_values, adjusted, strict=True)
    ]


def _first_rates(cells: pd.DataFrame) -> pd.DataFrame:
    return cells[cells["lr"] == cells.groupby("optimizer")["lr"].transform("first")]


def _of_training(cells: pd.DataFrame) -> Iterator[Claim]:
    """Questions 1 to 3."""
    for optimizer in OTHERS:
        for comparator, places in COMPARATORS.items():
            yield _claim(1, "test error", comparator, optimizer, differences(cells, optimizer, "test/error", places))
        speed = differences(cells, optimizer, "at", [loss_place(1.0)], logarithm=True)
        yield _claim(2, "ln epochs to a training loss of 1", "equal fit", optimizer, speed)
        norm = differences(cells, optimizer, "norm/l2", EQUAL_FIT, logarithm=True)
        yield _claim(3, "ln ‖ω‖", "equal fit", optimizer, norm)


def _of_basins(cells: pd.DataFrame) -> Iterator[Claim]:
    """Question 4."""
    for optimizer in ("momentum", "adam"):
        values = above_floor(cells, BASE, optimizer, BARRIER)
        yield _claim(4, "barrier above the floor", "training loss", optimizer, values)
    momentum = cells["optimizer"] == "momentum"
    same: list[float] = []
    if momentum.any():
        rates = cells.loc[momentum, "lr"] / (1 - cells.loc[momentum, "optimizer.momentum"])
        # Rates are written with a few digits.
        pairs = cells[momentum | ((cells["optimizer"] == BASE) & np.isclose(cells["lr"], rates.iloc[0], rtol=1e-6))]
        same = differences(pairs, "momentum", "test/error", EQUAL_FIT)
    yield _claim(4, "test error at one effective rate", "equal fit", "momentum", same)


def _of_drift(cells: pd.DataFrame) -> Iterator[Claim]:
    """Question 5."""
    measured = cells[cells["place"] == DRIFT]
    for optimizer in ("rmsprop", "adam"):
        of_one = measured[measured["optimizer"] == optimizer]
        values = of_one[COEFFICIENT].dropna().tolist() if COEFFICIENT in of_one else []
        yield _claim(5, "coefficient of the mean flow", "drift", optimizer, values)


def above_floor(cells: pd.DataFrame, one: str, other: str, tag: str) -> list[float]:
    """List two optimizers' barriers above the noise floor, run by run.

    The floor is the mean of the barriers between two orders of the one and of the other.

    Args:
        cells: of the barriers.
        one: optimizer.
        other: another.
        tag: which barrier.

    Returns:
        A number a run that has all three.
    """
    pairs = cells[cells["place"] == BARRIERS]
    if pairs.empty:
        return []
    by_pair = {names: rows.set_index("run")[tag] for names, rows in pairs.groupby(["optimizer", "other"])}
    between = by_pair.get((one, other), by_pair.get((other, one)))
    one_floor, other_floor = by_pair.get((one, one)), by_pair.get((other, other))
    if between is None or one_floor is None or other_floor is None:
        return []
    return (between - (one_floor + other_floor) / 2).dropna().sort_index().tolist()


def _claim(question: int, quantity: str, comparator: str, optimizer: str, values: Sequence[float]) -> Claim:
    difference = paired_difference(values, [0.0] * len(values))
    return Claim(
        question=question, quantity=quantity, comparator=comparator, optimizer=optimizer, difference=difference
    )


def verdict(claim: Claim) -> str:
    """Say what a claim about a test error counts as.

    Returns:
        `worse` if the difference is significantly positive, `better` if significantly negative, `no worse` if its
        interval lies below one percentage point, else `undecided`.
    """
    mean, _, high = claim.difference.student
    if claim.adjusted < LEVEL:
        return "worse" if mean > 0 else "better"
    return "no worse" if high < MARGIN else "undecided"
