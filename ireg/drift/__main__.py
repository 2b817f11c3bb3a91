"""`python -m ireg.drift RUN`: measure the mean drift of runs.

The drift is over one epoch. Tables are printed; numbers and figure are written.
"""

from __future__ import annotations

import argparse
import math
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ireg.runs.trust import add_options, trust_of
from ireg.system.command import framed, run_as_process
from ireg.system.errors import UserError, in_one_line
from ireg.system.files import below


@framed
def main(arguments: Sequence[str] | None = None) -> int:
    """Measure the drift of runs."""
    _measure(_parser().parse_args(arguments))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m ireg.drift",
        description="From a run's checkpoint take one epoch in many random orders, and compare the mean of its ends "
        "with the same optimizer with small steps, and with the leading flow. Writes drift.json, .csv and .png.",
    )
    parser.add_argument("runs", metavar="RUN", nargs="+", type=Path, help="a run's folder, or a sweep's: all its runs")
    parser.add_argument("--orders", type=int, default=16, metavar="N", help="orders of the minibatches (default: 16)")
    parser.add_argument(
        "--refinements",
        type=int,
        nargs="+",
        default=[2, 4, 8],
        metavar="R",
        help="how many times smaller the references' steps are (default: 2 4 8); with --explicit the smallest",
    )
    parser.add_argument(
        "--shrinking",
        type=int,
        nargs="+",
        metavar="R",
        help="the same of the references whose memory shrinks with the steps (default: as --refinements)",
    )
    parser.add_argument(
        "--flow-lr",
        type=float,
        metavar="LR",
        help="rate at which the drift is compared with the leading flow (default: the run's own)",
    )
    parser.add_argument(
        "--output",
        type=Path,
        metavar="DIR",
        help="where to write (default: RUN/drift); of several runs DIR/RUN, and all together in DIR",
    )
    parser.add_argument("--seed", type=int, default=0, help="of the orders (default: 0)")
    parser.add_argument(
        "--explicit",
        action="store_true",
        help="measure the exchange rate of finite steps and explicit penalty instead; writes explicit.json and .csv",
    )
    parser.add_argument(
        "--step",
        type=float,
        default=0.01,
        metavar="H",
        help="with --explicit, length of the penalty's differences (default: 0.01)",
    )
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    parser.add_argument(
        "--processes", type=int, default=cores, metavar="N", help=f"how many orders at once (default: {cores})"
    )
    add_options(parser)
    return parser


def _measure(options: argparse.Namespace) -> None:
    """Measure all runs, write the files, and print the tables.

    Raises:
        UserError: an option or a run that cannot be measured; of several runs those are passed over.
    """
    # Imported late: torch and lightning take seconds, which `--help` need not wait for.
    from ireg.drift.from_run import find_runs
    from ireg.drift.study import check

    kind = _explicit() if options.explicit else _drift()

    if options.shrinking is None:
        options.shrinking = options.refinements
    check(options.orders, options.refinements, options.shrinking, options.processes, options.seed, options.flow_lr)
    if not 0 < options.step < math.inf:
        raise UserError(f"--step {options.step:g}: must be a finite number above 0, like 0.01")
    folders = find_runs(options.runs)
    if options.output is not None:
        kind.require_own_files(options.output)
    results = []
    for folder in folders:
        try:
            output = below(folder, "drift") if options.output is None else options.output
            if options.output is not None and len(folders) > 1:
                output = options.output / folder.name
            results.append(_result(folder, output, options, kind))
        except (UserError, OSError) as error:
            if len(folders) == 1:
                raise
            print(f"passed over: {in_one_line(error)}", file=sys.stderr)
    if not results:
        raise UserError("none of the runs can be measured")
    paths = kind.write(results, options.output) if options.output is not None and len(results) > 1 else []
    print(kind.text(results))
    for path in paths:
        print(f"wrote {path}")


@dataclass(frozen=True)
class _Kind:
    """What is measured, and how it is written."""

    file: str
    chosen: Callable[[Any, argparse.Namespace], dict[str, Any]]
    study: Callable[..., dict[str, Any]]
    require_own_files: Callable[[Path], None]
    write: Callable[..., list[Path]]
    text: Callable[..., str]


def _drift() -> _Kind:
    from ireg.drift import study, tables

    def chosen(start: Any, given: argparse.Namespace) -> dict[str, Any]:
        return study.options(start, given.orders, given.refinements, given.shrinking, given.seed, given.flow_lr)

    return _Kind("drift.json", chosen, study.study, tables.require_own_files, tables.write, tables.text)


def _explicit() -> _Kind:
    from ireg.drift import explicit

    def chosen(start: Any, given: argparse.Namespace) -> dict[str, Any]:
        return explicit.options(start, given.orders, min(given.refinements), given.step, given.seed)

    return _Kind("explicit.json", chosen, explicit.study, explicit.require_own_files, explicit.write, explicit.text)


def _result(folder: Path, output: Path, options: argparse.Namespace, kind: _Kind) -> dict[str, Any]:
    """Return what is measured of a run, or was already.

    Results with the same options are read from its output folder.
    """
    from ireg.drift.from_run import load
    from ireg.drift.kept import kept_or_measured

    start = load(folder, seed=options.seed, trust=trust_of(options))
    chosen = kind.chosen(start, options)
    return kept_or_measured(
        output,
        kind.file,
        chosen,
        lambda: kind.study(start, chosen, processes=options.processes),
        require_own_files=kind.require_own_files
        if options.output is not None
        else lambda folder: None,  # the run's own
        write=kind.write,
        text=kind.text,
    )


if __name__ == "__main__":
    run_as_process(main)
