"""`python -m ireg.analysis FOLDER`: print a sweep's summary, write its tables and figures."""

from __future__ import annotations

from collections.abc import Sequence

from ireg.analysis import report, table
from ireg.system.command import Parser, framed, run_as_process


@framed
def main(arguments: Sequence[str] | None = None) -> int:
    """Print and write the tables and figures of a sweep."""
    parser = Parser(
        "analysis",
        description="Print a row a setting of the runs in FOLDER, the best first, with 95 % intervals over the "
        "seeds, and write summary.csv and figures/ (PNG and PDF) there. "
        "Runs may be unfinished: what they have measured so far is shown.",
    )
    parser.add_argument("folder", metavar="FOLDER", help="a sweep's folder, like multirun/NAME, or one run's folder")
    parser.add_argument(
        "--criterion",
        metavar="TAG",
        help="the tag whose final value, as its mean over seeds, chooses each optimizer's learning rate where several "
        "were tried; the smallest wins (default: holdout/error if all runs have it, else test/error, whose mean at the "
        "chosen rate is then optimistic)",
    )
    parser.add_argument("--full", action="store_true", help="print the tables of all runs and terms, too")
    parser.add_argument(
        "--table", choices=("markdown", "latex"), help="print the settings as a table for a text, and write nothing"
    )
    given = parser.parse_args(arguments)
    if given.table is not None:
        print(table(given.folder, given.table, given.criterion))
        return 0
    report(given.folder, given.criterion, full=given.full)
    return 0


if __name__ == "__main__":
    run_as_process(main)
