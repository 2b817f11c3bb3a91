"""`python -m ireg.basins RUN …`: barriers between forks of training.

From each run's checkpoint, optimizers at one effective rate train in several orders to one training loss.
"""

from __future__ import annotations

import argparse
import math
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ireg.runs.trust import add_options, trust_of
from ireg.system.command import framed, run_as_process
from ireg.system.errors import UserError, in_one_line
from ireg.system.files import below


@framed
def main(arguments: Sequence[str] | None = None) -> int:
    """Measure the barriers of runs."""
    _measure(_parser().parse_args(arguments))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m ireg.basins",
        description="From each run's checkpoint train forks: optimizers at one effective rate, each in several orders, "
        "to one training loss. Measure the barriers between them, also after matching hidden units. Writes "
        "basins.json, .csv and .png.",
    )
    parser.add_argument("runs", metavar="RUN", nargs="+", type=Path, help="a run's folder, or a sweep's: all its runs")
    parser.add_argument(
        "--optimizers",
        nargs="+",
        default=["sgd", "momentum", "adam"],
        metavar="NAME",
        help="of the forks (default: sgd momentum adam)",
    )
    parser.add_argument("--orders", type=int, default=2, metavar="N", help="of each optimizer (default: 2)")
    parser.add_argument("--loss", type=float, default=0.3, metavar="C", help="training loss of the ends (default: 0.3)")
    parser.add_argument("--lr", type=float, metavar="LR", help="effective rate η_e of the forks (default: the run's)")
    parser.add_argument("--epochs", type=int, default=300, metavar="N", help="at most, for a fork (default: 300)")
    parser.add_argument(
        "--output", type=Path, metavar="DIR", help="where to write (default: RUN/basins; of several runs ./basins)"
    )
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    parser.add_argument(
        "--processes", type=int, default=cores, metavar="N", help=f"how many forks at once (default: {cores})"
    )
    add_options(parser)
    return parser


def _check(options: argparse.Namespace) -> None:
    from ireg.optim.switch import FIRST

    unknown = [name for name in options.optimizers if name not in FIRST]
    for wrong, line in (
        (bool(unknown), f"--optimizers {' '.join(unknown)}: must be of {', '.join(FIRST)}"),
        (len(set(options.optimizers)) != len(options.optimizers), "--optimizers: each must come once"),
        (options.orders < 2, f"--orders {options.orders}: must be at least 2, for the noise floor"),
        (not 0 < options.loss < math.inf, f"--loss {options.loss:g}: must be a finite number above 0, like 0.3"),
        (
            options.lr is not None and not 0 < options.lr < math.inf,
            f"--lr {options.lr}: must be a finite number above 0",
        ),
        (options.epochs < 1, f"--epochs {options.epochs}: must be at least 1"),
        (options.processes < 1, f"--processes {options.processes}: must be at least 1"),
    ):
        if wrong:
            raise UserError(line)


def _measure(options: argparse.Namespace) -> None:
    """Measure all runs, write the files, and print the table.

    Raises:
        UserError: an option or a run that cannot be measured; of several runs those are passed over.
    """
    # Imported late: torch and lightning take seconds, which `--help` need not wait for.
    from ireg.basins import study
    from ireg.drift.from_run import find_runs

    _check(options)
    folders = find_runs(options.runs)
    together = options.output
    if together is None and len(folders) > 1:
        together = Path("basins")
    if together is not None:
        study.require_own_files(together)
    results = []
    for folder in folders:
        try:
            output = below(folder, "basins") if together is None else together / folder.name
            results.append(_result(folder, output, options))
        except (UserError, OSError) as error:
            if len(folders) == 1:
                raise
            print(f"passed over: {in_one_line(error)}", file=sys.stderr)
    if not results:
        raise UserError("none of the runs can be measured")
    paths = [] if together is None else study.write(results, together)
    print(study.text(results))
    for path in paths:
        print(f"wrote {path}")


def _result(folder: Path, output: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Return what is measured of a run, or was already.

    Results with the same options are read from its output folder.
    """
    from ireg.basins import study
    from ireg.drift.from_run import load
    from ireg.drift.kept import kept_or_measured

    start = load(folder, seed=0, trust=trust_of(options))
    chosen = study.options(start, options.optimizers, options.orders, options.loss, options.lr, options.epochs)
    return kept_or_measured(
        output,
        study.FILES[0],
        chosen,
        lambda: study.study(start, chosen, processes=options.processes),
        require_own_files=study.require_own_files,
        write=study.write,
        text=study.text,
    )


if __name__ == "__main__":
    run_as_process(main)
