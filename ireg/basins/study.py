"""What is measured of one checkpoint: forks, and the barriers between them."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations
from typing import TYPE_CHECKING, Any

import torch

from ireg.basins.barriers import Curve, Examples, along_line, barrier, distance
from ireg.basins.forks import Fork, fork, rates
from ireg.basins.permutations import layers_of, matched
from ireg.core.functional import couples_examples
from ireg.drift.from_run import Start
from ireg.drift.instrument import Instrument
from ireg.drift.problem import Problem
from ireg.statistics import Interval, mean_interval
from ireg.system.errors import UserError
from ireg.system.parallel import LinesOfProgress, Workers, workers
from ireg.system.terminal import as_shown

if TYPE_CHECKING:
    from matplotlib.figure import Figure

HEADER = ("run", "first", "second", "first_order", "second_order", "matched", "quantity", "value")
WRITTEN = (".4g", ".2g")
"""Digits of means and of half their intervals in the text."""

QUANTITIES = ("train/loss", "train/error", "test/loss", "test/error", "distance")
"""Barriers, and the distance of the ends."""


def options(start: Start, given: argparse.Namespace) -> dict[str, Any]:
    """Return the options that the numbers depend on."""
    return {
        "optimizers": list(given.optimizers),
        "orders": given.orders,
        "loss": given.loss,
        "lr": given.lr,
        "epochs": given.epochs,
        "checkpoint": start.ended,
    }


def study(start: Start, options: Mapping[str, Any], *, processes: int) -> dict[str, Any]:
    """Train the forks of a run, and measure the barriers.

    Args:
        start: the run.
        options: of `options`.
        processes: how many forks at once.

    Returns:
        What `basins.json` holds.

    Raises:
        UserError: a network with BatchNorm, or a fork that does not reach the loss.
    """
    problem, names, orders = start.problem, options["optimizers"], options["orders"]
    if couples_examples(problem.module):
        raise UserError(
            f"{start.folder}: between networks with BatchNorm running statistics are not those of the weights"
        )
    speed = problem.optimizer.memory.effective_rate if options["lr"] is None else options["lr"]
    if problem.optimizer.second_moment is not None and options["lr"] is None:
        raise UserError(
            f"{start.folder}: its optimizer is adaptive; give the effective rate of the forks, like --lr 0.05"
        )
    chosen = rates(problem, tuple(names), speed)
    ends = [(name, order) for name in names for order in range(orders)]
    numbers = {end: position for position, end in enumerate(ends)}
    pairs = list(combinations(ends, 2))
    print(f"{start.folder}: {len(ends)} forks to the loss {options['loss']:g}, {len(pairs)} pairs", file=sys.stderr)
    with workers(problem, processes, LinesOfProgress(float(len(ends)))) as team:
        tasks = [(name, chosen[name], numbers[name, order], options["loss"], options["epochs"]) for name, order in ends]
        forks = dict(zip(ends, team.map(fork, tasks, work=[1.0] * len(tasks)), strict=True))
        measured = _barriers(team, start, pairs, forks)
    return {
        "run": start.folder.resolve().name,
        "epoch": start.epoch,
        "options": dict(options),
        "rates": chosen,
        "forks": [
            {"optimizer": n, "order": o, "loss": forks[n, o].loss, "epochs": forks[n, o].epochs} for n, o in ends
        ],
        "pairs": measured,
    }


End = tuple[str, int]


def _barriers(
    team: Workers[Problem], start: Start, pairs: Sequence[tuple[End, End]], forks: Mapping[End, Fork]
) -> list[dict[str, Any]]:
    """Measure the curves of all pairs, as they are and matched."""
    tasks = [(forks[one], forks[other], start.test) for one, other in pairs]
    team.progress.expect(float(len(tasks)))
    results = team.map(between, tasks, work=[1.0] * len(tasks))
    return [
        {"first": one[0], "second": other[0], "first_order": one[1], "second_order": other[1], **result}
        for (one, other), result in zip(pairs, results, strict=True)
    ]


def between(problem: Problem, one: Fork, other: Fork, test: Any) -> dict[str, Any]:
    """Measure losses and errors between two forks.

    Returns:
        `as_is` and, where hidden units can be matched, `matched`, each with a curve by name and the distance.
    """
    examples = {
        "train": Examples(inputs=problem.inputs, labels=problem.targets),
        "test": Examples(inputs=test[0], labels=test[1]),
    }
    layers = layers_of(problem.module, problem.inputs.ndim)
    ends = (one.params, other.params)
    result = {"as_is": {"curve": along_line(problem.loss, ends, examples), "distance": distance(ends)}}
    if layers is not None:
        near = (one.params, matched(one.params, other.params, layers))
        if all(torch.equal(value, near[1][name]) for name, value in other.params.items()):  # nothing was permuted
            result["matched"] = result["as_is"]
        else:
            result["matched"] = {"curve": along_line(problem.loss, near, examples), "distance": distance(near)}
    return result


def values(result: Mapping[str, Any]) -> dict[str, float]:
    """Return barriers and distance of a pair, `as_is` or `matched`."""
    curve: Curve = result["curve"]
    return {**{name: barrier(along) for name, along in curve.items()}, "distance": result["distance"]}


def _rows(result: Mapping[str, Any]) -> Iterator[list[Any]]:
    """Yield the tidy table's rows, a number each."""
    for pair in result["pairs"]:
        of_pair = [result["run"], *(pair[key] for key in HEADER[1:5])]
        for kind in ("as_is", "matched"):
            for name, value in values(pair[kind]).items() if kind in pair else ():
                yield [*of_pair, kind == "matched", name, value]


def _figure(results: Sequence[Mapping[str, Any]]) -> Figure:
    """Draw the curves; matplotlib is imported only where its failure does no harm."""
    from ireg.analysis.basins import curves

    return curves(results)


def means(results: Sequence[Mapping[str, Any]], kind: str, quantity: str) -> dict[tuple[str, str], Interval]:
    """Return the mean of each two optimizers' pairs, with its interval over runs.

    Pairs of the same optimizer have different orders: they are the noise floor. Of two optimizers those with different
    orders count, too.
    """
    by_pair: dict[tuple[str, str], list[float]] = {}
    for result in results:
        of_run: dict[tuple[str, str], list[float]] = {}
        for pair in result["pairs"]:
            if kind in pair and pair["first_order"] != pair["second_order"]:
                of_run.setdefault((pair["first"], pair["second"]), []).append(values(pair[kind])[quantity])
        for names, single in of_run.items():
            by_pair.setdefault(names, []).append(sum(single) / len(single))
    return {names: mean_interval(single) for names, single in by_pair.items()}


def above_floor(results: Sequence[Mapping[str, Any]], kind: str, quantity: str) -> dict[tuple[str, str], Interval]:
    """Return how far two optimizers' barrier is above the floor, with its interval over runs.

    A run's floor is the mean of both optimizers' own barriers, between other orders.
    """
    single = [means([result], kind, quantity) for result in results]
    by_pair = {}
    for one, other in sorted({names for of_run in single for names in of_run if names[0] != names[1]}):
        floors = [(of_run[one, one].mean + of_run[other, other].mean) / 2 for of_run in single]
        by_pair[one, other] = mean_interval(
            [of_run[one, other].mean - floor for of_run, floor in zip(single, floors, strict=True)]
        )
    return by_pair


def text(results: Sequence[Mapping[str, Any]]) -> str:
    """Write the table for a terminal: means over runs, with intervals."""
    lines = [f"barriers between forks, mean of {len(results)} checkpoints, ± 95 % interval"]
    for kind in ("as_is", "matched"):
        for quantity in QUANTITIES:
            averages, above = means(results, kind, quantity), above_floor(results, kind, quantity)
            for (one, other), interval in averages.items():
                extra = above.get((one, other))
                beyond = "" if extra is None else f"   above the floor: {extra.text(*WRITTEN)}"
                lines.append(f"{kind:<8} {quantity:<12} {one + '–' + other:<20} {interval.text(*WRITTEN)}{beyond}")
    return as_shown("\n".join(lines))


BASINS = Instrument(
    name="basins",
    folder="basins",
    header=HEADER,
    options=options,
    study=study,
    rows=_rows,
    text=text,
    figure=_figure,
    pooled=True,
    indent=None,
)
"""What `python -m ireg.basins` measures."""
