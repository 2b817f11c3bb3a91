"""The drift from an optimizer's own steps as an instrument: its options, files and text."""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from ireg.certify.any_optimizer import MakeAt
from ireg.certify.own_step import maker
from ireg.drift.from_run import Start
from ireg.drift.instrument import Instrument, Result, as_json
from ireg.drift.own_steps import Minibatches, of_the_run, own_steps
from ireg.drift.tables import measured, table
from ireg.statistics import NOTHING
from ireg.system.assignments import settings_of
from ireg.system.errors import UserError

HEADER = ("run", "optimizer", "rate", "part", "quantity", "value", "error")
ON_FULL_BATCHES = ("smoothness", "strength", "drift", "predicted", "k", "residual", "integration")
ON_MINIBATCHES = ("added", "noise", "k")


def options(start: Start, given: argparse.Namespace) -> dict[str, Any]:
    """Return the options that the numbers depend on.

    Raises:
        UserError: an argument of the optimizer is not allowed.
    """
    settings = settings_of(given.set, with_rate=True)
    rate = settings.pop("lr", None)
    if rate is not None and (isinstance(rate, bool) or not isinstance(rate, int | float) or not 0 < rate < math.inf):
        raise UserError(f"--set lr={rate}: must be a finite number above 0, like 1e-3")
    if settings and given.optimizer is None:
        raise UserError(f"--set {next(iter(settings))}=…: a run's own optimizer keeps its arguments; name --optimizer")
    return {
        "optimizer": given.optimizer,
        "settings": settings,
        "rate": rate,
        "orders": given.orders,
        "steps": given.full_batch_steps,
        "seed": given.seed,
        "checkpoint": start.ended,
    }


def study(start: Start, options: Mapping[str, Any], *, processes: int) -> dict[str, Any]:
    """Measure the drift from an optimizer's own steps.

    Args:
        start: where.
        options: of `options`.
        processes: is 1: the steps follow each other.

    Raises:
        UserError: the optimizer cannot be made, or the network is too large.
    """
    try:
        make, rate = _made(start, options)
        print(f"{start.folder}: own steps at three rates, and in {options['orders']} orders; one core", file=sys.stderr)
        found = own_steps(start.problem, make, rate, orders=options["orders"], steps=options["steps"])
    except ValueError as error:
        raise UserError(f"{start.folder}: {' '.join(str(error).split())}") from error
    return {
        "run": start.folder.resolve().name,
        "optimizer": options["optimizer"] or start.config.optimizer["name"],
        "rate": rate,
        "batch_size": start.problem.batch_size,
        "epoch": start.epoch,
        "options": dict(options),
        "memory": found.memory,
        "full_batch": [asdict(one) for one in found.full_batch],
        "minibatches": None if found.minibatches is None else _as_json(found.minibatches),
        "reason": found.reason,
        "left_out": found.left_out,
    }


def _made(start: Start, options: Mapping[str, Any]) -> tuple[MakeAt, float]:
    """Return what makes the optimizer at any rate, and the rate."""
    if options["optimizer"] is None:
        make, own = of_the_run(start.problem)
    else:
        make, own = maker(options["optimizer"], options["settings"]), start.config.lr
    return make, own if options["rate"] is None else options["rate"]


def _as_json(found: Minibatches) -> dict[str, Any]:
    estimates = {"added": found.added, "noise": found.noise}
    if found.k is not None:
        estimates["k"] = found.k
    return {"rate": found.rate, "orders": found.orders, "steps": found.steps, "estimates": as_json(estimates)}


def rows(result: Result) -> Iterator[list[Any]]:
    """Yield the tidy table's rows, a number each; those that there are none of are left out."""
    for one in result["full_batch"]:
        for name in ON_FULL_BATCHES:
            if one[name] is not None:
                yield [result["run"], result["optimizer"], one["rate"], "full batches", name, one[name], None]
    if (of := result["minibatches"]) is not None:
        for name, estimate in of["estimates"].items():
            yield [result["run"], result["optimizer"], of["rate"], "minibatches", name, *estimate]


def text(results: Sequence[Result]) -> str:
    """Write the tables for a terminal, and what is left out of them."""
    first = [
        [
            "run",
            "optimizer",
            "memory",
            "rate",
            "steps",
            "smooth",
            "‖c‖/‖F‖",
            "drift",
            "predicted",
            "k",
            "residual",
            "flow",
        ]
    ]
    second = [["run", "optimizer", "rate", "orders", "steps", "added", "noise at order 0", "k"]]
    sentences = []
    for result in results:
        of = [result["run"], result["optimizer"]]
        reasons = [result["reason"], result["left_out"]]
        for one in result["full_batch"]:
            numbers = [NOTHING if one[name] is None else f"{one[name]:.3g}" for name in ON_FULL_BATCHES]
            first.append([*of, str(result["memory"]), f"{one['rate']:g}", str(one["steps"]), *numbers])
            reasons.append(one["reason"])
        if (minibatches := result["minibatches"]) is not None:
            shown = [_shown(minibatches["estimates"].get(name)) for name in ON_MINIBATCHES]
            counts = [str(minibatches[name]) for name in ("orders", "steps")]
            second.append([*of, f"{minibatches['rate']:g}", *counts, *shown])
        sentences += [
            f"{result['run']}, {result['optimizer']}: {reason}" for reason in dict.fromkeys(reasons) if reason
        ]
    parts = []
    if len(first) > 1:
        parts += ["Full batches: drift from the leading flow, and the ramp's; both as shares of the path", table(first)]
    if len(second) > 1:
        parts += ["", "Minibatches: the mean of the ends less the full-batch end, beside F at order 0", table(second)]
    return "\n".join([*parts, *sentences])


def _shown(estimate: Sequence[float] | None) -> str:
    return NOTHING if estimate is None else measured(*estimate)


OWN_STEPS = Instrument(
    name="own_steps",
    folder="drift",
    header=HEADER,
    options=options,
    study=study,
    rows=rows,
    text=text,
    needs_rule=False,
)
"""What `python -m ireg.drift --own-steps` measures."""
