"""The study's five answers, in a few words each, as the protocol decides them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise

import pandas as pd

from ireg.tables import markdown
from study.claims import AT_LOSS, AT_NOISE, AVERAGE, LEVEL, SPEED_AT, TUNED_END, Claim, family, verdict
from study.comparisons import exponentials
from study.tables import GIVEN

ADAPTIVE = {"rmsprop": "RMSProp", "adam": "Adam"}
"""Whom questions 1 and 5 are about."""

NAMES = {"sgd": "SGD", "momentum": "momentum", **ADAPTIVE, "adamw": "AdamW"}


def generalization(claims: Sequence[Claim], comparator: str) -> str:
    """Decide question 1 by one comparator and one rule for both answers.

    An adjusted p below 0.05 counts, for RMSProp and for Adam.

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


def _worse(claims: Sequence[Claim]) -> str:
    """Gather comparators by the answer there, the one of held-out examples first."""
    texts: dict[str, list[str]] = {}
    for comparators, write in (
        (["best by hold-out"], lambda where: "stopped by held-out examples"),
        ([*AT_LOSS], lambda where: _levels(where, AT_LOSS, "at every training loss", "at a loss of {}")),
        ([*AT_NOISE], lambda where: _levels(where, AT_NOISE, "at every share of memorized noise", "at {} memorized")),
        (["end"], lambda where: "at the end"),
        ([TUNED_END], lambda where: "at the end, tuned for it"),
        (["equal epochs"], lambda where: "at equal epochs"),
    ):
        by_answer: dict[str, list[str]] = {}
        for comparator in comparators:
            by_answer.setdefault(generalization(claims, comparator), []).append(comparator)
        for answer, where in by_answer.items():
            numbers = _of(claims, 1, where[0], "adam") if where[0] in ("best by hold-out", "end", TUNED_END) else []
            text = f"{write(where)}{''.join(f' (Adam {points(one)} points)' for one in numbers)}"
            texts.setdefault(answer, []).append(text)
    parts = [f"**{answer}**: {', '.join(where)}" for answer, where in texts.items() if answer != "–"]
    return _sentence("; ".join(parts) or "Not measured")


def _levels(places: Sequence[str], all_of: Mapping[str, float], every: str, some: str) -> str:
    """Write levels, and only the first and the last of those without another answer between them."""
    if len(places) == len(all_of):
        return every
    order, groups = [*all_of], [[places[0]]]
    for before, place in pairwise(places):
        if order.index(place) == order.index(before) + 1:
            groups[-1].append(place)
        else:
            groups.append([place])
    ends = [[place.removeprefix("loss ").removeprefix("memorized ") for place in group] for group in groups]
    return some.format(", ".join(" to ".join(dict.fromkeys([group[0], group[-1]])) for group in ends))


def _sentence(text: str) -> str:
    """Write a text with a capital first letter, also in bold, and a full stop."""
    start = len(text) - len(text.lstrip("*"))
    return f"{text[:start]}{text[start : start + 1].upper()}{text[start + 1 :]}."


def _speed(claims: Sequence[Claim]) -> str:
    errors = {claim.optimizer: claim for claim in _of(claims, 1, SPEED_AT)}
    faster = [claim for claim in _of(claims, 2, SPEED_AT) if claim.significant and claim.difference.student.mean < 0]
    costly = [claim for claim in faster if verdict(errors[claim.optimizer]) == "worse"]
    if not faster:
        return "**Not shown.** None is faster than SGD."
    first = min(costly or faster, key=lambda claim: claim.difference.student.mean)
    error = errors[first.optimizer]
    answer, ratio = "Yes" if costly else "Not shown", exponentials(first.difference.student)
    return (
        f"**{answer}.** {NAMES[first.optimizer]} takes {ratio} of SGD's epochs to a loss of 1, with "
        f"{points(error)} points ({verdict(error)})."
    )


def _norm(claims: Sequence[Claim]) -> str:
    parts, ratios = [], []
    for claim in (claim for claim in _of(claims, 3, AVERAGE) if claim.optimizer in ADAPTIVE):
        said = "larger" if claim.difference.student.mean > 0 else "smaller"
        parts.append(f"{NAMES[claim.optimizer]} {said if claim.significant else 'undecided'}")
        ratios.append(exponentials(claim.difference.student))
    if not parts:
        return "Not measured."
    return f"**{_sentence(', '.join(parts))}** {', '.join(ratios)} times SGD's, {AVERAGE}."


def _basins(claims: Sequence[Claim]) -> str:
    to_others = _of(claims, 4, "training loss")
    if any(math.isnan(claim.difference.student.low) for claim in to_others):
        return "Not measured."
    shown = [claim for claim in to_others if claim.significant and claim.difference.student.mean > 0]
    answer = f"Another basin for {' and '.join(NAMES[claim.optimizer] for claim in shown)}" if shown else "Not shown"
    barriers = ", ".join(f"to {_named(claim)}" for claim in to_others)
    return f"**{answer}.** Barrier above the noise floor: {barriers}."


def _regularization(claims: Sequence[Claim]) -> str:
    of_drift = _of(claims, 5, "drift")
    if any(math.isnan(claim.difference.student.low) for claim in of_drift):
        return "Not measured."
    answers_of = {claim.optimizer: "an effect" if claim.significant else "none shown" for claim in of_drift}
    if len(set(answers_of.values())) == 1:
        answer = _sentence(next(iter(answers_of.values())))
    else:
        answer = _sentence(", ".join(f"{NAMES[name]}: {said}" for name, said in answers_of.items()))
    numbers = ", ".join(map(_named, of_drift))
    return f"**{answer}** Drift over the predicted, at 1e-7: {numbers}."


QUESTIONS: Mapping[str, Callable[[Sequence[Claim]], str]] = {
    "1. Do adaptive methods generalize worse?": _worse,
    "2. Is speed bought with generalization?": _speed,
    "3. How does the norm evolve?": _norm,
    "4. Does momentum steer to other basins?": _basins,
    "5. Do adaptive methods have implicit regularization?": _regularization,
}


def answers(of_data: Mapping[str, pd.DataFrame]) -> str:
    """Write the five answers, the verdict first.

    Args:
        of_data: cells of final runs, barriers and drift, by data set.
    """
    claims = {name: family(cells) for name, cells in of_data.items()}
    rows = [[question, *(answer(claims[name]) for name in of_data)] for question, answer in QUESTIONS.items()]
    seeds = {name: max(claim.difference.count for claim in of_name) for name, of_name in claims.items()}
    table = markdown(["question", *(f"{name}, {count} seeds" for name, count in seeds.items())], rows)
    return f"{table}\nPoints are of test error less SGD's. {GIVEN}\n"


def _of(claims: Sequence[Claim], question: int, comparator: str, optimizer: str | None = None) -> list[Claim]:
    return [
        claim
        for claim in claims
        if (claim.question, claim.comparator) == (question, comparator)
        and optimizer in (None, claim.optimizer)
        and (question in (4, 5) or not math.isnan(claim.difference.student.low))
    ]


def points(claim: Claim) -> str:
    """Write a difference of test errors in points."""
    return claim.difference.student.text("+.1f", ".1f", scale=100)


def _named(claim: Claim) -> str:
    return f"{NAMES[claim.optimizer]} {claim.difference.student.text('.3g', '.2g')}"
