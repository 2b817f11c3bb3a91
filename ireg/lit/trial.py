"""Try a run on a few examples.

What fails there would fail after the start, in torch's words.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from ireg.core.functional import (
    detached_parameters,
    evaluating,
    functional_loss,
    measuring,
    trained_parameters,
)
from ireg.core.random import named_generator, named_seed
from ireg.core.types import Batch
from ireg.measured_loss import MeasuredLoss
from ireg.measurement import evaluate, take_snapshot
from ireg.objective import Criterion, Objective
from ireg.system.errors import UserError

if TYPE_CHECKING:
    from ireg.lit.module import Classifier

EXAMPLES = 64
"""Examples of a minibatch that are tried, at most."""


def step_or_overflow(optimizer: Any, closure: Callable[[], Any] | None = None) -> None:
    """Take a step; make all weights nan on overflow.

    Overflow means that a number leaves the range of the weights' type.

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


def try_out(classifier: Classifier) -> None:
    """Train and measure a copy of the network on few examples.

    The trainer's device and precision are used.

    Tried are a minibatch as most are and one as small as the last, each in training and in evaluation, a step of the
    optimizer, and the terms before and after it. Neither the network nor a random stream is changed.

    Raises:
        UserError: something fails, or returns other than what is expected of it.
    """
    model, device = classifier.model, classifier.trainer.strategy.root_device
    batches = _batches(classifier, device)
    with errors_of(f"model: {type(model).__name__} cannot be copied"):
        copied = copy.deepcopy(model)
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(named_seed("trial"))
        for batch in batches:
            _try_network(copied, batch, classifier)
        _try_step_and_terms(copied, batches, classifier)


def _batches(classifier: Classifier, device: torch.device) -> list[Batch]:
    """Take the first examples, one or two minibatches of them.

    They are as many as a minibatch has, and as the last one has if that is smaller.
    """
    data, convert = classifier.data, classifier.trainer.precision_plugin.convert_input
    count = len(data.train_inputs)
    size = data.batch_size or count
    sizes = dict.fromkeys(min(EXAMPLES, examples) for examples in (size, count % size or size))
    labels = data.train_labels.observed
    return [(convert(data.train_inputs[:examples].to(device)), labels[:examples].to(device)) for examples in sizes]


def _try_network(model: nn.Module, batch: Batch, classifier: Classifier) -> None:
    """Check what the network returns, and find out how its loss is to be measured.

    Raises:
        UserError: it fails or returns no logits.
    """
    inputs, targets = batch
    name, images = type(model).__name__, f"{len(inputs)} images of shape {tuple(inputs.shape[1:])}"
    last = len(classifier.data.train_inputs) % (classifier.data.batch_size or 1)
    remedy = f"; the last minibatch has {last} examples: choose another batch_size" if len(inputs) == last else ""

    def loss(seed: int) -> float:
        torch.manual_seed(named_seed("trial", seed))
        return _loss(classifier.criterion, model(inputs), targets, classifier.data.num_classes)

    with classifier.trainer.precision_plugin.forward_context(), torch.no_grad():
        with errors_of(f"model: {name} on a minibatch of {images}", remedy):
            loss(0)
            with measuring(model):
                measured, again = loss(0), loss(1)
        with evaluating(model), errors_of(f"model: {name} in evaluation on {images}"):
            evaluated = loss(0)
    classifier.same_in_evaluation &= measured == evaluated
    if measured != again and math.isfinite(measured + again):
        classifier.noise = max(classifier.noise, abs(measured - again) / max(abs(measured), abs(again)))


def _loss(criterion: Criterion, outputs: Any, targets: Tensor, num_classes: int) -> float:
    """The loss of a minibatch's outputs.

    Raises:
        ValueError: they are no logits.
    """
    expected = (len(targets), num_classes)
    if not isinstance(outputs, Tensor):
        raise ValueError(f"returns a {type(outputs).__name__}; must return one tensor of logits of shape {expected}")
    if tuple(outputs.shape) != expected or not outputs.is_floating_point():
        raise ValueError(
            f"returns {outputs.dtype} of shape {tuple(outputs.shape)}; must return floating-point logits {expected}"
        )
    return float(criterion(outputs, targets))


def _try_step_and_terms(model: nn.Module, batches: list[Batch], classifier: Classifier) -> None:
    with errors_of("optimizer"):
        optimizer = classifier.make_optimizer(model.parameters())
    if classifier.terms:
        with errors_of(f"model: {type(model).__name__}"), classifier.trainer.precision_plugin.forward_context():
            _require_own_gradient(model, optimizer, batches[0], classifier)
    _try_terms(model, optimizer, batches, classifier)
    for batch in [*batches, batches[0]]:  # two at least: a first step may be another than those after it
        _try_step(model, optimizer, batch, classifier)
    _try_terms(model, optimizer, batches, classifier)


def _require_own_gradient(model: nn.Module, optimizer: Optimizer, batch: Batch, classifier: Classifier) -> None:
    """Compare the gradient that is measured with the network's own, and note how it is to be measured.

    Raises:
        ValueError: they differ.
    """
    with MeasuredLoss(model, optimizer, classifier.criterion, None) as measured:
        measured.look(batch)
        measured.require_own_gradient(batch)
        classifier.loss_function.fresh = measured.writes


def _try_step(model: nn.Module, optimizer: Optimizer, batch: Batch, classifier: Classifier) -> None:
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
            with classifier.trainer.precision_plugin.forward_context():
                loss = _descended(classifier, model, batch)
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


def _descended(classifier: Classifier, model: nn.Module, batch: Batch) -> Tensor:
    """The objective of one minibatch, the only one of its epoch."""
    objective = _objective(classifier, model, [batch])
    if objective is None:
        inputs, targets = batch
        return classifier.criterion(model(inputs), targets)
    with errors_of("regularizer"):
        return objective.evaluate(trained_parameters(model), batch).total


def _objective(classifier: Classifier, model: nn.Module, batches: list[Batch]) -> Objective | None:
    if classifier.objective is None:
        return None
    return Objective(functional_loss(model, classifier.criterion), classifier.objective.regularizer, batches)


def _try_terms(model: nn.Module, optimizer: Optimizer, batches: list[Batch], classifier: Classifier) -> None:
    if not classifier.terms:
        return
    with measuring(model), errors_of("terms"):
        snapshot = take_snapshot(
            model,
            batches,
            loss=functional_loss(model, classifier.criterion),
            optimizer=optimizer,
            terms=classifier.terms,
            initial=detached_parameters(model),
            generator=named_generator("trial"),
            method=classifier.method,
            objective=_objective(classifier, model, batches),
        )
        for tag, term in classifier.terms.items():
            with errors_of(f"term {tag}"):
                evaluate({tag: term}, snapshot)


@contextmanager
def errors_of(what: str, remedy: str = "") -> Iterator[None]:
    """Say in one line whose error it is.

    A network, an optimizer or a term may raise any.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        text = " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"{what}: {text}{remedy}") from error
