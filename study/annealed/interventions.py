"""Interventions: whether the test error moves with a measure that is moved.

    python -m study.annealed.interventions

needs the trials and final runs of momentum in `mnist10k_30`; what is recorded is not run again.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from ireg.analysis.load import runs
from ireg.statistics import Interval, paired_difference
from ireg.system.command import framed, run_as_process
from ireg.tables import markdown
from study.annealed.batches import SEEDS, SETTING
from study.annealed.plan import BASE, SETTINGS, Trial, add_jobs, add_places, rounded
from study.annealed.trials import calls, chosen_trial, do_sweep, final_file, put, recorded, tuning_file

MEASURES = ("norm/spectral_product", "norm/l2")
"""The two that go with the test error across optimizers in the first setting, each moved by one intervention."""

MOVED = (*MEASURES, "margin/normalized_median")
"""Of which the change is shown: the third goes with the test error, too, and both interventions move it."""

READ = (
    *MOVED,
    "norm/product",
    "train/loss",
    "fit/memorized",
    "holdout/error",
    "test/error",
)
TERMS = "[l2,norm_product,norm_spectral_product,margin_normalized_median]"


@dataclass(frozen=True)
class Intervention:
    """What is changed of momentum's chosen training, so that one measure moves.

    Attributes:
        doses: of the change.
        overrides: what the command line has for a dose, beside the chosen trial or instead of it.
    """

    doses: tuple[float, ...]
    overrides: Callable[[float, Trial], dict[str, str]]


def _with_penalty(dose: float, trial: Trial) -> dict[str, str]:
    penalty = "study.annealed.spectral.SpectralProduct"
    named = {"regularizer": "l2", "regularizer.name": "spectral", "regularizer._target_": penalty}
    return {**named, "regularizer.strength": f"{dose:g}"}


def _with_decay(dose: float, trial: Trial) -> dict[str, str]:
    return {"++optimizer.weight_decay": f"{rounded(dose * trial.decay):g}"}


INTERVENTIONS: Mapping[str, Intervention] = {
    # λ of the penalty.
    MEASURES[0]: Intervention((0.003, 0.01, 0.03), _with_penalty),
    # The decay, over the chosen one.
    MEASURES[1]: Intervention((2.0, 4.0, 8.0), _with_decay),
}


def interventions_file(data: Path) -> Path:
    """Return the file of the runs with an intervention."""
    return data / f"interventions_{SETTING}.csv"


KEY = ["measure", "dose", "seed"]


def intervene(name: str, dose: float, data: Path, sweeps: Path, jobs: int) -> None:
    """Do five runs with a dose of an intervention, and record them, unless they are recorded."""
    path = interventions_file(data)
    there = recorded(path, KEY)
    if len(there[(there["measure"] == name) & (there["dose"] == dose)]) == len(SEEDS):
        return
    trial = chosen_trial(recorded(tuning_file(data, SETTING)), BASE)
    ((chosen, _),) = calls([trial])
    changed = INTERVENTIONS[name].overrides(dose, trial)
    kept = [one for one in chosen if one.partition("=")[0] not in changed]
    folder = sweeps / f"annealed_{name.replace('/', '_')}_{dose:g}"
    further = [*(f"{key}={value}" for key, value in changed.items()), f"terms={TERMS}", "terms.every=30"]
    do_sweep("annealed_tuning", [*SETTINGS[SETTING], *kept, *further], SEEDS, folder, jobs)
    done = runs(folder)
    done = done[done["state"] == "done"][["seed", *READ]].assign(measure=name, dose=dose)
    put(path, done[[*KEY, *READ]], KEY)


def effects(data: Path) -> pd.DataFrame:
    """Compare runs with an intervention with the final runs without it, of the same seeds.

    Returns:
        A row a measure and dose: the mean ratio of each of `MOVED`; of the test error's change `mean`, `low`, `high`
        and `p`; `memorized` and `loss`, changes of the memorized share and of the training loss.
    """
    final = recorded(final_file(data, SETTING))
    without = final[(final["optimizer"] == BASE) & (final["place"] == "end")].set_index("seed").loc[list(SEEDS)]
    rows = []
    for (name, dose), those in recorded(interventions_file(data), KEY).groupby(["measure", "dose"]):
        changed = those.set_index("seed").loc[list(SEEDS)]
        difference = paired_difference(changed["test/error"].tolist(), without["test/error"].tolist())
        rows.append(
            {
                "measure": name,
                "dose": dose,
                **{tag: (changed[tag] / without[tag]).mean() for tag in MOVED},
                **difference.student._asdict(),
                "p": difference.p,
                "memorized": (changed["fit/memorized"] - without["fit/memorized"]).mean(),
                "loss": (changed["train/loss"] - without["train/loss"]).mean(),
            }
        )
    return pd.DataFrame(rows)


def effects_table(found: pd.DataFrame) -> str:
    """Write effects, a row a measure and dose."""
    rows = [
        [
            f"`{row['measure']}`",
            f"{row['dose']:g}",
            *(f"{row[tag]:.2f}" for tag in MOVED),
            Interval(row["mean"], row["low"], row["high"]).with_ends(scale=100),
            f"{row['p']:.2g}",
            f"{100 * row['memorized']:.1f}",
            f"{row['loss']:.3f}",
        ]
        for _, row in found.iterrows()
    ]
    head = ["moved", "dose", *(f"`{tag}`, over without" for tag in MOVED), "test error, change in points", "p"]
    return markdown([*head, "memorized, change in points", "training loss, change"], rows)


@framed
def main(arguments: Sequence[str] | None = None) -> int:
    """Do what is not yet recorded."""
    parser = argparse.ArgumentParser(
        prog="python -m study.annealed.interventions",
        description=f"Move {' and '.join(INTERVENTIONS)}, and see whether the test error moves.",
    )
    add_places(parser)
    add_jobs(parser)
    given = parser.parse_args(arguments)
    for name, intervention in INTERVENTIONS.items():
        for dose in intervention.doses:
            intervene(name, dose, given.data, given.sweeps, given.jobs)
    return 0


if __name__ == "__main__":
    run_as_process(main)
