"""The shape of the configuration, and the ranges of its values: checked before anything heavy is imported."""

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from hydra.core.config_store import ConfigStore
from omegaconf import MISSING, DictConfig, OmegaConf
from omegaconf.errors import (
    ConfigKeyError,
    InterpolationResolutionError,
    MissingMandatoryValue,
    OmegaConfBaseException,
    UnsupportedInterpolationType,
)

from ireg.errors import UserError

NOISE_KINDS = ("symmetric", "uniform", "pairflip", "none")
PRECISIONS = ("32-true", "64-true", "16-mixed", "bf16-mixed")
# Arguments of Lightning's Trainer that leave a row what it is: one epoch over all minibatches, all evaluated after it.
# (`fused` is ours, for the optimizer.)
TRAINER = (
    "accelerator",
    "benchmark",
    "detect_anomaly",
    "deterministic",
    "devices",
    "fused",
    "gradient_clip_algorithm",
    "gradient_clip_val",
    "precision",
    "profiler",
)
# What every row holds, whatever the terms are.
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
METHODS = ("auto", "loop", "vmap", "ghost", "layers")


@dataclass
class Noise:
    """Label noise: see `ireg.core.labels.corrupt` for the kinds."""

    kind: str = "symmetric"
    rate: float = 0.3
    seed: int = 0
    test_rate: float = 0.0


@dataclass
class Data:
    """A data set and what is taken from it; `num_train` and `num_test` say what the source holds."""

    name: str = MISSING
    source: dict[str, Any] = MISSING
    root: str | None = None
    num_train: int = MISSING
    num_test: int = MISSING
    num_classes: int = MISSING
    mean: float = MISSING
    std: float = MISSING
    standardize: bool = False
    train_size: int | None = None
    test_size: int | None = None
    subset_seed: int = 0
    eval_batch_size: int = 2000
    noise: Noise = field(default_factory=Noise)


@dataclass
class Checkpoints:
    """When the state of training is written; the result is the same."""

    every: int = 1


@dataclass
class Config:
    """The whole configuration; `conf/config.yaml` holds the defaults and says what each key means."""

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
    objective: str = "test/error"


def register() -> None:
    """Make the schema known to Hydra, as `schema/config`: types and unknown keys are then refused in composition."""
    ConfigStore.instance().store(group="schema", name="config", node=Config, package="_global_")


def read(config: DictConfig) -> Config:
    """Resolve a composed configuration and check it.

    Raises:
        UserError: a value is missing, cannot be resolved, or is out of its range.
    """
    tree = OmegaConf.masked_copy(config, [str(key) for key in config if key != "hydra"])
    try:
        plain = OmegaConf.to_container(tree, resolve=True, throw_on_missing=True)
        settings = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(Config), plain))
    except ConfigKeyError as error:
        raise UserError(no_such_key(str(error.full_key))) from error
    except OmegaConfBaseException as error:
        raise UserError(unresolved(error)) from error
    assert isinstance(settings, Config)
    check(settings)
    return settings


def unresolved(error: OmegaConfBaseException) -> str:
    """Say in one line which key has a value that is missing, of another type, or not to be resolved."""
    first = (error.msg or str(error)).splitlines()[0]
    reason = re.sub(r"^\w+ (raised )?while resolving interpolation: ", "", first).strip('"')
    key = f"{error.full_key}: " if error.full_key and error.full_key not in reason else ""
    if isinstance(error, MissingMandatoryValue):
        return f"{key}{reason}; give it a value"
    if not isinstance(error, InterpolationResolutionError | UnsupportedInterpolationType):
        return f"{key}{reason}"
    return f"{key}{reason}; in ${{…}}, name a key (python train.py --help lists them) or oc.env:VARIABLE,DEFAULT"


def no_such_key(key: str, hint: str = "") -> str:
    """What to say of an unknown key; in groups that hold another's arguments it may be added."""
    group, _, argument = key.partition(".")
    if argument and group in ("optimizer", "model", "trainer"):
        return f"{key}: no such key; if it is an argument of the {group}, add it with a plus: +{key}=…"
    return f"{key}: no such key{hint}; python train.py --help lists the keys"


def check(settings: Config) -> None:
    """Check the ranges of all values.

    Raises:
        UserError: with one line that names the key, its value, what is allowed and what to do.
    """
    for key, value, ok, allowed in _ranges(settings):
        if not ok:
            raise UserError(f"{key}={value}: {allowed}")


Check = tuple[str, Any, bool, str]
"""Key, value, whether it is allowed, what is allowed and what to do."""


def _ranges(settings: Config) -> Iterator[Check]:
    yield "lr", settings.lr, 0 < settings.lr < math.inf, "must be a finite number > 0; set it like lr=1e-3"
    for key in ("batch_size", "epochs", "threads"):
        yield _positive(key, getattr(settings, key))
    yield "seed", settings.seed, 0 <= settings.seed < 2**32, "must be an integer in [0, 4294967295]"
    what = 'must be a folder name: not empty, without leading dots and without the characters / \\ : * ? " < > |'
    yield "name", repr(settings.name), _is_folder_name(settings.name), what
    yield from _optimizer_ranges(settings)
    yield from _data_ranges(settings.data)
    examples = settings.data.train_size or settings.data.num_train
    fits = settings.batch_size <= examples or settings.optimizer.get("full_batch", False)
    what = f"must be at most {examples}, the number of training examples; use optimizer=gd for the full batch"
    yield "batch_size", settings.batch_size, fits, what
    yield _positive("terms.every", settings.terms.get("every"))
    yield _choice("terms.method", settings.terms.get("method"), METHODS)
    yield _positive("checkpoint.every", settings.checkpoint.every)
    yield _choice("objective", settings.objective, [*ALWAYS_MEASURED, *_terms(settings.terms)])
    hidden = settings.model.get("hidden", [])
    widths = isinstance(hidden, list) and all(isinstance(width, int) and width >= 1 for width in hidden)
    yield "model.hidden", hidden, widths, "must be a list of integers of at least 1, like [256,256]"
    yield from _trainer_ranges(settings.trainer)


def _terms(terms: dict[str, Any]) -> list[str]:
    groups = {group: functions for group, functions in terms.items() if isinstance(functions, dict)}
    return [f"{group}/{name}" for group, functions in groups.items() for name in functions]


def _optimizer_ranges(settings: Config) -> Iterator[Check]:
    name, lr = settings.optimizer.get("name"), settings.optimizer.get("lr")
    yield "optimizer.name", name, isinstance(name, str), "must be a word, which tables and figures take"
    what = f"the learning rate is set at the top level only (lr={settings.lr:g} there); use lr=…"
    yield "optimizer.lr", lr, lr == settings.lr, what
    for kernel in ("foreach", "fused"):
        free = kernel not in settings.optimizer or settings.trainer.get("fused", False) is not True
        what = "trainer.fused=true chooses the optimizer's kernel, too; leave one of them out"
        yield f"optimizer.{kernel}", settings.optimizer.get(kernel), free, what


def _data_ranges(data: Data) -> Iterator[Check]:
    for split, size, available in (("train", data.train_size, data.num_train), ("test", data.test_size, data.num_test)):
        what = f"must be an integer in [1, {available}], the number of {split} examples of {data.name}, or null for all"
        yield f"data.{split}_size", size, size is None or 1 <= size <= available, what
    yield _positive("data.eval_batch_size", data.eval_batch_size)
    yield "data.std", data.std, data.std > 0, "must be > 0"
    for key, number in (("data.subset_seed", data.subset_seed), ("data.noise.seed", data.noise.seed)):
        yield key, number, 0 <= number < 2**63, "must be an integer of at least 0"
    yield _choice("data.noise.kind", data.noise.kind, NOISE_KINDS)
    for key, rate in (("data.noise.rate", data.noise.rate), ("data.noise.test_rate", data.noise.test_rate)):
        yield key, rate, 0 <= rate <= 1, "must be a share in [0, 1]; 0.3 corrupts 30 % of the labels"


def _trainer_ranges(trainer: dict[str, Any]) -> Iterator[Check]:
    for key, value in trainer.items():
        yield f"trainer.{key}", value, key in TRAINER, f"not supported; supported are {', '.join(TRAINER)}"
    yield _choice("trainer.precision", trainer.get("precision", PRECISIONS[0]), PRECISIONS)
    devices = trainer.get("devices", 1)
    yield "trainer.devices", devices, devices == 1, "must be 1: a run uses one device; use a sweep for several"
    fused = trainer.get("fused", False)
    yield "trainer.fused", fused, isinstance(fused, bool), "must be true or false"


def _positive(key: str, value: Any) -> Check:
    return key, value, isinstance(value, int) and value >= 1, "must be an integer of at least 1"


def _choice(key: str, value: Any, allowed: Sequence[str]) -> Check:
    return key, value, value in allowed, f"choose one of {', '.join(allowed)}"


def _is_folder_name(name: str) -> bool:
    return bool(name) and not name.startswith(".") and not any(character in '/\\:*?"<>|\0' for character in name)
