"""Train a classifier, and measure it after each epoch."""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from typing import Any

import lightning as L
import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR
from torchmetrics import MeanMetric

from ireg.core.drawing import EPOCH
from ireg.core.functional import trained_parameters
from ireg.core.snapshot import Term
from ireg.data.batches import ShuffledBatches
from ireg.lit.average import AverageOfWeights
from ireg.lit.data import NoisyImages
from ireg.lit.loggers import MetricsFile
from ireg.lit.measurement import RunMeasurement
from ireg.lit.step_loss import clip_of
from ireg.lit.sums import EpochSums
from ireg.lit.trial import errors_of, step_or_overflow, try_out
from ireg.objective import CRITERIA, Criterion
from ireg.optim import Switch
from ireg.options import Options
from ireg.regularizers import Regularizer
from ireg.runs.checkpoints import HELD_OUT_WRONG
from ireg.runs.metrics import SCHEDULE, STEP, is_finite, place_of
from ireg.terms.named import TERMS, Chosen, chosen_terms


class Classifier(L.LightningModule):
    """A classifier that is measured after each epoch of training, in one row of numbers.

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
        terms: what is measured; an empty mapping measures no term. All that is asked for, from here to `check`, is
            described in `ireg.options.Options`.
        criterion: `(outputs, labels, *, reduction) -> tensor`, see `ireg.objective.CRITERIA`.
        method: how gradient moments are computed.
        num_batches: estimate the terms from so many minibatches.
        mode: `as_trained`, `two_draws` or `eval`.
        sampling: `epoch` or `independent`; that of the trainer's datamodule.
        by: `layer` or `group`.
        regularizer: a penalty that is descended beside the loss. All losses of the row are bare, and `penalty/value` is
            the penalty's mean over the epoch as it ran.
        check: `off` does not compare gradients before training. Later nothing is compared: what trains is what is
            measured, since both have one function.
        terms_every: measure the terms each so many epochs, before training and after the last epoch.
        intervals: the same for groups of terms, by what stands before the slash of their tags.
        seed: of the random numbers that terms may draw.
        schedule: the factor of each step's learning rate, by its number from 0 on; None leaves rates as they are. The
            terms take each step's own rate.
        average_decay: β of an average of the weights that is evaluated, see `ireg.lit.average.AverageOfWeights`; None
            for no average. The terms are of the weights themselves.

    Raises:
        ValueError: the terms cannot be estimated from so few minibatches, or not at all from some of them, or a penalty
            is of all minibatches of an epoch, and they are independent.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: Callable[[Iterable[nn.Parameter]], Optimizer],
        terms: Chosen = "default",
        *,
        criterion: Criterion = CRITERIA["cross_entropy"],
        method: str = "auto",
        num_batches: int | None = None,
        mode: str = "as_trained",
        sampling: str = EPOCH,
        by: str | None = None,
        regularizer: Regularizer | None = None,
        check: str = "each",
        terms_every: int = 1,
        intervals: Mapping[str, int] | None = None,
        seed: int = 0,
        schedule: Callable[[int], float] | None = None,
        average_decay: float | None = None,
    ) -> None:
        super().__init__()
        chosen: dict[str, Term] = chosen_terms(terms) if terms else {}
        options = Options(
            terms=chosen or "default",  # of a run without terms, too, the rest is checked
            criterion=criterion,
            method=method,
            num_batches=num_batches,
            mode=mode,
            sampling=sampling,
            by=by,
            regularizer=regularizer,
            check=check,
        )
        self.model = model
        self.make_optimizer = optimizer
        self.criterion = criterion
        self.measurement = RunMeasurement(
            model, chosen, options, criterion=criterion, terms_every=terms_every, intervals=intervals, seed=seed
        )
        self.objective = self.measurement.objective
        self.sums = EpochSums(torch.device("cpu"))
        self.diverged = False
        # A loss that is not finite must be seen, not left out of the mean.
        self.test_loss = MeanMetric(nan_strategy="disable")
        self.test_error = MeanMetric(nan_strategy="disable")
        self.schedule = schedule
        self.average = None if average_decay is None else AverageOfWeights(model, average_decay, criterion)
        self._rates: list[tuple[float, ...]] = []  # of each step of the epoch and each parameter group
        self._clock = time.perf_counter()

    def __setattr__(self, name: str, value: Any) -> None:
        """Set an attribute, and the name of the running hook without torch's checks."""
        # Lightning sets that name some forty times a step, and torch's `Module.__setattr__` is slow.
        if name == "_current_fx_name":
            self.__dict__[name] = value
        else:
            super().__setattr__(name, value)

    def configure_optimizers(self) -> Any:
        """Make the optimizer of all parameters of the model, and what sets its rates after each step."""
        optimizer = self.make_optimizer(self.model.parameters())
        if self.schedule is None:
            return optimizer
        scheduler = LambdaLR(optimizer, self.schedule)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def forward(self, inputs: Tensor) -> Tensor:
        """Compute the logits (N, C) of inputs."""
        logits: Tensor = self.model(inputs)
        return logits

    def on_fit_start(self) -> None:
        """Try a copy of network, optimizer and terms on a few examples.

        Raises:
            UserError: the network, the optimizer or a term fails on them.
        """
        measurement = self.measurement
        tried = try_out(
            self.model,
            data=self.data,
            criterion=self.criterion,
            terms=measurement.terms,
            options=measurement.options,
            make_optimizer=self.make_optimizer,
            precision=self.trainer.precision_plugin,
            device=self.trainer.strategy.root_device,
            rates_change=self.schedule is not None,
        )
        measurement.use(tried)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Save what a measurement leaves for the next one, and which held-out examples are wrong."""
        if self.measurement.kept:
            checkpoint["kept"] = {name: value.cpu() for name, value in self.measurement.kept.items()}
        if self.measurement.held_out_wrong:
            checkpoint[HELD_OUT_WRONG] = self.measurement.held_out_wrong

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Restore what was saved, so that a run that resumes measures the same to the last bit."""
        self.measurement.kept = dict(checkpoint.get("kept", {}))
        self.measurement.held_out_wrong = dict(checkpoint.get(HELD_OUT_WRONG, {}))

    # Training.

    def on_train_epoch_start(self) -> None:
        """Begin new sums, and give a penalty the epoch's minibatches."""
        self.measurement.begin_epoch(self._terms_of(self.current_epoch + 1))
        self.sums = EpochSums(self.device)
        self._rates = []
        if self.objective is not None:
            self.measurement.objective_over(self._planned())

    def training_step(self, dataloader_iter: Iterator[tuple[tuple[Tensor, Tensor, Tensor], int, int]]) -> Tensor:
        """Compute the mean loss of the next minibatch, and remember its indices for the terms.

        By the name of its argument Lightning hands over the iterator: the data lie on the device in the trainer's
        precision, and no step need spend time on bringing them there.
        """
        (inputs, labels, indices), _, _ = next(dataloader_iter)
        penalty: Tensor | None = None
        if self.objective is None:
            logits = self.model(inputs)
            loss = descended = self.criterion(logits, labels)
        else:
            descended, loss, penalty, logits = self.objective.evaluate(trained_parameters(self.model), (inputs, labels))
        wrong = (logits.detach().argmax(-1) != labels).sum()
        self.sums.add(indices, loss.detach(), wrong=wrong, penalty=penalty, labels=labels.numel())
        return descended

    def optimizer_step(
        self, epoch: int, batch_index: int, optimizer: Any, optimizer_closure: Callable[[], Any] | None = None
    ) -> None:
        """Take a step of the optimizer.

        One that is too large for the weights' type makes them nan, so that the run ends as diverged.
        """
        if self.schedule is not None:
            self._rates.append(tuple(float(group["lr"]) for group in optimizer.param_groups))
        with nullcontext() if self._switch is None else errors_of("optimizer=switch"):
            step_or_overflow(optimizer, optimizer_closure)
        if self.average is not None:
            self.average.step(self.model)

    def optimizer_zero_grad(self, epoch: int, batch_index: int, optimizer: Optimizer) -> None:
        """Drop the gradients, as `optimizer.zero_grad()` does, without its profiling."""
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                parameter.grad = None

    # The test examples: Lightning evaluates them after each epoch, before `on_train_epoch_end`, and as its sanity check
    # before training.

    def on_validation_epoch_start(self) -> None:
        """Reset the means over the test examples."""
        self.test_loss.reset()
        self.test_error.reset()
        if self.average is not None:
            self.average.reset()

    def validation_step(self, batch: tuple[Tensor, Tensor, Tensor], batch_index: int) -> None:
        """Add one batch of test examples."""
        inputs, labels, _ = batch
        logits = self(inputs)
        # A value an example, not a mean and its weight: a metric that keeps nan leaves weights out (torchmetrics 1.9).
        self.test_loss.update(self.criterion(logits, labels, reduction="none"))
        self.test_error.update((logits.argmax(-1) != labels).float())
        if self.average is not None:
            self.average.add(inputs, labels)

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

    @property
    def minibatches(self) -> list[Tensor]:
        """The indices of the epoch's minibatches so far."""
        return self.sums.minibatches

    def _planned(self) -> Sequence[Tensor]:
        """Return the indices of all minibatches of the epoch that runs."""
        loader = self.trainer.train_dataloader
        assert isinstance(loader, ShuffledBatches)
        return loader.indices(self.current_epoch)

    def _terms_of(self, epoch: int) -> dict[str, Term]:
        """Return the terms that are measured after an epoch, by tag."""
        last = self.trainer.should_stop or epoch == self.trainer.max_epochs
        return self.measurement.terms_of(epoch, last=last)

    def on_train_start(self) -> None:
        """Record row 0, or continue after the rows there are."""
        self.measurement.start(self.data, self._optimizer)
        self.measurement.clip = clip_of(self.trainer)
        if self._switch is not None:
            self._switch.measure = self._measured_for_switch
        if self.current_epoch > 0:
            self._clock = time.perf_counter()
        else:
            self._rates = self._planned_rates()
            self._record(0, {}, self._planned())

    def on_train_epoch_end(self) -> None:
        """Record the epoch's row; stop if the loss is not finite."""
        row = self.sums.row()
        if not is_finite({**row, "test/loss": float(self.test_loss.compute())}):
            self.diverged = True
            self.trainer.should_stop = True
        self._record(self.current_epoch + 1, row, self.minibatches)
        if self._switch is not None and not self.diverged:
            with errors_of("optimizer=switch"):
                self._switch.end_epoch(self.current_epoch + 1, row["train/loss"])

    def _record(self, epoch: int, row: dict[str, float], minibatches: Sequence[Tensor]) -> None:
        """Add evaluation, terms and times to the row, and give it to the loggers."""
        means = {"test/loss": self.test_loss, "test/error": self.test_error}
        means |= {} if self.average is None else self.average.means()
        # Divided in double precision: a share of 10,000 examples is then the number one expects.
        test = {tag: float(mean.mean_value) / float(mean.weight) for tag, mean in means.items()}
        if self.schedule is not None:
            self.measurement.rates = self._rates
        terms = self._terms_of(epoch)
        start = time.perf_counter()
        values, fit = self.measurement.measure(epoch, minibatches, terms)
        times = {"time/terms": time.perf_counter() - start} if terms else {}
        if epoch == 0:
            row = {"train/loss": fit.loss(), "train/error": fit.error(), **self.measurement.penalty(minibatches)}
        shares = fit.shares() if self.data.has_noisy_labels else {}
        switch = {} if self._switch is None else self._switch.numbers()
        row = self._places(epoch) | row | test | self.measurement.on_held_out(epoch) | shares | switch | values | times
        now = time.perf_counter()
        row["time/epoch"], self._clock = now - self._clock, now
        # Where callbacks like EarlyStopping look. `log_dict` would make a metric of each number, of which there is one.
        self.trainer.callback_metrics.update({tag: torch.tensor(value) for tag, value in row.items()})
        for logger in self.trainer.loggers:
            logger.log_metrics(row, step=epoch if isinstance(logger, MetricsFile) else place_of(epoch, row))

    def _places(self, epoch: int) -> dict[str, float]:
        """Return the number of steps in rows by steps, and the rate of the last one under a schedule."""
        steps = self.data.steps
        by_steps = {} if steps is None else {STEP: float(epoch * steps)}
        # Before training it is that of the step to come.
        rates = {} if self.schedule is None else {SCHEDULE: self._rates[-1 if epoch else 0][0]}
        return by_steps | rates

    def _planned_rates(self) -> list[tuple[float, ...]]:
        """Return the rates of the steps of the first epoch."""
        if self.schedule is None:
            return []
        groups = self._optimizer.param_groups
        steps = range(len(self._planned()))
        return [tuple(float(group["initial_lr"]) * self.schedule(step) for group in groups) for step in steps]

    @property
    def _switch(self) -> Switch | None:
        return self._optimizer if isinstance(self._optimizer, Switch) else None

    def _measured_for_switch(self, tags: Sequence[str]) -> dict[str, float]:
        """Return terms at the present weights, over the epoch's minibatches, by tag."""
        return self.measurement.values(self.current_epoch, self._planned(), {tag: TERMS[tag] for tag in tags})

    @property
    def _optimizer(self) -> Optimizer:
        optimizer = self.optimizers(use_pl_optimizer=False)
        assert isinstance(optimizer, Optimizer)
        return optimizer
