"""The second study's language model: three rates of each optimizer or more, and five final runs.

    python -m study.annealed.language

does what is not yet recorded. It needs the extra `optimizers`.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from ireg.analysis.load import load
from ireg.system.command import framed, run_as_process
from study.annealed.layers import curvature_of, layer_norms, layers_of
from study.annealed.plan import SQUARE_ROOT_OF_TEN, add_optimizers, add_places, require_optimizers, rounded
from study.annealed.trials import do_sweep, put, recorded

EXPERIMENT = "annealed_gpt"
STEPS = 1000
MEAN_RATE = 0.05 + 0.9 * 0.55
"""Over the peak: a tenth of the steps is a warm-up, the rest a cosine to a tenth of the peak."""

SHRINK = 0.5
"""Decay of all runs, as λ Σ_t η_t, of momentum times 1/(1 − β)."""

TUNING_SEED = 0
SEEDS = (10, 11, 12, 13, 14)
SEEDS_OF_CURVATURE = (10, 12)

RATE, FINAL = "rate", "final"
KEY = ["stage", "optimizer", "lr", "seed"]
PARTS = ("Muon", "AdamW")
"""Classes whose terms are kept beside those of the whole network."""


@dataclass(frozen=True)
class Trained:
    """What is tried of an optimizer.

    Attributes:
        rates: the first three.
        overrides: of the command line, beside rate and decay.
        momentum: β of SGD.
    """

    rates: tuple[float, float, float]
    overrides: tuple[str, ...]
    momentum: float = 0.0


WITH_NORMS = (
    f"+terms.norm.layer._target_={layer_norms.__module__}.{layer_norms.__name__}",
    "+terms.norm.layer._partial_=true",
)
"""Adds each layer's norm to the rows."""

BETAS = "optimizer.betas=[0.9,0.99]"
BY_LAYER = "terms.by=layer"

OPTIMIZERS: Mapping[str, Trained] = {
    "adamw": Trained((1e-3, 3.2e-3, 1e-2), (BETAS, BY_LAYER)),
    # Terms of several optimizers are not divided by layers.
    "muon_adamw": Trained((1e-3, 3.2e-3, 1e-2), (BETAS,)),
    "lion": Trained((1e-4, 3.2e-4, 1e-3), (BETAS, BY_LAYER)),
    "momentum": Trained((3.2e-2, 1e-1, 3.2e-1), (BY_LAYER,), momentum=0.9),
}
"""The base first."""


def decay_of(optimizer: str, lr: float) -> float:
    """Return λ of a run.

    Example:
        >>> decay_of("adamw", 1e-3), decay_of("momentum", 1e-1)
        (0.92, 0.00092)
    """
    return rounded(SHRINK * (1 - OPTIMIZERS[optimizer].momentum) / (lr * MEAN_RATE * STEPS))


def next_rate(losses: Mapping[float, float]) -> float | None:
    """Return a further rate beyond the best one where that is an end of those tried; else None.

    Args:
        losses: held-out loss at the end by rate, nan of a run that diverged.

    Example:
        >>> next_rate({1e-3: 1.8, 3.2e-3: 1.7, 1e-2: 1.6})
        0.032
        >>> next_rate({1e-3: 1.8, 3.2e-3: 1.7, 1e-2: math.nan}) is None
        True
    """
    best = best_rate(losses)
    if best == max(losses):
        return rounded(best * SQUARE_ROOT_OF_TEN)
    return rounded(best / SQUARE_ROOT_OF_TEN) if best == min(losses) else None


def best_rate(losses: Mapping[float, float]) -> float:
    """Return the rate of the lowest held-out loss, of equal ones the first."""
    return min(losses, key=lambda lr: math.inf if math.isnan(losses[lr]) else losses[lr])


def study_optimizer(optimizer: str, data: Path, sweeps: Path) -> None:
    """Do what is not yet recorded of an optimizer: trials until the best rate is no end, and final runs."""
    for lr in OPTIMIZERS[optimizer].rates:
        _run(RATE, optimizer, lr, TUNING_SEED, data, sweeps)
    while (further := next_rate(losses_of(recorded(runs_file(data)), optimizer))) is not None:
        _run(RATE, optimizer, further, TUNING_SEED, data, sweeps)
    best = best_rate(losses_of(recorded(runs_file(data)), optimizer))
    print(f"{optimizer}: {best:g}", flush=True)
    for seed in SEEDS:
        _run(FINAL, optimizer, best, seed, data, sweeps)


def losses_of(runs: pd.DataFrame, optimizer: str) -> dict[float, float]:
    """Return the held-out loss at the end of an optimizer's trials, by rate; nan of a run that diverged.

    Args:
        runs: as recorded.
        optimizer: whose.
    """
    own = runs[(runs["stage"] == RATE) & (runs["optimizer"] == optimizer)].sort_values("step")
    ends = own.groupby("lr").tail(1)
    return dict(zip(ends["lr"], ends["holdout/loss"].where(ends["step"] == STEPS), strict=True))


def runs_file(data: Path) -> Path:
    """Return the file of the runs, a row a run and step."""
    return data / "language_runs.csv"


def layers_file(data: Path) -> Path:
    """Return the file of the final runs' layers."""
    return data / "language_layers.csv"


def curvature_file(data: Path) -> Path:
    """Return the file of the curvature where final runs have ended."""
    return data / "language_curvature.csv"


def _run(stage: str, optimizer: str, lr: float, seed: int, data: Path, sweeps: Path) -> None:
    """Do a run and record it, unless it is recorded; its rows come last, so that a record is whole."""
    run = pd.DataFrame([{"stage": stage, "optimizer": optimizer, "lr": lr, "seed": seed}])
    if len(recorded(runs_file(data), KEY).merge(run, on=KEY)):
        return
    folder = sweeps / f"{EXPERIMENT}_{stage}"
    chosen = [f"optimizer={optimizer}", f"lr={lr:g}", f"++optimizer.weight_decay={decay_of(optimizer, lr):g}"]
    do_sweep(EXPERIMENT, [*chosen, *OPTIMIZERS[optimizer].overrides, *WITH_NORMS], [seed], folder, jobs=1)
    table = load(folder)
    own = (table["optimizer"] == optimizer) & np.isclose(table["lr"], lr) & (table["seed"] == seed)
    rows = table[own].dropna(axis="columns", how="all").sort_values("epoch")
    if stage == FINAL:
        where = folder / str(rows["run"].iloc[0])
        key = run[["optimizer", "seed"]]
        layers = pd.DataFrame(layers_of(where, rows, OPTIMIZERS[optimizer].momentum))
        put(layers_file(data), key.merge(layers, how="cross"), [*key, "layer"])
        if seed in SEEDS_OF_CURVATURE:
            put(curvature_file(data), key.merge(pd.DataFrame([curvature_of(where)]), how="cross"), list(key))
    kept = rows[[column for column in rows if _is_kept(column)]].assign(step=rows["train/step"].astype(int))
    put(runs_file(data), run.merge(kept, how="cross"), [*KEY, "step"])


def _is_kept(column: str) -> bool:
    group, *rest = column.split("/")
    whole = len(rest) == 1 or (len(rest) == 2 and rest[1].removesuffix("_se") in PARTS)
    return whole and group != "time" and column != "train/step"


@framed
def main(arguments: Sequence[str] | None = None) -> int:
    """Do what is not yet recorded."""
    parser = argparse.ArgumentParser(
        prog="python -m study.annealed.language",
        description="Tune each optimizer's rate for the language model, and do five final runs.",
    )
    add_optimizers(parser, OPTIMIZERS)
    add_places(parser)
    given = parser.parse_args(arguments)
    require_optimizers(given.optimizer or (), OPTIMIZERS)
    for optimizer in given.optimizer or OPTIMIZERS:
        study_optimizer(optimizer, given.data, given.sweeps)
    return 0


if __name__ == "__main__":
    run_as_process(main)
