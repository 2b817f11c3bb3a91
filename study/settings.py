"""The study's settings side by side: several data sets and networks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pandas as pd

from ireg.tables import markdown
from study.answers import ADAPTIVE, points
from study.claims import AT_LOSS, AT_NOISE, BASE, Claim, family, verdict


def settings(cells_of: Mapping[str, pd.DataFrame]) -> str:
    """Write question 1 for several data sets and networks, side by side.

    They are compared where all of them have been: at the last training loss and the largest memorized share that all
    pairs of all of them reach.

    Args:
        cells_of: all cells, by their setting's name.

    Returns:
        A row a setting and adaptive method: test error less SGD's.
    """
    families = {name: family(cells) for name, cells in cells_of.items()}
    reached = common(families)
    last = [[place for place in kind if place in reached][-1:] for kind in (AT_LOSS, AT_NOISE)]
    shown = ["best by hold-out", *last[0], *last[1], "end"]
    rows = []
    for name, cells in cells_of.items():
        rates = cells[cells["place"] == "end"].groupby("optimizer")["lr"].first()
        for optimizer, label in ((key, label) for key, label in ADAPTIVE.items() if key in rates):
            of_one = {
                claim.comparator: claim
                for claim in families[name]
                if (claim.question, claim.optimizer) == (1, optimizer)
            }
            errors = [of_one[comparator] for comparator in shown]
            row = [f"{name} ({errors[0].difference.count})", label, f"{rates[optimizer]:g}, {rates[BASE]:g}"]
            rows.append([*row, *map(_with_verdict, errors)])
    head = ["setting (pairs)", "less SGD", "η, SGD's", *shown]
    return f"{markdown(head, rows)}\nUndecided where no verdict stands.\n"


def common(families: Mapping[str, Sequence[Claim]]) -> list[str]:
    """List the losses and memorized shares that every pair of every setting reaches.

    The pairs are those of both adaptive methods, where they were run.
    """
    reached = {place: True for place in (*AT_LOSS, *AT_NOISE)}
    for members in families.values():
        for optimizer in ADAPTIVE:
            counts = {
                claim.comparator: claim.difference.count
                for claim in members
                if (claim.question, claim.optimizer) == (1, optimizer)
            }
            most = max(counts.values(), default=0)
            for place in reached:
                reached[place] &= counts.get(place, 0) == most
    return [place for place, by_all in reached.items() if by_all]


def _with_verdict(claim: Claim) -> str:
    if claim.difference.count < 2:
        return "–"
    said = "" if verdict(claim) == "undecided" else f", {verdict(claim)}"
    return f"{points(claim)}{said}"
