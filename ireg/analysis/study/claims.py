"""The study's stated comparisons: paired differences, with p-values for all of them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import pandas as pd

from ireg.analysis.places import loss_place
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

ELSEWHERE = 5
"""Stated comparisons of questions 4 and 5: three of barriers and momentum, two of measured drift."""


@dataclass(frozen=True, kw_only=True)
class Claim:
    """One stated comparison of an optimizer with SGD.

    Attributes:
        question: its number.
        quantity: what is compared.
        comparator: of `COMPARATORS`.
        optimizer: the other one.
        difference: its value less SGD's, over pairs of seeds.
        adjusted: p by Holm's method, over all claims that were stated together.
    """

    question: int
    quantity: str
    comparator: str
    optimizer: str
    difference: PairedDifference
    adjusted: float = math.nan


def differences(
    cells: pd.DataFrame, optimizer: str, tag: str, places: Sequence[str], *, base: str = "sgd", logarithm: bool = False
) -> list[float]:
    """List an optimizer's values less another's, seed by seed.

    Args:
        cells: of the final runs.
        optimizer: whose.
        tag: which.
        places: the mean over those at which both runs of a pair have a value.
        base: the other optimizer.
        logarithm: take the values' natural logarithm first.

    Returns:
        A number a seed that both have at one of the places at least, by rising seed.
    """
    one, other = (_values(cells, name, tag, places) for name in (optimizer, base))
    both = pd.DataFrame({"one": one, "other": other}).dropna()
    if logarithm:
        both = both.map(math.log)
    return (both["one"] - both["other"]).groupby("seed").mean().sort_index().tolist()


def _values(cells: pd.DataFrame, optimizer: str, tag: str, places: Sequence[str]) -> pd.Series:
    """One optimizer's values, by seed and place."""
    rows = cells[(cells["optimizer"] == optimizer) & cells["place"].isin(places)]
    return rows.set_index(["seed", "place"])[tag].astype(float)


def stated(cells: pd.DataFrame, *, elsewhere: int = ELSEWHERE, base: str = "sgd") -> list[Claim]:
    """Compare each optimizer with SGD as the protocol states it.

    Args:
        cells: of the final runs.
        elsewhere: number of claims that other files decide. Holm's method counts them with p = 1: no adjusted p is
            then smaller than it would be with theirs.
        base: what all are compared with.

    Returns:
        The claims of questions 1, 2 and 3; one without two pairs has a difference of nan, and p is nan.
    """
    others = [name for name in dict.fromkeys(cells["optimizer"]) if name != base]
    found = []
    for optimizer in others:
        for comparator, places in COMPARATORS.items():
            values = differences(cells, optimizer, "test/error", places, base=base)
            found.append(_claim(1, "test error", comparator, optimizer, values))
        speed = differences(cells, optimizer, "at", ["loss 1"], base=base, logarithm=True)
        found.append(_claim(2, "ln epochs to a training loss of 1", "equal fit", optimizer, speed))
        norm = differences(cells, optimizer, "norm/l2", EQUAL_FIT, base=base, logarithm=True)
        found.append(_claim(3, "ln ‖ω‖", "equal fit", optimizer, norm))
    adjusted = holm([*(claim.difference.p for claim in found), *[1.0] * elsewhere])
    return [replace(claim, adjusted=p) for claim, p in zip(found, adjusted[: len(found)], strict=True)]


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
