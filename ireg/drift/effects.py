"""What finite steps do, at any rate: an epoch of the optimizer against one with small steps.

Of C, ‖ḡ‖² and Q the logarithm is taken, at the mean of the orders' ends and as the mean over the ends. The references
take r times as many steps, r times smaller, with their memory kept or shrinking (`ireg.drift.small_steps`). Their
values are extrapolated to 1/r = 0 by the straight line in 1/r through the two finest. Effects are the plain optimizer's
logarithm less that limit:

- at equal time: after the time of one epoch;
- at equal C: where the reference has the plain optimizer's C. Each reference is known at 1/8, 1/4, 1/2 and all of the
  epoch, as far as r allows. Between them ln ‖ḡ‖² and ln Q against ln C are straight lines, and the outer lines extend
  beyond. The start is not used: the noise of the minibatches before it has put it off the reference's path, and Q
  there may be a multiple of what it is after a few small steps. `position` says where on that path the reference has
  that C: 0 at the start, 1 at the end of the epoch, outside of [0, 1] extrapolated.

Below 0 the finite steps lower the quantity.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from ireg.drift.orders import QUANTITIES, Stop, follow, measure, stops_of
from ireg.drift.problem import Problem
from ireg.statistics import Estimate, Sample, jackknife, limit
from ireg.system.errors import UserError
from ireg.system.parallel import Workers

MEASURING = 0.6
"""Epochs of training that measuring at one point costs, about."""
PLACES = ("mean", "ends")
FEW = 8
"""The finest steps of which many orders are taken."""
Record = Mapping[str, float]
"""Logarithms by `place/stop/quantity`."""


def orders_of(refinement: int, orders: int) -> int:
    """Return how many orders a refinement takes: half of the plain ones, even, and at least 4.

    Small steps have less noise. Of steps more than 8 times smaller 4 orders are enough, for the same reason.
    """
    if refinement == 1:
        return orders
    return max(4, 2 * math.ceil(orders / 4)) if refinement <= FEW else 4


def cost(refinements: Sequence[int], orders: int) -> float:
    """Return the work of `samples` and `follow_all`, in epochs of training."""
    work = 0.0
    for refinement in refinements:
        count, stops = orders_of(refinement, orders), len(stops_of(refinement))
        work += count * (refinement + MEASURING * stops) + MEASURING * stops * (count // 2 + 1)
    return work


def follow_all(
    workers: Workers[Problem], refinements: Sequence[int], orders: int, memory: str = "kept"
) -> dict[int, list[list[Stop]]]:
    """Follow every order of every refinement.

    Args:
        workers: do the work.
        refinements: 1 is the plain optimizer.
        orders: of the plain optimizer; see `orders_of`.
        memory: see `ireg.drift.small_steps`.

    Returns:
        By refinement, the stops of each order.

    Raises:
        UserError: weights that are not finite.
    """
    tasks = [(r, order, memory) for r in refinements for order in range(orders_of(r, orders))]
    work = [r + MEASURING * len(stops_of(r)) for r, *_ in tasks]
    by_refinement: dict[int, list[list[Stop]]] = {r: [] for r in refinements}
    for (refinement, order, _), stops in zip(tasks, workers.map(follow, tasks, work=work), strict=True):
        if not all(math.isfinite(value) and value > 0 for stop in stops for value in stop.values):
            raise UserError(f"order {order} with steps {refinement} times smaller: its loss is not a finite number > 0")
        by_refinement[refinement].append(stops)
    return by_refinement


def samples(workers: Workers[Problem], followed: Mapping[int, Sequence[Sequence[Stop]]]) -> dict[int, Sample[Record]]:
    """Return the records of each refinement: of all pairs of orders, and of all but each one in turn.

    Args:
        workers: measure at the means.
        followed: of `follow_all`.
    """
    return {refinement: _sample(workers, orders) for refinement, orders in followed.items()}


def small_steps(samples: Mapping[int, Sample[Record]]) -> dict[str, Estimate]:
    """Estimate the effects of finite steps and their parts, with standard errors over pairs of orders.

    Args:
        samples: by refinement, 1 being the plain optimizer.
    """
    return jackknife(effects, samples)


def _sample(workers: Workers[Problem], orders: Sequence[Sequence[Stop]]) -> Sample[Record]:
    pairs = range(len(orders) // 2)
    stops = range(len(orders[0]))

    def mean(stop: int, values: Callable[[Stop], Tensor], left_out: int | None) -> Tensor:
        return torch.stack([values(line[stop]) for i, line in enumerate(orders) if i // 2 != left_out]).mean(0)

    cases = [(left_out, stop) for left_out in (None, *pairs) for stop in stops]
    means = [(mean(stop, lambda at: at.weights, left_out),) for left_out, stop in cases]
    measured = workers.map(measure, means, work=[MEASURING] * len(means))
    records: dict[int | None, dict[str, float]] = {}
    for (left_out, stop), values in zip(cases, measured, strict=True):
        record = records.setdefault(left_out, {})
        of_ends = mean(stop, lambda at: torch.tensor(at.values, dtype=torch.float64), left_out)
        for name, at_mean, of_end in zip(QUANTITIES, values, of_ends, strict=True):
            record[f"mean/{stop}/{name}"] = math.log(at_mean)
            record[f"ends/{stop}/{name}"] = math.log(of_end)
    return Sample(records[None], [records[pair] for pair in pairs])


def effects(records: Mapping[int, Record]) -> dict[str, float]:
    """Compute logarithms and effects by `place/what/quantity`, from a record of each refinement.

    A refinement of 1 is the plain optimizer. `what` is one of these:

    - `plain`;
    - `r=…`: a reference at equal time;
    - `time`: the effect at equal time;
    - `r=… at equal C`;
    - `equal C`: the effect there;
    - `time moved` and `equal C moved`: by how much the finest reference has changed them, with two references or more;
    - `position`, by place: of the finest.
    """
    references = {refinement: record for refinement, record in sorted(records.items()) if refinement != 1}
    numbers: dict[str, float] = {}

    def compare(place: str, name: str, what: str, ends: Mapping[int, float]) -> None:
        plain = records[1][f"{place}/0/{name}"]
        numbers[f"{place}/{what}/{name}"] = plain - limit(ends)
        if len(ends) > 1:
            coarser = {refinement: ends[refinement] for refinement in sorted(ends)[:-1]}
            numbers[f"{place}/{what} moved/{name}"] = limit(coarser) - limit(ends)

    for place in PLACES:
        plain = {name: records[1][f"{place}/0/{name}"] for name in QUANTITIES}
        numbers |= {f"{place}/plain/{name}": value for name, value in plain.items()}
        for name in QUANTITIES:
            ends = {r: record[f"{place}/{len(stops_of(r)) - 1}/{name}"] for r, record in references.items()}
            numbers |= {f"{place}/r={r}/{name}": value for r, value in ends.items()}
            compare(place, name, "time", ends)
        places = {r: _segment(record, place, r, plain["loss"]) for r, record in references.items()}
        numbers[f"{place}/position/loss"] = _time(max(references), *places[max(references)])
        for name in QUANTITIES[1:]:
            there = {r: _between(record, f"{place}/{{}}/{name}", *places[r]) for r, record in references.items()}
            numbers |= {f"{place}/r={r} at equal C/{name}": value for r, value in there.items()}
            compare(place, name, "equal C", there)
    return numbers


def _segment(record: Record, place: str, refinement: int, loss: float) -> tuple[int, float]:
    """Find the stops between which a reference has this ln C.

    It is the last segment that contains the value or is extended to it, or else what is before the first stop.

    Returns:
        The number of the first of both stops, and the share of the distance to the next; nan if C stays the same.
    """
    for first in reversed(range(len(stops_of(refinement)) - 1)):
        begin, end = record[f"{place}/{first}/loss"], record[f"{place}/{first + 1}/loss"]
        share = (loss - begin) / (end - begin) if begin != end else math.nan
        if share >= 0:
            break
    return first, share


def _time(refinement: int, first: int, share: float) -> float:
    begin, end = (stop / refinement for stop in stops_of(refinement)[first : first + 2])
    return begin + share * (end - begin)


def _between(record: Record, key: str, first: int, share: float) -> float:
    begin, end = record[key.format(first)], record[key.format(first + 1)]
    return begin + share * (end - begin)
