"""`python -m ireg.basins RUN …`: measure barriers between forks of training.

From each run's checkpoint, optimizers at one effective rate train in several orders to one training loss.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence

from ireg.drift.instrument import add_run_options
from ireg.known_optimizers import OPTIMIZERS
from ireg.runs.find import find_runs
from ireg.system.command import Parser, framed, run_as_process
from ireg.system.errors import UserError


@framed
def main(arguments: Sequence[str] | None = None) -> int:
    """Measure the barriers of runs."""
    _measure(_parser().parse_args(arguments))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        "basins",
        description="From each run's checkpoint train forks: optimizers at one effective rate, each in several orders, "
        "to one training loss. Measure the barriers between them, also after matching hidden units. Writes "
        "basins.json, .csv and .png.",
    )
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
    parser.set_defaults(seed=0)
    add_run_options(parser, output="(default: RUN/basins; of several runs ./basins)", at_once="forks")
    return parser


def _check(options: argparse.Namespace) -> None:
    first = [name for name, entry in OPTIMIZERS.items() if entry.first]
    unknown = [name for name in options.optimizers if name not in first]
    for wrong, line in (
        (bool(unknown), f"--optimizers {' '.join(unknown)}: must be of {', '.join(first)}"),
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
    find_runs(options.runs)


def _measure(given: argparse.Namespace) -> None:
    _check(given)
    # Imported late: torch and lightning take seconds, which `--help` and a wrong option need not wait for.
    from ireg.basins.study import BASINS

    BASINS.measure(given)


if __name__ == "__main__":
    run_as_process(main)
