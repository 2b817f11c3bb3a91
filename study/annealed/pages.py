"""The second study's page: its tables, from the recorded runs."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

import pandas as pd

from ireg.statistics import Interval, mean_interval
from ireg.tables import markdown
from study.annealed import pictures
from study.annealed.claims import (
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
from study.annealed.measures import ALL, PAIRS, Cells, associations
from study.annealed.plan import BASE, TUNED
from study.annealed.seed_claims import claims_table, quantities
from study.annealed.trials import CHOOSES, chosen_trial, of_trial
from study.annealed.writing import LABELS, fill, title_of, write_table
from study.claims import verdict
from study.ties import DRAWS

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
    figures = {
        "verdicts": partial(pictures.verdicts, comparisons),
        "at_the_end": partial(pictures.at_the_end, comparisons),
        "rates": partial(pictures.rates, tuning),
    }
    if ALL in associated:
        figures["measures"] = partial(pictures.measures, associated)
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
