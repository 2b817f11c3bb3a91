"""`python -m ireg.analysis.study multirun/study_final`: the study's data and pages.

It records the sweeps' numbers, and writes the pages' tables and figures from all that is recorded.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from ireg.analysis.study.cells import record
from ireg.analysis.study.pages import write_pages
from ireg.command import framed, run_as_process


@framed
def main(arguments: Sequence[str] | None = None) -> int:
    """Record sweeps, and write the pages."""
    parser = argparse.ArgumentParser(
        prog="python -m ireg.analysis.study",
        description="Record the runs of each FOLDER in --into/data, a row a run and place, beside those of earlier "
        "sweeps; then write the tables and figures of all pages in --into from that data.",
    )
    parser.add_argument("folders", metavar="FOLDER", nargs="*", type=Path, help="a sweep, like multirun/study_final")
    parser.add_argument(
        "--into",
        metavar="PAGES",
        type=Path,
        default=Path("docs/study"),
        help="folder of the pages (default: docs/study)",
    )
    given = parser.parse_args(arguments)
    for folder in given.folders:
        print(f"recorded: {record(folder, given.into / 'data')}")
    for path in write_pages(given.into):
        print(f"written: {path}")
    return 0


if __name__ == "__main__":
    run_as_process(main)
