"""`python -m benchmarks.epoch`: what an epoch of the project costs, beside programs that do the same.

Prints tables of ratios and writes docs/benchmarks.md; see there for what is measured. All of it takes 15 to 25 minutes;
--quick measures width 256 and batch size 64 only, in five to ten, and writes no page.
"""

import argparse
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path

import torch

from benchmarks import growth, page, tables
from benchmarks.case import ROOT, Case
from benchmarks.floor import Peaks
from benchmarks.pairs import Effort, measured
from benchmarks.sides import quietly
from ireg.system.terminal import as_command, make_console

OPTIMIZERS = ("sgd", "rmsprop", "adam")
WIDTHS = (256, 512)
BATCH_SIZES = (16, 64, 256)
HEADLINE = (256, 64)
MAIN = Effort(epochs=3, skipped=1, min_turns=5, max_turns=5, seconds=0, ordinary_turns=3, theory_turns=3)
OTHERS = Effort(epochs=1, skipped=0, min_turns=2, max_turns=4, seconds=10, ordinary_turns=1, theory_turns=0)


def main() -> None:
    arguments = _arguments()
    quietly()
    torch.set_num_interop_threads(1)
    start = time.perf_counter()
    threads: list[int] = list(dict.fromkeys(arguments.threads))
    base = Case(optimizer="sgd", threads=threads[0], extra=tuple(arguments.overrides))
    peaks, results = Peaks(), []
    for case in _cases(base, arguments.optimizers, threads, quick=arguments.quick):
        peaks.look(case.threads)
        results.append(measured(case, MAIN if (case.width, case.batch_size) == HEADLINE else OTHERS))
    seconds, memory = (None, []) if arguments.quick else (growth.seconds(base), growth.memory(base))
    for number in threads:
        peaks.look(number)
    findings = page.Findings(
        results=results,
        peaks=peaks.rates,
        command=_command(),
        growth=seconds,
        memory=memory,
    )
    _show(findings)
    output = arguments.output or (None if arguments.quick else ROOT / "docs" / "benchmarks.md")
    for path in page.write(findings, output) if output else []:
        print(f"wrote {path}", file=sys.stderr)
    print(f"{time.perf_counter() - start:.0f} s in all", file=sys.stderr)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="width 256 and batch size 64 only, no growth, no memory")
    parser.add_argument("--optimizers", nargs="+", choices=OPTIMIZERS, default=OPTIMIZERS)
    parser.add_argument(
        "--threads",
        nargs="+",
        type=int,
        default=[1, os.cpu_count() or 1],
        help="of torch: width 256 and batch size 64 with each of these numbers, all else with the first "
        "(default: 1, and all cores)",
    )
    parser.add_argument("--output", type=Path, help="the page (default docs/benchmarks.md; with --quick none)")
    parser.add_argument("overrides", nargs="*", help="further configuration, like terms.method=loop")
    return parser.parse_args()


def _command() -> str:
    """Return the command as it was typed."""
    return " ".join(["python -m benchmarks.epoch", *sys.argv[1:]]) if sys.argv[1:] else "make bench"


def _cases(base: Case, optimizers: Sequence[str], threads: Sequence[int], *, quick: bool) -> list[Case]:
    """List the cases, the headline first, which matters most."""
    others = [] if quick else [shape for shape in product(WIDTHS, BATCH_SIZES) if shape != HEADLINE]
    return [
        replace(base, optimizer=optimizer, width=width, batch_size=batch_size, threads=number)
        for (width, batch_size), number in [*product([HEADLINE], threads), *product(others, threads[:1])]
        for optimizer in optimizers
    ]


def _show(findings: page.Findings) -> None:
    console = make_console(width=160)
    console.print(tables.epochs(findings.results, findings.peaks).rich())
    console.print(tables.passes(findings.results, findings.peaks).rich())
    console.print(tables.theory(findings.results).rich())
    if findings.memory:
        console.print(tables.memory(findings.memory).rich())
    console.print(page.machine(findings.peaks))


if __name__ == "__main__":
    with as_command():
        main()
