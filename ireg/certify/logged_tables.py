"""Tables of what `ireg.measure` logs, by tag and by epoch."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from ireg.certify.certificate import Coefficient
from ireg.certify.epochs import EpochResult
from ireg.certify.logged import Comparison, not_compared


def verdict(holds: bool, words: tuple[str, str] = ("holds", "FAILS")) -> Text:
    """Return the word for whether it holds, in its colour.

    Args:
        holds: which word.
        words: for true and for false.
    """
    return Text(words[0], style="green") if holds else Text(words[1], style="bold red")


def as_text(coefficients: Mapping[str, Coefficient]) -> str:
    """Write the shares on one line."""
    return ", ".join(f"{name} {coefficient.value:.3f}" for name, coefficient in coefficients.items())


def show_logged(comparisons: Sequence[Comparison], console: Console) -> bool:
    """Print a line for each tag; return whether all are right.

    Args:
        comparisons: of values with their formulas; a term of the catalogue without any is not right.
        console: where to print.
    """
    by_tag: dict[str, list[Comparison]] = {}
    for comparison in comparisons:
        by_tag.setdefault(comparison.tag, []).append(comparison)
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, title="values of ireg.measure", title_justify="left")
    table.add_column("tag")
    for column in ("values", "largest error", "allowed", "verdict"):
        table.add_column(column, justify="right")
    for tag, of_tag in sorted(by_tag.items()):
        worst = _worst(of_tag)
        numbers = (str(len(of_tag)), f"{worst.error:.0e}", f"{worst.close:g}")
        table.add_row(tag, *numbers, verdict(all(one.holds for one in of_tag)))
    console.print(table)
    for tag, of_tag in sorted(by_tag.items()):
        wrong = [one for one in of_tag if not one.holds]
        if wrong:
            worst = _worst(wrong)
            console.print(
                f"{tag}: {len(wrong)} of {len(of_tag)} values are wrong, most by {worst.error:.1e}: {worst.where}"
            )
    missing = not_compared(comparisons)
    if missing:
        console.print(f"compared with nothing: {', '.join(missing)}")
    right = sum(comparison.holds for comparison in comparisons)
    console.print(f"{right} of {len(comparisons)} logged values are right")
    return right == len(comparisons) and not missing


def _worst(comparisons: Iterable[Comparison]) -> Comparison:
    return max(comparisons, key=lambda comparison: comparison.error / comparison.close)


def show_epochs(epochs: Mapping[str, EpochResult], console: Console) -> bool:
    """Print order and shares of each epoch; return whether all hold."""
    title = "one epoch of SGD in every order, by the logged values"
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, title=title, title_justify="left")
    table.add_column("what")
    for column in ("order", "slope", "shares measured", "slopes of controls", "verdict"):
        table.add_column(column, justify="right")
    for name, result in epochs.items():
        controls = ", ".join(f"{other} {slope:.2f}" for other, slope in result.order.controls.items())
        numbers = (f"{result.order.order}", f"{result.order.slope:.2f}", as_text(result.coefficients))
        table.add_row(name, *numbers, controls, verdict(result.holds))
    console.print(table)
    for name, result in epochs.items():
        if result.accepted:
            console.print(f"{name}: not rejected: {', '.join(result.accepted)}")
        for part, coefficient in result.coefficients.items():
            if not coefficient.holds:
                console.print(f"{name}: the measured share of {part} is {coefficient.value:.3f}; must be 1 within 2 %")
    console.print(f"{sum(result.holds for result in epochs.values())} of {len(epochs)} epochs hold")
    return all(result.holds for result in epochs.values())
