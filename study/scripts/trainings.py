"""`python -m study.scripts.trainings lightning`: the script on a page, run, and what comes out of it.

The pages docs/in_lightning.md and docs/in_transformers.md each have a complete script. This runs it as it stands there,
in a folder of its own, and writes docs/data/in_NAME.csv: a row a measurement, and a row a logged training loss. The
page's table and figure are made from that file. `transformers` needs the extra of that name.
"""

import argparse
import contextlib
import re
import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ireg.statistics import plus_minus
from ireg.system.command import framed, run_as_process
from ireg.system.files import replacing
from ireg.tables import markdown
from study.scripts.published import DATA, pictured, published

LOSS = "train/loss"
FORMS = {"ireg/sgd": ".1e", "ireg/own": ".4f", "noise/scale": ",.1f"}
"""What is shown, and how its numbers are written."""
COLUMNS = ["step", LOSS, *(column for tag in FORMS for column in (tag, f"{tag}_se"))]
SHOWN = 6
"""Rows of the table, at most: the first and the last among them."""
_SCRIPT = re.compile(r"^```python\n(.*?)^```$", re.DOTALL | re.MULTILINE)


def script(page: Path) -> str:
    """Return the first Python block of a page, which is its complete script."""
    found = _SCRIPT.search(page.read_text(encoding="utf-8"))
    if found is None:
        raise ValueError(f"{page.name} has no Python block; it must have the script")
    return found.group(1)


def of_lightning(names: dict[str, Any]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the rows of the callback, and the training losses that Lightning's logger has written."""
    logged = pd.read_csv(Path(names["trainer"].logger.log_dir) / "metrics.csv")
    losses = logged[logged[LOSS].notna()][["step", LOSS]]
    # Lightning counts a logged step from zero.
    return names["monitor"].rows, losses.assign(step=losses["step"] + 1)


def of_transformers(names: dict[str, Any]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the rows of `watch`, and the training losses of the trainer's log."""
    logged = [
        {"step": entry["step"], LOSS: entry["loss"]} for entry in names["trainer"].state.log_history if "loss" in entry
    ]
    return names["watched"].rows, pd.DataFrame(logged)


OUTCOMES: dict[str, Callable[[dict[str, Any]], tuple[pd.DataFrame, pd.DataFrame]]] = {
    "lightning": of_lightning,
    "transformers": of_transformers,
}
"""What a script leaves, by the page's library: measured rows, and losses by step."""
COUNTED = {"in_lightning": "examples", "in_transformers": "sequences"}
"""What the first dimension of a minibatch's first tensor counts, by page."""


def measured(name: str, code: str) -> pd.DataFrame:
    """Run a script and return its measured rows and its training losses by step.

    Args:
        name: of the library.
        code: the script. It runs in a temporary folder.

    Returns:
        The columns of `COLUMNS`, a row a step. Where nothing was measured or logged at a step, it is NaN.
    """
    names: dict[str, Any] = {"__name__": "__main__"}
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        exec(compile(code, f"in_{name}", "exec"), names)
        rows, losses = OUTCOMES[name](names)
    return rows.merge(losses, on="step", how="outer").sort_values("step")[COLUMNS]


def table(rows: pd.DataFrame) -> str:
    """Write some of the measured rows as a table, from the first to the last."""
    seen = rows[rows["ireg/sgd"].notna()].reset_index(drop=True)
    count = min(SHOWN, len(seen))
    chosen = seen.iloc[[round(place * (len(seen) - 1) / max(count - 1, 1)) for place in range(count)]]
    lines = [
        [
            f"{row['step']:.0f}",
            f"{row[LOSS]:.2f}",
            *(plus_minus(row[tag], row[f"{tag}_se"], form) for tag, form in FORMS.items()),
        ]
        for _, row in chosen.iterrows()
    ]
    return markdown(["step", "training loss", *(f"`{tag}`" for tag in FORMS)], lines)


def draw(rows: pd.DataFrame, counted: str) -> Figure:
    """Draw the training loss, the two terms and the noise scale, each over optimizer steps.

    Args:
        rows: measured, and logged.
        counted: what an example of a minibatch is, in the plural.
    """
    figure = Figure(figsize=(9.6, 2.9), layout="constrained")
    loss, terms, noise = figure.subplots(1, 3, sharex=True)
    logged = rows[rows[LOSS].notna()]
    loss.plot(logged["step"], logged[LOSS], color="0.3", linewidth=1.2)
    loss.set_title("training loss")
    for tag, colour in (("ireg/sgd", "#0072B2"), ("ireg/own", "#D55E00")):
        _with_bars(terms, rows, tag, colour)
    terms.set_title("terms")
    terms.legend(frameon=False)
    _with_bars(noise, rows, "noise/scale", "#009E73")
    noise.set_title(f"noise scale, {counted}")
    for axis, tags in ((terms, ["ireg/sgd", "ireg/own"]), (noise, ["noise/scale"])):
        axis.set_yscale("log", nonpositive="clip")
        values = rows[tags].to_numpy()
        decades = np.log10(values[values > 0])
        axis.set_ylim(10 ** np.floor(decades.min()), 10 ** np.ceil(decades.max()))
    for axis in (loss, terms, noise):
        axis.set_xlabel("optimizer steps")
        axis.spines[["top", "right"]].set_visible(False)
    return figure


def _with_bars(axis: Axes, rows: pd.DataFrame, tag: str, colour: str) -> None:
    """Draw a term and its standard errors, with a gap where a row has none.

    A bar that would reach zero ends at the axis.
    """
    seen = rows[rows["ireg/sgd"].notna()]
    style: dict[str, Any] = {
        "fmt": "o-",
        "markersize": 3,
        "linewidth": 1,
        "elinewidth": 0.8,
        "color": colour,
        "label": tag,
    }
    axis.errorbar(seen["step"], seen[tag].where(seen[tag] > 0), yerr=seen[f"{tag}_se"], **style)


@framed
def main(arguments: Sequence[str] | None = None) -> int:
    """Run the page's script, write file, table and figure, and print the table."""
    parser = argparse.ArgumentParser(prog="python -m study.scripts.trainings", description=main.__doc__)
    parser.add_argument("name", choices=OUTCOMES, help="of the library, whose page has the script")
    name = f"in_{parser.parse_args(arguments).name}"
    page, path = DATA.parent / f"{name}.md", DATA / f"{name}.csv"
    rows = measured(name.removeprefix("in_"), script(page))
    with replacing(path) as temporary:
        rows.to_csv(temporary, index=False, float_format="%.5g")
    rows = pd.read_csv(path)
    print(published(name, table(rows), f"docs/{name}.md"))
    pictured(name, partial(draw, rows, COUNTED[name]))
    return 0


if __name__ == "__main__":
    run_as_process(main)
