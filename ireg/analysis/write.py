"""Write the tables and figures of a sweep into its folder; print the summary."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ireg.analysis.load import load, runs
from ireg.errors import UserError
from ireg.files import replacing

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure


def write(folder: str | Path) -> list[Path]:
    """Write `summary.csv` and `figures/<name>.png` and `.pdf` into `folder`; return the paths.

    Where a setting has several seeds, `summary_settings.csv` holds means and standard deviations. A figure whose
    values no run has measured yet is left out, and a line is printed that says so. Equal runs give equal files.

    Raises:
        UserError: there are no runs in `folder`, or a file of a run cannot be read.
    """
    return _write(Path(folder))[1]


def _write(folder: Path) -> tuple[pd.DataFrame, list[Path]]:
    """Write everything; the table of the runs, and the paths."""
    table = load(folder)
    # Imported late: matplotlib takes most of a second, which a wrong folder name need not wait for.
    from ireg.analysis.figures import FIGURES
    from ireg.analysis.summary import summarize, summarize_settings

    summary = summarize(runs(folder), table)
    paths = [_write_table(summary, folder / "summary.csv")]
    settings = summarize_settings(summary)
    if settings is not None:
        paths.append(_write_table(settings, folder / "summary_settings.csv"))
    for name, draw in FIGURES.items():
        try:
            figure = draw(table)
        except UserError as error:
            print(f"figure {name} is left out: {error}")
            continue
        paths += _write_figure(figure, folder / "figures" / name)
    return summary, paths


def report(folder: str | Path) -> None:
    """Do what `write` does, print the summary, and say where the files are.

    Raises:
        UserError: as `write`.
    """
    summary, paths = _write(Path(folder))  # before anything is printed, so that `| head` does not lose the files
    from ireg.analysis.summary import print_summary

    print_summary(summary)
    for path in paths:
        print(f"wrote {path}")


def _write_table(table: pd.DataFrame, path: Path) -> Path:
    with replacing(path) as temporary:
        table.to_csv(temporary, index=False)  # pandas writes every digit of a float
    return path


def _write_figure(figure: Figure, stem: Path) -> list[Path]:
    # Without its date a PDF of the same runs is the same file, so that it can be committed and compared.
    options = {".png": {"dpi": 150}, ".pdf": {"metadata": {"CreationDate": None}}}
    paths = []
    for suffix, arguments in options.items():
        path = stem.with_name(stem.name + suffix)
        with replacing(path) as temporary:
            figure.savefig(temporary, **arguments)  # type: ignore[arg-type]
        paths.append(path)
    return paths
