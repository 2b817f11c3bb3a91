"""From settings to data, network, and the module that trains it."""

import inspect
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from hydra.errors import InstantiationException
from hydra.utils import instantiate
from torch import nn
from torch.nn.parameter import is_lazy

from ireg.config.arguments import IN_PYTHON, OF_OPTIMIZER, WITH_MATRICES_ALONE
from ireg.config.schema import NO_AVERAGE, NO_REGULARIZER, Config, Logging, active_terms, term_intervals
from ireg.config.trainer_arguments import clips_in_mixed_precision
from ireg.core.moments.needs import union_of_needs
from ireg.core.optimizers import view
from ireg.known_optimizers import OPTIMIZERS
from ireg.lit.data import NoisyImages
from ireg.lit.loggers import Logger, TensorBoard
from ireg.lit.module import Classifier
from ireg.lit.text import TextBlocks
from ireg.lit.trainer import MisconfigurationException
from ireg.objective import CRITERIA, SEQUENCE_CRITERIA
from ireg.optim import MuonAdamW, Schedule, hidden_matrices, in_decay_groups
from ireg.regularizers import Regularizer
from ireg.runs.metrics import Row, place_of
from ireg.system.errors import UserError

log = logging.getLogger(__name__)

ROUNDED_OTHERWISE = {entry.target for entry in OPTIMIZERS.values() if entry.rounded_otherwise}
"""Classes of optimizers whose kernel for many tensors rounds otherwise than a loop over the parameters."""

REMEDIES = {"Muon only supports 2D parameters": WITH_MATRICES_ALONE}
"""What to do, by a part of another library's message."""


def make_data(settings: Config) -> NoisyImages:
    """Read the data of a run, and put their noise on the labels.

    Raises:
        UserError: they are missing or damaged, or a value does not fit them.
    """
    data, noise = settings.data, settings.data.noise
    with user_errors("data"):
        made = (NoisyImages if data.context is None else partial(TextBlocks, context=data.context))(
            instantiate(data.source, _convert_="all"),
            num_train=data.examples("train"),
            num_test=data.examples("test"),
            num_classes=data.num_classes,
            batch_size=None if settings.optimizer.get("full_batch", False) else settings.batch_size,
            seed=settings.seed,
            noise_kind=noise.kind,
            noise_rate=noise.rate,
            noise_seed=noise.seed,
            test_noise_rate=noise.test_rate,
            train_size=data.train_size,
            test_size=data.test_size,
            holdout=data.holdout,
            subset_seed=data.subset_seed,
            mean=data.mean,
            std=data.std,
            standardize=data.standardize,
            eval_batch_size=data.eval_batch_size,
            sampling=settings.sampling,
            steps=settings.by_steps,
        )
        made.setup()
    return made


def make_model(settings: Config, data: NoisyImages) -> nn.Module:
    """Make the network for these data, with initial weights from torch's random stream.

    Args:
        settings: the run's.
        data: whose shape the network takes.

    Raises:
        UserError: it cannot be made from these values, or is no module, or has parameters without a shape.
    """
    with user_errors("model"):
        model: nn.Module = instantiate(
            settings.model,
            input_shape=data.input_shape,
            num_classes=settings.data.num_classes,
            _convert_="all",
        )
    if not isinstance(model, nn.Module):
        raise UserError(
            f"model: {settings.model.get('_target_')} makes a {type(model).__name__}; must make an nn.Module"
        )
    if any(map(is_lazy, [*model.parameters(), *model.buffers()])):
        raise UserError(
            f"model: {type(model).__name__} has parameters or buffers whose shapes are not known before its first call "
            "(Lazy layers); give their sizes, for which input_shape and num_classes are there"
        )
    return model


def make_classifier(settings: Config, model: nn.Module) -> Classifier:
    """Make what trains and measures the network.

    Args:
        settings: the run's.
        model: the network; the optimizer and the terms are tried on its parameters.

    Raises:
        UserError: an optimizer or a term cannot be made from these values, or the two do not go together.
    """
    terms = {tag: _made_term(tag, entry) for tag, entry in active_terms(settings.terms).items()}
    average = settings.weight_average
    optimizer = _made_optimizer(settings, model)
    with user_errors(f"optimizer={settings.optimizer['name']}"):
        # Made and dropped: wrong arguments, or one that the terms cannot read, are found here, not during training.
        made = optimizer(model.parameters())
        if terms:
            seen = view(made, dict(model.named_parameters()))
            union_of_needs(terms.values(), seen)
            if not seen.has_rule:
                log.warning("%s; the terms of its memory and its second moment are left out", seen.reason)
    regularizer = _made_regularizer(settings.regularizer)
    if settings.by_steps is not None and regularizer is not None and regularizer.of_epoch:
        raise UserError(
            f"max_steps={settings.max_steps}: {type(regularizer).__name__} is a penalty of all minibatches of an "
            "epoch, and a row by steps has some; use max_steps=null, or another regularizer"
        )
    with user_errors("terms"):
        return Classifier(
            model,
            optimizer,
            terms,
            terms_every=settings.terms["every"],
            intervals=term_intervals(settings.terms),
            num_batches=settings.terms.get("num_batches"),
            method=settings.terms["method"],
            by=settings.terms.get("by"),
            seed=settings.seed,
            criterion=(CRITERIA if settings.data.context is None else SEQUENCE_CRITERIA)[settings.loss],
            regularizer=regularizer,
            sampling=settings.sampling,
            schedule=_made_schedule(settings),
            average_decay=None if average.name == NO_AVERAGE else average.decay,
        )


def _made_optimizer(settings: Config, model: nn.Module) -> Callable[..., Any]:
    """Return what makes the optimizer from the parameters, with its kernel and its groups."""
    arguments = {IN_PYTHON.get(key, key): value for key, value in settings.optimizer.items() if key not in OF_OPTIMIZER}
    name = settings.optimizer["name"]
    with user_errors(f"optimizer={name}"):
        # Plain lists: one of OmegaConf's, like betas, would be code in the checkpoint, which could not be loaded.
        optimizer: Callable[..., Any] = instantiate(arguments, _convert_="all")
        optimizer = _with_kernel(optimizer, model, settings.trainer, given=arguments)
    in_groups = settings.optimizer.get("decay_groups", False)
    if getattr(optimizer, "func", optimizer) is MuonAdamW:
        return partial(optimizer, hidden=hidden_matrices(model), decay_matrices_alone=in_groups)
    return _with_decay_groups(optimizer, name) if in_groups else optimizer


def _made_schedule(settings: Config) -> Schedule | None:
    """Make the factors of the steps' rates; None where each is 1."""
    given = settings.schedule
    if given.name == "constant" and given.warmup == 0:
        return None
    return Schedule(given.name, steps=settings.steps, warmup=given.warmup, final=given.final)


def _with_decay_groups(optimizer: Callable[..., Any], name: str) -> Callable[..., Any]:
    """Let an optimizer decay matrices alone.

    Raises:
        UserError: it has no weight decay.
    """
    if "weight_decay" not in inspect.signature(optimizer).parameters:
        raise UserError(
            f"optimizer.decay_groups=True: optimizer={name} takes no weight_decay; use one that does, like adamw"
        )
    return partial(in_decay_groups, optimizer)


def make_loggers(
    logger: Logging,
    folder: Path,
    *,
    hyperparameters: Mapping[str, Any],
    with_charts: bool,
    earlier: Mapping[int, Row],
    replaced: Sequence[Path],
) -> list[Logger]:
    """Make what the rows go to beside `metrics.csv`.

    Args:
        logger: which.
        folder: the run's.
        hyperparameters: what was set for it.
        with_charts: see `TensorBoard`.
        earlier: the rows of a run that resumes, by epoch; a further logger's run begins with them.
        replaced: its event files before, see `TensorBoard`.

    Raises:
        UserError: the further logger cannot be made from these values.
    """
    made: list[Logger] = []
    if logger.tensorboard:
        made.append(TensorBoard(folder, hyperparameters, with_charts, earlier, replaced))
    if logger.further:
        made.append(_further_logger(logger.further, folder, hyperparameters, earlier))
    return made


def _further_logger(
    arguments: Mapping[str, Any], folder: Path, hyperparameters: Mapping[str, Any], earlier: Mapping[int, Row]
) -> Logger:
    kind = str(arguments["_target_"]).rpartition(".")[2]
    own = {"WandbLogger": {"name": folder.name, "save_dir": str(folder)}, "MLFlowLogger": {"run_name": folder.name}}
    with user_errors("logger.further"):
        further = instantiate({**own.get(kind, {}), **arguments}, _convert_="all")
    if not isinstance(further, Logger):
        raise UserError(f"logger.further: {arguments['_target_']} makes a {type(further).__name__}; name a Logger")
    further.log_hyperparams(dict(hyperparameters))
    for epoch in sorted(earlier):
        further.log_metrics(dict(earlier[epoch]), step=place_of(epoch, earlier[epoch]))
    return further


def _made_regularizer(settings: Mapping[str, Any]) -> Regularizer | None:
    if settings["name"] == NO_REGULARIZER:
        return None
    with user_errors(f"regularizer={settings['name']}"):
        made = instantiate({key: value for key, value in settings.items() if key != "name"}, _convert_="all")
    if not isinstance(made, Regularizer):
        raise UserError(
            f"regularizer: {settings['_target_']} makes a {type(made).__name__}; must make an "
            "ireg.regularizers.Regularizer"
        )
    return made


def _made_term(tag: str, entry: Mapping[str, Any]) -> Callable[..., Any]:
    key = f"terms.{tag.replace('/', '.')}"
    with user_errors(key):
        term = instantiate(entry, _convert_="all")
    function = getattr(term, "func", term)  # what `_partial_` holds
    if not callable(function) or isinstance(function, type):
        path = entry["_target_"]
        raise UserError(f"{key}: {path} is no function of a snapshot; name one in _target_, with _partial_: true")
    made: Callable[..., Any] = term
    return made


def _with_kernel(
    optimizer: Callable[..., Any], model: nn.Module, trainer: Mapping[str, Any], *, given: Mapping[str, Any]
) -> Callable[..., Any]:
    """Choose torch's kernel of the optimizer: the fused one, or the one for many tensors at once.

    The latter gives the same bits as a loop over the parameters, which is torch's default on a CPU, in less time; where
    it does not, the loop is used.

    Args:
        optimizer: makes an optimizer from the parameters.
        model: whose parameters.
        trainer: `fused` takes the fused kernel with `auto` wherever it can be used, and with true always; where there
            is none then, as for RMSprop, a warning says so.
        given: arguments of the optimizer; a kernel chosen there stays.
    """
    known = inspect.signature(optimizer).parameters
    if {"fused", "foreach"} & given.keys():
        return optimizer
    asked = trainer.get("fused", False)
    if asked is True and "fused" not in known:
        log.warning("trainer.fused=true: %s has no fused kernel; its ordinary one is used", given["_target_"])
    if "fused" in known and (asked is True or (asked == "auto" and _can_be_fused(model, trainer))):
        return partial(optimizer, fused=True)
    if "foreach" not in known or given["_target_"] in ROUNDED_OTHERWISE:
        return optimizer
    return partial(optimizer, foreach=True)


def _can_be_fused(model: nn.Module, trainer: Mapping[str, Any]) -> bool:
    """Say whether torch's fused kernels (for real weights alone) and Lightning's clipping allow fusing."""
    return not clips_in_mixed_precision(trainer) and all(
        parameter.is_floating_point() for parameter in model.parameters()
    )


@contextmanager
def user_errors(what: str) -> Iterator[None]:
    """Report as the user's the errors of values that only their receiver can check.

    Args:
        what: the key or the choice that the values belong to, at the start of the line.

    Raises:
        UserError: the block raised an error of a value.
    """
    try:
        yield
    except UserError:
        raise
    except (InstantiationException, MisconfigurationException, ImportError, IndexError, TypeError, ValueError) as error:
        reason = " ".join(str(error.__cause__ or error).split())
        remedies = [remedy for part, remedy in REMEDIES.items() if part in reason]
        raise UserError("; ".join([f"{what}: {reason}", *remedies])) from error
