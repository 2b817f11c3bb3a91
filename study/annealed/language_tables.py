"""Tables and the figure of the language model, from its recorded runs."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from ireg.analysis.looks import colour_of
from ireg.analysis.places import first_at_most
from ireg.statistics import mean_interval, paired_difference
from ireg.tables import markdown
from study.annealed.claims import table
from study.annealed.language import (
    FINAL,
    OPTIMIZERS,
    SEEDS,
    STEPS,
    curvature_file,
    decay_of,
    layers_file,
    losses_of,
    runs_file,
)
from study.annealed.trials import recorded
from study.annealed.writing import LABELS, fill, legend_below, plain, ratio, write_table
from study.claims import MARGIN, Comparison, adjusted, verdict

BASE = next(iter(OPTIMIZERS))
LOSS = "test/loss"
HELD_OUT = "holdout/loss"
LEVELS = (2.2, 2.0, 1.9, 1.8, 1.7, 1.6)
"""Held-out losses, in nats a character, at which runs are compared."""

END = "end"
SHOWN_STEPS = (100, 500, 1000)


@dataclass(frozen=True, kw_only=True)
class OfLanguage(Comparison):
    """An optimizer's value less AdamW's over seeds.

    Attributes:
        quantity: `test loss`, or `ln steps` to a held-out loss.
    """

    quantity: str


def level_name(level: float) -> str:
    """Name the place of a held-out loss."""
    return f"held-out loss {level:g}"


def values(runs: pd.DataFrame, optimizer: str) -> dict[tuple[str, str], dict[int, float]]:
    """Return an optimizer's numbers by quantity, place and seed.

    Args:
        runs: as recorded.
        optimizer: whose.

    Returns:
        Test loss at the end, and where the held-out loss is first at most a level, logarithms linear between rows; and
        the logarithm of the steps to there.
    """
    found: dict[tuple[str, str], dict[int, float]] = {}
    for seed, rows in final_runs(runs, optimizer).groupby("seed"):
        steps, held_out, test = (rows[name].tolist() for name in ("step", HELD_OUT, LOSS))
        if steps[-1] == STEPS:
            found.setdefault(("test loss", END), {})[int(seed)] = test[-1]
        for level in LEVELS:
            at = first_at_most(steps, held_out, level)
            if at is not None:
                found.setdefault(("test loss", level_name(level)), {})[int(seed)] = math.exp(
                    np.interp(at, steps, np.log(test))
                )
                found.setdefault(("ln steps", level_name(level)), {})[int(seed)] = math.log(at)
    return found


def final_runs(runs: pd.DataFrame, optimizer: str) -> pd.DataFrame:
    """Select an optimizer's final runs, by rising seed and step."""
    own = (runs["stage"] == FINAL) & (runs["optimizer"] == optimizer)
    return runs[own].sort_values(["seed", "step"])


def comparisons(runs: pd.DataFrame) -> list[OfLanguage]:
    """Compare each optimizer with AdamW over seeds; p-values are adjusted for each quantity apart."""
    base = values(runs, BASE)
    members: dict[str, list[OfLanguage]] = {}
    for optimizer in (name for name in OPTIMIZERS if name != BASE):
        for (quantity, place), of_one in values(runs, optimizer).items():
            other = base.get((quantity, place), {})
            if set(of_one) == set(other) == set(SEEDS):
                difference = paired_difference([of_one[seed] for seed in SEEDS], [other[seed] for seed in SEEDS])
                one = OfLanguage(quantity=quantity, comparator=place, optimizer=optimizer, difference=difference)
                members.setdefault(quantity, []).append(one)
    return [
        one
        for quantity, those in members.items()
        for one in adjusted(
            those, [one.difference.p_at_least(MARGIN) if quantity == "test loss" else math.nan for one in those]
        )
    ]


def ends_table(runs: pd.DataFrame, compared: Sequence[OfLanguage]) -> str:
    """Write the test loss at the end, a row an optimizer."""
    by_key = {(one.optimizer, one.comparator): one for one in compared if one.quantity == "test loss"}
    rows = []
    for optimizer in OPTIMIZERS:
        own = final_runs(runs, optimizer)
        if own.empty:
            continue
        lr, tried = float(own["lr"].iloc[0]), losses_of(runs, optimizer)
        ends = own[own["step"] == STEPS]
        one = by_key.get((optimizer, END))
        rows.append(
            [
                LABELS[optimizer],
                f"{lr:g} of {', '.join(f'{rate:g}' for rate in sorted(tried))}",
                f"{decay_of(optimizer, lr):g}",
                mean_interval(ends[LOSS].tolist()).with_ends(".3f"),
                "–" if one is None else one.difference.student.with_ends(".3f"),
                "–" if one is None else verdict(one),
                mean_interval(ends["train/loss"].tolist()).with_ends(".3f"),
            ]
        )
    head = ["optimizer", "η, of those tried", "decay λ", "test loss, nats", "less AdamW's", "verdict", "training loss"]
    return markdown(head, rows)


def levels_table(compared: Sequence[OfLanguage]) -> str:
    """Write test loss and steps at equal held-out loss, a row a level, two columns an optimizer."""
    by_key = {(one.quantity, one.comparator, one.optimizer): one for one in compared}
    at_levels = {one.optimizer for one in compared if one.comparator != END}
    others = [name for name in OPTIMIZERS if name in at_levels]
    rows = []
    for level in LEVELS:
        row = [f"{level:g}"]
        for optimizer in others:
            loss = by_key.get(("test loss", level_name(level), optimizer))
            steps = by_key.get(("ln steps", level_name(level), optimizer))
            row.append(_with_verdict(loss))
            row.append("–" if steps is None else _ratio(steps))
        if set(row[1:]) != {"–"}:
            rows.append(row)
    head = [f"{LABELS[name]}: {what}" for name in others for what in ("test loss less AdamW's", "steps over AdamW's")]
    return markdown(["held-out loss", *head], rows)


def _with_verdict(one: OfLanguage | None) -> str:
    return "–" if one is None else f"{one.difference.student.with_ends('.3f')}, {verdict(one)}"


def _ratio(one: OfLanguage) -> str:
    return f"{ratio(one.difference.student)}{'' if one.significant else ', not significant'}"


MEASURES: Mapping[str, str] = {
    "noise/scale": ".0f",
    "noise/scale/Muon": ".0f",
    "noise/scale/AdamW": ".0f",
    "noise/scale_own": ".0f",
    "ireg/own_full_batch": ".2g",
    "noise/update_ratio": ".2g",
    "noise/angle": ".2g",
    "noise/equilibrium": ".2f",
    "norm/l2": ".1f",
}
"""What is shown along training, and how it is written."""


def along_table(runs: pd.DataFrame) -> str:
    """Write measures along training, a row an optimizer and measure: medians over seeds."""
    rows = []
    for optimizer in OPTIMIZERS:
        own = final_runs(runs, optimizer)
        for tag, form in MEASURES.items():
            if tag in own and own[tag].notna().any():
                medians = [own.loc[own["step"] == step, tag].median() for step in SHOWN_STEPS]
                rows.append(
                    [LABELS[optimizer], f"`{tag}`", *("–" if math.isnan(m) else f"{m:{form}}" for m in medians)]
                )
    return markdown(["optimizer", "measure", *(f"step {step:,}" for step in SHOWN_STEPS)], rows)


def kind_of(layer: str) -> str:
    """Return what kind of layer a layer is: its name without its block's number.

    Example:
        >>> kind_of("blocks.3.network.0"), kind_of("last")
        ('block: network.0', 'last')
    """
    head, _, rest = layer.partition(".")
    return f"block: {rest.partition('.')[2]}" if head == "blocks" else layer


def layers_table(layers: pd.DataFrame) -> str:
    """Write norms by kind of layer: their growth, its prediction, and how far the equilibrium is."""
    rows = []
    with_kind = layers.assign(kind=layers["layer"].map(kind_of))
    for optimizer in OPTIMIZERS:
        own = with_kind[(with_kind["optimizer"] == optimizer) & with_kind["predicted"].notna()]
        for kind, those in own.groupby("kind", sort=False):
            growth, ratio = those["end"] / those["start"], those["predicted"] / those["end"]
            rows.append(
                [
                    LABELS[optimizer],
                    str(kind),
                    f"{growth.median():.2f}",
                    f"{ratio.median():.2f} ({ratio.min():.2f} to {ratio.max():.2f})",
                    f"{those['equilibrium'].median():.2f}",
                ]
            )
    head = ["optimizer", "layer", "norm, end over start", "predicted over measured norm", "equilibrium over norm, end"]
    return markdown(head, rows)


def curvature_table(curvature: pd.DataFrame) -> str:
    """Write the curvature after the last step, a row an optimizer: both runs."""
    rows = []
    for optimizer in OPTIMIZERS:
        own = curvature[curvature["optimizer"] == optimizer].sort_values("seed")
        if len(own):
            rows.append(
                [LABELS[optimizer], *(_both(own, f"curvature/{tag}") for tag in ("lambda_max", "edge_fraction"))]
            )
    return markdown(["optimizer", "λ₁", "fraction of the edge"], rows)


def _both(rows: pd.DataFrame, tag: str) -> str:
    found = rows[tag].dropna() if tag in rows else pd.Series(dtype=float)
    return ", ".join(f"{value:.3g}" for value in found) or "–"


def picture(data: Path) -> Figure:
    """Draw held-out loss and noise scale along training, and predicted against measured norms of layers."""
    runs, layers = recorded(runs_file(data)), recorded(layers_file(data))
    figure = Figure(figsize=(7.0, 2.9), layout="constrained")
    loss, noise, norms = figure.subplots(1, 3)
    for optimizer in OPTIMIZERS:
        own = final_runs(runs, optimizer)
        if own.empty:
            continue
        style = {"color": colour_of(optimizer), "linewidth": 1.2}
        means = own.groupby("step")
        loss.plot(means[HELD_OUT].mean(), label=LABELS[optimizer], **style)
        noise.plot(means["noise/scale"].median().loc[1:], **style)
        known = layers[(layers["optimizer"] == optimizer) & layers["predicted"].notna()]
        norms.plot(known["end"] / known["start"], known["predicted"] / known["start"], ".", color=colour_of(optimizer))
    loss.set(title="held-out loss, nats", xlabel="step", ylim=(None, 3.0))
    noise.set(title="noise scale, blocks", xlabel="step", yscale="log")
    norms.set(title="growth of layers' norms", xlabel="measured", ylabel="predicted", xscale="log", yscale="log")
    norms.axline((1, 1), (2, 2), color="0.5", linewidth=0.8, zorder=0)
    for axis in (loss, noise, norms):
        plain(axis)
    legend_below(figure, loss, columns=4)
    return figure


def write_language(folder: Path) -> Iterator[Path]:
    """Write tables and figure of the language model into `language.md`; nothing without final runs.

    Yields:
        Each file that was written.
    """
    data = folder / "data"
    runs = recorded(runs_file(data), ["stage", "optimizer"])
    if not (runs["stage"] == FINAL).any():
        return
    compared = comparisons(runs)
    yield write_table(folder, "language_comparisons", table(compared))
    texts = {
        "ends": ends_table(runs, compared),
        "levels": levels_table(compared),
        "along": along_table(runs),
        "layers": layers_table(recorded(layers_file(data))),
        "curvature": curvature_table(recorded(curvature_file(data))),
    }
    yield from fill(folder / "language.md", texts, {"language": partial(picture, data)})
