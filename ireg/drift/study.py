"""Everything that is measured of one run, as plain numbers."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from ireg.drift.equal_time import can_shrink
from ireg.drift.mean_path import FLOW_COST, LeftOut, mean_path, predicted
from ireg.drift.small_steps import cost, follow_all, orders_of, samples, small_steps
from ireg.drift.start import Start
from ireg.drift.statistics import Estimate
from ireg.drift.workers import Progress, Workers, workers
from ireg.errors import UserError

SMALLEST = 6
"""Orders: three pairs, so that two are left when one is left out."""


def check(orders: int, refinements: Sequence[int], shrinking: Sequence[int], processes: int, seed: int) -> None:
    """Check the options.

    Raises:
        UserError: one is out of its range.
    """
    if orders < SMALLEST or orders % 2:
        raise UserError(f"--orders {orders}: must be even and at least {SMALLEST}; orders come in pairs")
    for option, given in (("--refinements", refinements), ("--shrinking", shrinking)):
        if not given or min(given) < 2 or len(set(given)) != len(given):
            numbers = " ".join(map(str, given))
            raise UserError(f"{option} {numbers}: must be different integers of at least 2, like 2 4 8")
    if processes < 1:
        raise UserError(f"--processes {processes}: must be at least 1")
    if seed < 0:
        raise UserError(f"--seed {seed}: must be at least 0")


def options(
    start: Start, orders: int, refinements: Sequence[int], shrinking: Sequence[int], seed: int
) -> dict[str, Any]:
    """What the numbers depend on."""
    return {
        "orders": orders,
        "refinements": sorted(refinements),
        "shrinking": sorted(shrinking) if can_shrink(start.problem.begin()[1]) else None,
        "seed": seed,
        "checkpoint": start.ended,
    }


def study(start: Start, options: Mapping[str, Any], *, processes: int) -> dict[str, Any]:
    """Measure a run's drift; says on standard error what it costs, and how far it is.

    Args:
        start: where.
        options: of `options`.
        processes: how many orders at once.

    Returns:
        What `drift.json` holds: numbers are pairs of value and standard error, null where there is none.

    Raises:
        UserError: weights that are not finite.
    """
    orders = options["orders"]
    references = {"kept": options["refinements"], "shrinking": options["shrinking"]}
    counts = [1, *references["kept"], *(references["shrinking"] or [])]
    whole = cost(counts, orders)
    epochs = sum(refinement * orders_of(refinement, orders) for refinement in counts)
    print(
        f"{start.folder}: {epochs} epochs of training, and measurements as long as {whole - epochs:.0f} more; "
        f"{FLOW_COST:.0f} or more for the leading flow where the expansion holds; {processes} at once",
        file=sys.stderr,
    )
    with workers(start.problem, processes, Progress(whole)) as team:
        found = follow_all(team, [1], orders)
        plain = samples(team, found)
        effects = {
            memory: small_steps(plain | samples(team, follow_all(team, refinements, orders, memory)))
            for memory, refinements in references.items()
            if refinements is not None
        }
        flow = _leading_flow(team, [stops[-1].weights for stops in found[1]])
    settings = start.config
    return {
        "run": start.folder.resolve().name,
        "optimizer": settings.optimizer["name"],
        "lr": settings.lr,
        "batch_size": start.problem.batch_size,
        "epoch": start.epoch,
        "options": dict(options),
        "small_steps": {memory: _plain(effects[memory]) if memory in effects else None for memory in references},
        **flow,
    }


def _leading_flow(team: Workers, plain: Sequence[Tensor]) -> dict[str, Any]:
    """What is predicted, and what was measured against the leading flow or why nothing was."""
    flow: dict[str, Any] = {
        "predicted": {"strength": None, "alignment": None},
        "leading_flow": None,
        "leading_flow_left_out": None,
    }
    try:
        strength, alignment = predicted(team.problem)
        flow["predicted"] = {"strength": strength, "alignment": alignment}
        path = mean_path(team, plain, strength)
        flow["leading_flow"] = {"theory": path.theory, "steps": path.steps, "estimates": _plain(path.estimates)}
    except LeftOut as reason:
        flow["leading_flow_left_out"] = str(reason)
    return flow


def _plain(estimates: Mapping[str, Estimate]) -> dict[str, list[float | None]]:
    """Estimates as JSON has them, which knows no nan."""
    return {
        name: [number if math.isfinite(number) else None for number in estimate] for name, estimate in estimates.items()
    }
