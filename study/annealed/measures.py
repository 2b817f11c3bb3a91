"""Which measure goes with the test error after annealing: Kendall's τ across and within optimizers."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd

from ireg.analysis.association import controls, kendall
from ireg.analysis.places import epoch_place
from study.annealed.trials import MIDDLE

AT: Mapping[str, str] = {
    **dict.fromkeys(
        (
            "ireg/sgd",
            "ireg/own",
            "ireg/own_full_batch",
            "noise/scale",
            "noise/scale_own",
            "curvature/lambda_max",
            "curvature/edge_fraction",
            "path/diffusive",
        ),
        epoch_place(MIDDLE),
    ),
    **dict.fromkeys(
        (
            "norm/l2",
            "norm/distance",
            "norm/product",
            "norm/spectral_product",
            "margin/median",
            "margin/normalized_median",
            "fit/memorized",
            "holdout/error",
        ),
        "end",
    ),
}
"""Measures, and where each is read off: what the rate makes vanish in the middle of training."""

CONTROLS = ("planted", "random")

PAIRS = ("across optimizers", "within optimizers")

ALL = "all settings"
"""How tables call what is over all of them."""

Cells = Mapping[str, pd.DataFrame]
"""Runs by setting."""


def associations(cells_of: Cells, *, resamples: int = 2000) -> pd.DataFrame:
    """Compute how measures go with the test error at the end, over pairs of runs of one setting.

    Args:
        cells_of: final runs by setting.
        resamples: of the bootstrap over draws; those of two settings are drawn apart.

    Returns:
        A row a measure and kind of pairs: `measure`, `at`, `pairs_of`, `tau`, `low`, `high`, `pairs`. Across optimizers
        the two runs of a pair have one seed and draw, within them one optimizer. A measure that fewer than two
        optimizers have is not compared across them. The controls are of the error itself with noise of its own size
        (within optimizers, of each one's own in its setting), and of noise alone.
    """
    runs = pd.concat([wide(cells).assign(setting=name) for name, cells in cells_of.items()], ignore_index=True)
    one_setting, one_optimizer = _alike(runs["setting"]), _alike(runs["optimizer"])
    among = {
        PAIRS[0]: one_setting & ~one_optimizer & _alike(runs["seed"]),
        PAIRS[1]: one_setting & one_optimizer,
    }
    controlled = {PAIRS[0]: _controls(runs, ["setting"]), PAIRS[1]: _controls(runs, ["setting", "optimizer"])}
    draws = list(zip(runs["setting"], runs["seed"] // 2, strict=True))
    rows = []
    for name in (*(name for name in AT if name in runs), *CONTROLS):
        for kind, pairs in among.items():
            found = kendall(
                (controlled[kind] if name in CONTROLS else runs)[name].tolist(),
                runs["test/error"].tolist(),
                draws,
                among=pairs,
                resamples=resamples,
            )
            if found.pairs:
                rows.append({"measure": name, "at": AT.get(name, "end"), "pairs_of": kind, **found._asdict()})
    return pd.DataFrame(rows)


def _controls(runs: pd.DataFrame, groups: list[str]) -> pd.DataFrame:
    """Return the controls of each run, each group's by noise of its own size."""
    return pd.concat(
        pd.DataFrame(controls(rows["test/error"].tolist(), seed=number), index=rows.index)
        for number, (_, rows) in enumerate(runs.groupby(groups))
    ).sort_index()


def wide(cells: pd.DataFrame) -> pd.DataFrame:
    """Put each run's measures into one row, each from its place, beside the test error at the end."""
    key = ["optimizer", "seed"]
    end = cells[cells["place"] == "end"].set_index(key)
    columns = {"test/error": end["test/error"]}
    for name, place in AT.items():
        if name in cells:
            there = cells[cells["place"] == place].set_index(key)[name]
            if there.notna().any():
                columns[name] = there
    return pd.DataFrame(columns).dropna(subset=["test/error"]).reset_index()


def _alike(column: pd.Series) -> np.ndarray:
    values = column.to_numpy()
    alike: np.ndarray = values[:, None] == values[None, :]
    return alike
