"""What a run of a classifier measures after its epochs."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from ireg.core.batches import IndexedBatches
from ireg.core.clipping import Clip
from ireg.core.drawing import EPOCH
from ireg.core.functional import (
    ModuleLoss,
    batch_statistics,
    detached_parameters,
    evaluating,
    functional_loss,
    measuring,
    trained_parameters,
)
from ireg.core.moments import Observer
from ireg.core.moments.needs import needs_path
from ireg.core.own_passes import OwnPasses
from ireg.core.path import PathRecorder, recorder_for
from ireg.core.random import named_generator, named_seed
from ireg.core.reservoir import sampled
from ireg.core.snapshot import Snapshot, Term
from ireg.guard import NOISE
from ireg.lit.data import NoisyImages
from ireg.lit.fit import TrainingFit
from ireg.lit.trial import Tried
from ireg.measured_loss import MODES, loss_function
from ireg.measurement import evaluate_all, of_all_weights, take_snapshot
from ireg.objective import Criterion, Objective
from ireg.options import Epoch, Options

log = logging.getLogger(__name__)


class RunMeasurement:
    """The terms of an epoch, the fit of its training examples, and the held-out examples.

    Measuring changes neither weights nor optimizer nor any random stream.

    Args:
        model: maps inputs to logits; its present weights are those before training.
        terms: function by tag; none measures the fit alone.
        options: what else is asked for.
        criterion: the loss.
        terms_every: measure the terms each so many epochs, before training and after the last epoch.
        intervals: the same for groups of terms, by what stands before the slash of their tags.
        seed: of the random numbers that terms may draw.

    Attributes:
        loss: as a function of the parameters.
        objective: what is descended, where that is the loss and a penalty.
        kept: what a measurement leaves for the next one.
        held_out_wrong: by epoch, whose observed label is not predicted, (held out,).
        watchers: called after the terms, with the epoch.
        tried: what a trial has shown of the network before training.
        rates: of each step of the epoch, the rate of each parameter group; None where they do not change.
        clip: how gradients are clipped before each step; None where they are not.
    """

    def __init__(
        self,
        model: nn.Module,
        terms: Mapping[str, Term],
        options: Options,
        *,
        criterion: Criterion,
        terms_every: int = 1,
        intervals: Mapping[str, int] | None = None,
        seed: int = 0,
    ) -> None:
        self.model = model
        self.terms = dict(terms)
        self.options = options
        self.criterion = criterion
        self.terms_every = terms_every
        self.intervals = dict(intervals or {})
        self.seed = seed
        self.initial = {name: value.clone() for name, value in detached_parameters(model).items()}
        self.loss = loss_function(model, criterion, None, options.method)
        penalized = options.regularizer
        self.objective = None if penalized is None else Objective(functional_loss(model, criterion), penalized)
        self.kept: dict[str, Tensor] = {}
        self.held_out_wrong: dict[int, Tensor] = {}
        self.watchers: list[Callable[[int, Snapshot], None]] = []
        self.tried = Tried()
        self.rates: Sequence[Sequence[float]] | None = None
        self._recorder: PathRecorder | None = None
        self.clip: Clip | None = None
        self._said = False
        self._noted = False

    def use(self, tried: Tried) -> None:
        """Take the result of a trial, which says how the network is to be measured."""
        self.tried = tried
        for loss in (self.loss, None if self.objective is None else self.objective.loss):
            if isinstance(loss, ModuleLoss | OwnPasses):
                loss.fresh = tried.writes

    def start(self, data: NoisyImages, optimizer: Optimizer) -> None:
        """Take the data and the optimizer of a training that starts."""
        self.data = data
        self.optimizer = optimizer
        self._recorder = recorder_for(self.terms.values(), optimizer)

    def terms_of(self, epoch: int, *, last: bool) -> dict[str, Term]:
        """Return the terms that are measured after an epoch, by tag."""
        return {
            tag: term
            for tag, term in self.terms.items()
            if last or epoch % self.intervals.get(tag.partition("/")[0], self.terms_every) == 0
        }

    def begin_epoch(self, terms: Mapping[str, Term]) -> None:
        """Record the path of an epoch after which these terms are measured, if one needs it."""
        if self._recorder is not None and any(map(needs_path, terms.values())):
            self._recorder.start()

    def measure(
        self, epoch: int, minibatches: Sequence[Tensor], terms: Mapping[str, Term]
    ) -> tuple[dict[str, float], TrainingFit]:
        """Compute terms by tag, and the fit of the training examples, at the present weights.

        The pass that the terms need sees every training example, so it gives the fit, too. If none needs a pass, or the
        network normalizes by the statistics of minibatches, if the terms are estimated from some of the minibatches, or
        if these are drawn independently, so that examples are missing, the examples are evaluated separately.

        Args:
            epoch: number of completed epochs.
            minibatches: index tensors; the terms are computed over these minibatches.
            terms: function by tag.
        """
        fit = TrainingFit(self.data.train_labels, self.criterion)
        # The fit is of eval mode. With the minibatches' statistics, as with other modes, training has other outputs.
        shared = self.tried.same_in_evaluation and not batch_statistics(self.model)
        shared &= self.options.num_batches is None and self.options.drawing == EPOCH
        shared &= self.options.mode == "as_trained" and self.data.has_noisy_labels
        values: dict[str, float] = {}

        def observe(first: int, outputs: Tensor) -> None:
            fit.add(torch.cat(list(minibatches[first : first + len(outputs)])), outputs.flatten(0, 1))

        if terms:
            with self._mode(epoch):
                trained_on = self._trained_on(epoch, minibatches)
                snapshot = self._snapshot(trained_on, minibatches, terms, observe if shared else None)
                shared &= bool(snapshot.needs)
                if snapshot.needs:
                    self._say_once(snapshot)
                noise = 0.0 if self.options.draws_masks else self.tried.noise
                values = self._values(terms, snapshot, trained_on) | ({NOISE: noise} if noise else {})
                if snapshot.notes and not self._noted:
                    self._noted = True
                    log.warning("%s", snapshot.notes[0])
                for watch in self.watchers:
                    watch(epoch, snapshot)
        if self._recorder is not None:
            self._recorder.stop()
        if not (terms and shared):
            self._evaluate(fit, epoch, minibatches)
        return values, fit

    def _evaluate(self, fit: TrainingFit, epoch: int, minibatches: Sequence[Tensor]) -> None:
        """Add the training examples to the fit by a pass of their own.

        Of a text, whose fit is asked for before training alone, these are the examples of the minibatches.
        """
        data = self.data
        if data.has_noisy_labels:
            batches = [(inputs, indices) for inputs, _, indices in data.train_batches()]
        elif epoch == 0:
            parts = torch.cat(list(minibatches)).unique().split(data.eval_batch_size)
            batches = [(data.train_inputs[indices], indices) for indices in parts]
        else:
            return
        with evaluating(self.model), torch.inference_mode():
            for inputs, indices in batches:
                fit.add(indices, self.model(inputs))

    def values(self, epoch: int, minibatches: Sequence[Tensor], terms: Mapping[str, Term]) -> dict[str, float]:
        """Compute terms at the present weights, by tag, without the fit of the examples."""
        with self._mode(epoch):
            trained_on = self._trained_on(epoch, minibatches)
            return self._values(terms, self._snapshot(trained_on, minibatches, terms), trained_on)

    @contextmanager
    def _mode(self, epoch: int) -> Iterator[None]:
        """Let the network compute the loss that is measured, within the block."""
        device, draws = self.data.train_inputs.device, self.options.draws_masks
        with torch.random.fork_rng([device] if device.type == "cuda" else []) if draws else nullcontext():
            if draws:
                torch.manual_seed(named_seed("masks", self.seed, epoch))
            with MODES[self.options.mode](self.model):
                yield

    def _say_once(self, snapshot: Snapshot) -> None:
        if not self._said:
            self._said = True
            some = f"{len(snapshot.batches)} of {snapshot.num_batches} " if snapshot.is_sample else ""
            log.info("%sminibatch gradients: %s by %s", some, snapshot.needs, snapshot.gradients.method)

    def _trained_on(self, epoch: int, minibatches: Sequence[Tensor]) -> Epoch:
        """Describe the epoch, or its sampled minibatches."""
        num_batches = self.options.num_batches
        chosen = sampled(minibatches, num_batches, named_generator("minibatches", self.seed, epoch))
        return Epoch(
            batches=self._batches(chosen),
            initial={name: value.to(self.data.train_inputs.device) for name, value in self.initial.items()},
            generator=named_generator("terms", self.seed, epoch),
            population=None if num_batches is None else len(minibatches),
            kept=self.kept,
            path=None if self._recorder is None else self._recorder.path(),
            rates=self.rates,
            clip=self.clip,
            corrupted=self.data.train_labels.corrupted[torch.cat(list(chosen))],
        )

    def _snapshot(
        self,
        trained_on: Epoch,
        minibatches: Sequence[Tensor],
        terms: Mapping[str, Term],
        observer: Observer | None = None,
    ) -> Snapshot:
        """Return the snapshot from which the terms are computed, at the present weights; see `measure`."""
        whole, options = of_all_weights(trained_on, replace(self.options, terms=terms), self.optimizer)
        return take_snapshot(
            self.model,
            whole,
            options,
            loss=self.loss,
            optimizer=self.optimizer,
            observer=observer,
            objective=self.objective_over(minibatches),
        )

    def _values(self, terms: Mapping[str, Term], snapshot: Snapshot, trained_on: Epoch) -> dict[str, float]:
        values, _ = evaluate_all(terms, snapshot, trained_on, self.model, self.optimizer, by=self.options.by)
        return values

    def objective_over(self, minibatches: Sequence[Tensor]) -> Objective | None:
        """Return the objective with the penalty of these minibatches; None without a penalty."""
        if self.objective is not None:
            self.objective.batches = self._batches(minibatches)
        return self.objective

    def penalty(self, minibatches: Sequence[Tensor]) -> dict[str, float]:
        """Compute the penalty at the present weights over these minibatches, by tag; empty without one."""
        objective = self.objective_over(minibatches)
        if objective is None:
            return {}
        with measuring(self.model):
            return {"penalty/value": float(objective.penalty(trained_parameters(self.model)))}

    def on_held_out(self, epoch: int) -> dict[str, float]:
        """Compute loss and error of the held-out examples, if any, and keep which of them are wrong."""
        if not self.data.holdout:
            return {}
        fit = TrainingFit(self.data.holdout_labels, self.criterion)
        with evaluating(self.model), torch.inference_mode():
            for inputs, _, indices in self.data.holdout_batches():
                fit.add(indices, self.model(inputs))
        if self.data.has_noisy_labels:  # of a text it would be one number a character and row
            self.held_out_wrong[epoch] = fit.wrong().cpu()
        return {"holdout/loss": fit.loss(), "holdout/error": fit.error()}

    def _batches(self, indices: Sequence[Tensor]) -> IndexedBatches:
        return IndexedBatches(self.data.train_inputs, self.data.train_labels.observed, indices)
