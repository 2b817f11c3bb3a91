"""The tables of a data set's comparisons: what differs from SGD, and how surely."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.stats import ttest_ind

from ireg.statistics import Interval
from ireg.tables import markdown
from study.cells import LOSSES
from study.claims import AT_LOSS, COMPARATORS, OTHERS, STATED, Claim, compared, family, pairs, verdict
from study.crossing import Turn, turns
from study.tables import GIVEN


def claims(cells: pd.DataFrame) -> str:
    """Write the comparisons of test errors, a line a comparator, a column an optimizer.

    The last lines have the training losses at which an optimizer's test error crosses SGD's.
    """
    members = family(cells)
    by_key = {(claim.optimizer, claim.comparator): claim for claim in members if claim.question == 1}
    names, final = measured(cells), compared(cells)
    most = max((by_key[name, comparator].difference.count for name in names for comparator in COMPARATORS), default=0)
    rows = []
    for comparator in COMPARATORS:
        line = [by_key[name, comparator] for name in names]
        if comparator in STATED or any(claim.difference.count > 1 for claim in line):
            rows.append([comparator, *(_points_and_verdict(claim, most) for claim in line)])
    rows += _of_turns([turns(*level_differences(final, name)) for name in names])
    count = sum(claim.difference.count > 1 for claim in members)
    text = (
        f"Undecided where no verdict stands; {most} pairs of seeds where no number does. "
        f"Adjusted over the {count} comparisons of this data set. At losses in parentheses the paired t-test does not "
        f"reject equality. {_of_pairs(final, names)}{GIVEN}"
    )
    return f"{markdown(['less SGD, points', *names], rows)}\n{text}\n"


def _points_and_verdict(claim: Claim, most: int) -> str:
    if claim.difference.count < 2:
        return "–"
    said = "" if verdict(claim) == "undecided" else f", {verdict(claim)}"
    fewer = f" ({claim.difference.count} pairs)" if claim.difference.count < most else ""
    return f"{claim.difference.student.text('.2f', scale=100)}{said}{fewer}"


def _of_turns(turns_of: Sequence[Sequence[Turn]]) -> Iterator[list[str]]:
    """Write the losses below which an optimizer is worse and better, a line each that any optimizer has."""
    for title, rises in (("worse below a loss of", True), ("better below a loss of", False)):
        line = ["; ".join(turn_text(turn) for turn in of_one if turn.rises == rises) or "–" for of_one in turns_of]
        if set(line) != {"–"}:
            yield [title, *line]


def _of_pairs(final: pd.DataFrame, names: Sequence[str]) -> str:
    correlations = [
        correlation
        for name in names
        for places in STATED.values()
        for correlation, _ in [together(final, name, places)]
        if math.isfinite(correlation)
    ]
    if not correlations:
        return ""
    return f"The mean correlation of a pair's two runs is {np.mean(correlations):.2f}; at 0 pairs gain nothing. "


def together(final: pd.DataFrame, optimizer: str, places: Sequence[str]) -> tuple[float, float]:
    """Compute how an optimizer's test errors are correlated with SGD's of the same seeds.

    Args:
        final: see `claims.compared`.
        optimizer: whose.
        places: the mean over those at which both runs of a pair have a value.

    Returns:
        The correlation, and p of Welch's t-test, as of runs that are no pairs; nan for fewer than three pairs, or where
        one of the two does not vary.
    """
    both = pairs(final, optimizer, "test/error", places).groupby("seed").mean()
    one, other = both["one"], both["other"]
    if len(both) < 3 or one.nunique() < 2 or other.nunique() < 2:
        return math.nan, math.nan
    return float(one.corr(other)), float(ttest_ind(one, other, equal_var=False).pvalue)


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


def turn_text(turn: Turn) -> str:
    """Write where a difference changes its sign, with its interval."""
    earlier = f"{turn.earlier:.2g}" if math.isfinite(turn.earlier) else f"above {LOSSES[0]:g}"
    later = f"{turn.later:.2g}" if turn.later > 0 else "the last"
    return f"{turn.loss:.2g} ({earlier} to {later})"


def ratios(cells: pd.DataFrame) -> str:
    """Write the comparisons that are ratios: epochs, and norms."""
    names, members = measured(cells), [claim for claim in family(cells) if claim.question in (2, 3)]
    rows = []
    for question, title in ((2, "epochs to a training loss of 1"), (3, "‖ω‖, mean over losses")):
        by_name = {claim.optimizer: claim for claim in members if claim.question == question}
        rows.append([title, *(_ratio(by_name[name]) for name in names)])
    return markdown(["over SGD's", *names], rows)


def _ratio(claim: Claim) -> str:
    if claim.difference.count < 2:
        return "–"
    return f"{exponentials(claim.difference.student, 3)}{'' if claim.significant else ', not significant'}"


def exponentials(interval: Interval, digits: int | None = None) -> str:
    """Write a mean logarithm as the ratio that it stands for, to two decimals or to a number of digits."""
    return Interval(*map(math.exp, interval)).with_ends(".2f" if digits is None else f".{digits}g")


def measured(cells: pd.DataFrame) -> list[str]:
    """List the optimizers that are compared with SGD and that there are."""
    there = set(cells.loc[cells["place"].isin([place for places in STATED.values() for place in places]), "optimizer"])
    return [optimizer for optimizer in OTHERS if optimizer in there]


COMPARISONS: Mapping[str, Callable[[pd.DataFrame], str]] = {"claims": claims, "ratios": ratios}
"""Of all cells of a data set, by the name that stands in a page's marks."""
