"""Try a run on a few examples, so that what fails does so before training and in one line."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from ireg.core.functional import evaluating, functional_loss, measuring, trained_parameters
from ireg.core.random import named_generator, named_seed
from ireg.core.snapshot import NO_FADE, Term
from ireg.core.types import Batch
from ireg.lit.data import NoisyImages
from ireg.measured_loss import MeasuredLoss, loss_function
from ireg.measurement import evaluate, take_snapshot
from ireg.objective import Criterion, Objective
from ireg.options import Epoch, Options
from ireg.system.errors import UserError

EXAMPLES = 64
"""Examples of a minibatch that are tried, at most."""


def step_or_overflow(optimizer: Any, closure: Callable[[], Any] | None = None) -> None:
    """Take a step, and make all weights nan if a number leaves the range of their type.

    torch refuses such a number (of a learning rate of 1e39, say) where arithmetic would have given an infinite step.
    """
    try:
        optimizer.step(closure)
    except RuntimeError as error:
        if "without overflow" not in str(error):
            raise
        with torch.no_grad():
            for group in optimizer.param_groups:
                for parameter in group["params"]:
                    parameter.fill_(math.nan)


@dataclass(frozen=True, kw_only=True)
class Tried:
    """The result of a trial: how a network is to be measured.

    Attributes:
        same_in_evaluation: whether the loss that is measured is that of eval mode.
        noise: by how much of itself the loss differs between two seeds.
        writes: whether a forward pass changes the weights that it is given.
    """

    same_in_evaluation: bool = True
    noise: float = 0.0
    writes: bool = False


@dataclass(frozen=True, kw_only=True)
class _Trial:
    """The arguments of a trial, see `try_out`."""

    data: NoisyImages
    criterion: Criterion
    terms: Mapping[str, Term]
    options: Options
    make_optimizer: Callable[[Iterable[nn.Parameter]], Optimizer]
    precision: Any
    rates_change: bool


def try_out(
    model: nn.Module,
    *,
    data: NoisyImages,
    criterion: Criterion,
    terms: Mapping[str, Term],
    options: Options,
    make_optimizer: Callable[[Iterable[nn.Parameter]], Optimizer],
    precision: Any,
    device: torch.device,
    rates_change: bool = False,
) -> Tried:
    """Train and measure a copy of the network on few examples.

    Tried are a minibatch as most are and one as small as the last, each in training and in evaluation, a step of the
    optimizer, and the terms before and after it. Neither the network nor a random stream is changed.

    Args:
        model: the network.
        data: that it is trained on.
        criterion: the loss.
        terms: function by tag; none are not tried.
        options: what else is asked for.
        make_optimizer: makes an optimizer from the parameters.
        precision: the trainer's plugin.
        device: the trainer's.
        rates_change: whether the steps of an epoch have different learning rates, for which some terms do not exist.

    Returns:
        How the network is to be measured.

    Raises:
        UserError: something fails, or returns other than what is expected of it.
    """
    trial = _Trial(
        data=data,
        criterion=criterion,
        terms=terms,
        options=options,
        make_optimizer=make_optimizer,
        precision=precision,
        rates_change=rates_change,
    )
    batches = _batches(trial, device)
    with errors_of(f"model: {type(model).__name__} cannot be copied"):
        copied = copy.deepcopy(model)
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(named_seed("trial"))
        results = [_try_network(copied, batch, trial) for batch in batches]
        writes = _try_step_and_terms(copied, batches, trial)
    return Tried(
        same_in_evaluation=all(same for same, _ in results), noise=max(noise for _, noise in results), writes=writes
    )


def _batches(trial: _Trial, device: torch.device) -> list[Batch]:
    """Return one or two minibatches of the first examples.

    They have as many examples as a minibatch of the run, and as its last one if that is smaller, at most `EXAMPLES`.
    """
    data, convert = trial.data, trial.precision.convert_input
    count = len(data.train_inputs)
    size = data.batch_size or count
    sizes = dict.fromkeys(min(EXAMPLES, examples) for examples in (size, count % size or size))
    labels = data.train_labels.observed
    return [(convert(data.train_inputs[:examples].to(device)), labels[:examples].to(device)) for examples in sizes]


def _try_network(model: nn.Module, batch: Batch, trial: _Trial) -> tuple[bool, float]:
    """Check what the network returns, and determine how its loss is to be measured.

    Returns:
        Whether the loss that is measured is that of eval mode, and by how much of itself it differs between two seeds.

    Raises:
        UserError: it fails or returns no logits.
    """
    inputs, targets = batch
    name, images = type(model).__name__, f"{len(inputs)} {trial.data.example}s of shape {tuple(inputs.shape[1:])}"
    last = len(trial.data.train_inputs) % (trial.data.batch_size or 1)
    remedy = f"; the last minibatch has {last} examples: choose another batch_size" if len(inputs) == last else ""
    if not inputs.is_floating_point():
        remedy += "; the inputs are numbers of tokens: choose a network that embeds them, like model=gpt"

    def loss(seed: int) -> float:
        torch.manual_seed(named_seed("trial", seed))
        return _loss(trial.criterion, model(inputs), targets, trial.data.num_classes)

    with trial.precision.forward_context(), torch.no_grad():
        with errors_of(f"model: {name} on a minibatch of {images}", remedy):
            loss(0)
            with measuring(model):
                measured, again = loss(0), loss(1)
        with evaluating(model), errors_of(f"model: {name} in evaluation on {images}"):
            evaluated = loss(0)
    differ = measured != again and math.isfinite(measured + again)
    return measured == evaluated, abs(measured - again) / max(abs(measured), abs(again)) if differ else 0.0


def _loss(criterion: Criterion, outputs: Any, targets: Tensor, num_classes: int) -> float:
    """Compute the loss of a minibatch's outputs.

    Raises:
        ValueError: the outputs are no logits.
    """
    expected = (*targets.shape, num_classes)
    if not isinstance(outputs, Tensor):
        raise ValueError(f"returns a {type(outputs).__name__}; must return one tensor of logits of shape {expected}")
    if tuple(outputs.shape) != expected or not outputs.is_floating_point():
        raise ValueError(
            f"returns {outputs.dtype} of shape {tuple(outputs.shape)}; must return floating-point logits {expected}"
        )
    return float(criterion(outputs, targets))


def _try_step_and_terms(model: nn.Module, batches: list[Batch], trial: _Trial) -> bool:
    """Try some steps of the optimizer, and the terms before and after them.

    Returns:
        Whether a forward pass changes the weights that it is given.
    """
    with errors_of("optimizer"):
        optimizer = trial.make_optimizer(model.parameters())
    writes = False
    if trial.terms:
        with errors_of(f"model: {type(model).__name__}"), trial.precision.forward_context():
            writes = _compare_gradients(model, optimizer, batches[0], trial)
    _try_terms(model, optimizer, batches, trial)
    for batch in [*batches, batches[0]]:  # two at least: a first step may be another than those after it
        _try_step(model, optimizer, batch, trial)
    _try_terms(model, optimizer, batches, trial)
    return writes


def _compare_gradients(model: nn.Module, optimizer: Optimizer, batch: Batch, trial: _Trial) -> bool:
    """Compare the gradient that is measured with the network's own, if that is asked for.

    Returns:
        Whether a forward pass changes the weights that it is given.

    Raises:
        ValueError: the gradients differ.
    """
    with MeasuredLoss(model, optimizer, trial.criterion, None) as measured:
        measured.look(batch)
        if trial.options.check != "off":
            measured.require_own_gradient(batch)
        return measured.writes


def _try_step(model: nn.Module, optimizer: Optimizer, batch: Batch, trial: _Trial) -> None:
    """Take a step on a minibatch, as the trainer does.

    Raises:
        UserError: it fails, or evaluates the loss not exactly once: in training, each evaluation takes the next
            minibatch.
    """
    evaluations = 0

    def evaluated() -> Tensor:
        nonlocal evaluations
        evaluations += 1
        with errors_of(f"model: {type(model).__name__} on a backward pass"):
            with trial.precision.forward_context():
                loss = _descended(trial, model, batch)
            if not loss.requires_grad:
                raise ValueError("the loss has no gradient; unfreeze a parameter that the network uses")
            optimizer.zero_grad()
            loss.backward()
        return loss

    with errors_of(f"optimizer: a step of {type(optimizer).__name__}"):
        step_or_overflow(optimizer, evaluated)
        if evaluations != 1:
            raise ValueError(
                f"evaluates the loss {evaluations} times; must do so once, as a step has one minibatch: choose another "
                "optimizer, like sgd or adam (for LBFGS, optimizer.max_iter=1 without a line search)"
            )


def _descended(trial: _Trial, model: nn.Module, batch: Batch) -> Tensor:
    """Compute the objective of one minibatch, the only one of its epoch."""
    objective = _objective(trial, model, [batch])
    if objective is None:
        inputs, targets = batch
        return trial.criterion(model(inputs), targets)
    with errors_of("regularizer"):
        return objective.evaluate(trained_parameters(model), batch).total


def _objective(trial: _Trial, model: nn.Module, batches: list[Batch]) -> Objective | None:
    regularizer = trial.options.regularizer
    return None if regularizer is None else Objective(functional_loss(model, trial.criterion), regularizer, batches)


def _try_terms(model: nn.Module, optimizer: Optimizer, batches: list[Batch], trial: _Trial) -> None:
    if not trial.terms:
        return
    rates = None
    if trial.rates_change:
        batches = [*batches, batches[0]]  # of two steps at least
        given = [float(group["lr"]) for group in optimizer.param_groups]
        rates = [[rate / (1 + step) for rate in given] for step in range(len(batches))]
    with measuring(model), errors_of("terms"):
        snapshot = take_snapshot(
            model,
            # Without the steps of the optimizer itself, which take long and stop no training.
            Epoch(batches=batches, rates=rates, generator=named_generator("trial"), kept={NO_FADE: torch.ones(())}),
            Options(terms=trial.terms, method=trial.options.method),  # of few examples, neither drawn nor masked
            loss=loss_function(model, trial.criterion, None, trial.options.method),
            optimizer=optimizer,
            objective=_objective(trial, model, batches),
        )
        for tag, term in trial.terms.items():
            with errors_of(f"term {tag}"):
                evaluate({tag: term}, snapshot)


@contextmanager
def errors_of(what: str, remedy: str = "") -> Iterator[None]:
    """Raise any error of the block in one line that says whose it is.

    A network, an optimizer or a term may raise any.

    Args:
        what: what has failed, for the beginning of the line.
        remedy: what to do, for its end.

    Raises:
        UserError: the block has raised an error.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        text = " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"{what}: {text}{remedy}") from error
