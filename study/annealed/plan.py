"""What the second study runs: its settings, its optimizers, and the trials that tune each.

`docs/annealed/protocol.md` says why.
"""

from __future__ import annotations

from argparse import ArgumentParser
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path

from ireg.system.errors import UserError

MLP = ("+model.bias=false",)
"""Muon is for matrices alone, and all optimizers train the same network."""

CNN = ("model=cnn",)

SETTINGS: Mapping[str, tuple[str, ...]] = {
    **{f"mnist10k_{rate}": ("data=mnist10k", f"data.noise.rate={rate / 100:g}", *MLP) for rate in (30, 0, 60, 10)},
    **{f"fashion10k_{rate}": ("data=fashion10k", f"data.noise.rate={rate / 100:g}", *MLP) for rate in (30, 0)},
    **{f"mnist10k_cnn_{rate}": ("data=mnist10k", f"data.noise.rate={rate / 100:g}", *CNN) for rate in (30, 0)},
}
"""What the command line adds for each setting, in the order of the runs."""

STEPS = 30 * 125
"""Of a run: epochs times minibatches of 64 among 8,000 examples."""

SHRINKS = (0.1, 0.5, 2.0)
"""Decay, as the logarithm by which it alone shrinks the weights over a run: λ Σ_t η_t, of momentum times 1/(1 − β)."""

SQUARE_ROOT_OF_TEN = 10**0.5


@dataclass(frozen=True)
class Trial:
    """One choice of an optimizer's three numbers.

    Attributes:
        optimizer: its name.
        lr: the peak of the rate.
        decay: λ as the optimizer has it.
        memory: β of momentum and of Muon, ρ of RMSProp, β₂ of AdamW and of Lion.
    """

    optimizer: str
    lr: float
    decay: float
    memory: float

    def overrides(self) -> dict[str, str]:
        """Return what the command line says of it, by key."""
        key, written = TUNED[self.optimizer].memory_key
        return {
            "optimizer": self.optimizer,
            "lr": f"{self.lr:.3g}",
            "++optimizer.weight_decay": f"{self.decay:.3g}",
            key: written.format(f"{self.memory:g}"),
        }


@dataclass(frozen=True)
class Tuned:
    """What is tried of an optimizer.

    Attributes:
        rates: six, √10 apart.
        memory: what the first trials have.
        memories: what is tried instead, at last.
        memory_key: the option that holds it, and how it is written.
        decays: λ to be tried; by default those of `SHRINKS` at the rate that was chosen.
        accumulates: whether a step of rate η moves weights by η/(1 − β); the rate is then changed with β.
    """

    rates: tuple[float, ...]
    memory: float
    memories: tuple[float, float, float]
    memory_key: tuple[str, str]
    decays: tuple[float, ...] = ()
    accumulates: bool = field(default=False)


TUNED: Mapping[str, Tuned] = {
    "momentum": Tuned(
        rates=(1e-3, 3.2e-3, 1e-2, 3.2e-2, 1e-1, 3.2e-1),
        memory=0.9,
        memories=(0.8, 0.95, 0.98),
        memory_key=("optimizer.momentum", "{}"),
        accumulates=True,
    ),
    "rmsprop": Tuned(
        rates=(1e-5, 3.2e-5, 1e-4, 3.2e-4, 1e-3, 3.2e-3),
        memory=0.99,
        memories=(0.9, 0.97, 0.999),
        memory_key=("optimizer.alpha", "{}"),
        # It divides the decay's gradient with the loss's: no λ shrinks all weights alike.
        decays=(1e-5, 1e-4, 1e-3),
    ),
    "adamw": Tuned(
        rates=(3.2e-5, 1e-4, 3.2e-4, 1e-3, 3.2e-3, 1e-2),
        memory=0.999,
        memories=(0.9, 0.99, 0.9999),
        memory_key=("optimizer.betas", "[0.9,{}]"),
    ),
    "muon": Tuned(
        rates=(1e-4, 3.2e-4, 1e-3, 3.2e-3, 1e-2, 3.2e-2),
        memory=0.95,
        memories=(0.8, 0.9, 0.98),
        memory_key=("optimizer.momentum", "{}"),
    ),
    "lion": Tuned(
        rates=(3.2e-6, 1e-5, 3.2e-5, 1e-4, 3.2e-4, 1e-3),
        memory=0.99,
        memories=(0.9, 0.97, 0.999),
        memory_key=("optimizer.betas", "[0.9,{}]"),
    ),
}
"""Optimizers, the base first."""

BASE = "momentum"

TUNING_SEEDS = (0, 2)
FINAL_SEEDS = tuple(range(10, 20))
"""Seed s has the draw s // 2 of the noise and of the held-out examples: final runs have five draws, two runs each."""


def parts_of(setting: str) -> tuple[str, int]:
    """Split a setting's name into its data set and network, and its noise rate in percent.

    Example:
        >>> parts_of("mnist10k_cnn_30")
        ('mnist10k_cnn', 30)
    """
    family, _, rate = setting.rpartition("_")
    return family, int(rate)


def optimizers_of(setting: str) -> list[str]:
    """List the optimizers of a setting.

    Raises:
        UserError: there is no such setting.
    """
    if setting not in SETTINGS:
        raise UserError(f"{setting}: no such setting; choose one of {', '.join(SETTINGS)}")
    # A convolution's kernel and GroupNorm's weights are no matrices.
    return [name for name in TUNED if name != "muon" or set(MLP) <= set(SETTINGS[setting])]


def first_rates(optimizer: str) -> list[Trial]:
    """List the trials of the grid of rates, without decay."""
    tuned = TUNED[optimizer]
    return [Trial(optimizer, lr, 0.0, tuned.memory) for lr in tuned.rates]


def further_rates(best: Trial) -> list[Trial]:
    """List two more rates: on both sides of the best one, or beyond the grid where it ends there.

    Example:
        >>> [f"{trial.lr:.3g}" for trial in further_rates(Trial("adamw", 1e-3, 0.0, 0.999))]
        ['0.00056', '0.0018']
        >>> [f"{trial.lr:.3g}" for trial in further_rates(Trial("adamw", 1e-2, 0.0, 0.999))]
        ['0.032', '0.1']
    """
    rates = TUNED[best.optimizer].rates
    if best.lr == rates[-1]:
        factors = [SQUARE_ROOT_OF_TEN, 10.0]
    elif best.lr == rates[0]:
        factors = [1 / SQUARE_ROOT_OF_TEN, 0.1]
    else:
        factors = [10**-0.25, 10**0.25]
    return [replace(best, lr=rounded(best.lr * factor)) for factor in factors]


def decays(best: Trial) -> list[Trial]:
    """List three trials with decay at the chosen rate.

    Example:
        >>> [trial.decay for trial in decays(Trial("adamw", 1e-3, 0.0, 0.999))]
        [0.053, 0.27, 1.1]
    """
    tuned = TUNED[best.optimizer]
    # The cosine's mean is half of its peak.
    path = best.lr * STEPS / 2 / ((1 - best.memory) if tuned.accumulates else 1.0)
    return [replace(best, decay=decay) for decay in tuned.decays or [rounded(shrink / path) for shrink in SHRINKS]]


def memories(best: Trial) -> list[Trial]:
    """List three trials with other memories at the chosen rate and decay; momentum keeps η/(1 − β).

    Example:
        >>> [(trial.lr, trial.memory) for trial in memories(Trial("momentum", 0.1, 0.0, 0.9))]
        [(0.2, 0.8), (0.05, 0.95), (0.02, 0.98)]
    """
    tuned = TUNED[best.optimizer]
    scaled = (1 / (1 - best.memory)) if tuned.accumulates else 1.0
    return [
        replace(best, memory=memory, lr=rounded(best.lr * scaled * (1 - memory)) if tuned.accumulates else best.lr)
        for memory in tuned.memories
    ]


def rounded(value: float) -> float:
    """Round to two digits, as the command line and the files have it."""
    return float(f"{value:.2g}")


def add_optimizers(parser: ArgumentParser, optimizers: Collection[str] = TUNED) -> None:
    """Add which optimizers are run."""
    parser.add_argument(
        "--optimizer", metavar="NAME", action="append", help=f"only this one of {', '.join(optimizers)}"
    )


def add_places(parser: ArgumentParser) -> None:
    """Add where files and runs lie."""
    parser.add_argument("--data", type=Path, default=Path("docs/annealed/data"), help="files of the runs (%(default)s)")
    parser.add_argument("--sweeps", type=Path, default=Path("multirun"), help="folder of the runs (%(default)s)")


def add_jobs(parser: ArgumentParser) -> None:
    """Add how many runs are done at once."""
    parser.add_argument("--jobs", type=int, default=1, help="runs at once (%(default)s)")


def require_optimizers(names: Sequence[str], optimizers: Collection[str] = TUNED) -> None:
    """Check the names of optimizers.

    Raises:
        UserError: one is not of the study.
    """
    for name in names:
        if name not in optimizers:
            raise UserError(f"--optimizer {name}: choose one of {', '.join(optimizers)}")


STAGES = (further_rates, decays, memories)
"""What is tried after the grid of rates, each from the best trial before it."""


def calls(trials: Sequence[Trial]) -> Iterator[tuple[list[str], list[Trial]]]:
    """Group trials of one optimizer into sweeps: those that differ in one option are one.

    Yields:
        The overrides, and the trials they stand for.
    """
    if not trials:
        return
    written = [trial.overrides() for trial in trials]
    varying = [key for key in written[0] if len({one[key] for one in written}) > 1]
    if len(varying) > 1:
        for trial in trials:
            yield from calls([trial])
        return
    yield [f"{key}={','.join(dict.fromkeys(one[key] for one in written))}" for key in written[0]], list(trials)


def trial_columns() -> list[str]:
    """List the columns that hold a trial."""
    return [column.name for column in fields(Trial)]
