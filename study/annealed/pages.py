"""The second study's page: its tables and its figure, from the recorded runs."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ireg.analysis.looks import colour_of
from ireg.statistics import Interval, mean_interval
from ireg.tables import markdown
from study.annealed.claims import (
    AVERAGE,
    BEST,
    END,
    OverDraws,
    by_draw,
    families_in,
    family,
    power,
    range_over_tied,
    table,
    tied,
    values,
)
from study.annealed.interventions import effects, effects_table, interventions_file
from study.annealed.measures import PAIRS, associations
from study.annealed.plan import BASE, TUNED, parts_of
from study.annealed.seed_claims import claims_table, quantities
from study.annealed.trials import CHOOSES, chosen_trial, of_trial
from study.annealed.writing import LABELS, SMALL, fill, legend_below, plain, title_of, write_table
from study.claims import verdict
from study.pictures import draw_difference
from study.ties import DRAWS

ALL = "all settings"

Cells = Mapping[str, pd.DataFrame]
"""Runs by setting."""

Trials = Mapping[tuple[str, str], pd.DataFrame]
"""Of `tied`, by setting and optimizer."""


def write_page(folder: Path, *, draws: int = DRAWS) -> Iterator[Path]:
    """Write tables, figures and comparisons of all families with final runs.

    Args:
        folder: of the page `results.md`, its `data/` and `figures/`.
        draws: of the bootstrap that says which trials are tied.

    Yields:
        Each file that was written.
    """
    found = list(families_in(folder / "data"))
    members = {name: family(cells) for name, cells, _ in found}
    for name, of_family in members.items():
        yield write_table(folder, f"comparisons_{name}", table(of_family))
    cells = {setting: rows for _, settings, _ in found for setting, rows in settings.items()}
    tuning = {setting: rows for _, _, settings in found for setting, rows in settings.items()}
    associated = {setting: associations({setting: rows}) for setting, rows in cells.items()}
    if len(cells) > 1:
        associated[ALL] = associations(cells)
    for setting, rows in associated.items():
        yield write_table(folder, f"measures_{setting.replace(' ', '_')}", rows)
    seed = quantities(cells)
    yield write_table(folder, "seed_quantities", seed)
    comparisons = [one for of_family in members.values() for one in of_family]
    trials = {
        (setting, optimizer): tied(runs, optimizer, draws=draws)
        for setting, runs in tuning.items()
        for optimizer in TUNED
        if optimizer in set(cells[setting]["optimizer"])
    }
    texts = {
        "verdicts": differences([one for one in comparisons if one.comparator == END]),
        "ends": ends(cells, trials, comparisons),
        "comparators": differences(comparisons),
        "chosen": chosen_numbers(tuning, trials),
        "power": powers(cells),
        "measures": measures_table(associated),
        "seed": claims_table(seed),
    }
    if interventions_file(folder / "data").exists():
        moved = effects(folder / "data")
        yield write_table(folder, "intervention_effects", moved)
        texts["interventions"] = effects_table(moved)
    figures = {"verdicts": partial(picture, comparisons), "rates": partial(rates_picture, tuning)}
    if ALL in associated:
        figures["measures"] = partial(measures_picture, associated)
    yield from fill(folder / "results.md", texts, figures)


def ends(cells: Cells, trials: Trials, comparisons: Sequence[OverDraws]) -> str:
    """Write test errors at the end, a row a setting and optimizer."""
    by_key = {(one.setting, one.optimizer): one for one in comparisons if one.comparator == END}
    rows = []
    for setting, of_setting in cells.items():
        for optimizer in (name for name in TUNED if name in set(of_setting["optimizer"])):
            errors = values(of_setting, optimizer, END)
            means = errors.groupby([seed // 2 for seed in errors.index]).mean()
            row = [title_of(setting), LABELS[optimizer], mean_interval(means.tolist()).with_ends(scale=100)]
            one = by_key.get((setting, optimizer))
            if optimizer == BASE or one is None:
                row += ["–", "–", "–", "–"]
            else:
                low, high = range_over_tied(trials[setting, optimizer], trials[setting, BASE])
                row += [_points(one.difference.student), f"{one.difference.p:.2g}", verdict(one)]
                row.append(f"{100 * low:.1f} to {100 * high:.1f}")
            rows.append(row)
    head = ["data, network, noise", "optimizer", "test error at the end, %", "less momentum's, points"]
    return markdown([*head, "p, not adjusted", "verdict", "over tied trials, points"], rows)


def differences(comparisons: Sequence[OverDraws]) -> str:
    """Write differences and verdicts, a row a setting and comparator, a column an optimizer."""
    by_key = {(one.setting, one.comparator, one.optimizer): one for one in comparisons}
    named = len({one.comparator for one in comparisons}) > 1
    rows = []
    others = [name for name in TUNED if name != BASE]
    for setting, comparator in dict.fromkeys((one.setting, one.comparator) for one in comparisons):
        row = [title_of(setting), comparator] if named else [title_of(setting)]
        for optimizer in others:
            one = by_key.get((setting, comparator, optimizer))
            row.append("–" if one is None else f"{_points(one.difference.student)}, {verdict(one)}")
        rows.append(row)
    head = ["data, network, noise", "comparator"] if named else ["data, network, noise"]
    return markdown([*head, *(LABELS[name] for name in others)], rows)


def chosen_numbers(tuning: Cells, trials: Trials) -> str:
    """Write what held-out examples chose, a row a setting and optimizer."""
    rows = []
    for (setting, optimizer), tried in trials.items():
        trial = chosen_trial(tuning[setting], optimizer)
        at_end = ", an end of what was tried" if trial.lr in (tried["lr"].min(), tried["lr"].max()) else ""
        error = of_trial(tuning[setting], trial)[CHOOSES].mean()
        rows.append(
            [
                title_of(setting),
                LABELS[optimizer],
                f"{trial.lr:g}{at_end}",
                f"{trial.decay:g}",
                f"{trial.memory:g}",
                f"{100 * error:.2f}",
                f"{int(tried['tied'].sum())} of {len(tried)}",
            ]
        )
    head = ["data, network, noise", "optimizer", "η", "decay λ", "memory β, ρ, β₂", "held-out error, %", "tied trials"]
    return markdown(head, rows)


def powers(cells: Cells) -> str:
    """Write what the test at the end finds, a row a setting and optimizer."""
    rows = []
    for setting, of_setting in cells.items():
        for optimizer in (name for name in TUNED if name != BASE and name in set(of_setting["optimizer"])):
            differences = by_draw(of_setting, optimizer, END)
            if len(differences) < 2:
                continue
            said = power(differences)
            rows.append(
                [
                    title_of(setting),
                    LABELS[optimizer],
                    f"{said['planted_p']:.2g}",
                    f"{100 * said['false']:.0f} %",
                    f"{100 * said['power']:.0f} %",
                    f"{100 * said['detectable']:.2f}",
                ]
            )
    head = ["data, network, noise", "optimizer", "p of a planted point", "found without one", "power for one point"]
    return markdown([*head, "found with 80 %, points"], rows)


def measures_table(associated: Cells) -> str:
    """Write Kendall's τ of each measure with the test error, and in how many settings it has which sign.

    Args:
        associated: of `associations`, by setting, and of all together where there are several.
    """
    whole = associated[ALL] if ALL in associated else next(iter(associated.values()))
    apart = pd.concat([rows for setting, rows in associated.items() if setting != ALL])
    rows = []
    for name, place in dict(zip(whole["measure"], whole["at"], strict=True)).items():
        row = [f"`{name}`" if "/" in name else name, place]
        for kind in PAIRS:
            over_all, signs = (each[(each["measure"] == name) & (each["pairs_of"] == kind)] for each in (whole, apart))
            tau = Interval(*over_all.iloc[0][["tau", "low", "high"]])
            row += [
                "–" if math.isnan(tau.mean) else tau.with_ends(),
                f"{(signs['low'] > 0).sum()}, {(signs['high'] < 0).sum()} of {signs['tau'].notna().sum()}",
            ]
        rows.append(row)
    kinds = [column for kind in PAIRS for column in (f"τ {kind}", "settings above, below 0")]
    return markdown(["measure", "at", *kinds], rows)


def _points(interval: Interval) -> str:
    return interval.with_ends(scale=100)


def picture(comparisons: Sequence[OverDraws]) -> Figure:
    """Draw differences of test error, a row a setting, a column a comparator: filled where significant."""
    settings = list(dict.fromkeys(one.setting for one in comparisons))
    shown = (END, AVERAGE, BEST)
    figure = Figure(figsize=(7.0, 0.8 + 1.2 * len(settings)), layout="constrained")
    axes = figure.subplots(len(settings), len(shown), sharex="row", squeeze=False)
    for row, setting in zip(axes, settings, strict=True):
        for axis, comparator in zip(row, shown, strict=True):
            _panel(axis, [one for one in comparisons if (one.setting, one.comparator) == (setting, comparator)])
        row[0].set_ylabel(title_of(setting).replace(", ", ",\n"), fontsize=SMALL, rotation=0, ha="right", va="center")
    for axis, comparator in zip(axes[0], shown, strict=True):
        axis.set_title(comparator, fontsize=9)
    return _finish(figure, axes, "test error less momentum's, points", columns=4)


def _panel(axis: Axes, members: Sequence[OverDraws]) -> None:
    for height, one in enumerate(members):
        draw_difference(axis, one, height, label=LABELS[one.optimizer])
    axis.axvline(0, color="0.3", linewidth=0.9, zorder=0)
    axis.set_ylim(len(TUNED) - 1.5, -0.5)
    axis.set_yticks([])
    plain(axis, "left")


def _finish(figure: Figure, axes: np.ndarray, xlabel: str, columns: int) -> Figure:
    """Name the lowest panels' axis, of three that in the middle alone, and put one legend below all."""
    lowest = axes[-1]
    for axis in lowest if len(lowest) < 3 else lowest[1:-1]:
        axis.set_xlabel(xlabel, fontsize=SMALL)
    legend_below(figure, axes[0][0], columns)
    return figure


TICKS = (3, 5, 10, 20, 40, 80)
"""Test errors in percent that a logarithmic axis names."""


def rates_picture(tuning: Cells) -> Figure:
    """Draw what the rate does without decay: test error and memorized share at the end, a row a setting."""
    figure = Figure(figsize=(7.0, 0.7 + 1.6 * len(tuning)), layout="constrained")
    axes = figure.subplots(len(tuning), 2, squeeze=False)
    for row, (setting, runs) in zip(axes, tuning.items(), strict=True):
        for axis, tag in zip(row, ("test/error", "fit/memorized"), strict=True):
            for optimizer in (name for name in TUNED if name in set(runs["optimizer"])):
                tried = TUNED[optimizer]
                first = (runs["optimizer"] == optimizer) & (runs["decay"] == 0) & (runs["memory"] == tried.memory)
                means = 100 * runs[first].groupby("lr")[tag].mean()
                colour = colour_of(optimizer)
                axis.plot(means.index, means, "o-", markersize=3, linewidth=1.2, color=colour, label=LABELS[optimizer])
            axis.set_xscale("log")
            plain(axis)
            if runs[tag].isna().all():
                axis.set_axis_off()
                axis.text(0.5, 0.5, "no wrong labels", transform=axis.transAxes, ha="center", fontsize=SMALL)
        row[0].set_yscale("log")
        row[0].set_yticks(TICKS, [str(tick) for tick in TICKS])
        row[0].minorticks_off()
        row[0].set_ylabel(title_of(setting).replace(", ", ",\n"), fontsize=SMALL, rotation=0, ha="right", va="center")
    for axis, title in zip(axes[0], ("test error at the end, %", "wrong labels memorized, %"), strict=True):
        axis.set_title(title, fontsize=9)
    return _finish(figure, axes, "peak learning rate η", columns=5)


MARKERS = {"mnist10k": "o", "fashion10k": "s", "mnist10k_cnn": "^"}
"""Of a data set and network."""

COLOURS = {0: "#7fb3d5", 10: "#2e86c1", 30: "#1b4f72", 60: "#17202a"}
"""Of a noise rate in percent: the more, the darker."""


def measures_picture(associated: Cells) -> Figure:
    """Draw Kendall's τ, a row a measure: a point a setting, and a bar for the interval over all settings."""
    names = list(dict.fromkeys(associated[ALL]["measure"]))
    heights = np.arange(len(names))
    settings = [setting for setting in associated if setting != ALL]
    figure = Figure(figsize=(7.0, 1.2 + 0.27 * len(names)), layout="constrained")
    axes = figure.subplots(1, len(PAIRS), sharey=True, squeeze=False)
    for axis, kind in zip(axes[0], PAIRS, strict=True):
        of_kind = {
            setting: rows[rows["pairs_of"] == kind].set_index("measure").reindex(names)
            for setting, rows in associated.items()
        }
        bars = of_kind[ALL][["low", "high"]].to_numpy().T
        axis.plot(bars, [heights] * 2, color="0.75", linewidth=7, solid_capstyle="butt", zorder=1)
        for number, setting in enumerate(settings):
            family_name, rate = parts_of(setting)
            axis.plot(
                of_kind[setting]["tau"],
                heights + 0.5 * ((number + 0.5) / len(settings) - 0.5),
                MARKERS[family_name],
                color=COLOURS[rate],
                markersize=3.5,
                label=title_of(setting),
                zorder=2,
            )
        axis.axvline(0, color="0.3", linewidth=0.9, zorder=0)
        axis.set_xlim(-1.03, 1.03)
        axis.set_title(kind)
        plain(axis, "left")
    axes[0][0].set_yticks(heights, names)
    axes[0][0].set_ylim(len(names) - 0.5, -0.5)
    return _finish(figure, axes, "Kendall's τ with the test error at the end", columns=3)
