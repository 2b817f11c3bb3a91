"""Rank correlations of measures with a result, over many runs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd

RESAMPLES = 2_000
"""Samples of the bootstrap over settings."""

Numbers = np.ndarray[tuple[int, ...], np.dtype[np.float64]]


class Association(NamedTuple):
    """A rank correlation, its 95 % interval, and its pairs of runs."""

    tau: float
    low: float
    high: float
    pairs: int


def kendall(
    measure: Sequence[float],
    result: Sequence[float],
    settings: Sequence[object],
    *,
    among: np.ndarray | None = None,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Association:
    """Compute Kendall's τ over pairs of runs.

    τ_b = Σ s_x s_y / √(Σ s_x² Σ s_y²) over the pairs i < j, with the signs s_x of x_i − x_j and s_y of y_i − y_j.
    Runs without a finite value of both are left out. The interval is by the bootstrap over settings, whose runs
    repeat one another: the middle 95 % of the samples.

    Args:
        measure: x, a value a run.
        result: y.
        settings: which setting each run has; the runs of one are drawn together.
        among: symmetric, (n, n), true for pairs that count; by default all.
        resamples: samples of the bootstrap; with 0 the interval is nan.
        seed: of the bootstrap.

    Returns:
        The association; nan where no pair counts, or where one of the two is constant.

    Raises:
        ValueError: different lengths.

    Source: Kendall 1945, Biometrika 33, for τ_b.

    Example:
        >>> kendall([1.0, 2.0, 3.0], [1.0, 3.0, 2.0], ["a", "b", "c"]).tau
        0.3333333333333333
    """
    if not len(measure) == len(result) == len(settings):
        raise ValueError(f"{len(measure)} measures, {len(result)} results, {len(settings)} settings: must be as many")
    x, y = np.asarray(measure, dtype=float), np.asarray(result, dtype=float)
    there = np.isfinite(x) & np.isfinite(y)
    counted = np.ones((len(x), len(x)), dtype=bool) if among is None else among
    pairs = np.triu(counted & there[:, None] & there[None, :], 1).astype(float)
    x, y = np.where(there, x, 0.0), np.where(there, y, 0.0)
    sign_x, sign_y = np.sign(x[:, None] - x[None, :]), np.sign(y[:, None] - y[None, :])
    sums = [pairs * sign_x * sign_y, pairs * sign_x**2, pairs * sign_y**2]
    if not len(x):
        return Association(math.nan, math.nan, math.nan, 0)
    names = list(dict.fromkeys(settings))
    of_run = np.array([names.index(name) for name in settings], dtype=int)
    drawn = np.random.default_rng(seed).multinomial(len(names), np.full(len(names), 1 / len(names)), size=resamples)
    weights = drawn[:, of_run].astype(float)
    tau = float(_tau(np.ones((1, len(x))), sums)[0])
    resampled = _tau(weights, sums)
    resampled = resampled[np.isfinite(resampled)]
    low, high = np.quantile(resampled, (0.025, 0.975)) if len(resampled) else (math.nan, math.nan)
    return Association(tau, float(low), float(high), int(pairs.sum()))


def _tau(weights: Numbers, sums: Sequence[Numbers]) -> Numbers:
    both, of_x, of_y = (np.einsum("ri,ij,rj->r", weights, matrix, weights, optimize=True) for matrix in sums)
    with np.errstate(invalid="ignore", divide="ignore"):
        # A sample whose runs all have one value has no τ: 0/0 is nan here, and the caller leaves it out.
        correlations: Numbers = both / np.sqrt(of_x * of_y)
    return correlations


def differing_in_one(runs: pd.DataFrame, factors: Sequence[str], factor: str) -> np.ndarray:
    """Say which pairs of runs differ in one factor only.

    Args:
        runs: a row a run.
        factors: columns.
        factor: one of them.

    Returns:
        Symmetric, (n, n).

    Raises:
        ValueError: the factor is none of them.
    """
    if factor not in factors:
        raise ValueError(f"factor {factor!r}: choose one of {', '.join(factors)}")
    chosen = np.ones((len(runs), len(runs)), dtype=bool)
    for column in factors:
        values = runs[column].to_numpy()
        alike = values[:, None] == values[None, :]
        chosen &= ~alike if column == factor else alike
    return chosen


def associations(
    runs: pd.DataFrame,
    measures: Sequence[str],
    result: str,
    factors: Sequence[str],
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> pd.DataFrame:
    """Compare how measures are associated with a result, by Kendall's τ.

    The pairs are all runs', those within each value of the first factor, and those that differ in one factor only. The
    mean of the last over the factors is the granulated coefficient, which no factor can dominate.

    Args:
        runs: a row a run, with measures, result and factors.
        measures: columns.
        result: a column.
        factors: columns; the last one, like the seed, repeats settings.
        resamples: see `kendall`.
        seed: of the bootstrap.

    Returns:
        A row a measure and group of pairs: `measure`, `pairs of`, `tau`, `low`, `high`, `pairs`. The granulated
        coefficient has no interval of its own.

    Source: Jiang et al. 2020, Fantastic generalization measures, for the granulated coefficient.
    """
    settings = [tuple(row) for row in runs[list(factors[:-1])].itertuples(index=False)]
    first = runs[factors[0]].to_numpy()
    groups: dict[str, np.ndarray] = {"all": np.ones((len(runs), len(runs)), dtype=bool)}
    for value in dict.fromkeys(first):
        groups[f"{factors[0]} {value}"] = (first == value)[:, None] & (first == value)[None, :]
    differing = {f"other {factor}": differing_in_one(runs, factors, factor) for factor in factors}
    table = []
    for measure in measures:
        taus = {}
        for name, among in {**groups, **differing}.items():
            one = kendall(
                runs[measure].tolist(), runs[result].tolist(), settings, among=among, resamples=resamples, seed=seed
            )
            taus[name] = one.tau
            table.append({"measure": measure, "pairs of": name, **one._asdict()})
        table.append({"measure": measure, "pairs of": "granulated", **_granulated({k: taus[k] for k in differing})})
    return pd.DataFrame(table)


def _granulated(taus: Mapping[str, float]) -> dict[str, float]:
    there = [tau for tau in taus.values() if math.isfinite(tau)]
    mean = math.fsum(there) / len(there) if there else math.nan
    return {"tau": mean, "low": math.nan, "high": math.nan, "pairs": 0}


def controls(result: Sequence[float], *, seed: int = 0) -> dict[str, list[float]]:
    """Make two measures whose association is known.

    `planted` is the result with normal noise as large as its own deviation, which must be found: τ is about a half.
    `random` is normal noise alone, which must not.

    Args:
        result: a value a run; nan stays nan in `planted`.
        seed: of the noise.
    """
    values = np.asarray(result, dtype=float)
    generator = np.random.default_rng(seed)
    noise = generator.standard_normal((2, len(values)))
    there = values[np.isfinite(values)]
    spread = float(there.std()) if len(there) else 0.0
    return {"planted": (values + spread * noise[0]).tolist(), "random": noise[1].tolist()}
