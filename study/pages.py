"""The study's pages: what stands between their marks, and their figures."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from ireg.analysis.looks import drawn
from ireg.analysis.pages import between_marks
from ireg.system.errors import UserError
from ireg.system.files import write_bytes, write_text
from study.answers import answers
from study.cells import is_result
from study.claims import TUNED_END
from study.comparisons import COMPARISONS
from study.figures import FIGURES
from study.measures import measures
from study.pictures import PICTURES
from study.results import MADE, text_of
from study.settings import settings
from study.tables import TABLES

MARK = re.compile(r"^<!-- (\w+) of ([\w+]+) -->$", re.MULTILINE)
"""`<!-- TABLE of FILE -->`, up to `<!-- /TABLE of FILE -->`; FILE+OTHER are both.

Of the tables in `COMPARISONS`, `GATHERED` and `ASSOCIATED` each FILE is a data set, which stands for its files.
"""

PARTS = ("study_final", "study_basins", "study_drift")
"""Files of a data set's comparisons, which are adjusted together: the first, and of the others those that exist."""

FOR_THE_END = "study_end"
"""File of the runs that are tuned for their end."""

GATHERED: Mapping[str, Callable[[Mapping[str, pd.DataFrame]], str]] = {"answers": answers, "settings": settings}
"""Tables of several data sets, from the cells of each."""

ASSOCIATED: Mapping[str, Callable[[pd.DataFrame], str]] = {"measures": measures}
"""Tables of a data set's tuning and final runs together."""

PICTURE = re.compile(r"!\[[^]]*\]\(figures/(\w+)_of_([\w+]+)\.png\)")


def read_cells(data: Path, files: str) -> pd.DataFrame:
    """Read files of the study.

    Args:
        data: their folder.
        files: names with + between them.

    Raises:
        UserError: there is none of that name.
    """
    for file in files.split("+"):
        if not (data / f"{file}.csv").exists() or is_result(data / f"{file}.csv"):
            known = ", ".join(sorted(path.stem for path in data.glob("*.csv") if not is_result(path))) or "none"
            raise UserError(f"{data / file}.csv: no such file of the study; there are: {known}")
    # Bits in hexadecimal digits could be taken for a number.
    parts = [pd.read_csv(data / f"{file}.csv", dtype={"wrong": str}) for file in files.split("+")]
    return pd.concat(parts, ignore_index=True)


def cells_of(data: Path, name: str) -> pd.DataFrame:
    """Read all cells of a data set that its comparisons are made of.

    Args:
        data: folder of the study's files.
        name: of the data set.

    Raises:
        UserError: it has no final runs.
    """
    first, *others = (f"{part}_{name}" for part in PARTS)
    whole = read_cells(data, "+".join([first, *(file for file in others if (data / f"{file}.csv").exists())]))
    if not (data / f"{FOR_THE_END}_{name}.csv").exists():
        return whole
    shorter = read_cells(data, f"{FOR_THE_END}_{name}")
    return pd.concat([whole, shorter[shorter["place"] == "end"].assign(place=TUNED_END)], ignore_index=True)


def runs_of(data: Path, name: str) -> pd.DataFrame:
    """Read the cells of a data set's tuning and final runs.

    Args:
        data: folder of the study's files.
        name: of the data set.

    Raises:
        UserError: it has not both.
    """
    return read_cells(data, f"study_tuning_{name}+study_final_{name}")


def results_of(text: str, data: Path) -> Iterator[tuple[Path, str]]:
    """Make the files of results that tables are of.

    Args:
        text: of one page or several.
        data: folder of the study's files.

    Yields:
        A file and its text: of each data set whose comparisons or measures are shown.

    Raises:
        UserError: a file does not exist.
    """
    for kind, name in result_names(text):
        cells = runs_of(data, name) if kind == "measures" else cells_of(data, name)
        yield data / f"{kind}_{name}.csv", text_of(MADE[kind](cells))


def result_names(text: str) -> list[tuple[str, str]]:
    """List the results that a page's tables are of, each by its kind in `MADE` and its data set."""
    results = []
    for table, file in MARK.findall(text):
        if table in ASSOCIATED:
            results.append(("measures", file))
        elif table in GATHERED or table in COMPARISONS:
            results += [("comparisons", name) for name in file.split("+")]
    return list(dict.fromkeys(results))


def tables_of(text: str, data: Path) -> Iterator[tuple[str, str]]:
    """Make the tables that a page asks for.

    Args:
        text: of the page.
        data: folder of the study's files.

    Yields:
        The name of the marks, and the table.

    Raises:
        UserError: a table or a file does not exist.
    """
    for table, file in MARK.findall(text):
        if table in GATHERED:
            yield f"{table} of {file}", GATHERED[table]({name: cells_of(data, name) for name in file.split("+")})
        elif table in COMPARISONS:
            yield f"{table} of {file}", COMPARISONS[table](cells_of(data, file))
        elif table in ASSOCIATED:
            yield f"{table} of {file}", ASSOCIATED[table](runs_of(data, file))
        elif table in TABLES:
            yield f"{table} of {file}", TABLES[table](read_cells(data, file))
        else:
            known = ", ".join([*GATHERED, *COMPARISONS, *ASSOCIATED, *TABLES])
            raise UserError(f"<!-- {table} of {file} -->: no such table; choose one of {known}")


def drawing(name: str, file: str, data: Path) -> Callable[[], Figure]:
    """Return what draws a figure that a page asks for.

    Args:
        name: of the figure.
        file: the study's files, or of a picture its data sets, with + between them.
        data: folder of the files.

    Raises:
        UserError: there is no such figure or file.
    """
    if name in PICTURES:
        cells, tuning = (
            {one: read(one) for one in file.split("+")} for read in (partial(cells_of, data), partial(_tuning_of, data))
        )
        return partial(PICTURES[name], cells, tuning)
    if name not in FIGURES:
        known = ", ".join([*PICTURES, *FIGURES])
        raise UserError(f"figures/{name}_of_{file}.png: no such figure; choose one of {known}")
    return partial(FIGURES[name], read_cells(data, file))


def _tuning_of(data: Path, name: str) -> pd.DataFrame:
    """Read a data set's tuning runs, and which held-out examples are wrong where that is recorded."""
    records = f"study_ties_{name}_held_out"
    return read_cells(data, f"study_tuning_{name}" + (f"+{records}" if (data / f"{records}.csv").exists() else ""))


def write_pages(folder: Path) -> Iterator[Path]:
    """Write the tables, results and figures of all pages in a folder.

    Args:
        folder: of the pages, their `data/` and `figures/`.

    Yields:
        Each page, figure and file of results that was written.

    Raises:
        UserError: a page asks for what does not exist.
    """
    texts = {page: page.read_text(encoding="utf-8") for page in sorted(folder.glob("*.md"))}
    for page, text in texts.items():
        for name, table in tables_of(text, folder / "data"):
            between_marks(page, name, table)
        for name, file in PICTURE.findall(text):
            for content in drawn(name, drawing(name, file, folder / "data"), ".png").values():
                write_bytes(folder / "figures" / f"{name}_of_{file}.png", content)
                yield folder / "figures" / f"{name}_of_{file}.png"
        yield page
    for path, results in results_of("\n".join(texts.values()), folder / "data"):
        write_text(path, results)
        yield path
