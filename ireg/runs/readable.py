"""Read the records of many runs, each on its own: a damaged one is reported, and the others are there.

Whoever looks at more than one run reads them here.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

from ireg.runs.damage import DamagedRecordError
from ireg.runs.layout import STATUS
from ireg.runs.status import read_status
from ireg.system.errors import UserError, in_one_line


class Records(NamedTuple):
    """Statuses by folder; for other folders, what is wrong."""

    statuses: dict[Path, dict[str, Any]]
    damaged: dict[Path, str]


def read_record(folder: Path) -> dict[str, Any] | None:
    """Return the status of a folder's run; None without one.

    Raises:
        DamagedRecordError: its file cannot be read, or is none of a run's.
    """
    try:
        status = read_status(folder)
    except OSError as error:
        raise DamagedRecordError(in_one_line(error)) from error
    if status is None and (folder / STATUS).exists():
        raise DamagedRecordError(
            f"{folder / STATUS} is not a run's status (no state or no config); "
            "if a run wrote it, delete this file alone, and the command that began the run resumes it"
        )
    return status


def read_records(folders: Iterable[Path]) -> Records:
    """Read the statuses of run folders, each on its own."""
    records = Records({}, {})
    for folder in folders:
        try:
            status = read_record(folder)
        except UserError as error:
            records.damaged[folder] = str(error)
        else:
            if status is not None:
                records.statuses[folder] = status
    return records
