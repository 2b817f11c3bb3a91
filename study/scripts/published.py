"""What the scripts that write docs/data have in common."""

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

import ireg
from ireg.analysis.looks import drawn
from ireg.analysis.pages import between_marks
from ireg.system.files import replacing, write_bytes
from study.cells import merged

DATA = Path(__file__).parents[2] / "docs" / "data"


def written(
    name: str,
    measured: Callable[[pd.DataFrame], pd.DataFrame],
    arguments: Sequence[str] | None,
    *,
    digits: int = 5,
    key: Sequence[str] | None = None,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Read the folder that the command line names, and write docs/data/NAME.csv.

    Args:
        name: of the file, and of the script.
        measured: from the table of `ireg.load` to the file's.
        arguments: of the command line.
        digits: of each number.
        key: columns that say which run a row is of, for the option `--add`.

    Returns:
        The table of `ireg.load`, and the file's as it is read again.
    """
    parser = argparse.ArgumentParser(prog=f"python -m study.scripts.{name}", description=f"Write docs/data/{name}.csv.")
    parser.add_argument("folder", metavar="FOLDER", help=f"of the runs, like multirun/{name}")
    if key is not None:
        parser.add_argument("--add", action="store_true", help="keep the rows of runs that are not in FOLDER")
    given = parser.parse_args(arguments)
    runs = ireg.load(given.folder)
    path = DATA / f"{name}.csv"
    path.parent.mkdir(exist_ok=True)
    records = measured(runs)
    if key is not None and given.add:
        records = merged(pd.read_csv(path), records, key)
    with replacing(path) as temporary:
        records.to_csv(temporary, index=False, float_format=f"%.{digits}g")
    return runs, pd.read_csv(path)


def published(name: str, table: str, *pages: str) -> str:
    """Put a table between its marks on pages, and return it.

    Args:
        name: of the marks, `<!-- NAME -->` and `<!-- /NAME -->`.
        table: what stands between them.
        pages: paths in the repository.

    Raises:
        ValueError: a page has no such marks.
    """
    for page in pages:
        between_marks(DATA.parents[1] / page, name, table)
    return table


def pictured(name: str, draw: Callable[[], Figure]) -> None:
    """Draw docs/figures/NAME.png."""
    (content,) = drawn(name, draw, ".png").values()
    write_bytes(DATA.parent / "figures" / f"{name}.png", content)
