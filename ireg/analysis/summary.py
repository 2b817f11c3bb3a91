"""Summaries of a sweep, by run, and by setting with mean and standard deviation over its seeds."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from ireg.analysis.load import NOT_CONFIG, is_seed, one_run_a_seed, setting_columns
from ireg.statistics import plus_minus
from ireg.system.terminal import as_shown, make_console

STATE_COLOURS = {"done": "green", "running": "cyan", "diverged": "red", "failed": "red", "interrupted": "yellow"}

COLUMNS_AT_ONCE = 5
"""Values in one table of the terminal, beside the run's name."""


def summarize(runs: pd.DataFrame, table: pd.DataFrame) -> pd.DataFrame:
    """Return one row a run, from the tables that `load.runs` and `load.load` read of the same folder.

    Columns: `run`, `state`, `epochs_done`, `epochs`, the configuration as far as settings differ in it, seeds, the
    final value of every tag, `best_test_error` (the smallest `test/error`) and `best_epoch` (the first with it),
    `first_train_loss` (`train/loss` of the initial weights), `seconds` (the sum of `time/epoch`), `nonfinite` (tags
    whose final value is nan or ±inf), `error`. What was not measured is empty.
    """
    seeds = [column for column in runs.columns if is_seed(column)]
    tags = [column for column in runs.columns if "/" in column and not column.startswith("time/")]
    summary = runs[["run", "state", "epochs_done", "epochs", *_without(setting_columns(runs), "epochs"), *seeds]].copy()
    summary[tags] = runs[tags]
    if "test/error" in table:
        errors = table[np.isfinite(table["test/error"])]
        best = errors.loc[errors.groupby("run")["test/error"].idxmin()].set_index("run")
        summary["best_test_error"] = summary["run"].map(best["test/error"])
        summary["best_epoch"] = summary["run"].map(best["epoch"]).astype("Int64")
    if "train/loss" in table:
        first = table[table["epoch"] == 0].set_index("run")["train/loss"]
        summary["first_train_loss"] = summary["run"].map(first)
    if "time/epoch" in table:
        summary["seconds"] = summary["run"].map(table.groupby("run")["time/epoch"].sum(min_count=1))
    return summary.assign(nonfinite=runs["nonfinite"], error=runs["error"])


def summarize_settings(summary: pd.DataFrame) -> pd.DataFrame | None:
    """Return mean and standard deviation over seeds, by setting.

    Columns: the setting's, `runs` (how many there are), `n` (how many of them are done and enter the numbers), and
    `<value>.mean` and `<value>.sd` (of a sample, divisor n - 1; empty for n = 1) for every value of `summarize`.

    Returns:
        A row a setting; None if no setting has several runs.
    """
    columns = setting_columns(summary)
    groups = list(summary.groupby(columns, dropna=False, sort=False))
    if all(len(one_run_a_seed(rows)) == 1 for _, rows in groups):
        return None
    return pd.DataFrame([dict(zip(columns, key, strict=True)) | _statistics(rows) for key, rows in groups])


def _statistics(rows: pd.DataFrame) -> dict[str, float]:
    done = one_run_a_seed(rows[rows["state"] == "done"])
    statistics: dict[str, float] = {"runs": len(rows), "n": len(done)}
    for column in _values(rows):
        values = done[column].astype(float)
        statistics[f"{column}.mean"] = values.mean(skipna=False) if len(done) else float("nan")
        statistics[f"{column}.sd"] = values.std(ddof=1, skipna=False)
    return statistics


def _values(summary: pd.DataFrame) -> list[str]:
    return [column for column in summary.columns if "/" in column or column in ("best_test_error", "seconds")]


def _without(columns: list[str], *names: str) -> list[str]:
    return [column for column in columns if column not in names]


def print_summary(summary: pd.DataFrame, console: Console | None = None) -> None:
    """Print tables of fit, losses, norms and terms, the same by setting, and the errors of failed runs.

    Configuration columns with the same value in every run are said once, above. Without a terminal (a pipe, a file) the
    tables are as wide as they need to be; on one, long cells are folded and nothing is cut off.
    """
    same = [f"{column}={plain(summary[column].iloc[0])}" for column in _same(summary)]
    print_tables(list(_tables(summary)), console, above=f"every run: {', '.join(same)}" if same else "")


def print_tables(tables: Sequence[Table], console: Console | None = None, above: str = "") -> None:
    """Print a line, and tables below it.

    They are as wide as they need to be or, on a terminal, as there is room.
    """
    wide = make_console(width=10_000)
    needed = max(wide.measure(table).maximum for table in tables)
    if console is None:
        console = make_console()
        if not console.is_terminal:
            console = make_console(width=needed)
    if above:
        console.print(Text(above))
    for table in tables:
        if needed > console.width:
            for column in table.columns:
                column.header = re.sub(r"(/|best_)", r"\1\n", str(column.header))
        console.print(table)


def plain(value: Any) -> str:
    """Write a configuration value as a user would: 64, not 64.0, all digits that matter, empty for none."""
    if value is None or value is pd.NA:
        return ""
    if isinstance(value, (float, np.floating)):
        number = float(value)
        if math.isnan(number):
            return ""
        return str(int(number)) if number.is_integer() and abs(number) < 1e15 else repr(number)
    return str(value).lower() if isinstance(value, (bool, np.bool_)) else str(value)


def _same(summary: pd.DataFrame) -> list[str]:
    config = [column for column in summary.columns if "/" not in column and column not in {*NOT_CONFIG, "epochs"}]
    return [column for column in config if len(summary[column].drop_duplicates()) == 1]


def _tables(summary: pd.DataFrame) -> Iterator[Table]:
    same = _same(summary)
    hidden = {*same, "epochs_done", "epochs", "nonfinite", "error", "best_epoch", *_values(summary)}
    who = [column for column in summary.columns if column not in hidden]
    shown = summary.assign(epochs=summary["epochs_done"].astype(str) + "/" + summary["epochs"].astype(str))
    shares = [column for column in _values(summary) if _is_share(column)]
    others = [column for column in _values(summary) if "/" in column and not _is_share(column)]
    timed = ["seconds"] if "seconds" in summary else []
    yield rich_table("Runs: errors and fit at the end", shown, [*who[:2], "epochs", *who[2:], *shares, *timed])
    for title, columns in _grouped(others):
        yield rich_table(f"Runs: {title} at the end", shown, ["run", *columns])
    settings = summarize_settings(summary)
    if settings is not None:
        names = [column for column in [*setting_columns(summary), "runs", "n"] if column not in same]
        title = "Settings: mean ± standard deviation over the n runs that are done"
        for columns in filter(None, (shares, others)):
            yield rich_table(title, _with_spread(settings, columns), [*names, *columns])
    failed = summary[summary["error"].notna()]
    if len(failed):
        yield rich_table("Errors", failed, ["run", "state", "error"])


def _grouped(columns: list[str]) -> Iterator[tuple[str, list[str]]]:
    """List the tables, losses and norms, then terms, none with more columns than a terminal holds."""
    terms = [column for column in columns if column.startswith("ireg/")]
    for title, group in (("losses and norms", [column for column in columns if column not in terms]), ("terms", terms)):
        for start in range(0, len(group), COLUMNS_AT_ONCE):
            yield title, group[start : start + COLUMNS_AT_ONCE]


def _with_spread(settings: pd.DataFrame, columns: list[str]) -> pd.DataFrame:
    """Add a column of ready text, like "36.10 ± 0.21 %", for each of `columns`."""
    texts = {}
    for column in columns:
        pairs = zip(settings[f"{column}.mean"], settings[f"{column}.sd"], strict=True)
        texts[column] = [spread(column, mean, sd) for mean, sd in pairs]
    return settings.assign(**texts)


def spread(column: str, mean: float, sd: float) -> str:
    """Write mean and standard deviation as the values of a column are written, like "36.10 ± 0.21 %"."""
    if np.isnan(sd):
        return _cell(column, mean)
    form, scale, unit = _form(column)
    return plus_minus(scale * mean, scale * sd, form, unit=unit)


def _is_share(column: str) -> bool:
    return column.endswith(("/error", "_error", "/error_ema")) or column.startswith("fit/")


def _cell(column: str, value: Any) -> str:
    if isinstance(value, str) or (column not in ("seconds", "best_test_error") and "/" not in column):
        return plain(value)
    if pd.isna(value):
        return ""
    form, scale, unit = _form(column)
    return f"{scale * value:{form}}{unit}"


def _form(column: str) -> tuple[str, float, str]:
    """Return how a column is written: format, what numbers are multiplied by, and the unit behind them."""
    if _is_share(column):
        return ".2f", 100.0, " %"
    return ".1f" if column == "seconds" else ".3e" if column.startswith("ireg/") else ".4g", 1.0, ""


def rich_table(title: str, rows: pd.DataFrame, columns: list[str]) -> Table:
    """Return columns of a table for the terminal, numbers written by what their column holds."""
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    for column in columns:
        numeric = "/" in column or column == "best_test_error" or pd.api.types.is_numeric_dtype(rows[column])
        table.add_column(column, justify="right" if numeric else "left", overflow="fold")
    for row in rows.to_dict("records"):
        cells = [Text(as_shown(_final(row, name)), STATE_COLOURS.get(str(row[name]), "")) for name in columns]
        table.add_row(*cells)
    return table


def _final(row: dict[Any, Any], column: str) -> str:
    """Return the cell's text: a value measured as nan says so, one that was not measured is empty."""
    text = _cell(column, row[column])
    if column == "best_test_error" and text and "best_epoch" in row:
        return f"{text} @ {row['best_epoch']}"
    return text or ("nan" if column in str(row.get("nonfinite", "")).split() else "")
