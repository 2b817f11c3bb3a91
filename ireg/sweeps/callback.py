"""What happens around runs and sweeps: checks before, progress meanwhile, tables and figures after."""

import sys
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from math import isfinite, nan
from pathlib import Path
from typing import Any

from hydra.core.utils import JobReturn
from hydra.experimental.callback import Callback
from omegaconf import DictConfig
from rich.table import Table

from ireg.catalogue import quantity
from ireg.config.errors import explain
from ireg.config.schema import register
from ireg.runs.damage import DamagedRecordError
from ireg.runs.layout import EVENTS, METRICS
from ireg.runs.metrics import read_rows
from ireg.runs.status import FINISHED, read_status
from ireg.sweeps import launch, names
from ireg.sweeps.checks import checked_folder, checked_folders
from ireg.sweeps.plan import add_to_plan, short_names
from ireg.sweeps.progress import ProgressDisplay
from ireg.sweeps.report import report, report_again
from ireg.system.command import EXIT_FAILED, EXIT_USER_ERROR, called, endings_in_one_line
from ireg.system.terminal import make_console, saying
from ireg.system.termination import RESUMES, Terminated

register()
names.register()
launch.register()


class RunsCallback(Callback):
    """Callback that checks all runs of a command before the first one starts, shows progress, and sums up.

    The summary is made from the run folders, whatever happened to the runs. Hydra calls `on_run_end` and
    `on_multirun_end` only if all went well; `summary_at_the_end` around the command sums up in any case.
    """

    def __init__(self) -> None:
        self._display: ProgressDisplay | None = None
        self._summary: Callable[[], None] | None = None

    def on_run_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Check the run and show its progress."""
        with _errors_end_the_process():
            folder = checked_folder(config)
            self._begin([folder], lambda: _print_final_values(folder))

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Compose and check every run of the sweep, and show their progress."""
        with _errors_end_the_process():
            sweep = Path(config.hydra.sweep.dir).absolute()
            with saying("checking the runs"):
                folders = checked_folders(config, sweep)
            plan = {path.relative_to(sweep).as_posix(): overrides for path, overrides in folders.items()}
            add_to_plan(sweep, plan)
            asked[sweep] = list(plan)
            done = sum(_is_finished(folder) for folder in folders)
            if done:
                print(f"{done} of {len(folders)} done already; to do one again, delete its folder", file=sys.stderr)
            if done and done == len(folders):
                report_again(sweep, plan)
                sys.exit(0)
            # A sweeper that chooses the runs as it goes has none to name beforehand: the folder shows them.
            named = {sweep / name: short for name, short in short_names(list(plan), plan).items()}
            self._begin(list(folders) or sweep, lambda: report(sweep, plan or None), named)
            _begun_sweeps.append(sweep)

    def on_job_end(self, config: DictConfig, job_return: JobReturn, **kwargs: Any) -> None:
        """Drop the run's configuration, which lies in its folder: Hydra keeps what each run gives to the end."""
        job_return.cfg = job_return.hydra_cfg = None

    def on_run_end(self, config: DictConfig, **kwargs: Any) -> None:
        """Show the final values."""
        self.sum_up()

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        """Write and show the summary."""
        self.sum_up()

    def _begin(
        self, folders: list[Path] | Path, summary: Callable[[], None], names: Mapping[Path, str] | None = None
    ) -> None:
        self._summary = summary
        _unfinished.append(self)
        self._display = ProgressDisplay(folders, names=names)
        self._display.start()

    def sum_up(self) -> None:
        """End the progress display and show what came out, once."""
        if self._display is None or self._summary is None:
            return
        summary, self._summary = self._summary, None
        with _errors_end_the_process():
            self._display.stop()
            summary()

    def __getstate__(self) -> dict[str, Any]:
        """Give other processes a callback that does nothing: only a sweep's first process shows and sums up."""
        return {"_display": None, "_summary": None}


asked: dict[Path, list[str]] = {}
"""By the folder of a sweep that this process has been asked for, the names of the runs; none where they come later."""

_unfinished: list[RunsCallback] = []
_begun_sweeps: list[Path] = []


def exit_code() -> int:
    """Return the exit code of a user's error, or, in a sweep, that of a failed run."""
    return EXIT_FAILED if _begun_sweeps else EXIT_USER_ERROR


@contextmanager
def summary_at_the_end() -> Iterator[None]:
    """Sum up what the block starts, however it ends."""
    try:
        yield
    except BaseException as ending:
        if _unfinished and isinstance(ending, KeyboardInterrupt | Terminated):
            ending.add_note(RESUMES)
        with suppress(SystemExit):  # the error that ends the block says more than that there is nothing to sum up
            _sum_up()
        raise
    else:
        _sum_up()


def _sum_up() -> None:
    while _unfinished:
        _unfinished.pop().sum_up()


@contextmanager
def _errors_end_the_process() -> Iterator[None]:
    """End the process with the error's text, where Hydra would only warn of it."""
    try:
        with endings_in_one_line(explain):
            yield
    except Exception:
        traceback.print_exc()
        sys.exit(EXIT_FAILED)


def _is_finished(folder: Path) -> bool:
    with suppress(OSError, DamagedRecordError):  # a folder that cannot be read fails its own run
        status = read_status(folder)
        return status is not None and status["state"] in FINISHED
    return False


def _print_final_values(folder: Path) -> None:
    """Print the last row of a run, and how to see more."""
    status = read_status(folder)
    if status is None or not status["final"]:
        return
    console = make_console()
    of = "row" if status["config"].get("max_steps") else "epoch"
    done = f"{status['epochs_done']} {of}{'' if status['epochs_done'] == 1 else 's'}"
    console.print(f"{folder}: {status['state']} after {done}", soft_wrap=True)
    table = Table()
    table.add_column("tag")
    table.add_column("value", justify="right")
    for tag, value in status["final"].items():
        table.add_row(tag, "" if value is None else _value(tag, float(value)))
    console.print(table)
    for line in _lowest(read_rows(folder / METRICS), of):
        console.print(line, soft_wrap=True)
    print(f"report: {called('analysis', folder)}")
    if any(folder.glob(EVENTS)):
        print(f"browse: {called('browse', folder)}")


def _lowest(rows: Mapping[int, Mapping[str, float]], of: str) -> Iterator[str]:
    """Yield where held-out examples, or else the tests, had their lowest error, unless at the end."""
    for tag, name in (("holdout/error", "held-out error"), ("test/error", "test error")):
        errors = {number: row[tag] for number, row in rows.items() if number and isfinite(row.get(tag, nan))}
        if errors:
            best = min(errors, key=lambda number: errors[number])  # the first of equal ones
            last = errors[max(errors)]
            if errors[best] < last:
                yield f"best: {name} {100 * errors[best]:.2f} % after {of} {best}, {100 * last:.2f} % at the end"
            return


def _value(tag: str, value: float) -> str:
    of = quantity(tag)
    return f"{100 * value:.2f} %" if of is not None and of.unit == "share" else f"{value:.6g}"
