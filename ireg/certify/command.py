"""`python -m ireg.verify`: certify every optimizer's theory on this machine, in a table."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from rich import box
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from ireg.analysis.looks import drawn
from ireg.certify import CERTIFICATES, Certificate, Curve, Outcome
from ireg.certify.certificate import COEFFICIENT_WITHIN
from ireg.certify.clipped import all_clipped
from ireg.certify.derivatives import CLOSE, of_networks
from ireg.certify.drawings import all_drawings
from ireg.certify.edges import Edge, of_optimizers
from ireg.certify.epochs import all_epochs
from ireg.certify.exchange import Order, all_exchanges
from ireg.certify.fluctuation import all_fluctuations
from ireg.certify.identities import all_identities
from ireg.certify.identity import Identity
from ireg.certify.logged import all_logged
from ireg.certify.logged_tables import as_text, show_epochs, show_logged, verdict
from ireg.certify.own_step import certify_paths
from ireg.certify.polar import at_one_point
from ireg.certify.schedules import all_schedules
from ireg.certify.steepest import all_norms
from ireg.system.files import write_bytes
from ireg.system.parallel import workers
from ireg.system.terminal import as_shown, make_console

if TYPE_CHECKING:
    from matplotlib.figure import Figure

NUM_RATES = 5
"""Rates in a range that is asked for, in equal ratios."""

WIDTH = 160
"""Columns of the table where there is no terminal to fit it to."""


def certify(options: argparse.Namespace) -> int:
    """Do what the command line says; return the exit code.

    Args:
        options: of `ireg.verify.parser`, which has checked them.

    Returns:
        0 if all certificates pass, all logged values are right, and all other parts hold; 1 if not.

    Raises:
        UserError: a class cannot be imported, or cannot be made with the values of `--set`.
    """
    if any("." in name for name in options.optimizer or ()):
        return 0 if certify_paths(options.optimizer, options.set or (), _console()) else 1
    wanted = _wanted(options.only, options.optimizer)
    chosen = _chosen(options.optimizer) if CERTIFICATES_ONLY in wanted else []
    rates = None if options.lr_range is None else _rates(options.lr_range)
    plot = None if options.plot is None else Path(options.plot)
    jobs = _jobs(options.jobs)
    console = _console()
    outcomes = run(chosen, rates, jobs=jobs) if chosen else {}
    if chosen:
        show(outcomes, console)
    right = True
    for name in wanted:
        if name in SECTIONS:
            right &= SECTIONS[name](console)
    if plot is not None:
        for content in drawn(plot.stem, partial(_figure, outcomes), plot.suffix).values():
            write_bytes(plot, content)
    return 0 if right and all(outcome.passes for outcome in outcomes.values()) else 1


def _console() -> Console:
    """Return a console for standard output, wide where that is no terminal."""
    return make_console(**({} if sys.stdout.isatty() else {"width": WIDTH}))


def _wanted(only: Sequence[str] | None, optimizers: Sequence[str] | None) -> tuple[str, ...]:
    """Return the names of the sections that are asked for."""
    if optimizers is not None:
        return (CERTIFICATES_ONLY,)
    return tuple(name for name in (CERTIFICATES_ONLY, *SECTIONS) if only is None or name in only)


def _chosen(names: Sequence[str] | None) -> list[int]:
    """Return the positions of the certificates of these optimizers; None chooses all."""
    return [place for place, certificate in enumerate(CERTIFICATES) if names is None or certificate.optimizer in names]


def _rates(given: Sequence[str]) -> tuple[float, ...]:
    low, high = (float(value) for value in given)
    return tuple(np.geomspace(high, low, NUM_RATES).tolist())


def _jobs(given: str | None) -> int:
    return int(given or os.cpu_count() or 1)


def run(chosen: Sequence[int], rates: Sequence[float] | None, *, jobs: int) -> dict[int, Outcome]:
    """Run the certificates at these positions, several at a time, with a progress bar on a terminal.

    Args:
        chosen: positions in `CERTIFICATES`.
        rates: abscissas for those whose rates are free; None for each certificate's own.
        jobs: how many processes at most.

    Returns:
        The outcome of each, by its position, in the order given.
    """
    console = make_console(file=sys.stderr)
    progress = Progress(console=console, transient=True, disable=not console.is_terminal)
    with progress if console.is_terminal else nullcontext():  # rich before 14.3 ends a disabled one with an empty line
        task = progress.add_task("certificates", total=len(chosen))
        # Those over samples of orders take longest: they first, so that no process ends alone.
        work = [1.0 if CERTIFICATES[position].experiment.free else 2.0 for position in chosen]
        with workers(rates, min(jobs, len(chosen)), _Bar(lambda: progress.advance(task))) as team:
            outcomes = team.map(_run, [(position,) for position in chosen], work=work)
    return dict(zip(chosen, outcomes, strict=True))


class _Bar:
    """A progress bar that advances by one certificate at a time."""

    def __init__(self, advance: Callable[[], None]) -> None:
        self._advance = advance

    def expect(self, work: float) -> None:
        """Change nothing: the number of certificates is known."""

    def add(self, work: float) -> None:
        """Advance the bar."""
        self._advance()


def _run(rates: Sequence[float] | None, position: int) -> Outcome:
    """Run one certificate by its position, since certificates hold functions that cannot be pickled."""
    certificate = CERTIFICATES[position]
    return certificate.run(rates if certificate.experiment.free else None)


def show(outcomes: Mapping[int, Outcome], console: Console) -> None:
    """Print the table of certificates, and a line for whatever failed."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in ("optimizer", "setting", "flow", "source"):
        table.add_column(column)
    for column in ("slope\nplain", "slope\nmodified", "shares\nmeasured", "controls\nrejected", "verdict"):
        table.add_column(column, justify="right")
    for position, outcome in outcomes.items():
        certificate = CERTIFICATES[position]
        table.add_row(
            certificate.optimizer, certificate.setting, certificate.theory, certificate.source, _slope(outcome.plain),
            _slope(outcome.modified), as_text(outcome.coefficients), f"{len(outcome.rejected)}/{len(outcome.controls)}",
            verdict(outcome.passes),
        )  # fmt: skip
    console.print(table)
    for position, outcome in outcomes.items():
        for line in _failures(CERTIFICATES[position], outcome):
            console.print(line)
    passed = sum(outcome.passes for outcome in outcomes.values())
    console.print(f"{passed} of {len(outcomes)} certificates hold")


def show_edges(edges: Mapping[str, Edge], console: Console) -> bool:
    """Print measured and predicted edges; return whether all hold."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, title="edges of stability, times η", title_justify="left")
    table.add_column("optimizer")
    for column in ("predicted", "measured", "error", "verdict"):
        table.add_column(column, justify="right")
    for name, edge in edges.items():
        numbers = (f"{edge.predicted:.5f}", f"{edge.measured:.5f}", f"{edge.error:.0e}")
        table.add_row(name, *numbers, verdict(edge.holds))
    return _conclude(table, edges, "edges", console)


def show_identities(identities: Mapping[str, Identity], console: Console) -> bool:
    """Print the identities' errors; return whether all hold."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, title="curvature and the norm's growth", title_justify="left")
    table.add_column("identity")
    for column in ("error", "controls\nrejected", "verdict"):
        table.add_column(column, justify="right")
    for name, identity in identities.items():
        rejected = f"{len(identity.controls) - len(identity.accepted)}/{len(identity.controls)}"
        table.add_row(name, f"{identity.error:.0e}", rejected, verdict(identity.holds))
    return _conclude(table, identities, "identities", console)


def show_exchanges(
    exchanges: Mapping[str, Order], console: Console, *, title: str = "explicit penalties", what: str = "exchanges"
) -> bool:
    """Print the orders of a table's certificates; return whether all hold.

    Args:
        exchanges: the certificates' results, by name.
        console: where to print.
        title: of the table.
        what: the certificates in the plural, for the last line.
    """
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, title=title, title_justify="left")
    table.add_column("what")
    for column in ("order", "slope", "slopes of controls", "verdict"):
        table.add_column(column, justify="right")
    for name, order in exchanges.items():
        controls = ", ".join(f"{other} {slope:.2f}" for other, slope in order.controls.items())
        table.add_row(name, f"{order.order}", f"{order.slope:.2f}", controls, verdict(order.holds))
    return _conclude(table, exchanges, what, console)


def show_norms(console: Console) -> bool:
    """Print the orders of steepest descent and of clipping, and Muon's two readings.

    Return whether all orders hold.
    """
    norms = {**all_norms(), **all_clipped()}
    right = show_exchanges(norms, console, title="steepest descent in a norm, with memory", what="norms")
    found = at_one_point()
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, title="Muon at one point", title_justify="left")
    table.add_column("Newton and Schulz, over the polar factor")
    for column in ("relative\ndifference", "norm", "alignment"):
        table.add_column(column, justify="right")
    for name, numbers in {
        "velocity T(∇C)": (found.velocity, found.size, found.velocity_alignment),
        "correction DT(∇C)[H T]": (found.correction, found.correction_size, found.correction_alignment),
    }.items():
        table.add_row(name, *(f"{number:.3f}" for number in numbers))
    console.print(table)
    console.print(f"φ*: {found.potential:.4f} by singular values, {found.of_steps:.4f} as ⟨∇C, T(∇C)⟩ of these steps")
    return right


def _conclude(table: Table, results: Mapping[str, Edge | Identity | Order], what: str, console: Console) -> bool:
    """Print a table and accepted controls; return whether all hold."""
    console.print(table)
    for name, result in results.items():
        if result.accepted:
            console.print(f"{name}: not rejected: {', '.join(result.accepted)}")
    console.print(f"{sum(result.holds for result in results.values())} of {len(results)} {what} hold")
    return all(result.holds for result in results.values())


def show_derivatives(errors: Mapping[str, Sequence[float]], console: Console) -> bool:
    """Print the errors of the networks' derivatives; return whether all are small."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, title="derivatives against differences", title_justify="left")
    table.add_column("network")
    for column in ("1st", "2nd", "3rd", "verdict"):
        table.add_column(column, justify="right")
    good = {name: max(values) <= CLOSE for name, values in errors.items()}
    for name, values in errors.items():
        table.add_row(name, *(f"{error:.0e}" for error in values), verdict(good[name], ("right", "WRONG")))
    console.print(table)
    console.print(f"{sum(good.values())} of {len(good)} networks have right derivatives, to {CLOSE:g}")
    return all(good.values())


def _slope(curve: Curve) -> str:
    return as_shown(f"{curve.slope:.2f}" + (f" ± {curve.uncertainty:.2f}" if curve.uncertainty else ""))


def _failures(certificate: Certificate, outcome: Outcome) -> Iterator[str]:
    """Yield what to say of a certificate that fails, a line each."""
    criterion = outcome.criterion
    for kind, curve, (low, high) in (
        ("plain", outcome.plain, criterion.plain),
        ("modified", outcome.modified, criterion.modified),
    ):
        if not curve.within(low, high):
            errors = ", ".join(f"{error:.1e}" for error in curve.errors)
            yield f"{certificate.name}: the slope of the {kind} flow is not within {low:g} to {high:g}; errors {errors}"
    for name, share in outcome.coefficients.items():
        if not share.holds:
            value = f"{share.value:.3f}" + (f" ± {share.uncertainty:.3f}" if share.uncertainty else "")
            yield f"{certificate.name}: the measured share of {name} is {value}; must be 1 to {COEFFICIENT_WITHIN:g}"
    for name, curve in outcome.controls.items():
        if name not in outcome.rejected:
            yield f"{certificate.name}: not rejected: {name} (slope {_slope(curve)})"


def _figure(outcomes: Mapping[int, Outcome]) -> Figure:
    from ireg.analysis.certificates import ErrorCurves, errors_against_rate  # matplotlib only where it is wanted

    curves = []
    for position, outcome in outcomes.items():
        certificate, errors = CERTIFICATES[position], (outcome.plain.errors, outcome.modified.errors)
        curves.append(ErrorCurves(certificate.optimizer, certificate.experiment.abscissa, outcome.rates, *errors))
    return errors_against_rate(curves)


CERTIFICATES_ONLY = "certificates"

SECTIONS: Mapping[str, Callable[[Console], bool]] = {
    "logged": lambda console: show_logged(list(all_logged()), console) & show_epochs(all_epochs(), console),
    "edges": lambda console: show_edges(of_optimizers(), console),
    "identities": lambda console: show_identities(all_identities(), console),
    "penalties": lambda console: show_exchanges(all_exchanges(), console),
    "drawings": lambda console: show_exchanges(
        all_drawings(), console, title="how minibatches are drawn", what="drawings"
    ),
    "schedules": lambda console: show_exchanges(
        all_schedules(), console, title="memory at rates and momenta that change", what="schedules"
    ),
    "norms": lambda console: show_norms(console),
    "noise": lambda console: show_exchanges(
        all_fluctuations(), console, title="noise of steepest descent at rate 0", what="fluctuations"
    ),
    "networks": lambda console: show_derivatives(of_networks(), console),
}
"""What is certified beside the optimizers' flows, by the name that `--only` takes."""
