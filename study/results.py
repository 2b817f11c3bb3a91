"""The study's results as files for other programs: a data set's comparisons, and its measures."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import pandas as pd

from study.cells import DIGITS, RESULTS
from study.claims import COMPARATORS, MARGIN, TUNED_END, Claim, compared, family, verdict
from study.comparisons import together
from study.measures import associated


def comparisons(cells: pd.DataFrame) -> pd.DataFrame:
    """Gather all comparisons of a data set's family.

    Args:
        cells: of the final runs, the barriers and the drift.

    Returns:
        A row a comparison that has two values: `question`, `quantity`, `comparator`, `optimizer`; of questions 1 to 3
        `lr` and `sgd_lr`; `pairs`, or runs; `mean`, `low` and `high` of the difference to SGD, of a test error a share,
        of `ln` a logarithm; `p` of a difference of 0 and `adjusted_p`; of test errors `margin_p` of a
        difference of one point or more, `adjusted_margin_p`, `correlation` within pairs and `unpaired_p`; `verdict`.
    """
    final = compared(cells)
    return pd.DataFrame([_row(claim, final) for claim in family(cells) if claim.difference.count > 1])


def _row(claim: Claim, final: pd.DataFrame) -> dict[str, object]:
    of_end = final["place"] == TUNED_END
    rates = final[of_end if claim.comparator == TUNED_END else ~of_end].groupby("optimizer")["lr"].first()
    difference, of_errors, of_training = claim.difference, claim.question == 1, claim.question <= 3
    correlation, unpaired = math.nan, math.nan
    if of_errors:
        correlation, unpaired = together(final, claim.optimizer, COMPARATORS[claim.comparator])
    significant = "significant" if claim.significant else "not significant"
    return {
        "question": claim.question,
        "quantity": claim.quantity,
        "comparator": claim.comparator,
        "optimizer": claim.optimizer,
        "lr": rates[claim.optimizer] if of_training else math.nan,
        "sgd_lr": rates["sgd"] if of_training else math.nan,
        "pairs": difference.count,
        **difference.student._asdict(),
        "p": difference.p,
        "adjusted_p": claim.adjusted,
        "margin_p": difference.p_at_least(MARGIN) if of_errors else math.nan,
        "adjusted_margin_p": claim.margin_adjusted,
        "correlation": correlation,
        "unpaired_p": unpaired,
        "verdict": verdict(claim) if of_errors else significant,
    }


MADE: Mapping[str, Callable[[pd.DataFrame], pd.DataFrame]] = dict(zip(RESULTS, (comparisons, associated), strict=True))
"""Results by the beginning of their file's name."""


def text_of(results: pd.DataFrame) -> str:
    """Write results as the text of their file."""
    return results.to_csv(index=False, float_format=f"%.{DIGITS}g", lineterminator="\n")
