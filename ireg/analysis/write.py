"""Write the tables and figures of a sweep into its folder, and print the summary."""

from __future__ import annotations

import errno
import sys
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from ireg.analysis.load import epochs_of, find, runs_of
from ireg.analysis.looks import PART_OF_A_PAGE, drawn
from ireg.runs.find import run_folders
from ireg.runs.layout import EVENTS, STATUS
from ireg.runs.readable import read_records
from ireg.system.command import called
from ireg.system.errors import UserError
from ireg.system.files import below, require_own, write_bytes, write_text
from ireg.system.terminal import printable_output, saying

if TYPE_CHECKING:
    import pandas as pd

    from ireg.analysis.html import Content

NOT_OURS = (errno.EACCES, errno.EPERM, errno.EROFS)
"""What an error of writing is called where the user may only look."""


@dataclass(frozen=True)
class _Tables:
    """What is written and printed of a sweep.

    A table is None where the runs do not make it. Of runs that cannot be read there is a line each. `criterion` is the
    tag that orders settings and chooses rates.
    """

    epochs: pd.DataFrame
    summary: pd.DataFrame
    settings: pd.DataFrame | None
    best: pd.DataFrame | None
    damaged: list[str]
    criterion: str


TABLES = ("summary.csv", "summary_settings.csv", "summary_best.csv")
"""All tables; the first is written before any other file."""

REPORT = "report.html"

FIGURE_FOLDER = "figures"
"""The folder of the figures."""

SUFFIXES = (".png", ".pdf")
"""The forms of a figure."""

PICTURE = PART_OF_A_PAGE
"""Its form in the report."""


@printable_output()
def write(folder: str | Path, criterion: str | None = None) -> list[Path]:
    """Write `summary.csv` and `figures/<name>.png` and `.pdf` into `folder`; return the paths.

    And write `report.html`, one page with all of it, and what TensorBoard shows of a sweep (`summary/`). Where a
    setting has several seeds, `summary_settings.csv` holds means and standard deviations; where an optimizer has
    several learning rates, `summary_best.csv` holds its best one (`best.best_rates`). A figure whose values no run has
    measured yet is left out, and a line is printed that says so. Equal runs give equal files, whatever the user's
    settings of matplotlib are. A figure that fails is a line on standard error.

    Args:
        folder: a sweep's or a run's.
        criterion: the tag by which the best rate is chosen; None: holdout/error if all runs that are done
            have measured it, else test/error if there is one.

    Raises:
        UserError: there are no runs in `folder`, no run's files can be read, no run has the tag, or a file that
            would be replaced is not of an analysis, or a folder for files is a link.
        OSError: a file cannot be written.
    """
    left_out: list[str] = []
    tables = _tables(Path(folder), criterion)
    paths = list(_write(tables, Path(folder), left_out))
    _print_damaged(tables)
    print(*left_out, sep="\n", end="\n" if left_out else "")
    return paths


def figure_files() -> list[str]:
    """List the names of all files in `figures`."""
    try:
        from ireg.analysis.figures import FIGURES
    except Exception:  # then none is written, either, and `_figures` says why
        return []
    return [name + suffix for name in FIGURES for suffix in SUFFIXES]


def require_own_tables(folder: Path, *, with_figures: bool = False) -> None:
    """Refuse a folder whose tables, or figures, are not of an analysis.

    Raises:
        UserError: there are such files.
    """
    figures = [f"{FIGURE_FOLDER}/{name}" for name in figure_files()] if with_figures else []
    require_own(folder, TABLES[0], "run,state,", [*TABLES, REPORT, *figures])


@printable_output()
def show(
    folder: str | Path, criterion: str | None = None, *, full: bool = False, own: Collection[str] | None = None
) -> None:
    """Print what `report` prints, and write nothing.

    Raises:
        UserError: as `write`.
    """
    _show(_tables(Path(folder), criterion), Path(folder), criterion, full=full, own=own)


def table(folder: str | Path, form: str, criterion: str | None = None) -> str:
    """Return the settings of a sweep as a table for a text, and write nothing.

    Args:
        folder: a sweep's or a run's.
        form: `markdown`, or `latex` for the package booktabs.
        criterion: as for `write`.

    Raises:
        UserError: as `write`.
        ValueError: there is no such form.
    """
    from ireg.analysis.export import FORMATS
    from ireg.analysis.overview import rows_of

    if form not in FORMATS:
        raise ValueError(f"form={form!r}: must be one of {', '.join(FORMATS)}")
    tables = _tables(Path(folder), criterion)
    _print_damaged(tables)
    return FORMATS[form](rows_of(tables.summary, tables.criterion), tables.criterion)


@printable_output()
def report(
    folder: str | Path, criterion: str | None = None, *, full: bool = False, own: Collection[str] | None = None
) -> None:
    """Do what `write` does, and print the results.

    They are a row a setting, the best, doubts about it, where the files are, and why runs failed; with `full` all
    tables, too.

    In a folder that the user may not write to, the tables are printed, and a line says that nothing was written.

    Args:
        folder: a sweep's or a run's.
        criterion: as for `write`.
        full: print all tables.
        own: names of runs. Of others only their number is printed; what is written is of all.

    Raises:
        UserError: as `write`.
        OSError: a file cannot be written for another reason; the tables are printed before.
    """
    tables = _tables(Path(folder), criterion)
    paths: list[Path] = []
    left_out: list[str] = []
    failure = None
    try:
        # Before anything is printed, and what was written before an error is listed, too.
        with saying("drawing figures and writing the report"):
            paths.extend(_write(tables, Path(folder), left_out))
    except OSError as error:
        failure = error
    _show(tables, Path(folder), criterion, full=full, paths=paths, own=own)
    if full:
        print(*left_out, sep="\n", end="\n" if left_out else "")
    if failure is None:
        return
    if failure.errno not in NOT_OURS:
        raise failure
    print(
        f"not written: {failure.filename}: {failure.strerror}; for files, copy the runs to a folder of yours",
        file=sys.stderr,
    )


def _tables(folder: Path, criterion: str | None) -> _Tables:
    everything = find(folder)
    epochs = epochs_of(everything)
    # Imported late: pandas takes a while, which a wrong folder name need not wait for.
    from ireg.analysis.best import best_rates, default_criterion
    from ireg.analysis.summary import summarize, summarize_settings

    require_own_tables(folder, with_figures=True)
    of_runs = runs_of(everything)
    # Before anything is written: a wrong tag is answered first.
    chosen = default_criterion(of_runs) if criterion is None else criterion
    best = best_rates(of_runs, chosen) if criterion is not None or chosen in of_runs else None
    summary = summarize(of_runs, epochs)
    return _Tables(epochs, summary, summarize_settings(summary), best, everything.damaged, chosen)


def _write(tables: _Tables, folder: Path, left_out: list[str]) -> Iterator[Path]:
    """Write one file after the other, yield its path, and add to `left_out` why figures are left out."""
    from ireg.analysis.dashboard import FOLDER as DASHBOARD
    from ireg.analysis.dashboard import write_dashboard

    figures = below(folder, FIGURE_FOLDER)
    below(folder, DASHBOARD)
    for name, table in zip(TABLES, (tables.summary, tables.settings, tables.best), strict=True):
        if table is not None:
            yield _write_table(table, folder / name)
    vector: dict[str, bytes] = {}
    bitmap: dict[str, bytes] = {}
    for number, (name, contents) in enumerate(_figures(tables.epochs, left_out), start=1):
        for suffix in SUFFIXES:
            path = figures / f"{name}{suffix}"
            write_bytes(path, contents[suffix])
            yield path
        vector[name], bitmap[f"{FIGURE_FOLDER}/{number} {name}"] = contents[PICTURE], contents[SUFFIXES[0]]
    from ireg.analysis.best import warnings_of
    from ireg.analysis.html import Content, page

    content = Content(
        folder=folder,
        summary=tables.summary,
        epochs=tables.epochs,
        warnings=[] if tables.best is None else warnings_of(tables.best),
        criterion=tables.criterion,
        figures=vector,
    )
    if not (folder / STATUS).exists():  # a single run has event files of its own
        yield from write_dashboard(folder, tables.epochs, _texts(content), bitmap)
    write_text(folder / REPORT, page(content))
    yield folder / REPORT


def _texts(content: Content) -> dict[str, str]:
    """Say in Markdown what TensorBoard's TEXT tab shows."""
    from ireg.analysis.export import to_markdown
    from ireg.analysis.facts import facts
    from ireg.analysis.overview import rows_of
    from ireg.analysis.verdict import verdict

    rows = rows_of(content.summary, content.criterion)
    statuses = list(read_records(run_folders(content.folder)).statuses.values())
    best = [*verdict(content.summary, content.criterion), *content.warnings]
    return {
        "sweep/what was run": "\n".join(f"- {fact}" for fact in facts(content.summary, statuses)),
        "sweep/settings": to_markdown(rows, content.criterion),
        "sweep/best": "\n".join(f"- {line}" for line in best) or "one setting",
    }


def _figures(epochs: pd.DataFrame, left_out: list[str]) -> Iterator[tuple[str, dict[str, bytes]]]:
    """Yield the name of each figure that can be drawn, and its contents by suffix."""
    try:
        from ireg.analysis.figures import FIGURES
    except Exception as error:  # matplotlib reads files of the user's when it is imported
        print(f"no figure can be drawn: {type(error).__name__}: {error}", file=sys.stderr)
        return
    for name, draw in FIGURES.items():
        try:
            contents = drawn(name, partial(draw, epochs), *SUFFIXES, PICTURE)
        except UserError as error:
            left_out.append(f"figure {name} is left out: {error}")
            continue
        if contents:
            yield name, contents


def _show(
    tables: _Tables,
    folder: Path,
    criterion: str | None,
    *,
    full: bool,
    paths: Sequence[Path] = (),
    own: Collection[str] | None = None,
) -> None:
    from ireg.analysis.best import print_best, print_doubts
    from ireg.analysis.overview import print_failures
    from ireg.analysis.summary import print_summary

    _print_own(tables, folder, own)
    if full:
        print_summary(tables.summary)
        if tables.best is not None:
            print_best(tables.best)
    if tables.best is not None:
        print_doubts(tables.best)
    elif criterion is not None:
        print(f"no optimizer has two learning rates: {criterion} has nothing to choose from")
    if paths:
        print(f"written: {_listed(paths, folder)}")
    if (folder / REPORT).exists():
        print(f"report: {folder / REPORT}")
    if any(folder.rglob(EVENTS)):
        _print_browse(folder)
    print_failures(tables.summary, folder)
    _print_damaged(tables)


def _print_own(tables: _Tables, folder: Path, own: Collection[str] | None) -> None:
    """Print settings, the best and the comparison at equal fit, of own runs alone where there are any."""
    from ireg.analysis.equal_fit import equal_fit, print_equal_fit
    from ireg.analysis.overview import print_overview
    from ireg.analysis.verdict import verdict

    summary = tables.summary
    if own is not None and summary["run"].isin(own).any():
        summary = summary[summary["run"].isin(own)]
    print_overview(summary, folder, tables.criterion)
    for line in verdict(summary, tables.criterion):
        print(line)
    if (fit := equal_fit(tables.epochs, summary)) is not None:
        print_equal_fit(fit)
    if others := len(tables.summary) - len(summary):
        plural = "s" if others > 1 else ""
        print(f"and {others} other run{plural} in this folder: {called('analysis', folder)} shows all")


def _print_damaged(tables: _Tables) -> None:
    """Name on standard error the runs that cannot be read."""
    for line in tables.damaged:
        print(f"left out: {line}", file=sys.stderr)


def _print_browse(folder: Path) -> None:
    """Say how to browse."""
    print(f"browse: {called('browse', folder)}")


def _listed(paths: Sequence[Path], folder: Path) -> str:
    """Write the tables by name, and how many figures there are."""
    tables = [path.name for path in paths if path.parent == folder and path.name != REPORT]
    figures = {path.stem for path in paths if path.suffix in SUFFIXES}
    drawn_figures = [f"{len(figures)} figures in {folder / FIGURE_FOLDER}"] if figures else []
    return ", ".join([f"{folder / tables[0]}", *tables[1:], *drawn_figures])


def _write_table(table: pd.DataFrame, path: Path) -> Path:
    from ireg.analysis.export import to_csv

    write_text(path, to_csv(table))
    return path
