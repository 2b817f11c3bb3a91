"""The study's pages: what stands between their marks, and their figures."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

import pandas as pd

from ireg.analysis.looks import drawn
from ireg.analysis.pages import between_marks
from ireg.analysis.study.answers import answers, settings
from ireg.analysis.study.figures import FIGURES
from ireg.analysis.study.tables import TABLES
from ireg.errors import UserError
from ireg.files import write_bytes

MARK = re.compile(r"^<!-- (\w+) of ([\w+]+) -->$", re.MULTILINE)
"""`<!-- TABLE of FILE -->`, up to `<!-- /TABLE of FILE -->`; FILE+OTHER are both.

Of the tables in `GATHERED` each FILE is a data set, which stands for its files.
"""

GATHERED: Mapping[str, tuple[Callable[[Mapping[str, pd.DataFrame]], str], Sequence[str]]] = {
    "answers": (answers, ("study_final", "study_basins", "study_drift")),
    "settings": (settings, ("study_final",)),
}
"""Tables of several data sets, and the files that each has."""

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
        if not (data / f"{file}.csv").exists():
            known = ", ".join(sorted(path.stem for path in data.glob("*.csv"))) or "none"
            raise UserError(f"{data / file}.csv: no such file of the study; there are: {known}")
    return pd.concat([pd.read_csv(data / f"{file}.csv") for file in files.split("+")], ignore_index=True)


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
            write, parts = GATHERED[table]
            found = {name: read_cells(data, "+".join(f"{part}_{name}" for part in parts)) for name in file.split("+")}
            yield f"{table} of {file}", write(found)
        elif table in TABLES:
            yield f"{table} of {file}", TABLES[table](read_cells(data, file))
        else:
            known = ", ".join([*GATHERED, *TABLES])
            raise UserError(f"<!-- {table} of {file} -->: no such table; choose one of {known}")


def write_pages(folder: Path) -> Iterator[Path]:
    """Write the tables and figures of all pages in a folder.

    Args:
        folder: of the pages, their `data/` and `figures/`.

    Yields:
        Each page and figure that was written.

    Raises:
        UserError: a page asks for what does not exist.
    """
    for page in sorted(folder.glob("*.md")):
        text = page.read_text(encoding="utf-8")
        for name, table in tables_of(text, folder / "data"):
            between_marks(page, name, table)
        for name, file in PICTURE.findall(text):
            if name not in FIGURES:
                raise UserError(f"figures/{name}_of_{file}.png: no such figure; choose one of {', '.join(FIGURES)}")
            cells = read_cells(folder / "data", file)
            for content in drawn(name, partial(FIGURES[name], cells), ".png").values():
                write_bytes(folder / "figures" / f"{name}_of_{file}.png", content)
                yield folder / "figures" / f"{name}_of_{file}.png"
        yield page
