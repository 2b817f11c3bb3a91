"""The study's comparisons of a data set: paired differences, and one adjustment of all their p-values."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np
import pandas as pd

from ireg.analysis.places import loss_place
from ireg.statistics import PairedDifference, holm, paired_difference
from study.cells import LOSSES
from study.checkpoints import BARRIERS, DRIFT
from study.noise import SHARES, at_shares, share_place

MEANT = tuple(map(loss_place, (1.0, 0.7, 0.4, 0.2, 0.1)))
"""Training losses over which the protocol's means are taken, those that both runs of a pair reach."""

AVERAGE = "mean over losses"
STATED: Mapping[str, tuple[str, ...]] = {
    "equal epochs": ("epoch 50",),
    AVERAGE: MEANT,
    "best by hold-out": ("holdout",),
    "end": ("end",),
}
TUNED_END = "end, tuned for it"
"""The end of shorter runs, at the rates that held-out examples choose for it."""

AT_LOSS: Mapping[str, float] = {loss_place(loss): loss for loss in LOSSES}
AT_NOISE: Mapping[str, float] = {share_place(share): share for share in SHARES}
COMPARATORS: Mapping[str, tuple[str, ...]] = {
    **STATED,
    **{name: (name,) for name in (TUNED_END, *AT_LOSS, *AT_NOISE)},
}
"""The places that a comparator averages over, as far as both runs of a pair have them.

The first four were stated before the data were seen. The others came after.
"""

SPEED_AT = loss_place(1.0)
"""Where speed is compared."""

MARGIN = 0.01
"""A test error is no worse if the difference is significantly below this one."""

LEVEL = 0.05
"""Of significance, after adjustment."""

BASE = "sgd"
OTHERS = ("momentum", "rmsprop", "adam", "adamw")
"""What is compared, and the optimizers that are compared with it."""

BARRIER = f"{BARRIERS}/train/loss"
COEFFICIENT = f"{DRIFT}/leading flow/k"


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """A comparison of an optimizer with the base one, as far as a verdict needs it.

    Attributes:
        comparator: where they are compared.
        optimizer: the one that it is about.
        difference: its value less the base's, over pairs.
        adjusted: p of a difference of 0, adjusted over the whole family.
        margin_adjusted: of a test error, p of a difference of `MARGIN` or more, adjusted with it; else nan.
    """

    comparator: str
    optimizer: str
    difference: PairedDifference
    adjusted: float = math.nan
    margin_adjusted: float = math.nan

    @property
    def significant(self) -> bool:
        """Whether the difference is not 0, after adjustment."""
        return self.adjusted < LEVEL


Compared = TypeVar("Compared", bound=Comparison)


@dataclass(frozen=True, kw_only=True)
class Claim(Comparison):
    """One comparison of the first study, by one of `COMPARATORS` or as its comparator says.

    Attributes:
        question: its number.
        quantity: what is compared. Of questions 4 and 5 the difference is what it says, over runs.
    """

    question: int
    quantity: str


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
    both = pairs(cells, optimizer, tag, places)
    if logarithm:
        both = both.map(math.log)
    return (both["one"] - both["other"]).groupby("seed").mean().sort_index().tolist()


def pairs(cells: pd.DataFrame, optimizer: str, tag: str, places: Sequence[str]) -> pd.DataFrame:
    """List the values of an optimizer and of SGD where both have them.

    Args:
        cells: of the final runs, with one rate an optimizer.
        optimizer: whose.
        tag: which.
        places: where.

    Returns:
        `one` (the optimizer's) and `other` (SGD's), by `seed` and `place`.
    """
    one, other = (_values(cells, name, tag, places) for name in (optimizer, BASE))
    return pd.DataFrame({"one": one, "other": other}).dropna()


def _values(cells: pd.DataFrame, optimizer: str, tag: str, places: Sequence[str]) -> pd.Series:
    """Return one optimizer's values, by seed and place."""
    there = (cells["optimizer"] == optimizer) & cells["place"].isin(places)
    return cells.loc[there, ["seed", "place", tag]].set_index(["seed", "place"])[tag].astype(float)


def family(cells: pd.DataFrame) -> list[Claim]:
    """Make all comparisons of a data set, and adjust their p-values together.

    This is the one place that does: every table, answer and figure has its adjusted p-values from here.

    Args:
        cells: of the final runs, the barriers and the drift, all that there are. Of each optimizer's rates the first
            is compared with others; further ones of SGD may have momentum's effective rate.

    Returns:
        The claims. One that has not two values has a difference of nan, and is not counted.
    """
    final = compared(cells)
    members = [*_of_training(final), *_of_basins(cells), *_of_drift(cells)]
    margins = [
        claim.difference.p_at_least(MARGIN) if (claim.question, claim.quantity) == (1, "test error") else math.nan
        for claim in members
    ]
    return adjusted(members, margins)


def adjusted(members: Sequence[Compared], margins: Sequence[float]) -> list[Compared]:
    """Adjust the p-values of comparisons together, by Holm's method.

    A comparison of test errors has two hypotheses, that the difference is 0 and that it is `MARGIN` or more. At most
    one of them is true, and they count once (`ireg.statistics.holm`).

    Args:
        members: of the family.
        margins: p of the second hypothesis of each; nan where there is none.
    """
    count = len(members)
    found = holm([*(member.difference.p for member in members), *margins], [*range(count), *range(count)])
    return [
        replace(member, adjusted=found[number], margin_adjusted=found[count + number])
        for number, member in enumerate(members)
    ]


def compared(cells: pd.DataFrame) -> pd.DataFrame:
    """Select each optimizer's first rate, and the runs that are tuned for the end.

    Cells at equal memorized noise are added.
    """
    chosen = cells["lr"] == cells.groupby("optimizer")["lr"].transform("first")
    first = cells[chosen | (cells["place"] == TUNED_END)]
    return pd.concat([part for part in (first, at_shares(first)) if len(part)], ignore_index=True)


def _of_training(cells: pd.DataFrame) -> Iterator[Claim]:
    """Make the claims of questions 1 to 3."""
    for optimizer in OTHERS:
        for comparator, places in COMPARATORS.items():
            yield _claim(1, "test error", comparator, optimizer, differences(cells, optimizer, "test/error", places))
        speed = differences(cells, optimizer, "at", [SPEED_AT], logarithm=True)
        yield _claim(2, "ln epochs to a training loss of 1", SPEED_AT, optimizer, speed)
        norm = differences(cells, optimizer, "norm/l2", MEANT, logarithm=True)
        yield _claim(3, "ln ‖ω‖", AVERAGE, optimizer, norm)


def _of_basins(cells: pd.DataFrame) -> Iterator[Claim]:
    """Make the claims of question 4."""
    for optimizer in ("momentum", "adam"):
        values = above_floor(cells, BASE, optimizer, BARRIER)
        yield _claim(4, "barrier above the floor", "training loss", optimizer, values)
    momentum = cells["optimizer"] == "momentum"
    same: list[float] = []
    if momentum.any():
        rates = cells.loc[momentum, "lr"] / (1 - cells.loc[momentum, "optimizer.momentum"])
        # Rates are written with a few digits.
        alike = cells[momentum | ((cells["optimizer"] == BASE) & np.isclose(cells["lr"], rates.iloc[0], rtol=1e-6))]
        same = differences(alike, "momentum", "test/error", MEANT)
    yield _claim(4, "test error at one effective rate", AVERAGE, "momentum", same)


def _of_drift(cells: pd.DataFrame) -> Iterator[Claim]:
    """Make the claims of question 5."""
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
    measured = cells[cells["place"] == BARRIERS]
    if measured.empty:
        return []
    by_pair = {names: rows.set_index("run")[tag] for names, rows in measured.groupby(["optimizer", "other"])}
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


def verdict(claim: Comparison) -> str:
    """Say what a claim about a test error counts as, by an adjusted p below 0.05.

    Returns:
        `worse` if the difference is significantly not 0 and positive, `better` if negative; `no worse` if it is
        significantly below one percentage point; else `undecided`. Without two values it is `–`.
    """
    mean = claim.difference.student.mean
    if claim.difference.count < 2:
        return "–"
    if claim.significant:
        return "worse" if mean > 0 else "better"
    return "no worse" if claim.margin_adjusted < LEVEL else "undecided"
