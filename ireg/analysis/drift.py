"""The figure of `python -m ireg.drift`, from the plain numbers that `drift.json` holds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter

from ireg.analysis.looks import colour_of

PLACES = {"mean": "at the mean of the ends", "ends": "averaged over the ends"}
MEMORIES = {"kept": ("o", "memory kept"), "shrinking": ("s", "memory shrinking")}
COEFFICIENTS = {
    "k_full_batch": ("o", r"$k_1$, of $\nabla\Vert\bar{g}\Vert^2$"),
    "k_variance": ("^", r"$k_2$, of $\nabla$Var"),
    "k_lag": ("v", r"$k_V$, lag of $v$"),
    "k_fluctuation": ("D", r"$k_F$, fluctuation of $v$"),
    "finite step": ("s", r"$k$ of $M + V$, less $F$ at rate 0"),
}


def drift_figure(results: Sequence[Mapping[str, Any]]) -> Figure:
    """Draw the effects of finite steps on Q at equal C, run by run, and the fitted coefficients.

    The coefficients are drawn against the predicted strength. Bars are two standard errors to each side. The last panel
    is left out where no run was compared with its leading flow.
    """
    fitted = [result for result in results if result["leading_flow"] is not None]
    figure = Figure(figsize=(11.0 if fitted else 8.0, 2.2 + 0.28 * len(results)), layout="constrained")
    panels = list(figure.subplots(1, 3 if fitted else 2, squeeze=False)[0])
    for panel, place in zip(panels, PLACES, strict=False):
        _effects(panel, results, place)
    panels[0].set_yticks(range(len(results)), [f"{result['optimizer']}, lr={result['lr']:g}" for result in results])
    panels[1].set_yticks(range(len(results)), [])
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower left", ncols=2, frameon=False)
    if fitted:
        _coefficients(panels[2], fitted)
    for panel in panels:
        panel.grid(alpha=0.3)
        panel.spines[["top", "right"]].set_visible(False)
    return figure


def _effects(axis: Axes, results: Sequence[Mapping[str, Any]], place: str) -> None:
    values = []
    for memory, (marker, label) in MEMORIES.items():
        for row, result in enumerate(results):
            value, error = (result["small_steps"][memory] or {}).get(f"{place}/equal C/squares", (None, None))
            if value is None or error is None:
                continue
            values.append(abs(value))
            height = row + (0.15 if marker == "s" else -0.15)
            _point(axis, value, height, result["optimizer"], marker, xerr=2 * error)
        axis.plot([], [], marker, color="0.4", markerfacecolor="0.4" if marker == "o" else "white", label=label)
    axis.axvline(0, color="0.3", linewidth=0.8)
    axis.set_ylim(len(results) - 0.5, -0.5)
    if values and max(values) > 30 * max(min(values), 1e-3):
        axis.set_xscale("symlog", linthresh=0.1)
    axis.set_xlabel("Δ ln Q, finite steps less small steps")
    axis.set_title(f"What finite steps do to Q at equal C,\n{PLACES[place]}", fontsize="medium")


def _coefficients(axis: Axes, results: Sequence[Mapping[str, Any]]) -> None:
    for name, (marker, label) in COEFFICIENTS.items():
        fitted = [_coefficient(result["leading_flow"], name) for result in results]
        if not any(fitted):
            continue
        for result, estimate in zip(results, fitted, strict=True):
            value, error = estimate or (None, None)
            if value is None or error is None:
                continue
            strength = result["leading_flow"]["estimates"]["strength predicted"][0]
            _point(axis, strength, value, result["optimizer"], marker, yerr=2 * error)
        axis.plot([], [], marker, color="0.4", markerfacecolor="0.4" if marker == "o" else "white", label=label)
    axis.axhline(1, color="0.3", linewidth=0.8)
    axis.set_xscale("log")
    axis.xaxis.set_minor_formatter(NullFormatter())
    axis.set_xlabel("predicted strength")
    axis.set_title(f"Fitted coefficients at {_rates(results)},\nin units of the theorem's", fontsize="medium")
    axis.legend(fontsize="small", frameon=False)


def _coefficient(flow: Mapping[str, Any], name: str) -> Sequence[float | None] | None:
    """Return value and error; None where there is none, as for the finite step in old results."""
    if name == "finite step":
        return (flow.get("finite_step") or {}).get("estimates", {}).get("k")
    return flow["estimates"].get(name)


def _rates(results: Sequence[Mapping[str, Any]]) -> str:
    """Write the rates of the fits in words."""
    rates = sorted({result["leading_flow"].get("lr", result["lr"]) for result in results})
    return ("rate " if len(rates) == 1 else "rates ") + ", ".join(f"{rate:g}" for rate in rates)


def _point(axis: Axes, x: float, y: float, optimizer: str, marker: str, **bars: float) -> None:
    colour = colour_of(optimizer)
    face = colour if marker == "o" else "white"
    axis.errorbar([x], [y], fmt=marker, color=colour, markerfacecolor=face, capsize=2, markersize=5, **bars)  # type: ignore[arg-type]
