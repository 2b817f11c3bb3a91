"""The study's five answers, in a line each.

The protocol decides them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import pandas as pd

from ireg.analysis.pages import markdown
from ireg.analysis.places import loss_place
from ireg.analysis.study.cells import values
from ireg.analysis.study.checkpoints import DRIFT
from ireg.analysis.study.claims import (
    AT_LOSS,
    AT_NOISE,
    AVERAGE,
    BASE,
    LEVEL,
    SPEED_AT,
    STATED,
    Claim,
    compared,
    family,
    pairs,
    verdict,
)
from ireg.analysis.study.tables import GIVEN, diffusive_share, interval_of
from ireg.statistics import Interval, mean_interval

ADAPTIVE = {"rmsprop": "RMSProp", "adam": "Adam"}
"""Whom questions 1 and 5 are about."""

NAMES = {"sgd": "SGD", "momentum": "momentum", **ADAPTIVE, "adamw": "AdamW"}
SHOWN_LOSS = 0.7


def generalization(claims: Sequence[Claim], comparator: str) -> str:
    """Decide question 1 by one comparator.

    One rule is for both answers: an adjusted p below 0.05, for RMSProp and for Adam.

    Args:
        claims: the whole family.
        comparator: of `COMPARATORS`.

    Returns:
        `yes` if both adaptive methods are significantly worse; `no` if both are significantly less than one percentage
        point worse; else `undecided`. It is `–` where one of them has not two values.
    """
    of_both = [
        claim
        for claim in claims
        if claim.question == 1 and claim.comparator == comparator and claim.optimizer in ADAPTIVE
    ]
    if not of_both or any(claim.difference.count < 2 for claim in of_both):
        return "–"
    if all(verdict(claim) == "worse" for claim in of_both):
        return "yes"
    return "no" if all(claim.margin_adjusted < LEVEL for claim in of_both) else "undecided"


def _worse(claims: Sequence[Claim], cells: pd.DataFrame) -> str:
    parts = []
    for comparator in (name for name in STATED if name != AVERAGE):
        numbers = [
            f"{NAMES[claim.optimizer]} {_points(claim)}"
            for claim in _of(claims, 1, comparator)
            if claim.optimizer in ADAPTIVE
        ]
        parts.append(f"{comparator} **{generalization(claims, comparator)}** ({', '.join(numbers)})")
    levels = [
        f"At {title} {_by_answer(claims, places)}."
        for title, places in (("equal training loss", AT_LOSS), ("equal memorized noise", AT_NOISE))
    ]
    return f"Test error less SGD's, in points: {'; '.join(parts)}. {' '.join(levels)}"


def _by_answer(claims: Sequence[Claim], places: Mapping[str, float]) -> str:
    """Gather levels by question 1's answer there, in the order of training."""
    found: dict[str, list[str]] = {}
    for place in places:
        found.setdefault(generalization(claims, place), []).append(
            place.removeprefix("loss ").removeprefix("memorized ")
        )
    named = [f"**{answer}** at {', '.join(levels)}" for answer, levels in found.items() if answer != "–"]
    return "; ".join(named) or "not measured"


def _speed(claims: Sequence[Claim], cells: pd.DataFrame) -> str:
    fast, costly = [], False
    errors = {claim.optimizer: claim for claim in _of(claims, 1, SPEED_AT)}
    for claim in _of(claims, 2, SPEED_AT):
        if claim.significant and claim.difference.student.mean < 0:
            error = errors[claim.optimizer]
            costly = costly or verdict(error) == "worse"
            fast.append(f"{NAMES[claim.optimizer]} {_ratio(claim)}, {_points(error)} ({verdict(error)})")
    answer = "**Yes.**" if costly else "**Not shown.**"
    if not fast:
        return f"{answer} None is faster than SGD."
    return (
        f"{answer} Epochs to a training loss of 1 over SGD's, of the faster ones, and test error less SGD's there, in "
        f"points: {'; '.join(fast)}."
    )


def _norm(claims: Sequence[Claim], cells: pd.DataFrame) -> str:
    ratios = [
        f"{NAMES[claim.optimizer]} {_ratio(claim)}{'' if claim.significant else ', not significant'}"
        for claim in _of(claims, 3, AVERAGE)
    ]
    share, shares = diffusive_share(cells), []
    for name in NAMES:
        there = (cells["optimizer"] == name) & (cells["place"] == loss_place(SHOWN_LOSS))
        interval = mean_interval(share[there].dropna().tolist())
        if math.isfinite(interval.mean):
            shares.append(f"{NAMES[name]} {100 * interval.mean:.0f} ± {100 * interval.half:.0f} %")
    return (
        f"‖ω‖ over SGD's, {AVERAGE}: {'; '.join(ratios)}. What of its growth comes by step length at a loss of "
        f"{SHOWN_LOSS:g}: {', '.join(shares)}."
    )


def _basins(claims: Sequence[Claim], cells: pd.DataFrame) -> str:
    parts = []
    for claim in _of(claims, 4, "training loss"):
        if math.isnan(claim.difference.student.low):
            return "Not measured."
        above = claim.significant and claim.difference.student.mean > 0
        where = "**another basin**" if above else "**no other basin shown**"
        parts.append(f"{NAMES[claim.optimizer]} {_plus_minus(claim)} ({where})")
    (same,) = _of(claims, 4, AVERAGE)
    barriers = f"Barrier of the training loss to SGD's end, above the noise floor: {'; '.join(parts)}."
    if math.isnan(same.difference.student.low):
        return barriers
    return f"{barriers} Momentum's test error less SGD's at one effective rate: {_points(same)} points."


def _regularization(claims: Sequence[Claim], cells: pd.DataFrame) -> str:
    parts = []
    for claim in _of(claims, 5, "drift"):
        if math.isnan(claim.difference.student.low):
            return "Not measured."
        of_one = cells[(cells["optimizer"] == claim.optimizer) & (cells["place"] == DRIFT)]
        alignment, change = (
            interval_of(values(of_one, f"{DRIFT}/{tag}"))
            for tag in ("leading flow/alignment", "kept/mean/equal C/squares")
        )
        effect = "**an effect**" if claim.significant else "**no effect shown**"
        parts.append(f"{NAMES[claim.optimizer]} {_plus_minus(claim)} ({effect}; {alignment}; {change})")
    own = []
    for name in ("sgd", *ADAPTIVE):
        there = (cells["optimizer"] == name) & (cells["place"] == loss_place(1.0))
        own.append(f"{NAMES[name]} {interval_of(values(cells, 'ireg/own')[there])}")
    return (
        "Measured drift over its mean flow's, at a rate of 1e-7 (its alignment; by what finite steps change ln Q at "
        f"the chosen rate, at the mean and equal loss): {', '.join(parts)}. Own regularizer at a loss of 1: "
        f"{', '.join(own)}."
    )


QUESTIONS: Mapping[str, Callable[[Sequence[Claim], pd.DataFrame], str]] = {
    "1. Do adaptive methods generalize worse?": _worse,
    "2. Is speed bought with generalization?": _speed,
    "3. How does the norm evolve?": _norm,
    "4. Does momentum steer to other basins?": _basins,
    "5. Do adaptive methods have implicit regularization?": _regularization,
}


def answers(of_data: Mapping[str, pd.DataFrame]) -> str:
    """Write the five answers.

    Args:
        of_data: cells of final runs, barriers and drift, by data set.
    """
    claims = {name: family(cells) for name, cells in of_data.items()}
    rows = [
        [question, *(answer(claims[name], cells) for name, cells in of_data.items())]
        for question, answer in QUESTIONS.items()
    ]
    seeds = {name: max(claim.difference.count for claim in found) for name, found in claims.items()}
    table = markdown(["question", *(f"{name}, {count} seeds" for name, count in seeds.items())], rows)
    return f"{table}\n{GIVEN}\n"


def settings(cells_of: Mapping[str, pd.DataFrame]) -> str:
    """Write questions 1 to 3 for several data sets and networks, side by side.

    They are compared where all of them have been: at training losses and memorized shares that all pairs of all of them
    reach.

    Args:
        cells_of: all cells, by their setting's name.

    Returns:
        A row a setting and adaptive method: test error less SGD's, and ratios to SGD.
    """
    families = {name: family(cells) for name, cells in cells_of.items()}
    reached = common(families)
    shown = ["equal epochs", "best by hold-out", *reached, "end"]
    rows = []
    for name, cells in cells_of.items():
        rates = cells[cells["place"] == "end"].groupby("optimizer")["lr"].first()
        final = compared(cells)
        for optimizer, label in ((key, label) for key, label in ADAPTIVE.items() if key in rates):
            of_one = {
                (claim.question, claim.comparator): claim for claim in families[name] if claim.optimizer == optimizer
            }
            errors = [of_one[1, comparator] for comparator in shown]
            row = [name, label, f"{rates[BASE]:g}", f"{rates[optimizer]:g}", f"{errors[0].difference.count}"]
            norm = pairs(final, optimizer, "norm/l2", [SPEED_AT]).map(math.log)
            ratio = mean_interval((norm["one"] - norm["other"]).tolist())
            rows.append([*row, *map(_with_verdict, errors), _ratio(of_one[2, SPEED_AT]), _exponentials(ratio)])
    head = ["setting", "less SGD", "η of SGD", "η", "pairs", *shown, "epochs to a training loss of 1", "‖ω‖ there"]
    return f"{markdown(head, rows)}\n{GIVEN}\n"


def common(families: Mapping[str, Sequence[Claim]]) -> list[str]:
    """List the losses and memorized shares that every pair of every setting reaches.

    They are those of both adaptive methods, where they were run.
    """
    reached = {place: True for place in (*AT_LOSS, *AT_NOISE)}
    for found in families.values():
        for optimizer in ADAPTIVE:
            counts = {
                claim.comparator: claim.difference.count
                for claim in found
                if (claim.question, claim.optimizer) == (1, optimizer)
            }
            most = max(counts.values(), default=0)
            for place in reached:
                reached[place] &= counts.get(place, 0) == most
    return [place for place, by_all in reached.items() if by_all]


def _of(claims: Sequence[Claim], question: int, comparator: str) -> list[Claim]:
    return [
        claim
        for claim in claims
        if (claim.question, claim.comparator) == (question, comparator)
        and (question in (4, 5) or not math.isnan(claim.difference.student.low))
    ]


def _points(claim: Claim) -> str:
    mean, half = claim.difference.student.mean, claim.difference.student.half
    return f"{100 * mean:+.1f} ± {100 * half:.1f}"


def _plus_minus(claim: Claim) -> str:
    return f"{claim.difference.student.mean:.3g} ± {claim.difference.student.half:.2g}"


def _with_verdict(claim: Claim) -> str:
    return f"{_points(claim)}, {verdict(claim)}" if claim.difference.count > 1 else "–"


def _ratio(claim: Claim) -> str:
    return _exponentials(claim.difference.student)


def _exponentials(interval: Interval) -> str:
    mean, low, high = (math.exp(value) for value in interval)
    return f"{mean:.2f} ({low:.2f} to {high:.2f})"
