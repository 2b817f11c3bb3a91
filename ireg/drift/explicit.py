"""The exchange rate of explicit and implicit regularization as an instrument: its files and its text."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from ireg.drift.exchange import exchange
from ireg.drift.from_run import Start
from ireg.drift.instrument import Instrument, Result, as_json
from ireg.statistics import NOTHING, plus_minus
from ireg.system.terminal import as_shown

HEADER = ("run", "optimizer", "lr", "batch_size", "method", "quantity", "value", "error")


@dataclass(frozen=True, kw_only=True)
class Exchanged:
    """What is measured of a run.

    Attributes:
        run: its folder's name.
        optimizer: of the run.
        lr: of the run.
        batch_size: of the run.
        epoch: epochs it was trained for.
        imitates: whether plain SGD with a penalty imitates momentum, in place of larger steps.
        options: of `options`.
        exchange: by method of the penalty and name, value and standard error; None where there is none.
    """

    run: str
    optimizer: str
    lr: float
    batch_size: int
    epoch: int
    imitates: bool
    options: dict[str, Any]
    exchange: dict[str, dict[str, list[float | None]]]


def study(start: Start, options: Mapping[str, Any], *, processes: int) -> dict[str, Any]:
    """Measure a run's exchange rate.

    Args:
        start: where.
        options: of `options`.
        processes: how many orders at once.

    Returns:
        An `Exchanged` as `explicit.json` holds it.

    Raises:
        UserError: see `exchange`.
    """
    measured = exchange(
        start.problem,
        orders=options["orders"],
        refinement=options["refinement"],
        step=options["step"],
        processes=processes,
    )
    return asdict(
        Exchanged(
            run=start.folder.resolve().name,
            optimizer=start.config.optimizer["name"],
            lr=start.config.lr,
            batch_size=start.problem.batch_size,
            epoch=start.epoch,
            imitates=start.problem.optimizer.buffer is not None,
            options=dict(options),
            exchange={method: as_json(numbers) for method, numbers in measured.items()},
        )
    )


def options(start: Start, given: argparse.Namespace) -> dict[str, Any]:
    """Return the options that the numbers depend on."""
    return {
        "orders": given.orders,
        "refinement": min(given.refinements),
        "step": given.step,
        "seed": given.seed,
        "checkpoint": start.ended,
    }


def rows(result: Result) -> Iterator[list[Any]]:
    """Yield the tidy table's rows, a number each."""
    of = Exchanged(**result)
    for method, measured in of.exchange.items():
        for name, estimate in measured.items():
            yield [of.run, of.optimizer, of.lr, of.batch_size, method, name, *estimate]


def text(results: Sequence[Result]) -> str:
    """Write the table for a terminal."""
    lines = []
    for of in (Exchanged(**result) for result in results):
        penalty = "momentum's penalty" if of.imitates else "the penalty on minibatch gradients"
        lines.append(f"{of.run}: finite steps in units of {penalty}; 1 is theory")
        for method, measured in of.exchange.items():
            numbers = "  ".join(f"{name} {_written(*estimate)}" for name, estimate in measured.items())
            lines.append(f"  {method:<12} {numbers}")
    return as_shown("\n".join(lines))


def _written(value: float | None, error: float | None) -> str:
    return NOTHING if value is None or error is None else plus_minus(value, error, ".3f")


EXPLICIT = Instrument(
    name="explicit", folder="drift", header=HEADER, options=options, study=study, rows=rows, text=text
)
"""What `python -m ireg.drift --explicit` measures."""
