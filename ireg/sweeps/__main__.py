"""`python -m ireg sweep status FOLDER` shows a sweep's runs, `retry FOLDER` repeats the failed ones."""

import argparse
import shlex
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console, RenderableType
from rich.live import Live

from ireg.runs.trust import NOTHING_MORE, Trust, add_options, as_arguments, trust_of
from ireg.sweeps.progress import ProgressDisplay
from ireg.sweeps.report import report
from ireg.sweeps.table import Seen, look, render
from ireg.system.command import Parser, environment_of_children, framed, module_as_command, run_as_process
from ireg.system.files import is_reached_by_a_link
from ireg.system.terminal import make_console

REFRESH_SECONDS = 2.0
"""Between two looks at the folders."""

POLL_SECONDS = 0.1
"""Between two looks at whether a process has ended."""


@framed
def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code.

    Raises:
        UserError: the folder holds no runs, or a status cannot be read.
    """
    parser = Parser("sweep", description="Look after the runs of a sweep's folder.")
    commands = parser.add_subparsers(dest="command", required=True)
    status = commands.add_parser(
        "status",
        help="show how the runs stand",
        description="Show a table of the runs in FOLDER, from the folders alone: other processes and machines may be "
        "at work there. On a terminal it is kept up to date until no run is at work; elsewhere it is printed once.",
    )
    status.add_argument("--once", action="store_true", help="print it once, on a terminal, too")
    retry = commands.add_parser(
        "retry",
        help="do the failed runs again",
        description="Do the failed runs in FOLDER again, each from its last checkpoint, in processes of their own on "
        "this machine. Exit code 1 if one has failed again.",
    )
    retry.add_argument("--jobs", type=_positive, default=1, metavar="N", help="so many at once (default: 1)")
    add_options(retry)
    for command in (status, retry):
        command.add_argument("folder", metavar="FOLDER", type=Path, help="a sweep's folder, like multirun/NAME")
    options = parser.parse_args(arguments)
    if options.command == "status":
        return show(options.folder, once=options.once)
    return do_again(options.folder, at_once=options.jobs, trust=trust_of(options))


def _positive(text: str) -> int:
    if not text.isdigit() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"{text}: must be an integer of at least 1")
    return int(text)


def show(folder: Path, *, once: bool, console: Console | None = None) -> int:
    """Show the table, on a terminal until no run is at work."""
    console = console or make_console()
    runs = look(folder)
    if once or not console.is_terminal:
        if not console.is_terminal:  # nothing is folded where there is no width
            console = make_console(file=console.file, width=make_console(width=10_000).measure(render(runs)).maximum)
        console.print(render(runs))
        return 0
    with Live(_fitting(runs, console), console=console, auto_refresh=False) as live:
        while any(run.state == "running" for run in runs):
            time.sleep(REFRESH_SECONDS)
            runs = look(folder)
            live.update(_fitting(runs, console), refresh=True)
    return 0


def _fitting(runs: Sequence[Seen], console: Console) -> RenderableType:
    """Return as many rows as a terminal has room for, since more would make it flicker."""
    return render(runs, rows=max(console.height - 8, 1))


def do_again(folder: Path, *, at_once: int, trust: Trust = NOTHING_MORE) -> int:
    """Do the failed runs again, report on all, and return 1 if one has failed again."""
    failed = [run for run in look(folder) if run.state == "failed"]
    elsewhere = [run for run in failed if is_reached_by_a_link(folder, run.folder)]
    for run in elsewhere:
        print(f"{run.folder}: not done again, as a link leads there; ireg run {shlex.quote(str(run.folder.resolve()))}")
    failed = [run for run in failed if run not in elsewhere]
    if not failed and elsewhere:
        return 1
    if not failed:
        print(f"{folder}: no run has failed")
        return 0
    display = ProgressDisplay([run.folder for run in failed])
    display.start()
    try:
        codes = _in_processes([run.folder for run in failed], at_once, trust)
    finally:
        display.stop()
        report(folder)
    return int(any(codes))


def _in_processes(folders: Sequence[Path], at_once: int, trust: Trust = NOTHING_MORE) -> list[int]:
    """Do runs again in processes, which end with this one; return their exit codes."""
    waiting = list(folders)
    processes: list[subprocess.Popen[bytes]] = []
    try:
        while waiting or any(process.poll() is None for process in processes):
            if waiting and sum(process.poll() is None for process in processes) < at_once:
                command = [
                    *module_as_command("ireg.run"),
                    str(waiting.pop(0)),
                    "--quiet",
                    *as_arguments(trust),
                ]
                processes.append(subprocess.Popen(command, env=environment_of_children()))
            else:
                time.sleep(POLL_SECONDS)
    finally:
        for process in processes:
            process.terminate()  # which a process that has ended does not mind
        codes = [process.wait() for process in processes]
    return codes


if __name__ == "__main__":
    run_as_process(main)
