"""What is printed and written at the end of a sweep, from its folders alone.

Whatever happened to its runs does not matter.
"""

from collections.abc import Collection
from pathlib import Path

from ireg.runs.find import run_folders
from ireg.runs.layout import METRICS, STATUS
from ireg.runs.lock import locked
from ireg.runs.status import note_killed
from ireg.system.files import is_reached_by_a_link


def report(sweep: Path, own: Collection[str] | None = None) -> None:
    """Write and print the summary of a sweep, and say on standard error why runs failed.

    Args:
        sweep: its folder.
        own: names of the command's runs, of which the summary is printed; None: of all that the folder has.

    Raises:
        UserError: there are no runs, a file of a run cannot be read, or another process has been writing the summary
            for a minute.
    """
    # Imported here: pandas and matplotlib take seconds, which nothing before needs to wait for.
    from ireg import analysis

    folders = run_folders(sweep)
    for folder in folders:
        if not is_reached_by_a_link(sweep, folder):  # through which nothing is written
            note_killed(folder)
    if folders:
        with locked(sweep, seconds=60):
            analysis.report(sweep, own=own)
    else:
        analysis.report(sweep)  # which says that there is nothing


def report_again(sweep: Path, own: Collection[str] | None = None) -> None:
    """Print the summary of a sweep whose runs are all finished.

    What is written is not written again, if the report, which comes last, is newer than the runs.

    Args:
        sweep: its folder.
        own: as for `report`.

    Raises:
        UserError: as `report`.
    """
    from ireg import analysis
    from ireg.analysis.write import REPORT

    written = sweep / REPORT
    runs = [folder / name for folder in run_folders(sweep) for name in (STATUS, METRICS)]
    if written.exists() and all(written.stat().st_mtime_ns > path.stat().st_mtime_ns for path in runs if path.exists()):
        analysis.show(sweep, own=own)
    else:
        report(sweep, own)
