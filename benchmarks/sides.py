"""What is measured side by side, by name in `SIDES`: functions `(case, epochs) -> seconds by epoch`.

Every call starts afresh: new weights, a new optimizer, a new run folder.
"""

import csv
import logging
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from unittest import mock

import torch
from torch import nn

from benchmarks.case import Case, composed
from benchmarks.loop import epochs_by_hand
from benchmarks.ordinary import epochs_the_ordinary_way
from benchmarks.times import EpochTime
from ireg.config.read import read
from ireg.config.schema import Config
from ireg.experiment import build
from ireg.experiment import run as project
from ireg.lit.data import NoisyImages
from ireg.lit.module import Classifier


def by_project(case: Case, epochs: int, extra: Sequence[str] = ()) -> list[EpochTime]:
    """Do a run of the project as `train.py` does it: training, terms, evaluation, logs and checkpoint."""
    clock = PassClock()
    with composed([*case.overrides(epochs), *extra]) as (config, folder), watching(clock.attach):
        project.run(config)
        with (folder / "metrics.csv").open() as file:
            rows = list(csv.DictReader(file))[1:]  # the first is the state before training
    return [
        EpochTime(float(row["time/epoch"]), training, float(row["time/terms"]) if row.get("time/terms") else None)
        for row, training in zip(rows, clock.seconds, strict=True)
    ]


def without_terms(case: Case, epochs: int) -> list[EpochTime]:
    """Do the same run with no terms."""
    return by_project(case, epochs, ["terms=[]"])


def with_theory(case: Case, epochs: int) -> list[EpochTime]:
    """Do the same run with the mean flow's terms, which take a pass with Hessian products."""
    return by_project(case, epochs, ["terms=theory"])


def by_hand(case: Case, epochs: int) -> list[EpochTime]:
    """Run the loop written by hand."""
    settings, data = prepared(case, epochs)
    model = build.make_model(settings, data)
    times, _ = epochs_by_hand(
        model,
        build.make_classifier(settings, model).make_optimizer,
        (data.train_inputs, data.train_labels.observed, data.train_labels.clean),
        (data.test_inputs, data.test_labels.observed),
        batch_size=case.batch_size,
        num_epochs=epochs,
    )
    return times


def ordinarily(case: Case, epochs: int) -> list[EpochTime]:
    """Do ordinary Lightning with torch's default kernels, on a CPU a loop over the parameters."""
    settings, data = prepared(
        replace(case, extra=(*case.extra, "trainer.fused=false", "+optimizer.foreach=false")), epochs
    )
    model = build.make_model(settings, data)
    with TemporaryDirectory() as folder:
        return epochs_the_ordinary_way(
            model,
            build.make_classifier(settings, model).make_optimizer,
            (data.train_indices, data.train_labels.observed),
            (data.test_indices, data.test_labels.observed),
            batch_size=case.batch_size,
            num_epochs=epochs,
            folder=Path(folder),
        )


PROJECT, TERMS_OFF, THEORY, BY_HAND, ORDINARY = "project", "terms off", "terms=theory", "by hand", "ordinary"
SIDES: dict[str, Callable[[Case, int], list[EpochTime]]] = {
    PROJECT: by_project,
    TERMS_OFF: without_terms,
    THEORY: with_theory,
    BY_HAND: by_hand,
    ORDINARY: ordinarily,
}


class PassClock:
    """Seconds of each epoch's training pass, from its start to the evaluation of the test examples.

    It listens to hooks that come once an epoch, on the module itself: a Lightning callback would be asked six times in
    each step.
    """

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self._start: float | None = None

    def attach(self, classifier: Classifier) -> None:
        """Listen to `classifier`."""
        before(classifier, "on_train_epoch_start", self._begin)
        before(classifier, "on_validation_start", self._end)

    def _begin(self) -> None:
        self._start = time.perf_counter()

    def _end(self) -> None:
        if self._start is not None:  # the evaluation before training follows no training pass
            self.seconds.append(time.perf_counter() - self._start)
            self._start = None


def before(owner: nn.Module, name: str, action: Callable[[], None]) -> None:
    """Let `action` happen before each call of a method of this one object."""
    method = getattr(owner, name)

    def both(*args: Any, **kwargs: Any) -> Any:
        action()
        return method(*args, **kwargs)

    setattr(owner, name, both)


@contextmanager
def watching(attach: Callable[[Classifier], None]) -> Iterator[None]:
    """Hand each classifier to `attach` before it trains, for all runs in this context."""
    make = build.make_classifier

    def attached(settings: Config, model: nn.Module) -> Classifier:
        classifier = make(settings, model)
        attach(classifier)
        return classifier

    with mock.patch.object(build, "make_classifier", attached):
        yield


def quietly() -> None:
    """Leave out what Lightning prints in every run: standard error is for the progress."""
    logging.disable(logging.WARNING)
    warnings.filterwarnings("ignore", module="lightning")


def prepared(case: Case, epochs: int = 1) -> tuple[Config, NoisyImages]:
    """Return settings and data of a case as a run has them."""
    with composed(case.overrides(epochs)) as (config, _):
        settings = read(config)
    torch.manual_seed(settings.seed)
    data = build.make_data(settings)
    return settings, data
