"""The numbers of a drift as files and as text."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ireg.analysis.looks import drawn
from ireg.files import require_own, write_bytes, write_table, write_text
from ireg.terminal import as_shown

if TYPE_CHECKING:
    from matplotlib.figure import Figure

HEADER = ("run", "optimizer", "lr", "part", "place", "what", "quantity", "value", "error")
FILES = ("drift.json", "drift.csv", "drift.png")
COEFFICIENTS = {
    "k_full_batch": "k₁ (‖ḡ‖²)",
    "k_variance": "k₂ (Var)",
    "k_memory": "k_M",
    "k_lag": "k_V",
    "k_fluctuation": "k_F",
}
Result = Mapping[str, Any]


def require_own_files(folder: Path) -> None:
    """Refuse a folder with files of these names that no measurement wrote.

    Raises:
        UserError: there are such files.
    """
    require_own(folder, FILES[1], ",".join(HEADER), FILES)


def write(results: Sequence[Result], folder: Path) -> list[Path]:
    """Write `drift.json`, `drift.csv` and `drift.png`; return the paths.

    They are of these runs and go into the folder.
    """
    data, table, picture = (folder / name for name in FILES)
    write_table(table, HEADER, (row for result in results for row in rows(result)))
    contents = drawn("drift", partial(_figure, results), ".png")
    for content in contents.values():
        write_bytes(picture, content)
    # The last: where it is, the others are, and the run is not measured again.
    write_text(data, json.dumps(results[0] if len(results) == 1 else results, indent=1) + "\n")
    return [data, table, *([picture] if contents else [])]


def _figure(results: Sequence[Result]) -> Figure:
    from ireg.analysis.drift import drift_figure  # matplotlib only where its failure does no harm

    return drift_figure(results)


def rows(result: Result) -> Iterator[list[Any]]:
    """Return the tidy table's rows, a number each.

    `value` and `error` are empty where there is none.
    """
    of_run = [result["run"], result["optimizer"], result["lr"]]
    for quantity, value in result["predicted"].items():
        yield [*of_run, "mean flow", "start", "predicted", quantity, value, None]
    for quantity, value in (result["curvature"] or {}).items():
        yield [*of_run, "curvature", "start", "measured", quantity, value, None]
    for memory, effects in result["small_steps"].items():
        for name, estimate in (effects or {}).items():
            yield [*of_run, f"small steps, memory {memory}", *name.split("/"), *estimate]
    flow = result["leading_flow"]
    if flow is not None:
        for quantity, value in flow["theory"].items():
            yield [*of_run, "leading flow", "theorem", "coefficient", quantity, value, None]
        for quantity, estimate in flow["estimates"].items():
            yield [*of_run, "leading flow", "path", "measured", quantity, *estimate]


def text(results: Sequence[Result]) -> str:
    """Both tables, and what is left out."""
    first = [["run", "memory", "at", "C", "C, equal time", "Q, equal time", "Q, equal C", "moved", "Q is", "position"]]
    second = [["run", "rate", "strength", "predicted", "alignment", "predicted", "k", "of each part", "residual"]]
    sentences = []
    for result in results:
        first += _small_steps(result)
        flow = result["leading_flow"]
        if result["curvature"] is not None:
            curved = "curvature λ₁ {steepest:.3g}, smoothness {smoothness:.3g}".format_map(result["curvature"])
            sentences.append(f"{result['run']}: {curved}")
        strength, alignment = result["predicted"].values()
        if flow is None:
            known = strength is not None
            prediction = f"strength {strength:.2g} and alignment {alignment:.2g} are predicted; " if known else ""
            sentences.append(f"{result['run']}: {prediction}no leading flow: {result['leading_flow_left_out']}")
            continue
        found = {name: _measured(*_numbers(estimate)) for name, estimate in flow["estimates"].items()}
        names = ("strength", "strength predicted", "alignment", "alignment predicted")
        fits = ", ".join(f"{label} {found[name]}" for name, label in COEFFICIENTS.items() if name in found)
        rate = f"{flow['lr']:g}"
        second.append([result["run"], rate, *(found[name] for name in names), found["k"], fits, found["residual"]])
    parts = ["Finite steps less small steps: changes of the logarithm ± standard error", _table(first)]
    if len(second) > 1:
        parts += ["", "Mean drift against the leading flow: all k = 1 is the theorem", _table(second)]
    return "\n".join([*parts, *sentences])


def _small_steps(result: Result) -> Iterator[list[str]]:
    """The first table's lines of a run."""
    for memory, steps in result["small_steps"].items():
        for place in ("mean", "ends") if steps is not None else ():
            names = ("time/loss", "time/squares", "equal C/squares", "equal C moved/squares", "position/loss")
            *changes, position = (_measured(*_numbers(steps.get(f"{place}/{name}", (None, None)))) for name in names)
            direction = verdict(steps[f"{place}/equal C/squares"])
            loss = math.exp(steps[f"{place}/plain/loss"][0])
            yield [result["run"], memory, place, f"{loss:.4g}", *changes, direction, position]


def verdict(estimate: Sequence[float | None]) -> str:
    """Say what finite steps do to Q, if that is significant.

    Significant means more than two standard errors.
    """
    value, error = _numbers(estimate)
    if abs(value) > 2 * error:
        return "lower" if value < 0 else "higher"
    return "not significant"


def _numbers(estimate: Sequence[float | None]) -> tuple[float, float]:
    value, error = (math.nan if number is None else number for number in estimate)
    return value, error


def _measured(value: float, error: float) -> str:
    """With as many digits as the standard error allows."""
    if not math.isfinite(value):
        return "–"
    if not error > 0:
        return f"{value:.3g}"
    digits = min(max(0, 1 - math.floor(math.log10(error))), 8) if math.isfinite(error) else 2
    return f"{value:.{digits}f} ± {error:.{digits}f}"


def _table(rows: Sequence[Sequence[str]]) -> str:
    cells = [[as_shown(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in cells
    )
