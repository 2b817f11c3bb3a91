"""The study's numbers as small files: a row a run and place."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from ireg.analysis.load import load, setting_columns
from ireg.analysis.places import at_places
from ireg.catalogue import VALID_EDGE
from ireg.known_optimizers import OPTIMIZERS
from ireg.system.errors import UserError
from ireg.system.files import replacing
from study.checkpoints import FILES

LOSSES = (1.5, 1.2, 1.0, 0.7, 0.4, 0.2, 0.1, 0.03)
"""Training losses at which runs are compared."""

EPOCHS = (10, 20, 50, 100, 150)
DIGITS = 4
"""Of each number."""

NOWHERE = "nowhere"
"""Place of a run without any."""

EDGE = "curvature/edge_fraction"

RESULTS = ("comparisons", "measures")
"""How the files begin that lie beside the cells and are made of them: see `results`."""

ENDED = ("done", "diverged")

ALIKE = ("model", "data", "loss", "regularizer", "sampling")
"""Groups of settings that all runs of a file share: its tables do not show them."""


def measured(folder: Path) -> pd.DataFrame:
    """Compute the cells of a sweep's runs that have ended.

    Args:
        folder: of the sweep, or of what `ireg basins` or `ireg drift` has written for several runs.

    Raises:
        UserError: it holds none of these, or its runs differ in what a file's runs share.
    """
    for name, cells in FILES.items():
        if (folder / name).exists():
            return cells(pd.read_csv(folder / name))
    table = load(folder)
    _refuse_mixed(table, folder)
    ended = table[table["state"].isin(ENDED)]
    cells_of_runs = at_places(ended, LOSSES, EPOCHS)
    # A run that diverged before any place is still a run.
    nowhere = ended[~ended["run"].isin(cells_of_runs["run"])].drop_duplicates("run")
    described = [column for column in nowhere if column in cells_of_runs and "/" not in column]
    cells_of_runs = pd.concat([part for part in (cells_of_runs, nowhere[described].assign(place=NOWHERE)) if len(part)])
    # By its settings alone: where a sweep lies below the folder says nothing.
    return cells_of_runs.assign(run=cells_of_runs["run"].str.rpartition("/")[2])


def _refuse_mixed(table: pd.DataFrame, folder: Path) -> None:
    mixed = [column for column in setting_columns(table) if column.partition(".")[0] in ALIKE]
    if mixed:
        kinds = ", ".join(sorted(table[mixed[0]].astype(object).fillna("not set").map(str).unique()))
        raise UserError(
            f"{folder}: its runs differ in {mixed[0]} ({kinds}), and the study's tables would mix them; "
            "move each kind to a folder of its own"
        )


def merged(before: pd.DataFrame, after: pd.DataFrame, key: Sequence[str] = ("run",)) -> pd.DataFrame:
    """Put the rows of new runs beside those of others.

    All rows of a run that is measured again are replaced; a run that is not there stays as it is.

    Args:
        before: as a file has them.
        after: of the new runs.
        key: columns that say which run a row is of.
    """
    names = [
        rows[list(key)].astype(object).where(rows[list(key)].notna(), None).apply(tuple, axis=1)
        for rows in (before, after)
    ]
    kept = before[~names[0].isin(set(names[1]))]
    return pd.concat([part for part in (kept, after) if len(part)]).sort_values(list(key), kind="stable")


def values(cells: pd.DataFrame, tag: str) -> pd.Series:
    """Return a tag's column.

    Raises:
        UserError: no run has measured it.
    """
    if tag not in cells:
        raise UserError(f"{tag}: no run of the sweep has measured it; leave out its table or figure")
    return cells[tag].astype(float)


def edge_is_valid(optimizer: str, edge: float) -> bool:
    """Say whether a fraction of the edge can be read as one: an adaptive optimizer's up to `VALID_EDGE`."""
    divides = optimizer in OPTIMIZERS and OPTIMIZERS[optimizer].divides
    return not divides or not edge > VALID_EDGE


def valid_edges(cells: pd.DataFrame) -> pd.DataFrame:
    """Leave out each `curvature/edge_fraction` that is not valid."""
    if EDGE not in cells:
        return cells
    valid = [edge_is_valid(*pair) for pair in zip(cells["optimizer"], cells[EDGE].astype(float), strict=True)]
    return cells.assign(**{EDGE: cells[EDGE].astype(float).where(valid)})


def record(folder: Path, data: Path) -> Path:
    """Write a folder's cells into its file among the study's data.

    Args:
        folder: see `measured`; the file has its name.
        data: folder of the study's files.

    Returns:
        The file.

    Raises:
        UserError: the folder holds nothing of the kind, or its name begins as results do, or two runs have the same
            setting and seed.
    """
    path = data / f"{folder.resolve().name}.csv"
    if is_result(path):
        begin = " or ".join(f"{kind}_" for kind in RESULTS)
        raise UserError(f"{folder}: files of results begin with {begin}, and these are runs; rename the folder")
    after = measured(folder)
    data.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary:
        whole = merged(pd.read_csv(path), after) if path.exists() else after
        _refuse_repeated(whole, path)
        whole.to_csv(temporary, index=False, float_format=f"%.{DIGITS}g")
    return path


def is_result(path: Path) -> bool:
    """Say whether a file among the study's data is made from the others."""
    return path.stem.startswith(tuple(f"{kind}_" for kind in RESULTS))


def _refuse_repeated(cells: pd.DataFrame, path: Path) -> None:
    if "seed" not in cells:  # barriers and drift have the run's name alone
        return
    setting = ["optimizer", "lr", "batch_size", "seed"]
    runs = cells.drop_duplicates("run")
    again = runs[runs.duplicated(setting)]
    if len(again):
        other = again.iloc[0]
        one = runs.loc[(runs[setting] == other[setting]).all(axis=1), "run"].iloc[0]
        raise UserError(
            f"{path}: {one} and {other['run']} have the same setting and seed; leave one out, or delete its rows"
        )
