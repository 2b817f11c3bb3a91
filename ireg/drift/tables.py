"""The numbers of a drift as a table, as a figure and as text."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from ireg.drift.instrument import Result
from ireg.statistics import NOTHING, plus_minus
from ireg.system.terminal import as_shown

if TYPE_CHECKING:
    from matplotlib.figure import Figure

EARLIER_HEADER = ("run", "optimizer", "lr", "part", "place", "what", "quantity", "value", "error")
"""Of tables of earlier versions, which had no rate beside each number."""
HEADER = (*EARLIER_HEADER, "rate")
"""`lr` is the run's own rate, `rate` that at which the number was measured."""
COEFFICIENTS = {
    "k_full_batch": "k₁ (‖ḡ‖²)",
    "k_variance": "k₂ (Var)",
    "k_memory": "k_M",
    "k_lag": "k_V",
    "k_fluctuation": "k_F",
}


def figure(results: Sequence[Result]) -> Figure:
    """Draw the results; matplotlib is imported only where its failure does no harm."""
    from ireg.analysis.drift import drift_figure

    return drift_figure(results)


def rows(result: Result) -> Iterator[list[Any]]:
    """Return the tidy table's rows, a number each, with the rate at which it was measured.

    `value` and `error` are empty where there is none.
    """
    of_run, own = [result["run"], result["optimizer"], result["lr"]], result["lr"]
    for quantity, value in result["predicted"].items():
        yield [*of_run, "mean flow", "start", "predicted", quantity, value, None, own]
    for quantity, value in (result["curvature"] or {}).items():
        yield [*of_run, "curvature", "start", "measured", quantity, value, None, own]
    for memory, effects in result["small_steps"].items():
        for name, estimate in (effects or {}).items():
            yield [*of_run, f"small steps, memory {memory}", *name.split("/"), *estimate, own]
    if result["leading_flow"] is not None:
        for row in _leading_flow_rows(result["leading_flow"]):
            yield [*of_run, *row]


def _leading_flow_rows(flow: Result) -> Iterator[list[Any]]:
    rate = flow["lr"]
    for quantity, value in flow["theory"].items():
        yield ["leading flow", "theorem", "coefficient", quantity, value, None, rate]
    for quantity, estimate in flow["estimates"].items():
        yield ["leading flow", "path", "measured", quantity, *estimate, rate]
    for part, name in (("finite step", "finite_step"), ("noise of the preconditioner", "noise")):
        result_of_part = flow.get(name)
        if result_of_part is None:  # F of SGD, and both in results of earlier versions
            continue
        for quantity, estimate in result_of_part["estimates"].items():
            yield [part, "path", "measured", quantity, *estimate, result_of_part["rate"]]
        for end, value in zip(("k low", "k high"), result_of_part.get("interval") or (), strict=False):
            yield [part, "path", "measured", end, value, None, result_of_part["rate"]]


def text(results: Sequence[Result]) -> str:
    """Write the tables, and what is left out of them."""
    first = [
        [
            "run",
            "rate",
            "memory",
            "at",
            "C",
            "C, equal time",
            "Q, equal time",
            "Q, equal C",
            "moved",
            "Q is",
            "position",
        ]
    ]
    second = [["run", "rate", "strength", "predicted", "alignment", "predicted", "k", "of each part", "residual"]]
    third = [
        [
            "run",
            "rate",
            "k of M + V",
            "95 % interval",
            "alignment",
            "predicted",
            "unexplained",
            "strength",
            "of F",
            "k_F",
        ]
    ]
    sentences = []
    for result in results:
        first += _small_steps(result)
        flow, rate = result["leading_flow"], f"at rate {result['lr']:g}"
        if result["curvature"] is not None:
            curved = "curvature λ₁ {steepest:.3g}, smoothness {smoothness:.3g}".format_map(result["curvature"])
            sentences.append(f"{result['run']}: {curved}")
        strength, alignment = result["predicted"].values()
        if flow is None:
            known = strength is not None
            prediction = (
                f"strength {strength:.2g} and alignment {alignment:.2g} are predicted {rate}; " if known else ""
            )
            sentences.append(f"{result['run']}: {prediction}no leading flow: {result['leading_flow_left_out']}")
            continue
        second.append(_fitted(result["run"], flow))
        if flow.get("finite_step") is not None:
            third.append(_finite_step(result["run"], flow))
    parts = ["Finite steps less small steps: changes of the logarithm ± standard error", table(first)]
    if len(second) > 1:
        parts += ["", "Mean drift against the leading flow: all k = 1 is the theorem", table(second)]
    if len(third) > 1:
        parts += [
            "",
            "Finite step alone: the drift less F at rate 0, against M + V; k = 1 is the theorem",
            table(third),
        ]
    return "\n".join([*parts, *sentences])


def _fitted(run: str, flow: Result) -> list[str]:
    """Write the second table's line of a run."""
    measured = _all_measured(flow["estimates"])
    names = ("strength", "strength predicted", "alignment", "alignment predicted")
    fits = ", ".join(f"{label} {measured[name]}" for name, label in COEFFICIENTS.items() if name in measured)
    return [run, f"{flow['lr']:g}", *(measured[name] for name in names), measured["k"], fits, measured["residual"]]


def _finite_step(run: str, flow: Result) -> list[str]:
    """Write the third table's line of a run; SGD, which has no F, is the control."""
    step, noise = flow["finite_step"], flow.get("noise")
    measured = _all_measured(step["estimates"])
    ends = "–" if step["interval"] is None else "{:.4g} to {:.4g}".format(*step["interval"])
    of_noise = {"strength": "–", "k": "–"} if noise is None else _all_measured(noise["estimates"])
    names = ("alignment", "alignment predicted", "residual", "strength")
    numbers = [*(measured[name] for name in names), of_noise["strength"], of_noise["k"]]
    return [run, f"{step['rate']:g}", measured["k"], ends, *numbers]


def _all_measured(estimates: Result) -> dict[str, str]:
    return {name: measured(*_numbers(estimate)) for name, estimate in estimates.items()}


def _small_steps(result: Result) -> Iterator[list[str]]:
    """Write the first table's lines of a run."""
    for memory, steps in result["small_steps"].items():
        for place in ("mean", "ends") if steps is not None else ():
            names = ("time/loss", "time/squares", "equal C/squares", "equal C moved/squares", "position/loss")
            *changes, position = (measured(*_numbers(steps.get(f"{place}/{name}", (None, None)))) for name in names)
            direction = verdict(steps[f"{place}/equal C/squares"])
            loss, rate = math.exp(steps[f"{place}/plain/loss"][0]), f"{result['lr']:g}"
            yield [result["run"], rate, memory, place, f"{loss:.4g}", *changes, direction, position]


def verdict(estimate: Sequence[float | None]) -> str:
    """Say what finite steps do to Q, if that is more than two standard errors."""
    value, error = _numbers(estimate)
    if abs(value) > 2 * error:
        return "lower" if value < 0 else "higher"
    return "not significant"


def _numbers(estimate: Sequence[float | None]) -> tuple[float, float]:
    value, error = (math.nan if number is None else number for number in estimate)
    return value, error


def measured(value: float, error: float) -> str:
    """Write a number with as many digits as the standard error allows."""
    if not math.isfinite(value):
        return NOTHING
    if not error > 0:
        return f"{value:.3g}"
    digits = min(max(0, 1 - math.floor(math.log10(error))), 8) if math.isfinite(error) else 2
    return plus_minus(value, error, f".{digits}f")


def table(rows: Sequence[Sequence[str]]) -> str:
    """Write rows of cells in columns, for a terminal."""
    cells = [[as_shown(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in cells
    )
