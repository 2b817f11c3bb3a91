"""The shape of the configuration, and the ranges of its values: checked before anything heavy is imported."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from hydra.core.config_store import ConfigStore
from omegaconf import MISSING, DictConfig, OmegaConf
from omegaconf.errors import ConfigKeyError, OmegaConfBaseException

from ireg.errors import UserError

NOISE_KINDS = ("symmetric", "uniform", "pairflip", "none")
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
        raise UserError(f"{error.full_key}: no such key; python train.py --help lists the keys") from error
    except OmegaConfBaseException as error:
        raise UserError(" ".join(str(error).split())) from error
    assert isinstance(settings, Config)
    check(settings)
    return settings


def check(settings: Config) -> None:
    """Check the ranges of all values.

    Raises:
        UserError: with one line that names the key, its value, what is allowed and what to do.
    """
    for key, value, ok, allowed in _ranges(settings):
        if not ok:
            raise UserError(f"{key}={value}: {allowed}")


def _ranges(settings: Config) -> Iterator[tuple[str, Any, bool, str]]:
    """(key, value, whether it is allowed, what is allowed and what to do) of every checked value."""
    data, noise = settings.data, settings.data.noise
    yield "lr", settings.lr, 0 < settings.lr < math.inf, "must be a finite number > 0; set it like lr=1e-3"
    yield (
        "optimizer.lr",
        settings.optimizer.get("lr"),
        settings.optimizer.get("lr") == settings.lr,
        (f"the learning rate is set at the top level only (lr={settings.lr:g} there); use lr=…"),
    )
    yield "batch_size", settings.batch_size, settings.batch_size >= 1, "must be an integer of at least 1"
    yield "epochs", settings.epochs, settings.epochs >= 1, "must be an integer of at least 1"
    yield "seed", settings.seed, 0 <= settings.seed < 2**32, "must be an integer in [0, 4294967295]"
    yield "threads", settings.threads, settings.threads >= 1, "must be an integer of at least 1"
    yield (
        "name",
        repr(settings.name),
        _is_folder_name(settings.name),
        ('must be a folder name: not empty, without leading dots and without the characters / \\ : * ? " < > |'),
    )
    for split, size, available in (
        ("train", data.train_size, data.num_train),
        ("test", data.test_size, data.num_test),
    ):
        yield (
            f"data.{split}_size",
            size,
            size is None or 1 <= size <= available,
            (f"must be an integer in [1, {available}], the number of {split} examples of {data.name}, or null for all"),
        )
    yield "data.eval_batch_size", data.eval_batch_size, data.eval_batch_size >= 1, "must be an integer of at least 1"
    for key, number in (("data.subset_seed", data.subset_seed), ("data.noise.seed", noise.seed)):
        yield key, number, 0 <= number < 2**63, "must be an integer of at least 0"
    yield "data.noise.kind", noise.kind, noise.kind in NOISE_KINDS, f"choose one of {', '.join(NOISE_KINDS)}"
    for key, rate in (("data.noise.rate", noise.rate), ("data.noise.test_rate", noise.test_rate)):
        yield key, rate, 0 <= rate <= 1, "must be a share in [0, 1]; 0.3 corrupts 30 % of the labels"
    examples = data.train_size or data.num_train
    yield (
        "batch_size",
        settings.batch_size,
        settings.batch_size <= examples,
        (f"must be at most {examples}, the number of training examples; use optimizer=gd for the full batch"),
    )
    every, method = settings.terms.get("every"), settings.terms.get("method")
    yield "terms.every", every, isinstance(every, int) and every >= 1, "must be an integer of at least 1"
    yield "terms.method", method, method in METHODS, f"choose one of {', '.join(METHODS)}"


def _is_folder_name(name: str) -> bool:
    return bool(name) and not name.startswith(".") and not any(character in '/\\:*?"<>|\0' for character in name)
