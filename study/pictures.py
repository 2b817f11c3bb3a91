"""The study's two pictures of all settings: its verdicts, and where the sign turns."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from itertools import product

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from ireg.analysis.looks import colour_of
from ireg.statistics import mean_interval
from study.answers import ADAPTIVE
from study.cells import LOSSES
from study.claims import AT_LOSS, AT_NOISE, BASE, TUNED_END, Claim, Comparison, compared, family
from study.comparisons import level_differences
from study.rates import tied
from study.settings import common
from study.ties import separations, tied_rates

SETTINGS = {
    "mnist10k": "MLP, MNIST",
    "fashion10k": "MLP, Fashion-MNIST",
    "mnist10k_cnn": "CNN, MNIST",
    "mnist10k_vit": "ViT, MNIST",
}
"""How a picture calls a data set and its network; others have their file's name."""

SMALL = 8
"""Points of all text: legible where a picture of 7 inches is shown at 700 pixels."""

LABELLED = (1.5, 1.0, 0.7, 0.4, 0.2, 0.1, 0.03)

Line = tuple[float, Claim, str]
"""Height in a panel, what is drawn there, and its label."""


def verdicts(cells_of: Mapping[str, pd.DataFrame], tuning_of: Mapping[str, pd.DataFrame]) -> Figure:
    """Draw RMSProp's and Adam's test error less SGD's, a row a setting, a column a comparator.

    At equal training loss and at equal memorized noise the first level is the smallest that all settings reach, and the
    second the furthest that the setting reaches itself.

    Args:
        cells_of: all cells of a data set's comparisons, by its name.
        tuning_of: not used: the picture is of the chosen rates.
    """
    families = {name: family(cells) for name, cells in cells_of.items()}
    reached = common(families)
    figure = Figure(figsize=(7.0, 0.9 + 1.15 * len(families)), layout="constrained")
    titles = ["stopped by\nheld-out examples", "at equal\ntraining loss", "at equal\nmemorized noise", "at the end"]
    if any(claim.comparator == TUNED_END and claim.difference.count > 1 for of in families.values() for claim in of):
        titles.append("at the end,\ntuned for it")
    narrow = len(titles) > 4
    axes = figure.subplots(len(families), len(titles), sharex="col", squeeze=False)
    for row, (name, claims) in zip(axes, families.items(), strict=True):
        by_key = {(claim.optimizer, claim.comparator): claim for claim in claims if claim.question == 1}
        seeds = max(claim.difference.count for claim in by_key.values())
        columns = (
            _single(by_key, "best by hold-out"),
            _levels(by_key, AT_LOSS, reached, lambda loss: f"loss {loss:g}"),
            _levels(by_key, AT_NOISE, reached, lambda share: f"{100 * share:g} %"),
            _single(by_key, "end"),
            _single(by_key, TUNED_END),
        )
        for axis, lines in zip(row, columns, strict=False):  # the last is not everywhere
            _panel(axis, list(lines))
        label = SETTINGS.get(name, name).replace(", ", ",\n")
        row[0].set_ylabel(f"{label}\n{seeds} seeds", fontsize=SMALL, rotation=0, ha="right", va="center")
    for axis, title in zip(axes[0], titles, strict=True):
        axis.set_title(title, fontsize=SMALL if narrow else SMALL + 1)
    for axis in axes[-1]:
        axis.set_xlabel("better | worse" if narrow else "← better     worse →", fontsize=SMALL)
    _legend_of_verdicts(figure)
    return figure


def _single(by_key: Mapping[tuple[str, str], Claim], comparator: str) -> Iterator[Line]:
    for height, optimizer in enumerate(ADAPTIVE):
        claim = by_key.get((optimizer, comparator))
        if claim is not None and claim.difference.count > 1:
            yield 1.0 + 1.6 * height, claim, ""


def _levels(
    by_key: Mapping[tuple[str, str], Claim],
    places: Mapping[str, float],
    reached: Sequence[str],
    label: Callable[[float], str],
) -> Iterator[Line]:
    """Yield the level that all settings reach, and below it the furthest that all pairs of this one reach."""
    shared = [place for place in places if place in reached][-1:]
    for height, optimizer in enumerate(ADAPTIVE):
        claims = {place: by_key[optimizer, place] for place in places if (optimizer, place) in by_key}
        most = max((claim.difference.count for claim in claims.values()), default=0)
        whole = [place for place, claim in claims.items() if claim.difference.count == most > 1]
        for number, place in enumerate(dict.fromkeys([*(place for place in shared if place in whole), *whole[-1:]])):
            yield height + 2.0 * number + 0.1 * (number > 0), claims[place], label(places[place])


def draw_difference(axis: Axes, claim: Comparison, height: float, *, label: str | None = None) -> None:
    """Draw a difference in points with its interval, filled where it is significant."""
    mean, low, high = (100 * value for value in claim.difference.student)
    colour = colour_of(claim.optimizer)
    axis.errorbar(
        mean,
        height,
        xerr=[[mean - low], [high - mean]],
        fmt="o",
        markersize=5.5,
        color=colour,
        markerfacecolor=colour if claim.significant else "white",
        linewidth=1.4,
        capsize=2,
        label=label,
    )


def _panel(axis: Axes, lines: Sequence[Line]) -> None:
    for height, claim, label in lines:
        draw_difference(axis, claim, height)
        axis.text(
            1.02, height, label, fontsize=SMALL - 1, color="0.35", transform=axis.get_yaxis_transform(), va="center"
        )
    if not lines:
        axis.text(0.5, 0.5, "not run", fontsize=SMALL, color="0.35", transform=axis.transAxes, ha="center", va="center")
    axis.axvline(0, color="0.3", linewidth=0.9, zorder=0)
    axis.set_ylim(3.7, -0.6)
    axis.set_yticks([])
    axis.xaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 5, 10], integer=True))
    axis.tick_params(labelsize=SMALL)
    axis.grid(axis="x", alpha=0.3)
    axis.spines[["top", "right", "left"]].set_visible(False)


def _legend_of_verdicts(figure: Figure) -> None:
    handles: list[Line2D | Patch] = [
        Line2D([], [], marker="o", linestyle="-", color=colour_of(name), label=label)
        for name, label in ADAPTIVE.items()
    ]
    for face, label in (("0.3", "significant after Holm"), ("white", "not significant")):
        handles.append(Line2D([], [], marker="o", linestyle="", color="0.3", markerfacecolor=face, label=label))
    figure.legend(handles=handles, loc="outside lower center", ncols=4, frameon=False, fontsize=SMALL)
    text = "Test error less SGD's, in percentage points. Bars: 95 % over seeds, given data, split and noise draw"
    figure.suptitle(text, fontsize=SMALL + 1)


def crossing(cells_of: Mapping[str, pd.DataFrame], tuning_of: Mapping[str, pd.DataFrame]) -> Figure:
    """Draw the test error less SGD's against training loss, a panel a setting.

    Args:
        cells_of: all cells of a data set's comparisons, by its name: the chosen rates, a line with a band.
        tuning_of: cells of its tuning runs: the other rates that are tied with the best, or near it by held-out
            examples where no rows of `wrong_of` are among the cells; thin lines.
    """
    rows = (len(cells_of) + 1) // 2
    figure = Figure(figsize=(7.0, 0.8 + 2.4 * rows), layout="constrained")
    axes = list(figure.subplots(rows, 2, sharex=True, sharey=True, squeeze=False).flat)
    for axis, (name, cells) in zip(axes, cells_of.items(), strict=False):
        final = compared(cells)
        counts, ends = [], []
        rates_of = _tied_rates(tuning_of[name])
        for optimizer in ADAPTIVE:
            for losses, means in _tied_lines(tuning_of[name], rates_of, final, optimizer):
                axis.plot(losses, 100 * np.asarray(means), color=colour_of(optimizer), linewidth=0.7, alpha=0.55)
            losses, differences = level_differences(final, optimizer)
            intervals = [mean_interval(column) for column in (100 * differences).T.tolist()]
            colour = colour_of(optimizer)
            axis.plot(losses, [one.mean for one in intervals], color=colour, linewidth=2.4, marker=".", zorder=3)
            low, high = ([getattr(one, side) for one in intervals] for side in ("low", "high"))
            axis.fill_between(losses, low, high, color=colour, alpha=0.22, linewidth=0)
            counts.append(len(differences))
            ends += losses[-1:]
        axis.set_title(f"{SETTINGS.get(name, name)}: {max(counts)} seeds", fontsize=SMALL + 1)
        text = (
            f"all pairs reach {max(ends):g}"
            if len(set(ends)) == 1
            else f"all pairs reach {max(ends):g} or {min(ends):g}"
        )
        axis.text(0.98, 0.03, text, transform=axis.transAxes, fontsize=SMALL, color="0.35", ha="right")
        _plain(axis)
    for axis in axes[len(cells_of) :]:
        axis.set_visible(False)
    for axis in axes[-2:]:
        axis.set_xlabel("training loss", fontsize=SMALL + 1)
    figure.supylabel("← better     test error less SGD's, points     worse →", fontsize=SMALL + 1)
    _legend_of_crossing(figure)
    return figure


def _tied_lines(
    tuning: pd.DataFrame, rates_of: Callable[[str], list[float]], final: pd.DataFrame, optimizer: str
) -> Iterator[tuple[list[float], list[float]]]:
    """Yield mean differences of tuning runs at tied rates, without the pair of chosen rates."""
    chosen = {name: final.loc[final["optimizer"] == name, "lr"].iloc[0] for name in (optimizer, BASE)}
    for rate, base in product(rates_of(optimizer), rates_of(BASE)):
        if (rate, base) == (chosen[optimizer], chosen[BASE]):
            continue
        of_both = tuning[
            ((tuning["optimizer"] == optimizer) & (tuning["lr"] == rate))
            | ((tuning["optimizer"] == BASE) & (tuning["lr"] == base))
        ]
        losses, differences = level_differences(of_both, optimizer)
        if losses:
            yield losses, differences.mean(0).tolist()


def _tied_rates(tuning: pd.DataFrame) -> Callable[[str], list[float]]:
    """Return what lists an optimizer's tied rates."""
    if "wrong" not in tuning:
        return partial(tied, tuning)
    return partial(tied_rates, separations(tuning[tuning["wrong"].notna()], "holdout"))


def _plain(axis: Axes) -> None:
    axis.set_xscale("log")
    axis.set_xlim(LOSSES[0] * 1.08, LOSSES[-1] / 1.08)
    axis.set_xticks(LABELLED, [f"{loss:g}" for loss in LABELLED])
    axis.minorticks_off()
    axis.axhline(0, color="0.3", linewidth=0.9, zorder=0)
    axis.yaxis.set_major_locator(MaxNLocator(steps=[1, 2, 5, 10], integer=True))
    axis.tick_params(labelsize=SMALL)
    axis.grid(alpha=0.3)
    axis.spines[["top", "right"]].set_visible(False)


def _legend_of_crossing(figure: Figure) -> None:
    handles: list[Line2D | Patch] = [
        Line2D([], [], color=colour_of(name), linewidth=2.4, label=label) for name, label in ADAPTIVE.items()
    ]
    handles.append(
        Patch(color="0.6", alpha=0.5, label="95 % over seeds, given data, split and noise draw: chosen rates")
    )
    text = "tuning runs: other rates that are tied, or within 0.5 points of held-out error"
    handles.append(Line2D([], [], color="0.4", linewidth=0.7, label=text))
    figure.legend(
        handles=handles, loc="outside lower center", ncols=2, columnspacing=1.0, frameon=False, fontsize=SMALL
    )


PICTURES: Mapping[str, Callable[[Mapping[str, pd.DataFrame], Mapping[str, pd.DataFrame]], Figure]] = {
    "verdicts": verdicts,
    "crossing": crossing,
}
"""Of several data sets, by the name that stands in a page's link."""
