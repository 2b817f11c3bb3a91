"""`python -m study multirun/study_final`: record the sweeps' numbers, and write the study's pages.

The pages' tables, results and figures are made from all that is recorded.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from ireg.system.command import framed, run_as_process
from ireg.system.errors import UserError
from study.cells import record
from study.pages import read_cells, write_pages
from study.rates import CHOICES, ranked
from study.ties import record_wrong


@framed
def main(arguments: Sequence[str] | None = None) -> int:
    """Record sweeps, and write the pages."""
    parser = argparse.ArgumentParser(
        prog="python -m study",
        description="Record each FOLDER in --into/data, beside what is there: of a sweep a row a run and place, of "
        "what ireg basins or ireg drift has written a row a run. Then write the tables and figures of all pages in "
        "--into from that data, and in --into/data all comparisons and measures as comparisons_NAME.csv and "
        "measures_NAME.csv.",
    )
    parser.add_argument("folders", metavar="FOLDER", nargs="*", type=Path, help="like multirun/study_final_mnist10k")
    parser.add_argument(
        "--into",
        metavar="PAGES",
        type=Path,
        default=Path("docs/study"),
        help="folder of the pages (default: docs/study)",
    )
    what = "print the arguments of runs at the rates that FILE chooses, a line an optimizer, and write nothing"
    parser.add_argument("--finals", metavar="FILE", help=what)
    parser.add_argument(
        "--experiment", default="study_final", metavar="NAME", help="of those runs (default: study_final)"
    )
    what = "where held-out examples choose those rates (default: holdout, at each run's best epoch)"
    parser.add_argument("--choice", choices=list(CHOICES), default="holdout", help=what)
    what = "record, too, which held-out examples are wrong in the runs of FOLDER, as of experiment=study_ties"
    parser.add_argument("--ties", metavar="FOLDER", nargs="+", type=Path, default=[], help=what)
    given = parser.parse_args(arguments)
    if given.finals is not None:
        rates = ranked(read_cells(given.into / "data", given.finals), given.choice).groupby("optimizer", sort=False)
        for optimizer, lr in rates["lr"].first().items():
            if not str(optimizer).isidentifier():  # the line is an argument list, in which a name could be several
                raise UserError(f"{given.finals}: {optimizer!r} is no optimizer's name; record the runs again")
            print(f"experiment={given.experiment} optimizer={optimizer} lr={lr:g}")
        return 0
    for folder in given.ties:
        print(f"recorded: {record_wrong(folder, given.into / 'data')}")
    for folder in (*given.folders, *given.ties):
        print(f"recorded: {record(folder, given.into / 'data')}")
    for path in write_pages(given.into):
        print(f"written: {path}")
    return 0


if __name__ == "__main__":
    run_as_process(main)
