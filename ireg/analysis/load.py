"""Read run folders into tables: one row an epoch (`load`), or one row a run (`runs`).

Columns: a tag such as `train/error` is the only name with a slash. A number that a run wrote as nan, inf or -inf and
one that was not measured are distinguished by the column `nonfinite`. It lists the former's tags, separated by spaces.
"""

from __future__ import annotations

import json
import math
import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from ireg.runs.find import run_folders
from ireg.runs.layout import METRICS, STATUS
from ireg.runs.metrics import read_cells
from ireg.runs.readable import read_record
from ireg.runs.status import flat
from ireg.system.errors import UserError, in_one_line

if TYPE_CHECKING:  # pandas takes a while to import and is imported where it is called
    import pandas as pd

# Columns that always stand first, whether they differ between runs or not: column -> key in the configuration.
ALWAYS = {"optimizer": "optimizer.name", "lr": "lr", "batch_size": "batch_size", "seed": "seed"}
NOT_CONFIG = {
    "run", "state", "epoch", "epochs_done", "nonfinite", "error", "best_test_error", "best_epoch", "first_train_loss",
    "seconds", "place", "at",
}  # fmt: skip
_ABSENT = object()


@dataclass(frozen=True)
class _Run:
    name: str
    status: dict[str, Any]
    config: dict[str, Any]  # flat: dotted keys, lists as compact text
    metrics: pd.DataFrame | None


class Found(NamedTuple):
    """Runs of a folder, and a line for each unreadable one."""

    runs: list[_Run]
    damaged: list[str]


def load(folder: str | Path) -> pd.DataFrame:
    r"""Read a run, or a sweep with runs at any depth below `folder`: one row per run and epoch.

    Columns: `run` (the folder's name, or its path below `folder`), `state`, `optimizer`, `lr`, `batch_size`, `seed`,
    every other configuration value that differs between the runs (dotted keys), `epoch`, `nonfinite`, then the tags. A
    run that has measured nothing has no rows here; `runs` shows it. A run with a damaged file is left out, and a
    warning says which, and why.

    Raises:
        UserError: there are no runs, or none whose files can be read.

    Example:
        >>> from pathlib import Path
        >>> from tempfile import TemporaryDirectory
        >>> with TemporaryDirectory() as folder:
        ...     _ = Path(folder, "status.json").write_text('{"state": "done", "config": {"lr": 0.1}}')
        ...     _ = Path(folder, "metrics.csv").write_text("epoch,test/error\n0,0.9\n1,0.2\n")
        ...     load(folder)[["lr", "epoch", "test/error"]].to_dict("records")
        [{'lr': 0.1, 'epoch': 0, 'test/error': 0.9}, {'lr': 0.1, 'epoch': 1, 'test/error': 0.2}]
    """
    everything = find(folder)
    _warn(everything)
    return epochs_of(everything)


def epochs_of(everything: Found) -> pd.DataFrame:
    """Return the table of `load` for the runs of `find`."""
    import pandas as pd  # after the look at the folder: a wrong name is answered at once

    metrics = pd.concat(
        [run.metrics.assign(run=run.name) for run in everything.runs if run.metrics is not None]
        or [pd.DataFrame({"run": [], "epoch": [], "nonfinite": []}).astype({"run": str, "epoch": int})]
    )
    return _describe(everything.runs).merge(metrics, on="run", how="inner")


def runs(folder: str | Path) -> pd.DataFrame:
    """Read a sweep or a single run: one row a run, failed ones included.

    Columns: those of `load` up to `seed` and the configuration, `epochs_done`, `epochs`, `nonfinite`, the last value of
    every tag (the status file's final ones; of an unfinished run the last measured ones), `error`.

    Runs with a damaged file are left out, as by `load`.

    Raises:
        UserError: there are no runs, or none whose files can be read.
    """
    everything = find(folder)
    _warn(everything)
    return runs_of(everything)


def runs_of(everything: Found) -> pd.DataFrame:
    """Return the table of `runs` for the runs of `find`."""
    import pandas as pd

    listed = everything.runs
    table = _describe(listed)
    table["epochs_done"] = [int(run.status.get("epochs_done") or 0) for run in listed]
    table["epochs"] = [int(run.status.get("epochs") or run.config.get("epochs") or 0) for run in listed]
    finals = [_finals(run) for run in listed]
    table["nonfinite"] = [
        " ".join(tag for tag, value in final.items() if value is not None and not math.isfinite(value))
        for final in finals
    ]
    values = pd.DataFrame(finals, index=table.index).astype(float)
    return pd.concat([table, values], axis=1).assign(error=[run.status.get("error") for run in listed])


def setting_columns(table: pd.DataFrame) -> list[str]:
    """Return the columns that distinguish one setting from another.

    They are `optimizer`, `lr`, `batch_size`, and further ones that separate runs which the chosen ones of their own
    group do not: an optimizer's betas say nothing beside its name, nor a data set's size beside the data set's. Never
    among them: seeds, whose runs repeat one setting, and the terms, which observe the training and leave it as it is.
    """
    chosen = ["optimizer", "lr", "batch_size"]
    config = [column for column in table.columns if "/" not in column and column not in {*NOT_CONFIG, *ALWAYS}]
    others = [column for column in config if not is_seed(column) and not column.startswith("terms.")]
    # A class path is the least readable name of a setting: it is tried last.
    for column in sorted(others, key=lambda column: column.rpartition(".")[2].startswith("_")):
        group = column.partition(".")[0]
        beside = chosen[:3] if group == "optimizer" else []
        beside = [*beside, *(other for other in chosen[3:] if other.partition(".")[0] == group)]
        known = len(table[beside].drop_duplicates()) if beside else 1
        if len(table[[*beside, column]].drop_duplicates()) > known:
            chosen.append(column)
    return chosen


def is_seed(column: str) -> bool:
    """Say whether a column holds seeds: `seed`, `data.noise.seed`, `data.subset_seed`."""
    return re.fullmatch(r"(.*[._])?seed", column) is not None


def one_run_a_seed(rows: pd.DataFrame) -> pd.DataFrame:
    """Drop the rows of runs that repeat another's setting and seeds, and so are no further sample of it.

    Such runs differ in what is measured only (the terms), or were started under two names; the first one stays, a
    finished one before others.
    """
    seeds = [column for column in rows.columns if is_seed(column)]
    of_runs = rows.drop_duplicates("run").sort_values("state", key=lambda state: state != "done", kind="stable")
    kept = of_runs.drop_duplicates(seeds)["run"]
    return rows[rows["run"].isin(kept)]


def is_measured(rows: pd.DataFrame, tag: str) -> pd.Series:
    """Say in which rows `tag` was measured, be it as nan or inf."""
    odd = rows["nonfinite"].map(lambda tags: tag in tags.split()).astype(bool)
    return rows[tag].notna() | odd


def _warn(everything: Found) -> None:
    """Warn of each run that `load` or `runs` leaves out."""
    for line in everything.damaged:
        warnings.warn(f"left out: {line}", UserWarning, stacklevel=3)


def find(folder: str | Path) -> Found:
    """Return all runs in `folder`, in natural order of their names: 2 before 10, 1e-3 before 0.01.

    Raises:
        UserError: there are no runs, or none whose files can be read.
    """
    folder = Path(folder)
    folders = sorted(run_folders(folder), key=lambda path: _natural(path.relative_to(folder).as_posix()))
    if not folders:
        what = f"holds no runs (no {STATUS} at any depth)" if folder.is_dir() else "is not a folder"
        raise UserError(f"{str(folder)!r} {what}; name the folder of a run or of a sweep, like multirun/NAME")
    everything = Found([], [])
    for path in folders:
        try:
            if (run := _read(path, folder)) is not None:
                everything.runs.append(run)
        except UserError as error:
            everything.damaged.append(str(error))
    if everything.damaged and not everything.runs:
        more = len(everything.damaged) - 1
        raise UserError(everything.damaged[0] + (f" (and {more} more)" if more else ""))
    return everything


def _natural(name: str) -> list[tuple[int, float, str]]:
    parts = re.split(r"(\d+(?:\.\d+)?(?:e-?\d+)?)", name)  # every second part is a number
    return [(0, float(part), "") if index % 2 else (1, 0.0, part) for index, part in enumerate(parts) if part]


def _read(path: Path, folder: Path) -> _Run | None:
    """Read a run; None if it was removed meanwhile.

    Raises:
        UserError: a file of it is damaged.
    """
    status = read_record(path)
    if status is None:
        return None
    below = path.relative_to(folder).as_posix()
    name = folder.resolve().name if below == "." else below
    return _Run(name, status, _leaves(status["config"]), _read_metrics(path, status))


def _leaves(config: dict[str, Any]) -> dict[str, Any]:
    """Return the configuration by dotted keys, lists as compact text."""
    return {
        key: json.dumps(value, separators=(",", ":")) if isinstance(value, list) else value
        for key, value in flat(config).items()
    }


def _describe(runs: list[_Run]) -> pd.DataFrame:
    """Return one row a run: name, state, and the configuration as far as it matters."""
    import pandas as pd

    columns = {"run": [run.name for run in runs], "state": [run.status["state"] for run in runs]}
    for column, key in {**ALWAYS, **{key: key for key in _differing(runs)}}.items():
        columns[column] = [run.config.get(key) for run in runs]
    return pd.DataFrame(columns)


def _differing(runs: list[_Run]) -> list[str]:
    """List the further keys in which runs differ, but for those that say nothing new.

    These are copies of others, as an optimizer's own rate is, and import paths that follow from the rest.
    """
    keys = dict.fromkeys(key for run in runs for key in run.config if key not in {"name", *ALWAYS.values()})
    values = {key: [_identity(run.config.get(key, _ABSENT)) for run in runs] for key in [*ALWAYS.values(), *keys]}
    kept: list[str] = list(ALWAYS.values())
    # A path is the least readable name of a choice: it is tried last.
    for key in sorted(keys, key=lambda key: key.endswith("_target_")):
        beside = list(zip(*(values[other] for other in kept), strict=True))
        follows = len(set(beside)) == len(set(zip(beside, values[key], strict=True)))
        is_copy = any(values[key] == values[other] for other in kept)
        if len(set(values[key])) > 1 and not is_copy and not (key.endswith("_target_") and follows):
            kept.append(key)
    return [key for key in keys if key in kept]


def _identity(value: Any) -> tuple[bool, Any]:
    return isinstance(value, bool), value  # True == 1, but `nesterov=true` and `nesterov=1` are two values


def _read_metrics(folder: Path, status: Mapping[str, Any]) -> pd.DataFrame | None:
    """Read the run's metrics.csv as numbers, with a column `nonfinite`.

    Returns:
        A row an epoch; None if there are none.

    Raises:
        UserError: it cannot be read, is no such table, or lacks rows.
    """
    import numpy as np
    import pandas as pd

    path = folder / METRICS
    try:
        # Not by pandas, to which an empty cell and a measured nan are the same, and which is slow for small files.
        tags, rows = read_cells(path, growing=status["state"] == "running")
        if any("/" not in tag for tag in tags) or len(set(tags)) < len(tags):
            raise ValueError("a column has no tag of its own")
        cells = list(rows.values())
        values = np.array([[float(cell or "nan") for cell in row] for row in cells])
    except OSError as error:
        raise UserError(in_one_line(error)) from error
    except ValueError as error:
        why = " ".join(str(error).split())
        raise UserError(f"{path} is not a table of numbers by epoch ({why}); delete that run, run it again") from error
    done = status.get("epochs_done") if status["state"] == "done" else None
    if isinstance(done, int) and (not rows or max(rows) < done):
        there = f"rows up to epoch {max(rows)}" if rows else "no rows"
        raise UserError(f"{path} has {there}, and its run ended after epoch {done}; delete that run, run it again")
    if not values.size:
        return None
    odd = (np.array(cells) != "") & ~np.isfinite(values)
    nonfinite = [" ".join(np.array(tags)[row]) for row in odd]
    return pd.DataFrame({"epoch": list(rows), "nonfinite": nonfinite, **dict(zip(tags, values.T, strict=True))})


def _finals(run: _Run) -> dict[str, float | None]:
    """Return the last value of every tag; None is "not measured"."""
    finals: dict[str, float | None] = {}
    metrics = run.metrics
    if metrics is not None:
        odd = [tags.split() for tags in metrics["nonfinite"]]
        for tag in metrics.columns.drop(["epoch", "nonfinite"]):
            column = metrics[tag].to_numpy()
            measured = [value for value, tags in zip(column, odd, strict=True) if value == value or tag in tags]
            finals[tag] = float(measured[-1]) if measured else None
    given = run.status.get("final") or {}
    return finals | {tag: None if value is None else float(value) for tag, value in given.items()}
