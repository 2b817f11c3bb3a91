"""A sweep on one screen: a row a setting, the best first."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from rich.console import Console
from rich.table import Table
from rich.text import Text

from ireg.analysis.labels import label, short_names, varied_columns
from ireg.analysis.load import is_seed, one_run_a_seed, setting_columns
from ireg.runs.layout import LOG
from ireg.runs.metrics import STEP
from ireg.statistics import OverSeeds
from ireg.system.terminal import as_shown, make_console

ROWS = 20
"""Settings that are shown; further ones are counted."""

WIDTH = 100
"""Columns where there is no terminal to fit to."""

NAMED = 3
"""Runs that are named beside the reason of their failure."""

FALLEN = 0.01
"""Share of its first value by which a training loss has fallen at least where training has left its start."""

LENGTHS = ("epochs", "max_steps", STEP)
"""Columns of how long runs are."""

NAMES = 0.45
"""Share of the width that names of settings take before they are folded."""

VALUES = {
    "test/error": "test error",
    "train/error": "training error",
    "best_test_error": "best test error",
    "fit/memorized": "memorized",
    "norm/l2": "norm",
    "ireg/sgd": "ireg/sgd",
    "ireg/own": "ireg/own",
    "seconds": "seconds",
}
"""What is shown, the most important first, by its heading; as many as there is room for."""

HEADINGS = VALUES | {"holdout/error": "held-out error"}
"""How tags are called, also those that are shown only where they choose."""


@dataclass(frozen=True)
class Row:
    """One setting: its name, its runs counted by state, and its values over the seeds that are done.

    Attributes:
        name: of the setting.
        optimizer: its name.
        runs: rows of the summary.
        values: by tag.
        start: the mean training loss before and after training, where it has hardly fallen.
    """

    name: str
    optimizer: str
    runs: pd.DataFrame
    values: Mapping[str, OverSeeds]
    start: tuple[float, float] | None = None

    @property
    def states(self) -> dict[str, int]:
        """How many runs are in each state."""
        return {str(state): int(count) for state, count in self.runs["state"].value_counts().items()}

    def mean(self, tag: str) -> float:
        """Return the mean of a tag over the seeds; nan where there is none."""
        return self.values[tag].mean if tag in self.values else math.nan

    @property
    def seeds(self) -> str:
        """How many runs enter the numbers, and what became of the others."""
        others = [f"{count} {state}" for state, count in self.states.items() if state != "done"]
        return ", ".join([str(self.states.get("done", 0)), *others])


def rows_of(summary: pd.DataFrame, criterion: str) -> list[Row]:
    """Make a row of each setting, the best first.

    Args:
        summary: of `summary.summarize`.
        criterion: the tag whose mean over the seeds sorts them, the smallest first; settings that have not left their
            start come after these, and those without the tag last.
    """
    columns, names = setting_columns(summary), short_names(varied_columns(summary))
    shown = list(dict.fromkeys([criterion, *VALUES]))
    rows = []
    for key, of_setting in summary.groupby(columns, dropna=False, sort=False):
        done = one_run_a_seed(of_setting[of_setting["state"] == "done"])
        values = {
            column: OverSeeds(tuple(done[column].astype(float).tolist()))
            for column in shown
            if column in summary and summary[column].notna().any()
        }
        chosen = dict(zip(columns, key, strict=True))
        rows.append(Row(label(chosen, names, " "), str(chosen["optimizer"]), of_setting, values, _start(done)))

    def rank(row: Row) -> tuple[bool, bool, float]:
        mean = row.mean(criterion)
        return not math.isfinite(mean), row.start is not None, mean if math.isfinite(mean) else 0.0

    return sorted(rows, key=rank)


def _start(done: pd.DataFrame) -> tuple[float, float] | None:
    """Return the mean training loss before and after training where no run's has fallen by `FALLEN`."""
    if "first_train_loss" not in done or "train/loss" not in done:
        return None
    losses = done[["first_train_loss", "train/loss"]].astype(float).dropna()
    if losses.empty or bool((losses["train/loss"] < (1 - FALLEN) * losses["first_train_loss"]).any()):
        return None
    first, last = losses.mean()
    return float(first), float(last)


def best_of(rows: Sequence[Row], criterion: str) -> Row | None:
    """Return the best of several settings; None where it has not begun, or they are not comparable.

    Args:
        rows: of `rows_of`, by the same criterion.
        criterion: the tag.
    """
    valued = [row for row in rows if math.isfinite(row.mean(criterion))]
    if len(rows) < 2 or not valued or valued[0].start is not None or incomparable(valued):
        return None
    return valued[0]


def incomparable(rows: Sequence[Row]) -> list[str]:
    """List in which lengths and data settings differ, by short names."""
    runs = pd.concat([row.runs for row in rows])
    return list(short_names([*_differing(runs, LENGTHS), *differing_data(runs)]).values())


def differing_data(runs: pd.DataFrame) -> list[str]:
    """List the columns of the data, but for seeds, in which runs differ."""
    return _differing(runs, [str(column) for column in runs if str(column).startswith("data.")])


def _differing(runs: pd.DataFrame, columns: Sequence[str]) -> list[str]:
    present = [column for column in columns if column in runs and not is_seed(column)]
    return [column for column in present if runs[column].nunique(dropna=False) > 1]


def print_overview(summary: pd.DataFrame, folder: Path, criterion: str, console: Console | None = None) -> None:
    """Print the settings of a sweep.

    A table has as many columns as fit, so that no number is broken.
    """
    if console is None:
        console = make_console()
        console = console if console.is_terminal else make_console(width=WIDTH)
    rows = rows_of(summary, criterion)
    states = ", ".join(f"{count} {state}" for state, count in summary["state"].value_counts().items())
    console.print(f"{folder}: {len(summary)} run{'s' if len(summary) > 1 else ''} ({states})", soft_wrap=True)
    console.print(_table(rows[:ROWS], console.width, best_of(rows, criterion)))
    if any(values.has_interval for row in rows for values in row.values.values()):
        console.print("mean ± half of the 95 % interval over the seeds")
    if len(rows) > ROWS:
        console.print(f"and {len(rows) - ROWS} settings more: --full shows all")


def _table(rows: Sequence[Row], width: int, best: Row | None) -> Table:
    # A name may be folded between its parts; what is beside it may not.
    longest = max(len(name) for name in ("setting", *(row.name for row in rows)))
    parts = max(len(part) for part in ("setting", *(part for row in rows for part in row.name.split())))
    names = max(parts, min(longest, int(NAMES * width)))
    columns = [("seeds", [row.seeds for row in rows])]
    taken = names + 2 + max(len(text) for text in ("seeds", *columns[0][1]))
    for column in rows[0].values:
        texts = [value_text(column, row.values[column]) for row in rows]
        heading = HEADINGS.get(column, column)
        needed = 2 + max(len(text) for text in (heading, *texts))
        if taken + needed <= width:
            columns.append((heading, texts))
            taken += needed
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False)
    table.add_column("setting", min_width=names, max_width=names)
    for heading, _ in columns:
        table.add_column(heading, justify="left" if heading == "seeds" else "right", no_wrap=True)
    columns.insert(0, ("setting", [row.name for row in rows]))
    for row, cells in zip(rows, zip(*(texts for _, texts in columns), strict=True), strict=True):
        style = "bold green" if row is best else ""
        table.add_row(*(Text(as_shown(cell), style) for cell in cells))
    return table


def value_text(column: str, values: OverSeeds) -> str:
    """Write a tag's values over the seeds; of those that are no shares the mean alone."""
    if math.isnan(values.mean):
        return ""
    if column.endswith(("/error", "_error")) or column.startswith("fit/"):
        return values.text(".2f", scale=100, unit=" %")
    if column == "seconds":
        return f"{values.mean:.0f}"
    return f"{values.mean:.2e}" if column.startswith("ireg/") else f"{values.mean:.4g}"


def print_failures(summary: pd.DataFrame, folder: Path) -> None:
    """Print why runs failed on standard error, each reason once."""
    failed = summary[summary["state"] == "failed"]
    if failed.empty:
        return
    print(f"{len(failed)} of {len(summary)} runs failed:", file=sys.stderr)
    for error, of_error in failed.groupby("error", sort=False, dropna=False):
        reason = " ".join(error.split()) if isinstance(error, str) else "no reason is recorded"
        names = of_error["run"].tolist()
        listed = ", ".join(names[:NAMED]) + (f" and {len(names) - NAMED} more" if len(names) > NAMED else "")
        print(f"  {listed}: {reason} (see {folder / names[0] / LOG})", file=sys.stderr)
