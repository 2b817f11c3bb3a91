"""What the user sees of running runs, read from their folders alone."""

import math
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.table import Column

from ireg.runs.damage import DamagedRecordError
from ireg.runs.find import run_folders
from ireg.runs.status import FINISHED, read_status
from ireg.sweeps.names import optimizer_of
from ireg.sweeps.time_left import time_left
from ireg.system.terminal import make_console

ROOM_FOR_BARS = 100
"""Columns of a terminal from which on there are bars."""

LINE_SECONDS = 10.0
"""Seconds between two lines where the output is no terminal."""


class ProgressDisplay:
    """Display of the progress of runs until it is stopped: bars on a terminal, elsewhere lines.

    A line follows every some seconds. The display reads `status.json` of each folder from a thread of its own, so it
    works alike for a run in this process, in others, or on another machine, and never touches the training.

    Args:
        folders: the run folders, which need not exist yet; or all that a sweep's folder comes to hold.
        names: what runs are called; the others by their folders.
        console: where to write; by default standard error.
        poll_seconds: between two looks at the folders.
    """

    def __init__(
        self,
        folders: Sequence[Path] | Path,
        *,
        names: Mapping[Path, str] | None = None,
        console: Console | None = None,
        poll_seconds: float = 1.0,
    ) -> None:
        self._given = folders
        self._names = names or {}
        self.console = console or make_console(file=sys.stderr)
        self.poll_seconds = poll_seconds
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="progress", daemon=True)
        self._busiest = 1
        # What an earlier command left unfinished, by how often it was begun: a clock may be set back.
        before = self._read()
        self._stale = {folder: _times_begun(status) for folder, status in before.items()}
        self._ended = {folder for folder, status in before.items() if status["state"] in FINISHED}

    @property
    def folders(self) -> list[Path]:
        """The run folders, as far as they are known."""
        if isinstance(self._given, Path):
            return run_folders(self._given)
        return list(self._given)

    def start(self) -> None:
        """Begin to show."""
        self._thread.start()

    def stop(self) -> None:
        """Show the last state and end; a second call does nothing."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join()

    def _watch(self) -> None:
        if self.console.is_terminal:
            self._bars()
        else:
            self._lines()

    def _lines(self) -> None:
        last = time.monotonic() - LINE_SECONDS / 2  # the first line comes early
        while not self._stopping.wait(self.poll_seconds):
            if time.monotonic() - last >= LINE_SECONDS:
                last = time.monotonic()
                self.console.print(self.line(), soft_wrap=True)

    def _bars(self) -> None:
        # The name gives way where there is little room; epochs and errors never do.
        columns = [TextColumn("{task.description}", markup=False, table_column=_column(ratio=1, min_width=8))]
        if self.console.width >= ROOM_FOR_BARS:
            columns.append(BarColumn(bar_width=20))  # type: ignore[arg-type]
        columns += [MofNCompleteColumn(), TextColumn("{task.fields[text]}", markup=False, table_column=_column())]  # type: ignore[list-item]
        with Progress(*columns, console=self.console, transient=True, expand=True) as progress:
            total = progress.add_task("runs", total=len(self.folders), text="starting")
            tasks: dict[Path, Any] = {}
            best = math.inf
            while True:
                stopping = self._stopping.wait(self.poll_seconds)
                statuses = self._statuses()
                for folder, status in statuses.items():
                    running = status["state"] == "running"
                    if folder not in tasks and running:
                        tasks[folder] = progress.add_task(self._name(folder), total=status["epochs"], text="")
                    if folder in tasks:
                        done, text = status["epochs_done"], _errors(status)
                        progress.update(tasks[folder], completed=done, text=text, visible=running)
                    if not running and folder not in self._ended:
                        self._ended.add(folder)
                        best = min(best, value := _test_error(status))
                        mark = " (best so far)" if value == best < math.inf and len(self.folders) > 1 else ""
                        progress.console.print(f"{self._name(folder)}: {status['state']}, {_errors(status)}{mark}")
                done = sum(status["state"] != "running" for status in statuses.values())
                progress.update(total, total=len(self.folders), completed=done, text=self._eta(statuses))
                if stopping:
                    return

    def _name(self, folder: Path) -> str:
        return self._names.get(folder, folder.name)

    def line(self) -> str:
        """Write one line: runs that have ended, others with their epochs and errors, time left."""
        statuses = self._statuses()
        running = {folder: status for folder, status in statuses.items() if status["state"] == "running"}
        parts = [f"{len(statuses) - len(running)} of {len(self.folders)} runs ended"] if len(self.folders) > 1 else []
        parts += [
            f"{self._name(folder)}: epoch {status['epochs_done']}/{status['epochs']} {_figures(status)}".rstrip()
            for folder, status in running.items()
        ]
        if not running:
            parts.append("starting")
        return " | ".join([time.strftime("%H:%M:%S"), *parts, self._eta(statuses)])

    def _statuses(self) -> dict[Path, dict[str, Any]]:
        """Return the statuses of the runs that have one, in the order of the runs.

        What an earlier command left unfinished is left out.
        """
        return {
            folder: status
            for folder, status in self._read().items()
            if status["state"] in FINISHED or _times_begun(status) > self._stale.get(folder, 0)
        }

    def _read(self) -> dict[Path, dict[str, Any]]:
        statuses = {}
        for folder in self.folders:
            with suppress(OSError, DamagedRecordError):  # it cannot be read, which its run says
                statuses[folder] = read_status(folder)
        return {folder: status for folder, status in statuses.items() if status is not None}

    def _eta(self, statuses: Mapping[Path, Mapping[str, Any]]) -> str:
        """Estimate the time left, with as many runs at work at once as there have been so far."""
        self._busiest = max(self._busiest, sum(status["state"] == "running" for status in statuses.values()))
        waiting = [optimizer_of(folder.name) for folder in self.folders if folder not in statuses]
        return time_left(list(statuses.values()), waiting=waiting, at_once=self._busiest)


def _column(**options: Any) -> Column:
    return Column(no_wrap=True, overflow="ellipsis", **options)


def _test_error(status: Mapping[str, Any]) -> float:
    value = status["final"].get("test/error")
    return float(value) if status["state"] == "done" and value is not None and math.isfinite(float(value)) else math.inf


def _errors(status: Mapping[str, Any], word: str = "") -> str:
    """Return training and test error of the last row."""
    tags = [(name, f"{name}/error") for name in ("train", "test") if status["final"].get(f"{name}/error") is not None]
    return ", ".join(f"{name}{word} {100 * float(status['final'][tag]):.1f} %" for name, tag in tags)


def _times_begun(status: Mapping[str, Any]) -> int:
    return len(status.get("starts", [None]))


def _figures(status: Mapping[str, Any]) -> str:
    """Return training and test error of the last row, and whether the run has come to an end."""
    ended = status["state"] if status["state"] in FINISHED else ""
    return ", ".join(filter(None, [_errors(status, " error"), ended]))
