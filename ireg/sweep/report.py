"""What is printed and written at the end of a sweep.

It comes from its folders alone, whatever happened to its runs.
"""

import sys
from pathlib import Path

from ireg.files import remove_leftovers
from ireg.runs.find import run_folders
from ireg.runs.lock import locked
from ireg.runs.status import note_killed, read_status
from ireg.sweep.plan import FILE_NAME as PLAN


def report(sweep: Path) -> None:
    """Write and print the summary of a sweep.

    The runs that failed are listed on standard error.

    Raises:
        UserError: there are no runs, a file of a run cannot be read, or another process has been writing the summary
            for a minute.
    """
    # Imported here: pandas and matplotlib take seconds, which nothing before needs to wait for.
    from ireg import analysis
    from ireg.analysis.write import TABLES, figure_files

    folders = run_folders(sweep)
    for folder in folders:
        note_killed(folder)
    if folders:
        with locked(sweep, seconds=60):
            remove_leftovers(sweep, (PLAN, *TABLES))
            remove_leftovers(sweep / "figures", figure_files())
            analysis.report(sweep)
    else:
        analysis.report(sweep)  # which says that there is nothing
    _list_failures(folders)


def _list_failures(folders: list[Path]) -> None:
    failed = [(folder, status) for folder in folders if (status := read_status(folder)) and status["state"] == "failed"]
    if failed:
        print(f"{len(failed)} of {len(folders)} runs failed:", file=sys.stderr)
    for folder, status in failed:
        error = " ".join(str(status["error"]).split())
        print(f"  {folder.name}: {error} (see {folder / 'train.log'})", file=sys.stderr)
