"""`python -m study.scripts.claims multirun/claims`: the paper's claims beside what is measured.

From the runs of `python train.py experiment=paper name=claims seed=0,1,2,3,4` it writes docs/data/claims.csv, a row a
run. The tables of README and docs/results.md are made from that file; a test compares them.
"""

from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd

from ireg.statistics import mean_interval
from ireg.system.command import framed, run_as_process
from ireg.tables import markdown
from study.scripts.published import DATA, published, written

CSV = DATA / "claims.csv"
LAST = 10
"""Epochs over whose rows the median is taken: a spike of a single epoch says little."""
EARLY = 150
"""Epochs until which Adam has not fitted every label."""
NAMES = {"sgd": "SGD", "rmsprop": "RMSProp", "adam": "Adam"}
TAGS = ("train/error", "test/error", "fit/memorized", "ireg/sgd", "ireg/rmsprop", "norm/l2")


def measured(table: pd.DataFrame) -> pd.DataFrame:
    """Return a row a run: medians of the last epochs, the best epoch, the state at equal training error.

    `fit …` is of the first epoch in which the training error is at most SGD's final one with the same seed.

    Args:
        table: of `ireg.load`.
    """
    final = {
        seed: float(rows[rows["epoch"] > rows["epoch"].max() - LAST]["train/error"].median())
        for seed, rows in table[table["optimizer"] == "sgd"].groupby("seed")
    }
    records = []
    for (optimizer, seed), rows in table.groupby(["optimizer", "seed"]):
        ordered = rows.set_index("epoch").sort_index()
        last = ordered.iloc[-LAST:]
        fitted = ordered[ordered["train/error"] <= final[seed]].iloc[0]
        records.append(
            {
                "optimizer": optimizer,
                "seed": seed,
                **{tag: last[tag].median() for tag in TAGS},
                "early ireg/sgd": ordered.loc[1:EARLY, "ireg/sgd"].median(),
                "best test/error": ordered["test/error"].min(),
                "best epoch": ordered["test/error"].idxmin(),
                "start norm/l2": ordered.loc[0, "norm/l2"],
                "fit epoch": fitted.name,
                "fit test/error": fitted["test/error"],
                "fit norm/l2": fitted["norm/l2"],
            }
        )
    return pd.DataFrame(records)


def numbers(runs: pd.DataFrame) -> str:
    """Write the table of numbers, a row a quantity."""
    rows = {
        "training error (observed labels)": _cells(runs, "train/error", _share),
        "test error": _cells(runs, "test/error", _share),
        "smallest test error of any epoch": _cells(runs, "best test/error", _share),
        "… in epoch": _cells(runs, "best epoch", _range),
        "test error at SGD's final training error": _cells(runs, "fit test/error", _share),
        "… first reached in epoch": _cells(runs, "fit epoch", _range),
        "wrong labels memorized": _cells(runs, "fit/memorized", _share),
        "equation 1 (`ireg/sgd`), median of epochs 1 to 150": _cells(runs, "early ireg/sgd", _range),
        "equation 1, at the end": _cells(runs, "ireg/sgd", _range),
        "the paper's adaptive term (`ireg/rmsprop`), at the end": _cells(runs, "ireg/rmsprop", _range),
        "norm of the weights": _cells(runs, "norm/l2", _plain),
        "norm at SGD's final training error": _cells(runs, "fit norm/l2", _plain),
    }
    return markdown(["", *NAMES.values()], [[name, *cells] for name, cells in rows.items()], rule="---")


def claims(runs: pd.DataFrame) -> str:
    """Write the table of claims."""
    of = {name: dict(zip(NAMES, _cells(runs, tag, form), strict=True)) for name, (tag, form) in _CITED.items()}
    rows = [
        (
            "Adaptive methods generalize worse than SGD (figures 1 and 2).",
            f"**Yes.** Test error {of['test']['sgd']} for SGD, {of['test']['rmsprop']} for RMSProp, "
            f"{of['test']['adam']} for Adam. SGD has memorized {of['memorized']['sgd']} of the wrong labels by then, "
            f"Adam {of['memorized']['adam']}.",
            f"**No, less.** {of['fit']['rmsprop']} for RMSProp and {of['fit']['adam']} for Adam.",
        ),
        (
            "The implicit regularization term is absent in adaptive methods (figure 3).",
            f"**As printed, nearly:** {of['printed']['adam']} for Adam, because it multiplies by s_t ≈ g². "
            f"**Equation 1's own quantity is not absent:** over epochs 1 to 150 it is {of['early']['rmsprop']} for "
            f"RMSProp, {of['early']['adam']} for Adam and {of['early']['sgd']} for SGD.",
            "Not measured.",
        ),
        (
            "SGD favours solutions of small norm, adaptive methods do not (figure 4).",
            f"**Yes.** {of['norm']['sgd']} for SGD, {of['norm']['rmsprop']} for RMSProp, {of['norm']['adam']} for "
            f"Adam. All begin at {of['start']['sgd']}.",
            f"**Little is left.** {of['fit norm']['rmsprop']} for RMSProp and {of['fit norm']['adam']} for Adam.",
        ),
    ]
    head = ("the paper says", "after 300 epochs", "where their training error first is SGD's final one")
    return markdown(head, rows, rule="---")


def _share(values: pd.Series) -> str:
    return mean_interval((100 * values).tolist()).text(".1f", unit=" %")


def _plain(values: pd.Series) -> str:
    return mean_interval(values.tolist()).text(".1f")


def _range(values: pd.Series) -> str:
    """Write the smallest and the largest value, since what differs by powers of ten has no useful mean."""
    if np.isnan(values).all():
        return ""
    low, high = (
        f"{value:.0f}" if value >= 1 else f"{value:.1e}".replace("e-0", "e-") for value in (min(values), max(values))
    )
    return low if low == high else f"{low} to {high}"


_CITED: dict[str, tuple[str, Callable[[pd.Series], str]]] = {
    "test": ("test/error", _share),
    "memorized": ("fit/memorized", _share),
    "fit": ("fit test/error", _share),
    "printed": ("ireg/rmsprop", _range),
    "early": ("early ireg/sgd", _range),
    "norm": ("norm/l2", _plain),
    "start": ("start norm/l2", _plain),
    "fit norm": ("fit norm/l2", _plain),
}


def _cells(runs: pd.DataFrame, tag: str, form: Callable[[pd.Series], str]) -> list[str]:
    return [form(runs[runs["optimizer"] == name][tag]) for name in NAMES]


@framed
def main(arguments: Sequence[str] | None = None) -> int:
    """Write file and pages, and print both tables."""
    _, runs = written("claims", measured, arguments, digits=6)
    print(published("claims", claims(runs), "README.md", "docs/results.md"))
    print(published("numbers", numbers(runs), "docs/results.md"))
    return 0


if __name__ == "__main__":
    run_as_process(main)
