"""Find the runs in a folder: the one place that knows how, for tables, status, progress and drift."""

from __future__ import annotations

import math
import os
from collections import deque
from collections.abc import Sequence
from pathlib import Path

from ireg.runs.layout import STATUS
from ireg.system.errors import UserError

LEVELS_BELOW_LINKS = 3
"""So many folders are entered below a link: enough for a sweep, or a folder of sweeps."""


def run_folders(*folders: Path) -> list[Path]:
    """List the run folders at or below folders, each once, sorted below each.

    Links to folders are followed, as where runs were moved to another disk, but not to a folder that holds the link,
    and only `LEVELS_BELOW_LINKS` levels down. Of several paths to a run, the one with the fewest links is its name.

    A folder below that cannot be read is among the results: its record, once that is read, says why.

    Raises:
        UserError: one of the folders that are named cannot be read.
    """
    places, seen = [], set()
    waiting = deque((number, place, math.inf) for number, place in enumerate(folders))
    while waiting:
        number, place, levels = waiting.popleft()
        try:
            status = place.stat()
            entries = sorted(os.scandir(place), key=lambda entry: entry.name)
        except (FileNotFoundError, NotADirectoryError):
            continue  # removed since it was listed, or none
        except OSError as error:
            if place not in folders:
                places.append((number, place))
                continue
            raise UserError(f"{place}: {error.strerror}; have it made readable, or name a folder without it") from error
        if (status.st_dev, status.st_ino) in seen:
            continue
        seen.add((status.st_dev, status.st_ino))
        if any(entry.name == STATUS and not os.path.isdir(entry) for entry in entries):
            places.append((number, place))
        if levels == 0:
            continue
        below = [place / entry.name for entry in entries if os.path.isdir(entry)]
        own = [folder for folder in below if not folder.is_symlink()]
        links = [folder for folder in below if folder.is_symlink() and not _leads_up(folder)]
        waiting.extend((number, folder, min(levels - 1, LEVELS_BELOW_LINKS)) for folder in links)
        waiting.extendleft((number, folder, levels - 1) for folder in reversed(own))
    return [place for _, place in sorted(places)]


def find_runs(paths: Sequence[Path]) -> list[Path]:
    """Return the run folders at or below paths, each once.

    Files beside runs in a sweep's folder are ignored.

    Raises:
        UserError: there is no run at all.
    """
    folders = run_folders(*paths)
    if not folders:
        names = ", ".join(map(str, paths))
        raise UserError(f"{names}: no run there (no {STATUS}); name a run's folder, like multirun/NAME/RUN")
    return folders


def _leads_up(link: Path) -> bool:
    """Say whether a link leads to a folder that holds it, as `/` does."""
    home, target = link.parent.resolve(), link.resolve()
    return target == home or target in home.parents
