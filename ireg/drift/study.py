"""Everything that is measured of one run, as plain numbers."""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from ireg.catalogue import VALID_STRENGTH
from ireg.drift.curvature import CURVATURE_COST, curvature
from ireg.drift.effects import cost, follow_all, orders_of, samples, small_steps
from ireg.drift.finite_step import interval
from ireg.drift.from_run import Start
from ireg.drift.instrument import Instrument, as_json
from ireg.drift.leading_flow import FLOW_COST, LeftOut, MeanDrift, drift_from_leading_flow, predicted
from ireg.drift.leading_flow_adaptive import at_rate, can_be_slow, drift_of_settled_weights
from ireg.drift.problem import Problem
from ireg.drift.small_steps import can_shrink
from ireg.drift.tables import EARLIER_HEADER, HEADER, figure, rows, text
from ireg.statistics import Estimate
from ireg.system.parallel import LinesOfProgress, Workers, workers


def options(start: Start, given: argparse.Namespace) -> dict[str, Any]:
    """Return the options that the numbers depend on."""
    return {
        "orders": given.orders,
        "refinements": sorted(given.refinements),
        "shrinking": sorted(given.shrinking) if can_shrink(start.problem.begin()[1]) else None,
        "seed": given.seed,
        "flow_lr": given.flow_lr,
        "checkpoint": start.ended,
    }


def study(start: Start, options: Mapping[str, Any], *, processes: int) -> dict[str, Any]:
    """Measure a run's drift, and report its cost and progress on standard error.

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
    with workers(start.problem, processes, LinesOfProgress(whole)) as team:
        followed = follow_all(team, [1], orders)
        plain = samples(team, followed)
        effects = {
            memory: small_steps(plain | samples(team, follow_all(team, refinements, orders, memory)))
            for memory, refinements in references.items()
            if refinements is not None
        }
        at_start = _predicted(start.problem)
        curved = _curvature(team)
        if options["flow_lr"] is None:
            flow = _leading_flow(team, orders, at_start, [stops[-1].weights for stops in followed[1]])
    if options["flow_lr"] is not None:
        slow = at_rate(start.problem, options["flow_lr"])
        with workers(slow, processes, LinesOfProgress(0)) as team:
            flow = _leading_flow(team, orders, _predicted(slow))
    settings = start.config
    return {
        "run": start.folder.resolve().name,
        "optimizer": settings.optimizer["name"],
        "lr": settings.lr,
        "batch_size": start.problem.batch_size,
        "epoch": start.epoch,
        "options": dict(options),
        "small_steps": {memory: as_json(effects[memory]) if memory in effects else None for memory in references},
        "curvature": curved,
        "predicted": dict(zip(("strength", "alignment"), at_start[0] or (None, None), strict=True)),
        **flow,
    }


Predicted = tuple[tuple[float, float] | None, str | None]
"""Strength and alignment, or why there are none."""


def _predicted(problem: Problem) -> Predicted:
    try:
        return predicted(problem), None
    except LeftOut as reason:
        return None, str(reason)


def _curvature(team: Workers[Problem]) -> dict[str, float] | None:
    """Measure the curvature, see `ireg.drift.curvature`.

    Returns:
        Its numbers by name; None where a flow of ∇C is not what the optimizer follows.
    """
    if team.subject.optimizer.second_moment is not None or not team.subject.has_loss_of_examples:
        return None
    team.progress.expect(CURVATURE_COST)
    (numbers,) = team.map(curvature, [()], work=[CURVATURE_COST])
    return dict(numbers)


def _leading_flow(
    team: Workers[Problem], orders: int, prediction: Predicted, plain: Sequence[Tensor] | None = None
) -> dict[str, Any]:
    """Return what was measured against the leading flow, or why nothing was."""
    numbers, reason = prediction
    if numbers is None:
        return {"leading_flow": None, "leading_flow_left_out": reason}
    try:
        path = mean_drift(team, orders, numbers[0], plain)
    except LeftOut as left_out:
        return {"leading_flow": None, "leading_flow_left_out": str(left_out)}
    rate = team.subject.optimizer.lr
    result = {
        "lr": rate,
        "theory": path.theory,
        "steps": path.steps,
        "estimates": as_json(path.estimates),
        "finite_step": {
            "rate": rate,
            "interval": _interval(path.finite["k"], orders),
            "estimates": as_json(path.finite),
        },
        "noise": None if path.noise is None else {"rate": 0.0, "estimates": as_json(path.noise)},
    }
    return {"leading_flow": result, "leading_flow_left_out": None}


def _interval(estimate: Estimate, orders: int) -> list[float] | None:
    """Return the coefficient's interval of 95 % over pairs of orders; None where there is none."""
    ends = interval(estimate, orders // 2)
    return list(ends) if all(map(math.isfinite, ends)) else None


def mean_drift(
    team: Workers[Problem], orders: int, strength: float, plain: Sequence[Tensor] | None = None
) -> MeanDrift:
    """Measure the drift from the leading flow, by the method that serves the optimizer.

    Args:
        team: does the work.
        orders: how many.
        strength: predicted.
        plain: the ends of the orders from the checkpoint's own state; plain SGD, which has none, takes them if given.

    Raises:
        LeftOut: the expansion does not hold, the slow manifold is not known, or there is no leading flow or it is too
            stiff.
    """
    if not strength < VALID_STRENGTH:
        raise LeftOut(
            f"the predicted strength is {strength:.2g}, and from {VALID_STRENGTH:g} on the expansion does not hold"
        )
    if team.subject.optimizer.divides_by is None:
        return drift_from_leading_flow(team, orders, strength, plain)
    if not can_be_slow(team.subject):
        raise LeftOut("with momentum after the division, or weight decay, its slow manifold is not known here")
    return drift_of_settled_weights(team, orders)


DRIFT = Instrument(
    name="drift",
    folder="drift",
    header=HEADER,
    known_by=EARLIER_HEADER,
    options=options,
    study=study,
    rows=rows,
    text=text,
    figure=figure,
)
"""What `python -m ireg.drift` measures."""
