"""Training a classifier, and measuring it after each epoch."""

import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import lightning as L
import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torchmetrics import MeanMetric

from ireg.core.batches import IndexedBatches
from ireg.core.drawing import EPOCH
from ireg.core.functional import (
    batch_statistics,
    detached_parameters,
    evaluating,
    functional_loss,
    measuring,
    trained_parameters,
)
from ireg.core.moments import Observer
from ireg.core.moments.needs import needs_path
from ireg.core.path import PathRecorder, recorder_for
from ireg.core.random import named_generator
from ireg.core.reservoir import sampled
from ireg.core.snapshot import Snapshot, Term
from ireg.data.batches import ShuffledBatches
from ireg.guard import NOISE
from ireg.lit.data import NoisyImages
from ireg.lit.fit import TrainingFit
from ireg.lit.trial import errors_of, step_or_overflow, try_out
from ireg.measurement import evaluate, require_all, require_estimates, take_snapshot
from ireg.objective import CRITERIA, Criterion, Objective
from ireg.optim import Switch
from ireg.regularizers import Regularizer
from ireg.runs.checkpoints import HELD_OUT_WRONG
from ireg.runs.metrics import is_finite
from ireg.terms.named import TERMS

log = logging.getLogger(__name__)


class Classifier(L.LightningModule):
    """A classifier, and what is measured of it.

    Each epoch of training gives one row of numbers.

    Row 0 is the state before training, row e the state after e epochs. The terms are computed at the epoch's final
    weights over exactly the minibatches the epoch was trained with; row 0 takes those of the first epoch. Their loss is
    the one that is descended: BatchNorm takes the minibatch's statistics, dropout is off. Measuring changes neither
    weights nor optimizer nor any random stream: training with all terms and with none gives the same weights to the
    last bit.

    `train/loss` and `train/error` are means over the epoch as it ran: over its minibatches (as C is defined), and
    over its examples. In row 0, where nothing has run, they are those of the initial weights on all examples.

    Needs a `NoisyImages` as the trainer's datamodule, and `num_sanity_val_steps=-1` for row 0.

    Args:
        model: maps inputs to logits.
        optimizer: makes an optimizer from the parameters.
        terms: function by tag; one that returns None is left out of the row.
        terms_every: measure the terms each so many epochs, before training and after the last epoch.
        intervals: the same for groups of terms, by what stands before the slash of their tags.
        num_batches: estimate the terms from so many of the epoch's minibatches, see `ireg.Monitor`; None: exactly.
        method: how gradient moments are computed, see `ireg.core.moments.gradient_moments`.
        seed: of the random numbers that terms may draw.
        criterion: the loss.
        regularizer: a penalty that is descended with it; None for the bare loss. All losses of the row are bare, and
            `penalty/value` is the penalty's mean over the epoch as it ran.
        sampling: how training draws its minibatches, see `ireg.measure`; that of the trainer's datamodule.

    Raises:
        ValueError: the terms cannot be estimated from so few minibatches, or not at all from some of them, or a penalty
            is of all minibatches of an epoch, and they are independent.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: Callable[[Iterable[nn.Parameter]], Optimizer],
        terms: Mapping[str, Term],
        *,
        terms_every: int = 1,
        intervals: Mapping[str, int] | None = None,
        num_batches: int | None = None,
        method: str = "auto",
        seed: int = 0,
        criterion: Criterion = CRITERIA["cross_entropy"],
        regularizer: Regularizer | None = None,
        sampling: str = EPOCH,
    ) -> None:
        super().__init__()
        require_estimates(terms, "as_trained", num_batches, sampling=sampling)
        require_all(regularizer, num_batches, sampling)
        self.model = model
        self.make_optimizer = optimizer
        self.terms = dict(terms)
        self.terms_every = terms_every
        self.intervals = dict(intervals or {})
        self.num_batches = num_batches
        self.method = method
        self.sampling = sampling
        self.seed = seed
        self.initial = {name: value.clone() for name, value in detached_parameters(model).items()}
        self.criterion = criterion
        self.loss_function = functional_loss(model, criterion)
        self.objective = None if regularizer is None else Objective(self.loss_function, regularizer)
        self.minibatches: list[Tensor] = []
        self.kept: dict[str, Tensor] = {}  # what a measurement leaves for the next one
        self.held_out_wrong: dict[int, Tensor] = {}  # by epoch: whose observed label is not predicted, (held out,)
        self.recorder: PathRecorder | None = None
        self.watchers: list[Callable[[int, Snapshot], None]] = []  # called after the terms, with the epoch
        self.diverged = False
        self.same_in_evaluation = True  # whether the loss that is measured is that of eval mode
        self.noise = 0.0  # by how much of itself it differs between two seeds
        # A loss that is not finite must be seen, not left out of the mean.
        self.test_loss = MeanMetric(nan_strategy="disable")
        self.test_error = MeanMetric(nan_strategy="disable")
        self._said = False
        self._clock = time.perf_counter()

    def __setattr__(self, name: str, value: Any) -> None:
        """Set an attribute, as of any module.

        Lightning notes the running hook some forty times a step, which need not be slow.
        """
        if name == "_current_fx_name":
            self.__dict__[name] = value
        else:
            super().__setattr__(name, value)

    def configure_optimizers(self) -> Optimizer:
        """The optimizer of all parameters of the model."""
        return self.make_optimizer(self.model.parameters())

    def forward(self, inputs: Tensor) -> Tensor:
        """Logits (N, C)."""
        logits: Tensor = self.model(inputs)
        return logits

    def on_fit_start(self) -> None:
        """Try a copy of everything on a few examples.

        Raises:
            UserError: the network, the optimizer or a term fails on them.
        """
        try_out(self)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Save what a measurement leaves for the next one, and which held-out examples are wrong."""
        if self.kept:
            checkpoint["kept"] = {name: value.cpu() for name, value in self.kept.items()}
        if self.held_out_wrong:
            checkpoint[HELD_OUT_WRONG] = self.held_out_wrong

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take it up again.

        A run that resumes measures the same to the last bit.
        """
        self.kept = dict(checkpoint.get("kept", {}))
        self.held_out_wrong = dict(checkpoint.get(HELD_OUT_WRONG, {}))

    # Training: running sums stay tensors, so that no step waits for the device; they are read once an epoch.

    def on_train_epoch_start(self) -> None:
        """Forget the last epoch's minibatches and sums."""
        self.minibatches = []
        if self.recorder is not None and any(map(needs_path, self._terms_of(self.current_epoch + 1).values())):
            self.recorder.start()
        self.loss_sum = torch.zeros((), device=self.device)
        self.penalty_sum = torch.zeros((), device=self.device)
        if self.objective is not None:
            loader = self.trainer.train_dataloader
            assert isinstance(loader, ShuffledBatches)
            self.objective.batches = self._batches(loader.indices(self.current_epoch))
        self.wrong_sum = torch.zeros((), device=self.device, dtype=torch.long)

    def training_step(self, dataloader_iter: Iterator[tuple[tuple[Tensor, Tensor, Tensor], int, int]]) -> Tensor:
        """Compute the mean loss of the next minibatch.

        Its indices are remembered for the terms.

        By the name of its argument Lightning hands over the iterator: the data lie on the device in the trainer's
        precision, and no step need spend time on bringing them there.
        """
        (inputs, labels, indices), _, _ = next(dataloader_iter)
        if self.objective is None:
            logits = self.model(inputs)
            loss = descended = self.criterion(logits, labels)
        else:
            descended, loss, penalty, logits = self.objective.evaluate(trained_parameters(self.model), (inputs, labels))
            self.penalty_sum.add_(penalty)
        # In place: assigning to an attribute of a module is slow, and this is done at every step.
        self.loss_sum.add_(loss.detach())
        self.wrong_sum.add_((logits.detach().argmax(1) != labels).sum())
        self.minibatches.append(indices)
        return descended

    def optimizer_step(
        self, epoch: int, batch_index: int, optimizer: Any, optimizer_closure: Callable[[], Any] | None = None
    ) -> None:
        """Take a step.

        One too large for the weights' type makes them nan, so that the run ends as diverged.
        """
        if self._switch is None:
            step_or_overflow(optimizer, optimizer_closure)
            return
        with errors_of("optimizer=switch"):
            step_or_overflow(optimizer, optimizer_closure)

    def optimizer_zero_grad(self, epoch: int, batch_index: int, optimizer: Optimizer) -> None:
        """Drop the gradients, as `optimizer.zero_grad()` does.

        The profiling around it, which each step pays, is left out.
        """
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                parameter.grad = None

    # The test examples: Lightning evaluates them after each epoch, before `on_train_epoch_end`, and as its sanity check
    # before training.

    def on_validation_epoch_start(self) -> None:
        """Reset the means."""
        self.test_loss.reset()
        self.test_error.reset()

    def validation_step(self, batch: tuple[Tensor, Tensor, Tensor], batch_index: int) -> None:
        """Add one batch of test examples."""
        inputs, labels, _ = batch
        logits = self(inputs)
        # A value an example, not a mean and its weight: a metric that keeps nan leaves weights out (torchmetrics 1.9).
        self.test_loss.update(self.criterion(logits, labels, reduction="none"))
        self.test_error.update((logits.argmax(1) != labels).float())

    # Measuring.

    @property
    def data(self) -> NoisyImages:
        """The trainer's datamodule.

        Raises:
            TypeError: it is not a `NoisyImages`.
        """
        data = self.trainer.datamodule  # type: ignore[attr-defined]
        if not isinstance(data, NoisyImages):
            raise TypeError(f"Classifier needs a NoisyImages as the trainer's datamodule, got {type(data).__name__}")
        return data

    def on_train_start(self) -> None:
        """Record row 0, or continue after the rows there are."""
        self.recorder = recorder_for(self.terms.values(), self._optimizer)
        if self._switch is not None:
            self._switch.measure = self._measured_for_switch
        if self.current_epoch > 0:
            self._clock = time.perf_counter()
        else:
            loader = self.trainer.train_dataloader
            assert isinstance(loader, ShuffledBatches)
            self._record(0, {}, loader.indices(0))

    def on_train_epoch_end(self) -> None:
        """Record the epoch's row; stop if the loss is not finite."""
        num_examples = sum(len(indices) for indices in self.minibatches)
        row = {
            "train/loss": float(self.loss_sum) / len(self.minibatches),
            "train/error": int(self.wrong_sum) / num_examples,
        }
        if self.objective is not None:
            row["penalty/value"] = float(self.penalty_sum) / len(self.minibatches)
        if not is_finite({**row, "test/loss": float(self.test_loss.compute())}):
            self.diverged = True
            self.trainer.should_stop = True
        self._record(self.current_epoch + 1, row, self.minibatches)
        if self._switch is not None and not self.diverged:
            with errors_of("optimizer=switch"):
                self._switch.end_epoch(self.current_epoch + 1, row["train/loss"])

    def _record(self, epoch: int, row: dict[str, float], minibatches: Sequence[Tensor]) -> None:
        """Complete the row, and give it to the loggers.

        Evaluation, terms and times are added.
        """
        # Divided in double precision: a share of 10,000 examples is then the number one expects.
        test = {
            tag: float(mean.mean_value) / float(mean.weight)
            for tag, mean in (("test/loss", self.test_loss), ("test/error", self.test_error))
        }
        terms = self._terms_of(epoch)
        start = time.perf_counter()
        values, fit = self.measure(epoch, minibatches, terms)
        times = {"time/terms": time.perf_counter() - start} if terms else {}
        if epoch == 0:
            row = {"train/loss": fit.loss(), "train/error": fit.error()}
            if self.objective is not None:
                row["penalty/value"] = self._penalty(minibatches)
        switch = {} if self._switch is None else self._switch.numbers()
        row = row | test | self._on_held_out(epoch) | fit.shares() | switch | values | times
        now = time.perf_counter()
        row["time/epoch"], self._clock = now - self._clock, now
        # Where callbacks like EarlyStopping look. `log_dict` would make a metric of each number, of which there is one.
        self.trainer.callback_metrics.update({tag: torch.tensor(value) for tag, value in row.items()})
        for logger in self.trainer.loggers:
            logger.log_metrics(row, step=epoch)

    def _on_held_out(self, epoch: int) -> dict[str, float]:
        """Loss and error of the held-out examples, if there are any.

        Which of them are wrong is kept.
        """
        if not self.data.holdout:
            return {}
        fit = TrainingFit(self.data.holdout_labels, self.criterion)
        with evaluating(self.model), torch.inference_mode():
            for inputs, _, indices in self.data.holdout_batches():
                fit.add(indices, self(inputs))
        self.held_out_wrong[epoch] = fit.wrong().cpu()
        return {"holdout/loss": fit.loss(), "holdout/error": fit.error()}

    @property
    def _switch(self) -> Switch | None:
        return self._optimizer if isinstance(self._optimizer, Switch) else None

    def _measured_for_switch(self, tags: Sequence[str]) -> dict[str, float]:
        """Terms at the present weights, over the epoch's minibatches."""
        loader = self.trainer.train_dataloader
        assert isinstance(loader, ShuffledBatches)
        minibatches = loader.indices(self.current_epoch)
        terms = {tag: TERMS[tag] for tag in tags}
        with measuring(self.model):
            return evaluate(terms, self.snapshot(self.current_epoch, minibatches, terms))

    def _terms_of(self, epoch: int) -> dict[str, Term]:
        """The terms that are measured after an epoch, by tag."""
        last = self.trainer.should_stop or epoch == self.trainer.max_epochs
        return {
            tag: term
            for tag, term in self.terms.items()
            if last or epoch % self.intervals.get(tag.partition("/")[0], self.terms_every) == 0
        }

    def measure(
        self, epoch: int, minibatches: Sequence[Tensor], terms: Mapping[str, Term]
    ) -> tuple[dict[str, float], TrainingFit]:
        """Compute terms by tag, and the fit of the training examples.

        Both are at the present weights.

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
        shared = self.same_in_evaluation and not batch_statistics(self.model)
        shared &= self.num_batches is None and self.sampling == EPOCH
        values: dict[str, float] = {}

        def observe(first: int, outputs: Tensor) -> None:
            fit.add(torch.cat(list(minibatches[first : first + len(outputs)])), outputs.flatten(0, 1))

        if terms:
            with measuring(self.model):
                snapshot = self.snapshot(epoch, minibatches, terms, observe if shared else None)
                shared &= bool(snapshot.needs)
                if snapshot.needs:
                    self._say_once(snapshot)
                values = evaluate(terms, snapshot) | ({NOISE: self.noise} if self.noise else {})
                for watch in self.watchers:
                    watch(epoch, snapshot)
        if self.recorder is not None:
            self.recorder.stop()
        if not (terms and shared):
            with evaluating(self.model), torch.inference_mode():
                for inputs, _, indices in self.data.train_batches():
                    fit.add(indices, self(inputs))
        return values, fit

    def _say_once(self, snapshot: Snapshot) -> None:
        if not self._said:
            self._said = True
            some = f"{len(snapshot.batches)} of {snapshot.num_batches} " if snapshot.is_sample else ""
            log.info("%sminibatch gradients: %s by %s", some, snapshot.needs, snapshot.gradients.method)

    def snapshot(
        self, epoch: int, minibatches: Sequence[Tensor], terms: Mapping[str, Term], observer: Observer | None = None
    ) -> Snapshot:
        """What the terms may look at, at the present weights; see `measure`."""
        chosen = sampled(minibatches, self.num_batches, named_generator("minibatches", self.seed, epoch))
        return take_snapshot(
            self.model,
            self._batches(chosen),
            loss=self.loss_function,
            optimizer=self._optimizer,
            terms=terms,
            initial={name: value.to(self.device) for name, value in self.initial.items()},
            generator=named_generator("terms", self.seed, epoch),
            population=None if self.num_batches is None else len(minibatches),
            method=self.method,
            observer=observer,
            kept=self.kept,
            path=None if self.recorder is None else self.recorder.path(),
            corrupted=self.data.train_labels.corrupted[torch.cat(list(chosen))],
            objective=self._objective_over(minibatches),
            sampling=self.sampling,
        )

    def _objective_over(self, minibatches: Sequence[Tensor]) -> Objective | None:
        """The objective whose penalty is of these minibatches."""
        if self.objective is not None:
            self.objective.batches = self._batches(minibatches)
        return self.objective

    def _penalty(self, minibatches: Sequence[Tensor]) -> float:
        """The penalty at the present weights, over these minibatches."""
        objective = self._objective_over(minibatches)
        assert objective is not None
        with measuring(self.model):
            return float(objective.penalty(trained_parameters(self.model)))

    def _batches(self, indices: Sequence[Tensor]) -> IndexedBatches:
        return IndexedBatches(self.data.train_inputs, self.data.train_labels.observed, indices)

    @property
    def _optimizer(self) -> Optimizer:
        optimizer = self.optimizers(use_pl_optimizer=False)
        assert isinstance(optimizer, Optimizer)
        return optimizer
