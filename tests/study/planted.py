"""Cells of made-up runs, whose effects are known."""

import numpy as np
import pandas as pd

from study import rates
from study.cells import LOSSES
from study.checkpoints import barriers, drifts

TAGS = ("train/loss", "holdout/error", "holdout/loss", "fit/memorized", "fit/clean_error", "norm/l2", "norm/distance",
        "margin/normalized_clean_median", "ireg/sgd", "ireg/own", "curvature/edge_fraction",
        "path/settled_diffusive", "path/settled_radial")  # fmt: skip


def after(place):
    """Epochs since a loss of 1.5."""
    return 3 * (1.5 - float(place.removeprefix("loss "))) if place.startswith("loss ") else 0.0


def memorized(place):
    """From 1 % at a loss of 1.5 to 96 % at one of 0.03."""
    return 0.01 + 0.95 * (1.5 - float(place.removeprefix("loss "))) / 1.47 if place.startswith("loss ") else 0.5


def finals(effects, seeds=5, noise=0.002, reached=LOSSES):
    """Final runs whose test errors differ from SGD's by known numbers, and whose seeds share most of their noise."""
    generator = np.random.default_rng(0)
    shared = 0.02 * generator.standard_normal(seeds)
    rows = []
    for optimizer, effect in effects.items():
        for seed in range(seeds):
            for place in ("epoch 50", "end", "holdout", *(f"loss {loss:g}" for loss in reached)):
                error = 0.2 + effect + shared[seed] + noise * generator.standard_normal()
                rows.append(
                    {"run": f"{optimizer}_{seed}", "state": "done", "optimizer": optimizer, "lr": 0.1, "batch_size": 64,
                     "optimizer.momentum": 0.9, "seed": seed, "place": place,
                     "at": 10.0 + seed + after(place), "seconds": 3.0, "test/error": error,
                     **dict.fromkeys(TAGS, 1.0), "fit/memorized": memorized(place)}
                )  # fmt: skip
    return pd.DataFrame(rows)


def pivot(table):
    """The numbers of a table by its first column and its heads."""
    head, _, *lines = (line.strip("| ").split(" | ") for line in table.splitlines() if line.startswith("|"))
    return {(line[0], name): text for line in lines for name, text in zip(head[1:], line[1:], strict=True)}


PAIRS = (("sgd", "sgd", 0.01), ("sgd", "momentum", 0.02), ("momentum", "momentum", 0.03), ("sgd", "adam", 0.5),
         ("adam", "adam", 0.1))  # fmt: skip


def basins_table(runs=3):
    """As `ireg basins` writes it: forks with one order are no floor, matched ones are not asked for."""
    rows = [
        {"run": f"sgd_seed={run}", "first": one, "second": other, "first_order": 0, "second_order": order,
         "matched": matched, "quantity": quantity, "value": value * (1 + run / 100) + 7 * (order == 0) + 5 * matched
         + (run / 1000 - 0.0005) * (other == "momentum" and one != other)}
        for run in range(runs) for one, other, value in PAIRS for order in (0, 1) for matched in (False, True)
        for quantity in ("train/loss", "train/error", "test/error", "distance")
    ]  # fmt: skip
    return pd.DataFrame(rows)


def drift_table(runs=3):
    """As `ireg drift` writes it."""
    effects = [("small steps, memory kept", place, what, quantity, number)
               for place in ("mean", "ends", "position")
               for what, quantity, number in (("time", "loss", 0.1), ("equal C", "squares", -0.4), ("plain", "loss", 9))
               ]  # fmt: skip
    fits = [("leading flow", "path", "measured", name, number)
            for name, number in (("k", 0.8), ("k_lag", 0.6), ("k_fluctuation", 0.9), ("residual", 0.1),
                                 ("alignment", -0.2))]  # fmt: skip
    other = [("mean flow", "start", "predicted", "strength", 24.0)]
    rows = [
        {"run": f"{optimizer}_seed={run}", "optimizer": optimizer, "lr": 0.1, "part": part, "place": place,
         "what": what, "quantity": quantity, "value": value * (1 + run / 100), "error": 0.01}
        for optimizer in ("adam", "rmsprop") for run in range(runs)
        for part, place, what, quantity, value in (*effects, *fits, *other)
    ]  # fmt: skip
    return pd.DataFrame(rows)


def measured_cells():
    return pd.concat([barriers(basins_table()), drifts(drift_table())], ignore_index=True)


def tuning():
    held_out = {0.01: (0.4, 0.42), 0.1: (0.35, 0.37), 1.0: (0.36, 0.36), 10.0: (0.1, 0.1)}
    rows = [
        {"run": f"{lr}_{seed}", "state": "diverged" if lr == 10 and seed else "done", "optimizer": "sgd", "lr": lr,
         "seed": seed, "place": place, "at": 5.0, "holdout/error": value, "holdout/loss": 1 / lr,
         "test/error": 0.1 * (place != "test") + lr / 100}
        for lr, values in held_out.items() for seed, value in enumerate(values) for place in rates.CHOICES
    ]  # fmt: skip
    return pd.DataFrame(rows)
