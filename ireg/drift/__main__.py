"""`python -m ireg.drift RUN`: measure the mean drift of runs over one epoch.

It prints tables, and writes numbers and a figure.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence

from ireg.drift.instrument import add_run_options
from ireg.runs.find import find_runs
from ireg.system.command import Parser, framed, run_as_process
from ireg.system.errors import UserError

SMALLEST = 6
"""Orders: three pairs, so that two are left when one is left out."""


@framed
def main(arguments: Sequence[str] | None = None) -> int:
    """Measure the drift of runs."""
    _measure(_parser().parse_args(arguments))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        "drift",
        description="From a run's checkpoint take one epoch in many random orders, and compare the mean of its ends "
        "with the same optimizer with small steps, and with the leading flow. Writes drift.json, .csv and .png.",
    )
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
    parser.add_argument(
        "--own-steps",
        action="store_true",
        help="measure the drift from the optimizer's own steps instead, without a rule; writes own_steps.json and .csv",
    )
    parser.add_argument(
        "--optimizer",
        metavar="CLASS",
        help="the same of another optimizer at the run's weights, by its import path, like torch.optim.Adamax",
    )
    parser.add_argument(
        "--set",
        nargs="+",
        default=[],
        metavar="NAME=VALUE",
        help="with --optimizer its arguments, like betas=[0.9,0.95]; lr=1e-4 is the rate (default: the run's)",
    )
    parser.add_argument(
        "--full-batch-steps",
        type=int,
        metavar="N",
        help="with --own-steps, steps on full batches (default: as many as an epoch has)",
    )
    add_run_options(
        parser, output="(default: RUN/drift); of several runs DIR/RUN, and all together in DIR", at_once="orders"
    )
    return parser


def _measure(given: argparse.Namespace) -> None:
    if given.shrinking is None:
        given.shrinking = given.refinements
    _check(given)
    # Imported late: torch and lightning take seconds, which `--help` and a wrong option need not wait for.
    if given.own_steps or given.optimizer is not None:
        from ireg.drift.own_steps_study import OWN_STEPS

        OWN_STEPS.measure(given)
        return
    from ireg.drift.explicit import EXPLICIT
    from ireg.drift.study import DRIFT

    (EXPLICIT if given.explicit else DRIFT).measure(given)


def _check(given: argparse.Namespace) -> None:
    """Check that every option is in its range, and that there are runs.

    Raises:
        UserError: one is out of its range, or there is no run.
    """
    if given.orders < SMALLEST or given.orders % 2:
        raise UserError(f"--orders {given.orders}: must be even and at least {SMALLEST}; orders come in pairs")
    for option, sizes in (("--refinements", given.refinements), ("--shrinking", given.shrinking)):
        if not sizes or min(sizes) < 2 or len(set(sizes)) != len(sizes):
            numbers = " ".join(map(str, sizes))
            raise UserError(f"{option} {numbers}: must be different integers of at least 2, like 2 4 8")
    if given.processes < 1:
        raise UserError(f"--processes {given.processes}: must be at least 1")
    if given.seed < 0:
        raise UserError(f"--seed {given.seed}: must be at least 0")
    if given.flow_lr is not None and not 0 < given.flow_lr < math.inf:
        raise UserError(f"--flow-lr {given.flow_lr:g}: must be a finite number above 0, like 1e-6")
    if not 0 < given.step < math.inf:
        raise UserError(f"--step {given.step:g}: must be a finite number above 0, like 0.01")
    _check_own_steps(given)
    find_runs(given.runs)


def _check_own_steps(given: argparse.Namespace) -> None:
    """Check the options of the drift from own steps.

    Raises:
        UserError: one is out of its range, or belongs to another measurement.
    """
    if given.own_steps or given.optimizer is not None:
        others = {"--explicit": given.explicit, "--flow-lr": given.flow_lr is not None}
        for option in (name for name, chosen in others.items() if chosen):
            raise UserError(f"{option}: is no option of the drift from own steps; leave it out, and choose --set lr=…")
        if given.full_batch_steps is not None and given.full_batch_steps < 1:
            raise UserError(f"--full-batch-steps {given.full_batch_steps}: must be at least 1")
        return
    for option, chosen in (("--set", given.set), ("--full-batch-steps", given.full_batch_steps is not None)):
        if chosen:
            raise UserError(f"{option}: is of the drift from own steps; add --own-steps or --optimizer CLASS")


if __name__ == "__main__":
    run_as_process(main)
