"""`python -m benchmarks.epoch`: what an epoch of the project costs, side by side with other ways to write it.

Prints tables of ratios and writes docs/benchmarks.md; see there for what is measured. All of it takes 15 to 25
minutes on one core; --quick measures width 256 and batch size 64 only, in three to six, and writes no page.
"""

import argparse
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path

import torch
from rich.console import Console

from benchmarks import growth, page, tables
from benchmarks.case import ROOT, Case
from benchmarks.floor import Peak
from benchmarks.pairs import Effort, measured
from benchmarks.sides import quietly

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
    torch.set_num_threads(arguments.threads)
    start = time.perf_counter()
    base = Case(optimizer="sgd", threads=arguments.threads, extra=tuple(arguments.overrides))
    peak, results = Peak(), []
    for case in _cases(base, arguments.optimizers, quick=arguments.quick):
        peak.look()
        results.append(measured(case, MAIN if (case.width, case.batch_size) == HEADLINE else OTHERS))
    seconds, memory = (None, []) if arguments.quick else (growth.seconds(base), growth.memory(base))
    peak.look()
    findings = page.Findings(
        results=results,
        peak=peak.flops_per_second,
        threads=arguments.threads,
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
    parser.add_argument("--threads", type=int, default=1, help="of torch (default 1)")
    parser.add_argument("--output", type=Path, help="the page (default docs/benchmarks.md; with --quick none)")
    parser.add_argument("overrides", nargs="*", help="further configuration, like terms.method=loop")
    return parser.parse_args()


def _command() -> str:
    """What was typed."""
    return " ".join(["python -m benchmarks.epoch", *sys.argv[1:]]) if sys.argv[1:] else "make bench"


def _cases(base: Case, optimizers: Sequence[str], *, quick: bool) -> list[Case]:
    """The headline first: it matters most."""
    shapes = sorted(product(WIDTHS, BATCH_SIZES), key=lambda shape: shape != HEADLINE)
    return [
        replace(base, optimizer=optimizer, width=width, batch_size=batch_size)
        for width, batch_size in (shapes[:1] if quick else shapes)
        for optimizer in optimizers
    ]


def _show(findings: page.Findings) -> None:
    console = Console(width=160)
    console.print(tables.epochs(findings.results, findings.peak).rich())
    console.print(tables.passes(findings.results, findings.peak).rich())
    console.print(tables.theory(findings.results).rich())
    if findings.memory:
        console.print(tables.memory(findings.memory).rich())
    console.print(page.machine(findings.threads, findings.peak))


if __name__ == "__main__":
    main()
