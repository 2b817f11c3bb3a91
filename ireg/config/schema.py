"""The shape of the configuration."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from hydra.core.config_store import ConfigStore
from omegaconf import MISSING

from ireg.catalogue import FORMER_NAMES, NAMES, SETS, composed, present

NOISE_KINDS = ("symmetric", "uniform", "pairflip", "none")
GROUPS = (
    "optimizer",
    "schedule",
    "weight_average",
    "regularizer",
    "model",
    "data",
    "terms",
    "trainer",
    "logger",
    "experiment",
)
"""Groups of `conf/` that the command line chooses from."""
CHOICES = {"data": "mnist10k", "model": "mlp", "optimizer": "sgd", "trainer": "default"}
"""Groups of which one is chosen, and a choice of each."""
ALWAYS_MEASURED = (
    "train/loss",
    "train/error",
    "test/loss",
    "test/error",
    "fit/clean_error",
    "fit/memorized",
    "fit/recovered",
    "time/epoch",
)
"""What every row holds, whatever the terms are."""
PENALTY = "penalty/value"
"""What rows of runs with a regularizer hold beside that."""
HOLDOUT = ("holdout/loss", "holdout/error")
"""What rows of runs with held-out examples hold beside that."""
SWITCH = ("switch/phase", "switch/lr", "switch/gamma", "switch/estimate")
"""What rows of runs with an optimizer that switches hold beside that, the last two with SWATS."""
AVERAGE = ("test/loss_ema", "test/error_ema")
"""What rows of runs with an average of the weights hold beside that."""
INTERVAL = "every"
"""Key of a group of terms, beside those of its terms."""
TERM_SETTINGS = ("every", "every_n_steps", "num_batches", "method", "by")
SMALLEST_SAMPLE = 3
MOST_THREADS = 1024
"""A system has so many for one process; where it does not give them, torch ends the process."""
NO_REGULARIZER = "none"
NO_AVERAGE = "none"
LOSSES = ("cross_entropy", "squared_error")
SAMPLINGS = ("epoch", "independent")
PARTS = ("layer", "group")
SCHEDULES = ("constant", "cosine", "linear")
AVERAGES = (NO_AVERAGE, "ema")
METHODS = ("auto", "loop", "vmap", "ghost", "layers", "hooks", "backward")


@dataclass
class Noise:
    """Label noise: see `ireg.data.labels.corrupt` for the kinds."""

    kind: str = "symmetric"
    rate: float = 0.3
    seed: int = 0
    test_rate: float = 0.0


@dataclass
class Data:
    """A data set and what is taken from it.

    `num_train` and `num_test` say what the source holds: images, or, where `context` is given, characters of a text.
    """

    name: str = MISSING
    source: dict[str, Any] = MISSING
    root: str | None = None
    num_train: int = MISSING
    num_test: int = MISSING
    num_classes: int = MISSING
    mean: Any = MISSING  # a number, or one a channel
    std: Any = MISSING
    standardize: bool = False
    train_size: int | None = None
    test_size: int | None = None
    holdout: int | None = None
    subset_seed: int = 0
    eval_batch_size: int = 2000
    noise: Noise = field(default_factory=Noise)
    context: int | None = None

    def examples(self, split: str) -> int:
        """Count the examples of a split, `train` or `test`, that the source gives."""
        return examples_in(self.num_train if split == "train" else self.num_test, self.context)

    @property
    def training_examples(self) -> int:
        """The number of examples that training takes, without those that are held out."""
        return (self.train_size or self.examples("train")) - (self.holdout or 0)


def examples_in(held: int, context: int | None) -> int:
    """Count the examples of a split.

    Args:
        held: how many images it holds, or characters.
        context: characters in a block, whose followers are one further; None for images.

    Example:
        >>> examples_in(10, None), examples_in(10, 3), examples_in(9, 3)
        (10, 3, 2)
    """
    return held if context is None else (held - 1) // context


@dataclass
class Schedule:
    """The schedule of the learning rate, see `ireg.optim.schedule`; `final` is a share of the rate."""

    name: str = "constant"
    warmup: int = 0
    final: float = 0.0


@dataclass
class WeightAverage:
    """Which average of the weights is evaluated beside them."""

    name: str = NO_AVERAGE
    decay: float = 0.999


@dataclass
class Checkpoints:
    """When the state of training is written; the result is the same."""

    every: int = 1


@dataclass
class Logging:
    """Where the rows go beside `metrics.csv`; the result is the same."""

    tensorboard: bool = True
    histograms: bool = False
    further: dict[str, Any] = field(default_factory=dict)


@dataclass
class Config:
    """The whole configuration.

    `conf/config.yaml` holds the defaults and says what each key means.
    """

    name: str = MISSING
    lr: float = MISSING
    batch_size: int = MISSING
    epochs: int = MISSING
    seed: int = MISSING
    threads: int = MISSING
    optimizer: dict[str, Any] = MISSING
    data: Data = MISSING
    model: dict[str, Any] = MISSING
    terms: dict[str, Any] = MISSING
    trainer: dict[str, Any] = MISSING
    checkpoint: Checkpoints = field(default_factory=Checkpoints)
    logger: Logging = field(default_factory=Logging)
    objective: str = "test/error"
    loss: str = "cross_entropy"
    sampling: str = "epoch"
    regularizer: dict[str, Any] = field(default_factory=lambda: {"name": NO_REGULARIZER})
    max_steps: int | None = None
    schedule: Schedule = field(default_factory=Schedule)
    weight_average: WeightAverage = field(default_factory=WeightAverage)

    @property
    def by_steps(self) -> int | None:
        """The number of steps from one row to the next; None where a row is an epoch."""
        return None if self.max_steps is None else int(self.terms["every_n_steps"])

    @property
    def steps(self) -> int:
        """The number of steps of the whole training."""
        if self.max_steps is not None:
            return self.max_steps
        full = self.optimizer.get("full_batch", False)
        return self.epochs * (1 if full else -(-self.data.training_examples // self.batch_size))


REQUIRED = frozenset(key.name for key in fields(Config) if key.default == MISSING)


"""Keys that every configuration has."""


def register() -> None:
    """Make the schema known to Hydra, as `schema/config`, and the choices of `terms`.

    Wrong types and unknown keys are then refused in composition.
    """
    store = ConfigStore.instance()
    store.store(group="schema", name="config", node=Config, package="_global_")
    for choice in (*SETS, *NAMES, *FORMER_NAMES):
        store.store(group="terms", name=choice, node=composed(choice))


def active_terms(terms: Mapping[str, Any]) -> dict[str, Any]:
    """List by tag the terms that are switched on.

    null switches one, or a whole group, off. Tags of earlier versions are given as they are called now.
    """
    groups = {group: entries for group, entries in terms.items() if isinstance(entries, dict)}
    return {
        present(f"{group}/{name}"): function
        for group, entries in groups.items()
        for name, function in entries.items()
        if function is not None and name != INTERVAL
    }


def term_intervals(terms: Mapping[str, Any]) -> dict[str, int]:
    """List by group how often its terms are measured, for the groups that have an interval of their own."""
    return {
        group: entries[INTERVAL]
        for group, entries in terms.items()
        if isinstance(entries, dict) and entries.get(INTERVAL) is not None
    }
