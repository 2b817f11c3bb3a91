"""Comparisons with SGD over all pairs of rates that held-out examples do not separate."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product

import pandas as pd

from ireg.analysis.places import loss_place
from ireg.statistics import Interval, mean_interval
from ireg.tables import markdown
from study.claims import AT_NOISE, BASE, OTHERS, SPEED_AT, differences
from study.noise import at_shares
from study.ties import require_wrong, separations, tied_rates

LEVELS = tuple(map(loss_place, (1.5, 1.2, 1.0, 0.7, 0.4)))
"""Training losses at which tuning runs are compared: those that many of them reach."""

QUANTITIES: tuple[tuple[str, str, str], ...] = (
    *(("test error, points", "test/error", place) for place in ("holdout", "end")),
    *(("test error, points", "test/error", place) for place in (*LEVELS, *AT_NOISE)),
    ("epochs, ratio", "at", SPEED_AT),
    ("‖ω‖, ratio", "norm/l2", SPEED_AT),
)
"""What is compared: its name, the tag, and the place. Ratios are of values, by their logarithms."""


@dataclass(frozen=True, kw_only=True)
class OverPairs:
    """A difference to SGD at each pair of tied rates.

    Attributes:
        optimizer: compared with SGD.
        quantity: of `QUANTITIES`.
        place: where.
        pairs: how many pairs of rates there are.
        intervals: of those at which two seeds or more have a value, by the optimizer's rate and SGD's.
    """

    optimizer: str
    quantity: str
    place: str
    pairs: int
    intervals: dict[tuple[float, float], Interval]

    @property
    def whole(self) -> Interval:
        """From the lowest bound to the highest, about the middle of the least and the largest difference."""
        means = [interval.mean for interval in self.intervals.values()]
        return Interval(
            (min(means) + max(means)) / 2,
            min(interval.low for interval in self.intervals.values()),
            max(interval.high for interval in self.intervals.values()),
        )


def over_pairs(cells: pd.DataFrame, wrong: pd.DataFrame) -> Iterator[OverPairs]:
    """Compare each optimizer with SGD at every pair of tied rates.

    Args:
        cells: of runs at these rates.
        wrong: of `wrong_of`, by which rates are tied.

    Yields:
        One a quantity and optimizer, also where no pair has a value.
    """
    ties = separations(wrong, "holdout")
    everything = pd.concat([cells, at_shares(cells)], ignore_index=True)
    for optimizer in (name for name in OTHERS if tied_rates(ties, name)):
        pairs = list(product(tied_rates(ties, optimizer), tied_rates(ties, BASE)))
        for quantity, tag, place in QUANTITIES:
            intervals = {
                pair: mean_interval(values)
                for pair in pairs
                if len(values := _differences(everything, optimizer, pair, tag, place)) > 1
            }
            yield OverPairs(optimizer=optimizer, quantity=quantity, place=place, pairs=len(pairs), intervals=intervals)


def _differences(
    cells: pd.DataFrame, optimizer: str, pair: tuple[float, float], tag: str, place: str
) -> Sequence[float]:
    one, other = pair
    rates = cells["lr"].astype(float)
    of_pair = cells[
        (cells["optimizer"].eq(optimizer) & rates.map(lambda lr: math.isclose(lr, one, rel_tol=1e-6)))
        | (cells["optimizer"].eq(BASE) & rates.map(lambda lr: math.isclose(lr, other, rel_tol=1e-6)))
    ]
    return differences(of_pair, optimizer, tag, [place], logarithm=tag != "test/error")


def over_ties(cells: pd.DataFrame) -> str:
    """Write what pairs of tied rates have in common.

    Args:
        cells: of runs, and beside them the rows of `wrong_of`.

    Raises:
        UserError: the latter are not there.
    """
    require_wrong(cells)
    is_wrong = cells["wrong"].notna()
    runs, wrong = cells[~is_wrong].dropna(axis="columns", how="all"), cells[is_wrong]
    rows = []
    for compared in over_pairs(runs, wrong):
        name = [compared.optimizer, compared.quantity, compared.place, f"{len(compared.intervals)} of {compared.pairs}"]
        if not compared.intervals:
            rows.append([*name, "–", "–", "–"])
            continue
        means = [interval.mean for interval in compared.intervals.values()]
        rows.append([*name, *(_text(compared, value) for value in (min(means), max(means))), _between(compared)])
    head = ["less SGD, or over SGD", "quantity", "at", "pairs of rates", "least", "most", "interval over all"]
    return markdown(head, rows)


def _text(compared: OverPairs, value: float) -> str:
    return f"{100 * value:.2f}" if compared.quantity.endswith("points") else f"{math.exp(value):.3g}"


def _between(compared: OverPairs) -> str:
    return " to ".join(_text(compared, bound) for bound in (compared.whole.low, compared.whole.high))
