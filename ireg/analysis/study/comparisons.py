"""The tables of a data set's comparisons: what differs from SGD, and how surely."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.stats import ttest_ind

from ireg.analysis.pages import markdown
from ireg.analysis.study.cells import LOSSES
from ireg.analysis.study.claims import AT_LOSS, AT_NOISE, OTHERS, STATED, Claim, compared, family, pairs, verdict
from ireg.analysis.study.crossing import Turn, turns
from ireg.analysis.study.tables import GIVEN
from ireg.statistics import Interval, paired_difference


def claims(cells: pd.DataFrame) -> str:
    """Write the comparisons of test errors, with the p-values of the family."""
    found = family(cells)
    count = sum(claim.difference.count > 1 for claim in found)
    rows = []
    for claim in _of_errors(found):
        difference = claim.difference
        row = [claim.optimizer, claim.comparator, f"{difference.count}"]
        if difference.count < 2:
            if claim.comparator in STATED:
                rows.append([*row, *["–"] * 5])
            continue
        adjusted = (f"{p:.2g}" for p in (claim.adjusted, claim.margin_adjusted))
        rows.append([*row, points(difference.student), f"{difference.p:.2g}", *adjusted, verdict(claim)])
    head = [
        "less SGD",
        "comparator",
        "pairs",
        "difference, points",
        "p",
        "adjusted p",
        "adjusted p of +1 point or more",
    ]
    return markdown([*head, "verdict"], rows) + f"\nAdjusted over the {count} comparisons of this data set. {GIVEN}\n"


def by_place(places: Mapping[str, float], label: Callable[[float], str]) -> Callable[[pd.DataFrame], str]:
    """Make the table of test errors less SGD's at several places, each with its verdict.

    Args:
        places: names of places that are comparators, and what each is at.
        label: writes that.
    """

    def table(cells: pd.DataFrame) -> str:
        found = {(claim.optimizer, claim.comparator): claim for claim in _of_errors(family(cells))}
        rows = [
            [optimizer, *(_with_verdict(found[optimizer, place]) for place in places)]
            for optimizer in dict.fromkeys(name for name, _ in found)
        ]
        return markdown(["less SGD, points", *map(label, places.values())], rows) + f"\n{GIVEN}\n"

    return table


def _with_verdict(claim: Claim) -> str:
    if claim.difference.count < 2:
        return "–"
    return f"{points(claim.difference.student)}, {verdict(claim)} ({claim.difference.count})"


def crossings(cells: pd.DataFrame) -> str:
    """Write at which training losses an optimizer's test error crosses SGD's."""
    final, rows = compared(cells), []
    for optimizer in _measured(cells):
        losses, differences = level_differences(final, optimizer)
        found = turns(losses, differences)
        between = f"{losses[0]:g} to {losses[-1]:g}" if losses else "–"
        row = [optimizer, f"{len(differences)}", between]
        rows.append([*row, *(_turns_text([turn for turn in found if turn.rises == rises]) for rises in (True, False))])
    head = ["optimizer", "pairs", "losses", "worse than SGD below", "better than SGD below"]
    text = "In parentheses the losses, from large to small, at which the paired t-test does not reject equality."
    return markdown(head, rows) + f"\n{text} {GIVEN}\n"


def level_differences(final: pd.DataFrame, optimizer: str) -> tuple[list[float], NDArray[np.float64]]:
    """Return the losses that all of an optimizer's pairs reach, and test errors less SGD's there.

    Args:
        final: see `claims.compared`.
        optimizer: whose.

    Returns:
        Falling losses, and differences of (pairs, losses).
    """
    both = pairs(final, optimizer, "test/error", list(AT_LOSS))
    table = (both["one"] - both["other"]).unstack("place").reindex(columns=list(AT_LOSS)).dropna(axis="columns")
    return [AT_LOSS[place] for place in table], table.to_numpy(dtype=float)


def _turns_text(found: Sequence[Turn]) -> str:
    return "; ".join(map(turn_text, found)) or "–"


def turn_text(turn: Turn) -> str:
    """Write where a difference changes its sign, with its interval."""
    earlier = f"{turn.earlier:.2g}" if math.isfinite(turn.earlier) else f"above {LOSSES[0]:g}"
    later = f"{turn.later:.2g}" if turn.later > 0 else "the last"
    return f"{turn.loss:.2g} ({earlier} to {later})"


def pairing(cells: pd.DataFrame) -> str:
    """Write how the two runs of a pair go together, and what pairing does to p."""
    final, rows, correlations = compared(cells), [], []
    for optimizer in _measured(cells):
        for comparator, places in STATED.items():
            both = pairs(final, optimizer, "test/error", places).groupby("seed").mean()
            if len(both) < 3:
                continue
            one, other = both["one"], both["other"]
            varied = one.nunique() > 1 and other.nunique() > 1
            correlations += [float(one.corr(other))] if varied else []
            paired = paired_difference(one.tolist(), other.tolist()).p
            apart = float(ttest_ind(one, other, equal_var=False).pvalue) if varied else math.nan
            row = [optimizer, comparator, f"{len(both)}", f"{correlations[-1]:.2f}" if varied else "–"]
            rows.append([*row, f"{paired:.2g}", f"{apart:.2g}" if varied else "–"])
    head = ["optimizer", "comparator", "pairs", "correlation with SGD", "p, paired", "p, not paired"]
    mean = f"The mean of the correlations is {np.mean(correlations):.2f}. " if correlations else ""
    return markdown(head, rows) + f"\n{mean}Where it is not above 0, pairs gain nothing over unpaired runs.\n"


def ratios(cells: pd.DataFrame) -> str:
    """Write the comparisons that are ratios: epochs, and norms."""
    rows, measured = [], _measured(cells)
    for claim in family(cells):
        if claim.question not in (2, 3) or claim.optimizer not in measured:
            continue
        name, difference = [claim.optimizer, claim.quantity.removeprefix("ln "), claim.comparator], claim.difference
        if difference.count < 2:
            rows.append([*name, f"{difference.count}", *["–"] * 3])
            continue
        mean, low, high = (math.exp(value) for value in difference.student)
        ratio = f"{mean:.3g} ({low:.3g} to {high:.3g})"
        rows.append([*name, f"{difference.count}", ratio, f"{difference.p:.2g}", f"{claim.adjusted:.2g}"])
    head = ["over SGD", "quantity", "at", "pairs", "ratio", "p", "adjusted p"]
    return markdown(head, rows) + f"\n{GIVEN}\n"


def measurements(cells: pd.DataFrame) -> str:
    """Write the comparisons of barriers, momentum and drift."""
    rows = []
    for claim in family(cells):
        if claim.question not in (4, 5):
            continue
        name, difference = [f"{claim.question}", claim.optimizer, claim.quantity], claim.difference
        if difference.count < 2:
            rows.append([*name, f"{difference.count}", *["–"] * 3])
            continue
        mean, half = difference.student.mean, difference.student.half
        row = [*name, f"{difference.count}", f"{mean:.3g} ± {half:.2g}"]
        rows.append([*row, f"{difference.p:.2g}", f"{claim.adjusted:.2g}"])
    head = ["question", "optimizer", "quantity", "runs", "value", "p", "adjusted p"]
    return markdown(head, rows) + f"\n{GIVEN}\n"


def points(interval: Interval) -> str:
    """Write a share in points, with half of its interval."""
    return f"{100 * interval.mean:.2f} ± {100 * interval.half:.2f}"


def _measured(cells: pd.DataFrame) -> list[str]:
    there = set(cells.loc[cells["place"].isin([place for places in STATED.values() for place in places]), "optimizer"])
    return [optimizer for optimizer in OTHERS if optimizer in there]


def _of_errors(found: Sequence[Claim]) -> list[Claim]:
    """Question 1's claims, of the optimizers that have a value."""
    there = {claim.optimizer for claim in found if claim.question == 1 and claim.difference.count}
    return [claim for claim in found if claim.question == 1 and claim.optimizer in there]


COMPARISONS: Mapping[str, Callable[[pd.DataFrame], str]] = {
    "claims": claims,
    "by_loss": by_place(AT_LOSS, lambda loss: f"{loss:g}"),
    "by_noise": by_place(AT_NOISE, lambda share: f"{100 * share:g} %"),
    "crossings": crossings,
    "pairing": pairing,
    "ratios": ratios,
    "measurements": measurements,
}
"""Of all cells of a data set, by the name that stands in a page's marks."""
