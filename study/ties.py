"""Which learning rates held-out examples do not separate, and what is said over all of these."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ireg.analysis.load import runs
from ireg.runs.layout import HELD_OUT
from ireg.statistics import Interval
from ireg.system.errors import UserError
from ireg.system.files import replacing
from ireg.system.reading import LARGEST_TABLE, read_bytes
from ireg.tables import markdown

CHOICES = {"holdout": "at its best epoch", "end": "at the end"}
"""Where a run's held-out examples choose a rate: after the epoch of their lowest error, or after the last."""

DRAWS = 10_000
"""Of the bootstrap."""

LEVEL = 0.95
_AT_ONCE = 500

COLUMNS = ["optimizer", "lr", "seed", "place", "at", "examples", "wrong"]
"""Of the file: `wrong` has a bit an example in hexadecimal digits, the first example first."""


def wrong_of(folder: Path) -> pd.DataFrame:
    """Read which held-out examples a sweep's runs have wrong.

    Args:
        folder: of the sweep. Runs that diverged, and those that have not ended, are left out.

    Returns:
        A row a run and place of `CHOICES`, with `COLUMNS`.

    Raises:
        UserError: a run has not recorded it, or its file is damaged.
    """
    listed = runs(folder)
    done = listed[listed["state"] == "done"]
    rows = [
        [run["optimizer"], run["lr"], run["seed"], place, at, len(wrong), as_digits(wrong)]
        for _, run in done.iterrows()
        for place, at, wrong in wrong_at_places(folder / str(run["run"]) / HELD_OUT)
    ]
    return pd.DataFrame(rows, columns=COLUMNS).sort_values(COLUMNS[:4], kind="stable")


def wrong_at_places(path: Path) -> Iterator[tuple[str, int, NDArray[np.bool_]]]:
    """Read which held-out examples a run has wrong at each place of `CHOICES`.

    Yields:
        The place, its epoch, and whether each example is wrong.

    Raises:
        UserError: the file is not there, or damaged.
    """
    try:
        with np.load(io.BytesIO(read_bytes(path, largest=LARGEST_TABLE)), allow_pickle=False) as arrays:
            epochs, wrong = arrays["epoch"], arrays["wrong"]
        trained = wrong[epochs > 0].sum(1)
    except FileNotFoundError as error:
        raise UserError(f"{path}: not there; a run with data.holdout=… writes it at its end") from error
    except (ValueError, KeyError, IndexError, EOFError, zipfile.BadZipFile) as error:
        raise UserError(f"{path}: damaged ({error}); delete the run's folder, and do the run again") from error
    best = int(trained.argmin())  # the first of equal ones
    for place, row in (("holdout", best), ("end", len(trained) - 1)):
        yield place, int(epochs[epochs > 0][row]), wrong[epochs > 0][row]


def record_wrong(folder: Path, data: Path) -> Path:
    """Write what `wrong_of` reads into a file among the study's data, in place of an earlier one.

    Args:
        folder: of the sweep; the file is named after it.
        data: folder of the study's files.
    """
    path = data / f"{folder.resolve().name}_held_out.csv"
    data.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary:
        wrong_of(folder).to_csv(temporary, index=False, float_format="%.4g")
    return path


def separations(wrong: pd.DataFrame, choice: str, *, draws: int = DRAWS, seed: int = 0) -> pd.DataFrame:
    """Compare each rate's held-out error with that of the best rate, over drawn examples.

    A rate's error is the mean over its seeds. The interval is a percentile bootstrap's: the examples are drawn with
    replacement, the same for all rates and seeds, so that it is paired. The seeds are not drawn.

    Args:
        wrong: of `wrong_of`, all with the same held-out examples.
        choice: of `CHOICES`.
        draws: how many samples of examples.
        seed: of the draws.

    Returns:
        A row an optimizer and rate: `optimizer`, `lr`, `seeds`, `error`, `difference` from the best rate's (the smaller
        of equal ones), `low` and `high` of its 95 % interval, and `tied`, whether this holds 0.

    Raises:
        ValueError: no such choice.

    Source: Efron and Tibshirani 1993, chapter 13.
    """
    if choice not in CHOICES:
        raise ValueError(f"choice={choice!r}: choose one of {', '.join(CHOICES)}")
    groups = wrong[wrong["place"] == choice].groupby(["optimizer", "lr"])
    if not groups.ngroups:
        return pd.DataFrame(columns=["optimizer", "lr", "seeds", "error", "difference", "low", "high", "tied"])
    shares = {(str(optimizer), float(lr)): _mean_wrong(rows) for (optimizer, lr), rows in groups}
    seeds, errors = groups.size().tolist(), [float(of_rate.mean()) for of_rate in shares.values()]
    table = pd.DataFrame(list(shares), columns=["optimizer", "lr"]).assign(seeds=seeds, error=errors)
    # The rates rise, and the first of equal ones is the best.
    best = table.groupby("optimizer")["error"].transform("idxmin").to_numpy(dtype=int)
    drawn = resampled(np.stack(list(shares.values())), draws, seed)
    low, high = np.quantile(drawn - drawn[:, best], [(1 - LEVEL) / 2, (1 + LEVEL) / 2], axis=0)
    difference = table["error"].to_numpy() - table["error"].to_numpy()[best]
    return table.assign(difference=difference, low=low, high=high, tied=(low <= 0) & (high >= 0))


def _mean_wrong(rows: pd.DataFrame) -> NDArray[np.float64]:
    """Compute the share of a rate's seeds that have each example wrong."""
    return np.stack([from_digits(text)[: int(rows["examples"].iloc[0])] for text in rows["wrong"]]).mean(0)


def as_digits(wrong: NDArray[np.bool_]) -> str:
    """Write whether each example is wrong as a bit, in hexadecimal digits, the first example first."""
    return np.packbits(wrong).tobytes().hex()


def from_digits(text: str) -> NDArray[np.uint8]:
    """Read what `as_digits` has written, up to seven zeros behind the last example."""
    return np.unpackbits(np.frombuffer(bytes.fromhex(text), dtype=np.uint8))


def resampled(values: NDArray[np.float64], draws: int, seed: int) -> NDArray[np.float64]:
    """Average (rates, examples) over drawn examples: (draws, rates)."""
    weights = _weights(values.shape[1], draws, seed)
    parts = [weights[first : first + _AT_ONCE] @ values.T / values.shape[1] for first in range(0, draws, _AT_ONCE)]
    return np.concatenate(parts)


@lru_cache(maxsize=2)
def _weights(count: int, draws: int, seed: int) -> NDArray[np.int16]:
    """Say how often each example is drawn, (draws, examples); several tables have the same draws."""
    generator = np.random.default_rng(seed)
    parts = [
        generator.multinomial(count, np.full(count, 1 / count), size=min(_AT_ONCE, draws - first)).astype(np.int16)
        for first in range(0, draws, _AT_ONCE)
    ]
    return np.concatenate(parts)


def require_wrong(cells: pd.DataFrame) -> None:
    """Refuse files of which none says which held-out examples are wrong.

    Raises:
        UserError: none of them does.
    """
    if "wrong" not in cells:
        raise UserError(
            "which held-out examples are wrong is in no file of this table; name one like study_ties_mnist10k_held_out"
        )


def tied_rates(separated: pd.DataFrame, optimizer: str) -> list[float]:
    """List an optimizer's tied rates, rising; see `separations`."""
    return sorted(separated.loc[(separated["optimizer"] == optimizer) & separated["tied"], "lr"].astype(float).tolist())


def ties(wrong: pd.DataFrame) -> str:
    """Write which rates are tied with the best one, at the best epoch and at the end.

    Args:
        wrong: of `wrong_of`.

    Raises:
        UserError: it is of something else.
    """
    require_wrong(wrong)
    tables = {choice: separations(wrong, choice).set_index(["optimizer", "lr"]) for choice in CHOICES}
    rows = [
        [str(optimizer), f"{lr:g}", *(text for table in tables.values() for text in _texts(table.loc[(optimizer, lr)]))]
        for optimizer, lr in tables["holdout"].index
    ]
    head = [text for where in CHOICES.values() for text in (f"held-out error {where}", "less the best rate's, points")]
    said = "**Bold**: not separated from the best rate. Intervals are of 95 %, over held-out examples."
    return f"{markdown(['optimizer', 'η', *head], rows)}\n{said}\n"


def _texts(row: pd.Series) -> Sequence[str]:
    error = f"{100 * row['error']:.2f} %"
    between = Interval(row["difference"], row["low"], row["high"]).with_ends(scale=100)
    return (f"**{error}**" if row["tied"] else error, between if row["difference"] or row["high"] else "–")
