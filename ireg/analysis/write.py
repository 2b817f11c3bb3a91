"""Write the tables and figures of a sweep into its folder; print the summary."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from ireg.analysis.load import load, runs
from ireg.errors import UserError
from ireg.files import replacing, require_own

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

TABLES = ("summary.csv", "summary_settings.csv", "summary_best.csv")
"""All tables; the first is written before any other file."""

SUFFIXES: dict[str, dict[str, Any]] = {
    ".png": {"dpi": 150},
    # Without its date a PDF of the same runs is the same file, so that it can be committed and compared.
    ".pdf": {"metadata": {"CreationDate": None}},
}
"""The forms of a figure, each with the arguments of its writer."""


def write(folder: str | Path, criterion: str | None = None) -> list[Path]:
    """Write `summary.csv` and `figures/<name>.png` and `.pdf` into `folder`; return the paths.

    Where a setting has several seeds, `summary_settings.csv` holds means and standard deviations; where an optimizer
    has several learning rates, `summary_best.csv` holds its best one (`best.best_rates`). A figure whose values no
    run has measured yet is left out, and a line is printed that says so. Equal runs give equal files.

    Args:
        folder: a sweep's or a run's.
        criterion: the tag by which the best rate is chosen; None: test/error, if there is one.

    Raises:
        UserError: there are no runs in `folder`, a file of a run cannot be read, no run has the tag, or a file that
            would be replaced is not of an analysis.
    """
    return _write(Path(folder), criterion)[2]


def figure_files() -> list[str]:
    """List the names of all files in `figures`."""
    from ireg.analysis.figures import FIGURES

    return [name + suffix for name in FIGURES for suffix in SUFFIXES]


def require_own_tables(folder: Path, *, with_figures: bool = False) -> None:
    """Refuse a folder whose tables, or figures, are not of an analysis.

    Raises:
        UserError: there are such files.
    """
    figures = [f"figures/{name}" for name in figure_files()] if with_figures else []
    require_own(folder, TABLES[0], "run,state,", [*TABLES, *figures])


def _write(folder: Path, criterion: str | None) -> tuple[pd.DataFrame, pd.DataFrame | None, list[Path]]:
    """Write everything; the table of the runs, that of the best rates, and the paths."""
    table = load(folder)
    # Imported late: matplotlib takes most of a second, which a wrong folder name need not wait for.
    from ireg.analysis.best import CRITERION, best_rates
    from ireg.analysis.figures import FIGURES
    from ireg.analysis.summary import summarize, summarize_settings

    require_own_tables(folder, with_figures=True)
    of_runs = runs(folder)
    # Before anything is written: a wrong tag is answered first.
    chosen = CRITERION if criterion is None and CRITERION in of_runs else criterion
    best = best_rates(of_runs, chosen) if chosen is not None else None
    summary = summarize(of_runs, table)
    paths = [_write_table(summary, folder / TABLES[0])]
    settings = summarize_settings(summary)
    if settings is not None:
        paths.append(_write_table(settings, folder / TABLES[1]))
    if best is not None:
        paths.append(_write_table(best, folder / TABLES[2]))
    for name, draw in FIGURES.items():
        try:
            figure = draw(table)
        except UserError as error:
            print(f"figure {name} is left out: {error}")
            continue
        paths += _write_figure(figure, folder / "figures" / name)
    return summary, best, paths


def report(folder: str | Path, criterion: str | None = None) -> None:
    """Do what `write` does, print the summary and the best rates, and say where the files are.

    Raises:
        UserError: as `write`.
    """
    # Before anything is printed, so that `| head` does not lose the files.
    summary, best, paths = _write(Path(folder), criterion)
    from ireg.analysis.best import print_best
    from ireg.analysis.summary import print_summary

    print_summary(summary)
    if best is not None:
        print_best(best)
    elif criterion is not None:
        print(f"no optimizer has two learning rates: {criterion} has nothing to choose from")
    for path in paths:
        print(f"wrote {path}")


def _write_table(table: pd.DataFrame, path: Path) -> Path:
    with replacing(path) as temporary:
        table.to_csv(temporary, index=False)  # pandas writes every digit of a float
    return path


def _write_figure(figure: Figure, stem: Path) -> list[Path]:
    paths = []
    for suffix, arguments in SUFFIXES.items():
        path = stem.with_name(stem.name + suffix)
        with replacing(path) as temporary:
            figure.savefig(temporary, **arguments)
        paths.append(path)
    return paths
