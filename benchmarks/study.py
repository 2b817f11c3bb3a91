"""What the scripts that write docs/data have in common."""

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

import ireg
from ireg.analysis.looks import drawn
from ireg.files import replacing, write_bytes, write_text

DATA = Path(__file__).parents[1] / "docs" / "data"


def written(
    name: str, measured: Callable[[pd.DataFrame], pd.DataFrame], arguments: Sequence[str] | None, *, digits: int = 5
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Read the folder that the command line names; write docs/data/NAME.csv.

    Args:
        name: of the file, and of the script.
        measured: from the table of `ireg.load` to the file's.
        arguments: of the command line.
        digits: of each number.

    Returns:
        The table of `ireg.load`, and the file's as it is read again.
    """
    parser = argparse.ArgumentParser(prog=f"python -m benchmarks.{name}", description=f"Write docs/data/{name}.csv.")
    parser.add_argument("folder", metavar="FOLDER", help=f"of the runs, like multirun/{name}")
    runs = ireg.load(parser.parse_args(arguments).folder)
    path = DATA / f"{name}.csv"
    path.parent.mkdir(exist_ok=True)
    with replacing(path) as temporary:
        measured(runs).to_csv(temporary, index=False, float_format=f"%.{digits}g")
    return runs, pd.read_csv(path)


def first_reached(losses: Sequence[float], loss: float) -> tuple[int, float] | None:
    """Say where a loss is first reached, between measurements.

    It is linear in its logarithm between them.

    Args:
        losses: as they were measured.
        loss: which.

    Returns:
        The position of the first that is no higher, and its share of the step from the one before; None where none
        is, or the first is.
    """
    logs = np.log(np.asarray(losses))
    after = int(np.argmax(logs <= np.log(loss)))
    return (after, float((logs[after - 1] - np.log(loss)) / (logs[after - 1] - logs[after]))) if after else None


def published(name: str, table: str, *pages: str) -> str:
    """Put a table between its marks on pages, and return it.

    Args:
        name: of the marks, `<!-- NAME -->` and `<!-- /NAME -->`.
        table: what stands between them.
        pages: paths in the repository.

    Raises:
        ValueError: a page has no such marks.
    """
    begin, end = f"<!-- {name} -->\n", f"<!-- /{name} -->"
    for page in pages:
        path = DATA.parents[1] / page
        text = path.read_text(encoding="utf-8")
        if begin not in text or end not in text:
            raise ValueError(f"{page} has no marks {begin.strip()} and {end}")
        write_text(path, text.split(begin)[0] + begin + table + end + text.split(end)[1])
    return table


def pictured(name: str, draw: Callable[[], Figure]) -> None:
    """Draw docs/figures/NAME.png."""
    (content,) = drawn(name, draw, ".png").values()
    write_bytes(DATA.parent / "figures" / f"{name}.png", content)


def markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Write a table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"
