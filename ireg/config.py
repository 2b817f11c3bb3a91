"""The shape of the configuration, and the ranges of its values.

Both are checked before anything heavy is imported.
"""

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
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
from ireg.trainer_arguments import TRAINER, Check, instead, trainer_ranges, unsupported

NOISE_KINDS = ("symmetric", "uniform", "pairflip", "none")
# Groups of which one is chosen, and a choice of each.
CHOICES = {"data": "mnist10k", "model": "mlp", "optimizer": "sgd", "trainer": "default"}
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
PENALTY = "penalty/value"
"""What rows of runs with a regularizer hold beside that."""
HOLDOUT = ("holdout/loss", "holdout/error")
"""What rows of runs with held-out examples hold beside that."""
SWITCH = ("switch/phase", "switch/lr", "switch/gamma", "switch/estimate")
"""What rows of runs with an optimizer that switches hold beside that, the last two with SWATS."""
INTERVAL = "every"
"""Key of a group of terms, beside those of its terms."""
TERM_SETTINGS = ("every", "num_batches", "method")
SMALLEST_SAMPLE = 3
MOST_THREADS = 1024
"""A system has so many for one process; where it does not give them, torch ends the process."""
NO_REGULARIZER = "none"
LOSSES = ("cross_entropy", "squared_error")
SAMPLINGS = ("epoch", "independent")
METHODS = ("auto", "loop", "vmap", "ghost", "layers", "hooks")


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

    `num_train` and `num_test` say what the source holds.
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


REQUIRED = frozenset(key.name for key in fields(Config) if key.default == MISSING)
"""Keys that every configuration has."""


def register() -> None:
    """Make the schema known to Hydra, as `schema/config`.

    Wrong types and unknown keys are then refused in composition.
    """
    ConfigStore.instance().store(group="schema", name="config", node=Config, package="_global_")


def read(config: DictConfig) -> Config:
    """Resolve a composed configuration and check it.

    Raises:
        UserError: a value is missing, cannot be resolved, or is out of its range.
    """
    tree = OmegaConf.masked_copy(config, [str(key) for key in config if key != "hydra"])
    for group, choice in CHOICES.items():
        if OmegaConf.is_missing(tree, group):
            raise UserError(f"{group}: none is chosen; choose one, like {group}={choice}")
    try:
        plain = OmegaConf.to_container(tree, resolve=True, throw_on_missing=True)
        settings = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(Config), plain))
    except ConfigKeyError as error:
        raise UserError(no_such_key(str(error.full_key))) from error
    except OmegaConfBaseException as error:
        raise UserError(unresolved(error)) from error
    assert isinstance(settings, Config)
    settings.optimizer = {key: _floats(value) for key, value in settings.optimizer.items()}
    check(settings)
    return settings


def unresolved(error: OmegaConfBaseException) -> str:
    """Say in one line which key has no usable value.

    It is missing, of another type, or cannot be resolved.
    """
    first = (error.msg or str(error)).splitlines()[0]
    reason = re.sub(r"^\w+ (raised )?while resolving interpolation: ", "", first).strip('"')
    key = f"{error.full_key}: " if error.full_key and error.full_key not in reason else ""
    if isinstance(error, MissingMandatoryValue):
        return f"{key}{reason}; give it a value"
    if not isinstance(error, InterpolationResolutionError | UnsupportedInterpolationType):
        return f"{key}{reason}"
    return f"{key}{reason}; in ${{…}}, name a key (python train.py --help lists them) or oc.env:VARIABLE,DEFAULT"


def _floats(value: Any) -> Any:
    """Make floats of the integers in a list of numbers.

    An example is betas=[0,0.999]: torch takes no integers there.
    """
    if not isinstance(value, list) or not all(type(entry) in (int, float) for entry in value):
        return value
    # One that no float equals is meant as an integer.
    return [float(entry) if abs(entry) <= 2**53 else entry for entry in value]


def no_such_key(key: str, hint: str = "") -> str:
    """Say what to do about an unknown key.

    Groups that hold another's arguments take further ones.
    """
    group, _, argument = key.partition(".")
    if group == "trainer" and argument and argument not in TRAINER:
        return f"{key}: {unsupported(argument)}"
    if argument and group in ("optimizer", "model", "trainer", "regularizer"):
        # Two pluses, as one is refused where a sweep's optimizer has the argument already.
        return f"{key}: no such key; if it is an argument of the {group}, write ++{key}=…"
    if not argument and (known := instead(key)):
        return f"{key}: no such key; {known}"
    return f"{key}: no such key{hint}; python train.py --help lists the keys"


def check(settings: Config) -> None:
    """Check the ranges of all values.

    Raises:
        UserError: with one line that names the key, its value, what is allowed and what to do.
    """
    for key, value, ok, allowed in _ranges(settings):
        if not ok:
            raise UserError(f"{key}={value}: {allowed}")


def _ranges(settings: Config) -> Iterator[Check]:
    yield "lr", settings.lr, 0 < settings.lr < math.inf, "must be a finite number > 0; set it like lr=1e-3"
    yield _choice("loss", settings.loss, LOSSES)
    for key in ("batch_size", "epochs", "threads"):
        yield _positive(key, getattr(settings, key))
    what = f"must be at most {MOST_THREADS}; as many as the machine has cores is enough"
    yield "threads", settings.threads, settings.threads <= MOST_THREADS, what
    yield "seed", settings.seed, 0 <= settings.seed < 2**32, "must be an integer in [0, 4294967295]"
    what = (
        "must be a folder name: not empty, of characters that can be printed, without . - ~ at the beginning and "
        'without the characters / \\ : * ? " < > |'
    )
    yield "name", repr(settings.name), _is_folder_name(settings.name), what
    yield from _optimizer_ranges(settings)
    yield from _regularizer_ranges(settings)
    yield from _data_ranges(settings.data)
    examples = (settings.data.train_size or settings.data.num_train) - (settings.data.holdout or 0)
    fits = settings.batch_size <= examples or settings.optimizer.get("full_batch", False)
    what = f"must be at most {examples}, the number of training examples; use optimizer=gd for the full batch"
    yield "batch_size", settings.batch_size, fits, what
    yield from _sampling_ranges(settings, examples)
    yield from _term_ranges(settings.terms)
    yield _positive("checkpoint.every", settings.checkpoint.every)
    yield from _logger_ranges(settings.logger)
    measured = [*ALWAYS_MEASURED, *active_terms(settings.terms)]
    if settings.regularizer.get("name") != NO_REGULARIZER:
        measured.append(PENALTY)
    held_out = settings.data.holdout is not None or settings.objective not in HOLDOUT
    yield "objective", settings.objective, held_out, "there are no held-out examples; set data.holdout, like 2000"
    if settings.data.holdout:
        measured.extend(HOLDOUT)
    yield _choice("objective", settings.objective, measured)
    yield from _model_ranges(settings.model)
    yield from trainer_ranges(settings.trainer, settings.optimizer)


def _sampling_ranges(settings: Config, examples: int) -> Iterator[Check]:
    yield _choice("sampling", settings.sampling, SAMPLINGS)
    each_once = settings.sampling != "independent"
    what = "with the full batch nothing is drawn; leave sampling out, or choose an optimizer with minibatches"
    yield "sampling", settings.sampling, each_once or not settings.optimizer.get("full_batch", False), what
    what = f"an epoch of {examples} examples has one minibatch of {settings.batch_size}; set a smaller batch_size"
    yield "sampling", settings.sampling, each_once or settings.batch_size < examples, what


def _logger_ranges(logger: Logging) -> Iterator[Check]:
    shown = logger.tensorboard or not logger.histograms
    yield "logger.histograms", logger.histograms, shown, "needs logger.tensorboard=true: TensorBoard shows them"
    if logger.further:
        yield _target("logger.further", logger.further, "lightning.pytorch.loggers.WandbLogger")


def active_terms(terms: Mapping[str, Any]) -> dict[str, Any]:
    """List by tag the terms that are switched on.

    null switches one, or a whole group, off.
    """
    groups = {group: entries for group, entries in terms.items() if isinstance(entries, dict)}
    return {
        f"{group}/{name}": function
        for group, entries in groups.items()
        for name, function in entries.items()
        if function is not None and name != INTERVAL
    }


def term_intervals(terms: Mapping[str, Any]) -> dict[str, int]:
    """List by group how often its terms are measured.

    Groups that have no interval of their own are left out.
    """
    return {
        group: entries[INTERVAL]
        for group, entries in terms.items()
        if isinstance(entries, dict) and entries.get(INTERVAL) is not None
    }


def _term_ranges(terms: dict[str, Any]) -> Iterator[Check]:
    yield _positive("terms.every", terms.get("every"))
    some = terms.get("num_batches")
    allowed = some is None or (type(some) is int and some >= SMALLEST_SAMPLE)
    yield (
        "terms.num_batches",
        some,
        allowed,
        f"must be an integer of at least {SMALLEST_SAMPLE}, or null for all minibatches",
    )
    yield _choice("terms.method", terms.get("method"), METHODS)
    for group, entries in terms.items():
        what = "must hold terms by their names; null is none of them"
        yield f"terms.{group}", entries, group in TERM_SETTINGS or isinstance(entries, dict | None), what
    for group, interval in term_intervals(terms).items():
        yield _positive(f"terms.{group}.{INTERVAL}", interval)
    for tag, function in active_terms(terms).items():
        key = f"terms.{tag.replace('/', '.')}"
        what = "must hold a function's import path in _target_, or be null to leave the term out"
        yield key, function, isinstance(function, dict), what
        yield _target(key, function, "ireg.terms.norm.l2")


def _model_ranges(model: dict[str, Any]) -> Iterator[Check]:
    yield _target("model", model, "ireg.models.MLP")
    partial = model.get("_partial_", False)
    yield "model._partial_", partial, partial is False, "must be false: the network is made once"
    hidden = model.get("hidden", [])
    widths = isinstance(hidden, list) and all(type(width) is int and width >= 1 for width in hidden)
    yield "model.hidden", hidden, widths, "must be a list of integers of at least 1, like [256,256]"


def _optimizer_ranges(settings: Config) -> Iterator[Check]:
    name = settings.optimizer.get("name")
    yield "optimizer.name", name, isinstance(name, str), "must be a word, which tables and figures take"
    yield _target("optimizer", settings.optimizer, "torch.optim.SGD")
    full = settings.optimizer.get("full_batch", False)
    yield "optimizer.full_batch", full, isinstance(full, bool), "must be true or false"
    key = "first_lr" if "first_lr" in settings.optimizer else "lr"  # the other is then the rate after a switch
    what = f"the learning rate is set at the top level only (lr={settings.lr:g} there); use lr=…"
    yield f"optimizer.{key}", settings.optimizer.get(key), settings.optimizer.get(key) == settings.lr, what
    for kernel in ("foreach", "fused"):
        free = kernel not in settings.optimizer or settings.trainer.get("fused", False) is not True
        what = "trainer.fused=true chooses the optimizer's kernel, too; leave one of them out"
        yield f"optimizer.{kernel}", settings.optimizer.get(kernel), free, what


def _regularizer_ranges(settings: Config) -> Iterator[Check]:
    regularizer = settings.regularizer
    name, strength = regularizer.get("name"), regularizer.get("strength")
    yield "regularizer.name", name, isinstance(name, str), "must be a word, which tables and figures take"
    if name == NO_REGULARIZER:
        only = [key for key in regularizer if key != "name"]
        what = "without a penalty there is nothing to set; choose one, like regularizer=minibatch"
        yield f"regularizer.{''.join(only[:1])}", regularizer.get("".join(only[:1])), not only, what
        return
    yield _target("regularizer", regularizer, "ireg.regularizers.Minibatch")
    ok = isinstance(strength, int | float) and 0 <= strength < math.inf
    yield "regularizer.strength", strength, ok, "must be a finite number of at least 0, like regularizer.strength=0.1"
    some = settings.terms.get("num_batches")
    what = "a regularizer is measured over all minibatches; leave out one of the two"
    yield "terms.num_batches", some, some is None, what


def _data_ranges(data: Data) -> Iterator[Check]:
    for split, size, available in (("train", data.train_size, data.num_train), ("test", data.test_size, data.num_test)):
        what = f"must be an integer in [1, {available}], the number of {split} examples of {data.name}, or null for all"
        yield f"data.{split}_size", size, size is None or 1 <= size <= available, what
    examples = data.train_size or data.num_train
    what = f"must be an integer in [1, {examples - 1}], so that training examples are left, or null for none"
    yield "data.holdout", data.holdout, data.holdout is None or 1 <= data.holdout < examples, what
    yield _positive("data.eval_batch_size", data.eval_batch_size)
    yield "data.mean", data.mean, _all_finite(data.mean), "must be a finite number, or a list with one a channel"
    above = _all_finite(data.std, above=0.0)
    yield "data.std", data.std, above, "must be a finite number > 0, or a list with one a channel"
    yield _target("data.source", data.source, "ireg.data.idx.idx")
    for key, number in (("data.subset_seed", data.subset_seed), ("data.noise.seed", data.noise.seed)):
        yield key, number, 0 <= number < 2**63, "must be an integer of at least 0"
    yield _choice("data.noise.kind", data.noise.kind, NOISE_KINDS)
    for key, rate in (("data.noise.rate", data.noise.rate), ("data.noise.test_rate", data.noise.test_rate)):
        yield key, rate, 0 <= rate <= 1, "must be a share in [0, 1]; 0.3 corrupts 30 % of the labels"


def _all_finite(value: Any, above: float = -math.inf) -> bool:
    """Say whether a number is finite and above a bound.

    Of a list, every number must be.
    """
    numbers = value if isinstance(value, list) and value else [value]
    return all(type(number) in (int, float) and above < number < math.inf for number in numbers)


def _target(key: str, entry: dict[str, Any], example: str) -> Check:
    target = entry.get("_target_")
    return (
        f"{key}._target_",
        target,
        isinstance(target, str),
        f"must be the import path of what is called, like {example}",
    )


def _positive(key: str, value: Any) -> Check:
    return key, value, type(value) is int and value >= 1, "must be an integer of at least 1"


def _choice(key: str, value: Any, allowed: Sequence[str]) -> Check:
    return key, value, value in allowed, f"choose one of {', '.join(allowed)}"


def _is_folder_name(name: str) -> bool:
    return name[:1] not in ("", ".", "-", "~") and name.isprintable() and not set(name) & set('/\\:*?"<>|')
