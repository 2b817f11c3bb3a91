"""The second study's comparisons: differences of test error over draws, adjusted as one family."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.integrate import quad
from scipy.stats import chi, norm, t

from ireg.analysis.places import loss_place
from ireg.statistics import PairedDifference, paired_difference
from study.annealed.plan import BASE, FINAL_SEEDS, SETTINGS, TUNED, Trial, optimizers_of, parts_of, trial_columns
from study.annealed.trials import CHOOSES, FAILED, LEVELS, chosen_trial, final_file, recorded, tuning_file
from study.claims import LEVEL, MARGIN, Comparison, adjusted, verdict
from study.noise import SHARES, at_shares, share_place
from study.ties import DRAWS, from_digits, resampled
from study.ties import LEVEL as CONFIDENCE

END = "end"
AVERAGE = "average, end"
BEST = "best by hold-out"

COMPARATORS: Mapping[str, tuple[str, str]] = {
    END: ("end", "test/error"),
    AVERAGE: ("end", "test/error_ema"),
    BEST: ("holdout", "test/error"),
    **{loss_place(loss): (loss_place(loss), "test/error") for loss in LEVELS},
    **{share_place(share): (share_place(share), "test/error") for share in SHARES},
}
"""The place and the tag of each comparator; the first is the main one."""

NUMBER_OF_DRAWS = len({seed // 2 for seed in FINAL_SEEDS})


@dataclass(frozen=True, kw_only=True)
class OverDraws(Comparison):
    """An optimizer's test error less momentum's, in one setting by one of `COMPARATORS`, over draws.

    Attributes:
        setting: of `SETTINGS`.
    """

    setting: str


def settings_of(family: str, data: Path) -> list[str]:
    """List the settings of a data set and network that have all final runs, by rising noise rate.

    One that lacks runs of an optimizer is not looked at: each comparison more changes the adjusted p-values of all.
    """

    def complete(setting: str) -> bool:
        seeds = recorded(final_file(data, setting)).groupby("optimizer")["seed"].agg(set)
        return all(set(FINAL_SEEDS) <= seeds.get(name, set()) for name in optimizers_of(setting))

    return sorted((name for name in SETTINGS if parts_of(name)[0] == family and complete(name)), key=parts_of)


def final_cells(data: Path, setting: str) -> pd.DataFrame:
    """Read a setting's final runs, with rows where they have memorized a share of the wrong labels."""
    cells = recorded(final_file(data, setting))
    return pd.concat([part for part in (cells, at_shares(cells)) if len(part)], ignore_index=True)


def family(cells_of: Mapping[str, pd.DataFrame]) -> list[OverDraws]:
    """Make all comparisons of a family, and adjust their p-values together.

    Args:
        cells_of: final runs by setting, all of one data set and network.

    Returns:
        Those for which all draws have a value.
    """
    members = [
        OverDraws(setting=setting, comparator=comparator, optimizer=optimizer, difference=difference)
        for setting, cells in cells_of.items()
        for optimizer, comparator in product((name for name in TUNED if name != BASE), COMPARATORS)
        if (difference := over_draws(by_draw(cells, optimizer, comparator))) is not None
    ]
    return adjusted(members, [member.difference.p_at_least(MARGIN) for member in members])


def by_draw(cells: pd.DataFrame, optimizer: str, comparator: str) -> pd.Series:
    """Compute an optimizer's value less momentum's, a draw a row: the mean over the seeds that both have."""
    one, other = (values(cells, name, comparator) for name in (optimizer, BASE))
    differences = (one - other).dropna()
    return differences.groupby([seed // 2 for seed in differences.index]).mean()


def values(cells: pd.DataFrame, optimizer: str, comparator: str) -> pd.Series:
    """Return an optimizer's values by seed."""
    place, tag = COMPARATORS[comparator]
    there = cells[(cells["optimizer"] == optimizer) & (cells["place"] == place)]
    return there.set_index("seed")[tag].astype(float)


def over_draws(differences: pd.Series) -> PairedDifference | None:
    """Test differences over draws; None unless all draws have one."""
    if len(differences) < NUMBER_OF_DRAWS:
        return None
    return paired_difference(differences.tolist(), [0.0] * len(differences))


def table(members: Sequence[Comparison]) -> pd.DataFrame:
    """Return a row a comparison: what is compared, its difference, its p-values, and its verdict."""
    known = {spec.name for spec in fields(Comparison)}
    return pd.DataFrame(
        {
            **{spec.name: getattr(one, spec.name) for spec in fields(one) if spec.name not in known},
            "comparator": one.comparator,
            "optimizer": one.optimizer,
            "pairs": one.difference.count,
            **one.difference.student._asdict(),
            "p": one.difference.p,
            "adjusted_p": one.adjusted,
            "margin_p": one.difference.p_at_least(MARGIN),
            "adjusted_margin_p": one.margin_adjusted,
            "verdict": verdict(one),
        }
        for one in members
    )


def tied(tuning: pd.DataFrame, optimizer: str, *, draws: int = DRAWS, seed: int = 0) -> pd.DataFrame:
    """Compare each trial's held-out error with the chosen one's, over drawn held-out examples.

    The two tuning runs have held-out examples of their own; these are drawn within each, the same for all trials.

    Args:
        tuning: rows of a setting's tuning runs.
        optimizer: whose.
        draws: of the bootstrap.
        seed: of the draws.

    Returns:
        A row a trial: its numbers, `error` (held-out), `test/error`, `difference` from the chosen one's error, `low`
        and `high` of its 95 % interval, and `tied`, whether this holds 0. A trial of which a run diverged is not tied.
    """
    best = chosen_trial(tuning, optimizer)
    own = tuning[tuning["optimizer"] == optimizer]
    whole = own.assign(**{CHOOSES: own[CHOOSES].fillna(FAILED)})
    groups = {Trial(*key): rows.sort_values("seed") for key, rows in whole.groupby(trial_columns())}
    trials = [trial for trial, rows in groups.items() if rows["wrong"].notna().all()]
    wrong = [
        np.stack([from_digits(groups[trial]["wrong"].iloc[number]).astype(float) for trial in trials])
        for number in range(len(groups[best]))
    ]
    drawn = np.mean([resampled(bits, draws, seed + number) for number, bits in enumerate(wrong)], axis=0)
    low, high = np.quantile(
        drawn - drawn[:, [trials.index(best)]], [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2], axis=0
    )
    errors = np.array([groups[trial][CHOOSES].mean() for trial in trials])
    return pd.DataFrame(
        {
            **{column: [getattr(trial, column) for trial in trials] for column in trial_columns()},
            "error": errors,
            "test/error": [groups[trial]["test/error"].mean() for trial in trials],
            "difference": errors - errors[trials.index(best)],
            "low": low,
            "high": high,
            "tied": (low <= 0) & (high >= 0),
        }
    )


def range_over_tied(one: pd.DataFrame, base: pd.DataFrame) -> tuple[float, float]:
    """Return the smallest and the largest difference of test errors over pairs of tied trials.

    Args:
        one: an optimizer's trials, of `tied`.
        base: momentum's.
    """
    errors, others = (trials.loc[trials["tied"], "test/error"] for trials in (one, base))
    return float(errors.min() - others.max()), float(errors.max() - others.min())


def power(differences: pd.Series, shift: float = MARGIN) -> dict[str, float]:
    """Say what the test over draws finds: a planted shift, none without it, and from what size on.

    Args:
        differences: of the main comparator, a draw a row.
        shift: that is planted, as a share.

    Returns:
        `planted_p` of the differences about their mean, plus the shift; `false`, the share of all sign patterns of the
        differences about their mean that have p < 0.05; `power` of the shift, at the measured standard error; and
        `detectable`, the difference that is found with a probability of 80 %, without an adjustment.
    """
    about = differences - differences.mean()
    count = len(about)
    found = [
        paired_difference([sign * value for sign, value in zip(signs, about, strict=True)], [0.0] * count).p < LEVEL
        for signs in product((-1.0, 1.0), repeat=count)
    ]
    error = float(about.std(ddof=1) / math.sqrt(count))
    return {
        "planted_p": paired_difference([value + shift for value in about], [0.0] * count).p,
        "false": float(np.mean(found)),
        "power": _power(shift / error, count),
        "detectable": error * _noncentrality(0.8, count),
    }


def _power(noncentrality: float, count: int) -> float:
    """Return the probability that a two-sided t-test rejects.

    It is the mean over the estimated deviation, by quadrature: scipy's noncentral t is nan in a far tail.
    """
    degrees = count - 1
    least = float(t.ppf(1 - LEVEL / 2, degrees))

    def rejected(share: float) -> float:
        density = float(chi.pdf(share * math.sqrt(degrees), degrees)) * math.sqrt(degrees)
        return density * float(norm.sf(least * share - noncentrality) + norm.cdf(-least * share - noncentrality))

    return float(quad(rejected, 0, 10, limit=200)[0])


def _noncentrality(wanted: float, count: int) -> float:
    low, high = 0.0, 100.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if _power(middle, count) < wanted else (low, middle)
    return high


def families_in(data: Path) -> Iterator[tuple[str, dict[str, pd.DataFrame], dict[str, pd.DataFrame]]]:
    """Yield each family that has final runs: its name, the final cells by setting, and the tuning runs."""
    for name in dict.fromkeys(parts_of(setting)[0] for setting in SETTINGS):
        settings = settings_of(name, data)
        if settings:
            cells = {setting: final_cells(data, setting) for setting in settings}
            yield name, cells, {setting: recorded(tuning_file(data, setting)) for setting in settings}
