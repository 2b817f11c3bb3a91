"""Find the runs in a folder.

This is the one place that knows how, for tables, status, progress and drift alike.
"""

from __future__ import annotations

import os
from collections import deque
from pathlib import Path

from ireg.errors import UserError
from ireg.runs.layout import STATUS


def run_folders(*folders: Path) -> list[Path]:
    """Return the run folders at or below folders, each once.

    They are sorted below each.

    Links to folders are followed, as where runs were moved to another disk. Of several paths to a run, the one with
    the fewest links is its name.

    Raises:
        UserError: a folder cannot be read.
    """
    found, seen = [], set()
    waiting = deque(enumerate(folders))
    while waiting:
        number, place = waiting.popleft()
        try:
            status = place.stat()
            entries = sorted(os.scandir(place), key=lambda entry: entry.name)
        except (FileNotFoundError, NotADirectoryError):
            continue  # removed since it was listed, or none
        except OSError as error:
            raise UserError(f"{place}: {error.strerror}; have it made readable, or name a folder without it") from error
        if (status.st_dev, status.st_ino) in seen:
            continue
        seen.add((status.st_dev, status.st_ino))
        if any(entry.name == STATUS and os.path.isfile(entry) for entry in entries):
            found.append((number, place))
        below = [(number, place / entry.name) for entry in entries if os.path.isdir(entry)]
        waiting.extend(folder for folder in below if folder[1].is_symlink())
        waiting.extendleft(folder for folder in reversed(below) if not folder[1].is_symlink())
    return [place for _, place in sorted(found)]
