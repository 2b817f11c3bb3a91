"""The ranges of the configuration's values."""

import math
from collections.abc import Iterator, Sequence
from typing import Any

from ireg.config.schema import (
    ALWAYS_MEASURED,
    AVERAGE,
    HOLDOUT,
    INTERVAL,
    LOSSES,
    METHODS,
    MOST_THREADS,
    NO_AVERAGE,
    NO_REGULARIZER,
    NOISE_KINDS,
    PARTS,
    PENALTY,
    SAMPLINGS,
    SMALLEST_SAMPLE,
    TERM_SETTINGS,
    Config,
    Data,
    Logging,
    active_terms,
    term_intervals,
)
from ireg.config.step_ranges import step_ranges
from ireg.config.trainer_arguments import Check, trainer_ranges
from ireg.system.errors import UserError


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
    examples = settings.data.training_examples
    fits = settings.batch_size <= examples or settings.optimizer.get("full_batch", False)
    what = f"must be at most {examples}, the number of training examples; use optimizer=gd for the full batch"
    yield "batch_size", settings.batch_size, fits, what
    yield from _sampling_ranges(settings, examples)
    yield from step_ranges(settings)
    yield from _term_ranges(settings.terms)
    yield _positive("checkpoint.every", settings.checkpoint.every)
    yield from _logger_ranges(settings.logger)
    # A text has no label noise, and the fit of its training examples is not looked at.
    always = [tag for tag in ALWAYS_MEASURED if settings.data.context is None or not tag.startswith("fit/")]
    measured = [*always, *active_terms(settings.terms)]
    if settings.regularizer.get("name") != NO_REGULARIZER:
        measured.append(PENALTY)
    held_out = settings.data.holdout is not None or settings.objective not in HOLDOUT
    yield "objective", settings.objective, held_out, "there are no held-out examples; set data.holdout, like 2000"
    if settings.data.holdout:
        measured.extend(HOLDOUT)
    if settings.weight_average.name != NO_AVERAGE:
        measured.extend(AVERAGE)
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
    parts = terms.get("by")
    yield "terms.by", parts, parts is None or parts in PARTS, f"must be one of {', '.join(PARTS)}, or null"
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
    yield from _text_ranges(data)
    for split, size in (("train", data.train_size), ("test", data.test_size)):
        available = data.examples(split)
        what = f"must be an integer in [1, {available}], the number of {split} examples of {data.name}, or null for all"
        yield f"data.{split}_size", size, size is None or 1 <= size <= available, what
    examples = data.train_size or data.examples("train")
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


def _text_ranges(data: Data) -> Iterator[Check]:
    if data.context is None:
        return
    most = min(data.num_train, data.num_test) - 1
    what = f"must be an integer in [1, {most}], the characters of a block"
    yield "data.context", data.context, 1 <= data.context <= most, what
    kind, standardize = data.noise.kind, data.standardize
    what = "the characters of a text have no label noise; use data.noise.kind=none"
    yield "data.noise.kind", kind, kind == "none", what
    yield "data.standardize", standardize, not standardize, "characters are no pixels; use data.standardize=false"


def _all_finite(value: Any, above: float = -math.inf) -> bool:
    """Say whether a number, or every number of a list, is finite and above a bound."""
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
