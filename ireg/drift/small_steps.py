"""What finite steps do at any rate: an epoch of the optimizer against the same optimizer with small steps.

Of C, ‖ḡ‖² and Q the logarithm is taken, at the mean of the orders' ends and as the mean over the ends. The references
take r times as many steps, r times smaller (`ireg.drift.equal_time`); their values are extrapolated to 1/r = 0 by a
straight line in 1/r. Effects are the plain optimizer's logarithm less that limit:

- at equal time: after the time of one epoch;
- at equal C: where the reference has the plain optimizer's C. Each reference is known at three points: the start, about
  half of the epoch, and its end; ln ‖ḡ‖² and ln Q against ln C are taken as straight lines between. `position` says
  where it has that C: 0 at the start, 1 at the end of the epoch; outside of [0, 1] it is extrapolated.

Below 0 the finite steps lower the quantity.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from ireg.drift.epochs import QUANTITIES, Stop, follow, measure
from ireg.drift.statistics import Estimate, Sample, jackknife, limit
from ireg.drift.workers import Workers
from ireg.errors import UserError

MEASURING = 0.6
"""Epochs of training that measuring at one point costs, about."""
PLACES = ("mean", "ends")
Record = Mapping[str, float]
"""Logarithms by `place/stop/quantity`; stop 0 is the start, the plain optimizer has one more, the others two."""


def orders_of(refinement: int, orders: int) -> int:
    """How many orders a refinement takes: half of the plain ones, even, and at least 4; small steps have less noise."""
    return orders if refinement == 1 else max(4, 2 * math.ceil(orders / 4))


def cost(refinements: Sequence[int], orders: int) -> float:
    """The whole work, in epochs of training."""
    work = 0.0
    for refinement in (1, *refinements):
        count = orders_of(refinement, orders)
        stops = 1 if refinement == 1 else 2
        work += count * (refinement + MEASURING * stops) + MEASURING * stops * (count // 2 + 1)
    return work + MEASURING


def follow_all(workers: Workers, refinements: Sequence[int], orders: int) -> dict[int, list[list[Stop]]]:
    """The stops of every order, by refinement, 1 included.

    Raises:
        UserError: weights that are not finite.
    """
    tasks = [(r, order) for r in (1, *refinements) for order in range(orders_of(r, orders))]
    work = [r + MEASURING * (1 if r == 1 else 2) for r, _ in tasks]
    found: dict[int, list[list[Stop]]] = {r: [] for r in (1, *refinements)}
    for (refinement, order), stops in zip(tasks, workers.map(follow, tasks, epochs=work), strict=True):
        if not all(math.isfinite(value) and value > 0 for stop in stops for value in stop.values):
            raise UserError(f"order {order} with steps {refinement} times smaller: its loss is not a finite number > 0")
        found[refinement].append(stops)
    return found


def small_steps(workers: Workers, found: Mapping[int, Sequence[Sequence[Stop]]]) -> dict[str, Estimate]:
    """The effects of finite steps, and what they are made of, with standard errors over pairs of orders.

    Args:
        workers: measure at the means.
        found: of `follow_all`.
    """
    (start,) = workers.map(measure, [(workers.problem.weights,)], epochs=[MEASURING])
    return jackknife(effects, {refinement: _sample(workers, orders, start) for refinement, orders in found.items()})


def _sample(workers: Workers, orders: Sequence[Sequence[Stop]], start: Sequence[float]) -> Sample[Record]:
    """The records of all pairs of orders, and of all but each one in turn."""
    known = dict(zip(QUANTITIES, start, strict=True))
    begun = {f"{place}/0/{name}": math.log(value) for place in PLACES for name, value in known.items()}
    pairs = range(len(orders) // 2)
    stops = range(len(orders[0]))

    def mean(stop: int, values: Callable[[Stop], Tensor], left_out: int | None) -> Tensor:
        return torch.stack([values(line[stop]) for i, line in enumerate(orders) if i // 2 != left_out]).mean(0)

    cases = [(left_out, stop) for left_out in (None, *pairs) for stop in stops]
    means = [(mean(stop, lambda at: at.weights, left_out),) for left_out, stop in cases]
    measured = workers.map(measure, means, epochs=[MEASURING] * len(means))
    records: dict[int | None, dict[str, float]] = {}
    for (left_out, stop), values in zip(cases, measured, strict=True):
        record = records.setdefault(left_out, dict(begun))
        of_ends = mean(stop, lambda at: torch.tensor(at.values, dtype=torch.float64), left_out)
        for name, at_mean, of_end in zip(QUANTITIES, values, of_ends, strict=True):
            record[f"mean/{stop + 1}/{name}"] = math.log(at_mean)
            record[f"ends/{stop + 1}/{name}"] = math.log(of_end)
    return Sample(records[None], [records[pair] for pair in pairs])


def effects(records: Mapping[int, Record]) -> dict[str, float]:
    """Logarithms and effects by `place/what/quantity`, from a record of each refinement, 1 being the plain optimizer.

    `what` is `plain`, `r=…` (a reference at equal time), `time` (effect at equal time), `r=… at equal C` and
    `equal C` (effect there); `position` by place, of the finest reference.
    """
    references = {refinement: record for refinement, record in records.items() if refinement != 1}
    numbers: dict[str, float] = {}
    for place in PLACES:
        plain = {name: records[1][f"{place}/1/{name}"] for name in QUANTITIES}
        numbers |= {f"{place}/plain/{name}": value for name, value in plain.items()}
        for name in QUANTITIES:
            ends = {refinement: record[f"{place}/2/{name}"] for refinement, record in references.items()}
            numbers |= {f"{place}/r={refinement}/{name}": value for refinement, value in ends.items()}
            numbers[f"{place}/time/{name}"] = plain[name] - limit(ends)
        places = {r: _segment(record, place, plain["loss"]) for r, record in references.items()}
        first, share = places[max(references)]
        numbers[f"{place}/position/loss"] = _time(first, share, max(references))
        for name in QUANTITIES[1:]:
            there = {r: _between(record, f"{place}/{{}}/{name}", *places[r]) for r, record in references.items()}
            numbers |= {f"{place}/r={r} at equal C/{name}": value for r, value in there.items()}
            numbers[f"{place}/equal C/{name}"] = plain[name] - limit(there)
    return numbers


def _segment(record: Record, place: str, loss: float) -> tuple[int, float]:
    """Between which stops a reference has this ln C: the first one's number, and the share of the way to the next.

    The second half of the epoch and what is beyond, or else the first half and what is before; nan if C stays the same.
    """
    for first in (1, 0):
        begin, end = record[f"{place}/{first}/loss"], record[f"{place}/{first + 1}/loss"]
        share = (loss - begin) / (end - begin) if begin != end else math.nan
        if share >= 0:
            break
    return first, share


def _time(first: int, share: float, refinement: int) -> float:
    half = refinement // 2 / refinement
    return half + share * (1 - half) if first == 1 else share * half


def _between(record: Record, key: str, first: int, share: float) -> float:
    begin, end = record[key.format(first)], record[key.format(first + 1)]
    return begin + share * (end - begin)
