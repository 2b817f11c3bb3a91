"""The runs of a sweep's folder as a table: how far each is, what it has reached, and what went wrong."""

import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from ireg.runs.damage import DamagedRecordError
from ireg.runs.find import run_folders
from ireg.runs.layout import STATUS
from ireg.runs.lock import is_locked
from ireg.runs.readable import read_record
from ireg.runs.status import KILLED
from ireg.sweeps.names import optimizer_of
from ireg.sweeps.plan import read_plan, short_names
from ireg.sweeps.time_left import duration, time_left
from ireg.system.errors import UserError

COLOURS = {
    "running": "cyan",
    "failed": "red",
    "damaged": "red",
    "interrupted": "yellow",
    "waiting": "dim",
    "diverged": "red",
    "done": "green",
}
"""States in the order in which they are shown: what is at work or needs a hand comes first."""


@dataclass(frozen=True)
class Seen:
    """A run as its folder has it now.

    Attributes:
        name: what sets it apart from the others, or its folder's name.
        folder: the run folder.
        state: as in its status; `interrupted`, too, if it is `running` and no process is at work; `waiting` if it was
            asked for and has not begun; `damaged` if its status cannot be read.
        status: what `status.json` holds; empty while it waits, and where it cannot be read.
        damage: what is wrong with it.
    """

    name: str
    folder: Path
    state: str
    status: Mapping[str, Any]
    damage: str = ""

    @property
    def message(self) -> str:
        """What went wrong, in one line."""
        if self.state == "interrupted" and self.status["state"] == "running":
            return KILLED
        return " ".join(str(self.damage or self.status.get("error") or "").split())


def look(sweep: Path) -> list[Seen]:
    """Return all runs at or below a folder, those at work or in need of a hand first.

    Raises:
        UserError: there are none.
    """
    if not sweep.is_dir():
        raise UserError(f"{sweep}: no such folder; name a sweep's folder, like multirun/NAME")
    folders = {folder.relative_to(sweep).as_posix(): folder for folder in run_folders(sweep)}
    plan = _plan(sweep)
    folders |= {name: sweep / name for name in plan}
    if not folders:
        raise UserError(f"{sweep}: no runs there (no {STATUS}); name a sweep's folder, like multirun/NAME")
    seen = [_look_at(name, folders[folder]) for folder, name in short_names(sorted(folders), plan).items()]
    return sorted(seen, key=lambda run: list(COLOURS).index(run.state))


def _plan(sweep: Path) -> dict[str, list[str]]:
    """Return the runs that were asked for; none where the list is damaged.

    Those that have begun are there without it.
    """
    try:
        return read_plan(sweep)
    except UserError as error:
        print(error, file=sys.stderr)
        return {}


def _look_at(name: str, folder: Path) -> Seen:
    try:
        return _read(name, folder)
    except DamagedRecordError as error:
        return Seen(name, folder, "damaged", {}, str(error))


def _read(name: str, folder: Path) -> Seen:
    status = read_record(folder)
    if status is None:
        return Seen(name, folder, "waiting", {})
    state = status["state"]
    if state == "running" and not is_locked(folder):
        # It may have ended between the two looks.
        status = read_record(folder) or status
        state = "interrupted" if status["state"] == "running" else status["state"]
    return Seen(name, folder, state, status)


def render(runs: Sequence[Seen], *, rows: int | None = None) -> RenderableType:
    """Return a line of counts and the time left, and a table of the runs or of the first `rows` of them."""
    table = Table(box=box.SIMPLE_HEAD)
    table.add_column("run", overflow="fold")
    table.add_column("state")
    for column in ("epochs", "train error", "test error", "left"):
        table.add_column(column, justify="right")
    table.add_column("message", overflow="fold")
    for run in runs[:rows]:
        table.add_row(*_cells(run))
    hidden = Counter(run.state for run in runs[len(table.rows) :])
    more = [Text(f"and {_counts(hidden)} more", style="dim")] if hidden else []
    return Group(Text(" | ".join([_counts(Counter(run.state for run in runs)), *_left(runs)])), table, *more)


def _cells(run: Seen) -> list[RenderableType]:
    status = run.status
    epochs = f"{status['epochs_done']}/{status['epochs']}" if status else ""
    final = status.get("final", {})
    errors = [
        f"{100 * float(final[tag]):.1f} %" if final.get(tag) is not None else ""
        for tag in ("train/error", "test/error")
    ]
    left = ""
    if run.state == "running" and status["epoch_seconds"]:
        left = duration((status["epochs"] - status["epochs_done"]) * status["epoch_seconds"])
    return [Text(run.name), Text(run.state, style=COLOURS[run.state]), epochs, *errors, left, Text(run.message)]


def _counts(states: Counter[str]) -> str:
    return ", ".join(f"{states[state]} {state}" for state in COLOURS if states[state])


def _left(runs: Sequence[Seen]) -> list[str]:
    begun = [run.status for run in runs if run.state in ("running", "done", "diverged")]
    counts = Counter(run.state for run in runs)
    if not counts["running"]:
        return []
    waiting = [optimizer_of(run.folder.name) for run in runs if run.state == "waiting"]
    return [time_left(begun, waiting=waiting, at_once=counts["running"])]
