"""What batch sizes do to the order of the optimizers, and the largest that costs one nothing."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from ireg.analysis.association import kendall
from ireg.analysis.looks import colour_of
from ireg.analysis.places import epoch_place
from ireg.statistics import mean_interval, paired_difference, plus_minus
from ireg.tables import markdown
from study.annealed.batches import BASE_SIZE, COLUMNS, SEEDS, SETTING, batches_file, rates_at
from study.annealed.claims import table
from study.annealed.plan import BASE, TUNED
from study.annealed.trials import MIDDLE, chosen_trial, final_file, recorded, tuning_file
from study.annealed.writing import LABELS, fill, legend_below, plain, write_table
from study.claims import LEVEL, MARGIN, Comparison, adjusted, verdict

ERROR = "test/error"
SCALES = ("noise/scale", "noise/scale_own")


@dataclass(frozen=True, kw_only=True)
class AtSize(Comparison):
    """An optimizer's test error less momentum's, at one batch size.

    Attributes:
        size: of the batches.
    """

    size: int


def final_runs(data: Path) -> pd.DataFrame:
    """Return the final runs at all sizes, those of 64 from the setting's own: one of each draw.

    Args:
        data: folder of the study's files.

    Returns:
        A row a run: `optimizer`, `batch_size`, `lr`, `seed`, `test/error`, `fit/memorized`.
    """
    columns = ["optimizer", "batch_size", "lr", "seed", ERROR, "fit/memorized"]
    others = recorded(batches_file(data), COLUMNS)
    own = recorded(final_file(data, SETTING))
    at_end = own[(own["place"] == "end") & own["seed"].isin(SEEDS)].assign(batch_size=BASE_SIZE)
    return pd.concat([others[others["stage"] == "final"][columns], at_end[columns]], ignore_index=True)


def comparisons(runs: pd.DataFrame) -> list[AtSize]:
    """Compare each optimizer with momentum at each size; p-values are adjusted together."""
    errors = by_size(runs)
    members = [
        AtSize(comparator=f"batches of {size}", optimizer=optimizer, size=size, difference=difference)
        for size in sorted({size for _, size in errors})
        for optimizer in (name for name in TUNED if name != BASE)
        if (optimizer, size) in errors and (BASE, size) in errors
        for difference in [paired_difference(errors[optimizer, size], errors[BASE, size])]
    ]
    return adjusted(members, [member.difference.p_at_least(MARGIN) for member in members])


def by_size(runs: pd.DataFrame) -> dict[tuple[str, int], list[float]]:
    """Return test errors by optimizer and size, by rising seed, where all draws have one."""
    found = {
        (str(optimizer), int(size)): rows.sort_values("seed")[ERROR].astype(float).tolist()
        for (optimizer, size), rows in runs.groupby(["optimizer", "batch_size"])
    }
    return {key: values for key, values in found.items() if len(values) == len(SEEDS)}


def largest_good_size(errors: dict[int, list[float]]) -> int:
    """Return the largest size at which the test error is not significantly above its lowest, by p of 0.05.

    The p-values are not adjusted.

    Args:
        errors: of one optimizer by size, a draw each.

    Example:
        >>> largest_good_size({16: [0.1, 0.11, 0.12], 64: [0.101, 0.109, 0.121], 256: [0.2, 0.211, 0.219]})
        64
    """
    lowest = min(errors, key=lambda size: sum(errors[size]) / len(errors[size]))
    return max(
        size
        for size, values in errors.items()
        if size == lowest or paired_difference(values, errors[lowest]).p >= LEVEL
    )


def sizes_table(runs: pd.DataFrame, compared: Sequence[AtSize], data: Path) -> str:
    """Write test errors, a row a size and optimizer."""
    tuning = recorded(tuning_file(data, SETTING))
    by_key = {(one.optimizer, one.size): one for one in compared}
    rows = []
    for (size, optimizer), of_one in _in_order(runs):
        tried = [BASE_SIZE] if size == BASE_SIZE else [t.lr for t in rates_at(chosen_trial(tuning, optimizer), size)]
        rate = float(of_one["lr"].iloc[0])
        at_end = size != BASE_SIZE and any(math.isclose(rate, end) for end in (min(tried), max(tried)))
        row = [str(size), LABELS[optimizer], f"{rate:g}{', an end of what was tried' if at_end else ''}"]
        row.append(mean_interval(of_one[ERROR].tolist()).with_ends(scale=100))
        row.append(f"{100 * of_one['fit/memorized'].mean():.1f}")
        one = by_key.get((optimizer, size))
        row += ["–", "–"] if one is None else [one.difference.student.with_ends(scale=100), verdict(one)]
        rows.append(row)
    head = ["batch", "optimizer", "η", "test error, %", "memorized, %", "less momentum's, points", "verdict"]
    return markdown(head, rows)


def _in_order(runs: pd.DataFrame) -> Iterator[tuple[tuple[int, str], pd.DataFrame]]:
    groups = dict(iter(runs.groupby(["batch_size", "optimizer"])))
    for size in sorted({size for size, _ in groups}):
        for optimizer in TUNED:
            if (size, optimizer) in groups:
                yield (int(size), optimizer), groups[size, optimizer]


def scales_table(runs: pd.DataFrame, data: Path) -> str:
    """Write each optimizer's largest good size beside its noise scales at batches of 64, in mid-training."""
    cells = recorded(final_file(data, SETTING))
    middle = cells[cells["place"] == epoch_place(MIDDLE)]
    errors = by_size(runs)
    rows, sizes, scales = [], [], []
    for optimizer in TUNED:
        of_one = {size: values for (name, size), values in errors.items() if name == optimizer}
        if not of_one:
            continue
        sizes.append(largest_good_size(of_one))
        medians = [float(middle.loc[middle["optimizer"] == optimizer, tag].median()) for tag in SCALES]
        scales.append(medians)
        rows.append([LABELS[optimizer], *(f"{value:.0f}" for value in medians), str(sizes[-1])])
    taus = [kendall(column, sizes, sizes, resamples=0).tau for column in zip(*scales, strict=True)]
    rows.append(["Kendall's τ with the size", *(plus_minus(tau, math.nan, ".2f") for tau in taus), "–"])
    return markdown(["optimizer", *(f"`{tag}`" for tag in SCALES), "largest size not above the lowest"], rows)


def sizes_picture(runs: pd.DataFrame) -> Figure:
    """Draw test error against the batch size, a line an optimizer, with intervals over the draws."""
    figure = Figure(figsize=(7.0, 3.2), layout="constrained")
    axis = figure.subplots()
    for number, optimizer in enumerate(TUNED):
        of_one = {size: rows for (size, name), rows in _in_order(runs) if name == optimizer}
        if not of_one:
            continue
        intervals = [mean_interval((100 * rows[ERROR]).tolist()) for rows in of_one.values()]
        places = [size * 1.03 ** (number - 2) for size in of_one]  # beside each other
        means, halves = [one.mean for one in intervals], [one.half for one in intervals]
        axis.errorbar(
            places, means, halves, fmt="o-", markersize=4, linewidth=1.2, color=colour_of(optimizer),
            label=LABELS[optimizer],
        )  # fmt: skip
    axis.set_xscale("log", base=2)
    sizes = sorted({size for (size, _), _ in _in_order(runs)})
    axis.set_xticks(sizes, [str(size) for size in sizes])
    axis.set(xlabel="batch size", ylabel="test error at the end, %")
    plain(axis)
    legend_below(figure, axis, columns=5)
    return figure


def write_sizes(folder: Path) -> Iterator[Path]:
    """Write tables and figure of batch sizes into a folder's `batches.md`; nothing without such runs.

    Yields:
        Each file that was written.
    """
    data = folder / "data"
    if not batches_file(data).exists():
        return
    runs = final_runs(data)
    compared = comparisons(runs)
    yield write_table(folder, "batch_comparisons", table(compared))
    texts = {"sizes": sizes_table(runs, compared, data), "scales": scales_table(runs, data)}
    yield from fill(folder / "batches.md", texts, {"batches": partial(sizes_picture, runs)})
