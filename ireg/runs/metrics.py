"""`metrics.csv`: a row for each epoch, a column for each tag; what was not measured is an empty cell."""

import csv
import io
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

from ireg.catalogue import present
from ireg.system.files import write_text
from ireg.system.reading import LARGEST_TABLE, read_text

Row = Mapping[str, float]

TIMES = "time/"
"""What the tags of seconds begin with, which no repetition has again."""

TIME = f"{TIMES}epoch"
"""The tag of an epoch's seconds, which every row has."""


STEP = "train/step"
"""The tag of the steps taken, in rows by steps."""

SCHEDULE = "schedule/lr"
"""The tag of the rate of the last step, where rates change by a schedule."""


def place_of(epoch: int, row: Row) -> int:
    """Return where a row stands on an axis: the steps taken, or, in rows by epochs, the epoch."""
    return int(row.get(STEP, epoch))


def is_finite(row: Mapping[str, float]) -> bool:
    """Say whether the losses of an epoch's row are finite: training stops where one is not.

    The row may lack one of them.
    """
    return all(math.isfinite(row.get(tag, 0.0)) for tag in ("train/loss", "test/loss"))


class Cells(NamedTuple):
    """The texts of a table.

    Attributes:
        tags: of the columns, without the epoch.
        rows: the cells of each row, by epoch.
    """

    tags: list[str]
    rows: dict[int, list[str]]


def read_cells(path: Path, *, growing: bool = False) -> Cells:
    """Read the texts of a table; a file that is not there, or is empty, has none.

    Tags of earlier versions are given as they are called now.

    Args:
        path: the file.
        growing: whether its last line may be half written, and is then left out.

    Raises:
        ValueError: the file is not such a table; the text says why.
    """
    text = read_text(path, largest=LARGEST_TABLE) if path.exists() else ""
    if growing:
        text = text[: text.rfind("\n") + 1]
    if not text.strip():
        return Cells([], {})
    try:
        header, *lines = csv.reader(io.StringIO(text), strict=True)
    except csv.Error as error:
        raise ValueError(str(error)) from error
    first = header.index("epoch")
    if any(len(line) != len(header) for line in lines):
        raise ValueError("a row has another number of cells than the header")
    rows = {int(line.pop(first)): line for line in lines}
    return Cells([present(tag) for tag in header if tag != "epoch"], rows)


def read_rows(path: Path) -> dict[int, Row]:
    """Read the rows of a table by epoch, to the last digit, without the cells that were not measured.

    Raises:
        ValueError: the file is not such a table.
    """
    tags, rows = read_cells(path)
    return {
        epoch: {tag: float(text) for tag, text in zip(tags, cells, strict=True) if text}
        for epoch, cells in rows.items()
    }


class Table:
    """The rows of a run, whose file is written as a whole with each new one.

    The file is replaced by a rename: it is whole at any moment, and new tags may come at any time. 300 rows of 20
    numbers are 100 kB.

    Args:
        path: the file.
        earlier: rows by epoch; others that the file holds are dropped with the next row.
    """

    def __init__(self, path: Path, earlier: Mapping[int, Row]) -> None:
        self.path = path
        self.rows: dict[int, Row] = dict(earlier)
        self._columns: list[str] = []
        self._lines: dict[int, str] = {}

    def write(self, epoch: int, row: Row) -> None:
        """Add the row of an epoch, or replace it, and write the file."""
        self.rows[epoch] = dict(row)
        self._lines.pop(epoch, None)
        columns = ["epoch", *dict.fromkeys(tag for row in self.rows.values() for tag in row)]
        if columns != self._columns:
            self._columns, self._lines = columns, {}
        for other in self.rows.keys() - self._lines.keys():  # a line is made once, not again with each later row
            self._lines[other] = _line([other, *(self.rows[other].get(tag) for tag in columns[1:])])
        write_text(
            self.path, _line(columns) + "".join(self._lines[epoch] for epoch in sorted(self._lines)), durable=True
        )


def _line(cells: Iterable[object]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerow(cells)
    return text.getvalue()
