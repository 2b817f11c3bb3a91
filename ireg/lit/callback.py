"""Measure the terms of any LightningModule after its training epochs, or every n steps."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor
from torch.nn.parameter import is_lazy
from torch.optim import Optimizer

from ireg.core.drawing import EPOCH
from ireg.core.functional import detached_parameters
from ireg.core.moments import SMALLEST
from ireg.core.path import PathRecorder, recorder_for
from ireg.core.random import named_generator
from ireg.core.ranks import ranks_of
from ireg.core.several import SeveralOptimizers
from ireg.core.snapshot import Term
from ireg.core.witness import Witness
from ireg.core.wrappers import bare_module, unwrapped
from ireg.guard import Guard
from ireg.lit.refusals import (
    require_epochs_end,
    require_measurable,
    require_optimizers,
    require_whole_windows,
    user_errors,
    with_sampling,
)
from ireg.lit.remembered import Remembered
from ireg.lit.step_loss import MicroBatches, as_measured, clip_of, is_clipped, precision_of
from ireg.lit.twin import muted_twin, note_passing
from ireg.measured_loss import Criterion, MeasuredLoss, ModelLoss
from ireg.measurement import measure_epoch
from ireg.monitor import warn_of_clipping, warn_of_measurement
from ireg.objective import Objective
from ireg.options import Epoch, Options, require_minibatches
from ireg.regularizers import Regularizer
from ireg.system.errors import UserError
from ireg.terms.named import Chosen, chosen_terms
from ireg.window import Cadence, least_steps

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from pandas import DataFrame

SHARE = "check/share"
"""Tag of the share of an epoch's minibatches that a row is from, where that is less than all."""


class ImplicitRegularizationMonitor(Callback):
    """Lightning callback that measures the terms after training epochs, or every n optimizer steps.

    The loss is the module's own `training_step`, as a function of the parameters, over the minibatches that were used.
    It is called on a copy of the module that shares its parameters. Training with and without the callback is
    bit-equal, and the module's own records stay as they are. A minibatch is all that one optimizer step has seen, so
    that gradient accumulation is measured as it trains.

    The copy's `training_step` sees the trainer as it is when the terms are measured. Its logging is muted. A step that
    depends on `global_step`, on `is_last_batch`, or on noise that it draws, computes another loss than in training.
    Give `loss` then, or `criterion` if a minibatch is a pair `(inputs, targets)`: the loss is then
    `criterion(module(inputs), targets)`, by the module's `forward`. It opens the faster methods, where a step has one
    minibatch and no precision is mixed. With a `regularizer`, `criterion` or `loss` is the bare loss.

    A row goes to the trainer's loggers and to `rows`, and callbacks like `ModelCheckpoint(monitor="ireg/sgd")` see it.
    Rows, and the eigenvectors that a measurement starts from, are part of the trainer's checkpoints.

    Args:
        terms: what is measured. All that is asked for, from here to `progress`, is described in
            `ireg.options.Options`.
        criterion: `(outputs, targets) -> 0-d tensor`, for pairs.
        loss: `(module, batch) -> 0-d tensor`, for any minibatch. By default the loss is `training_step`.
        method: how gradient moments are computed.
        num_batches: estimate the terms from so many minibatches.
        mode: `as_trained`, `two_draws` or `eval`.
        sampling: `epoch` or `independent`. By default it is read off the loader by `ireg.sampling_of`, and a warning is
            given where that does not know.
        by: `layer` or `group`.
        regularizer: a penalty that is descended beside the loss.
        check: `each`, `first` or `off`.
        max_cache: memory that the copied minibatches may take.
        progress: show on standard error which term is being computed.
        every_n_epochs: measure every n-th epoch, and the last.
        every_n_steps: measure after each n-th optimizer step instead, and after the last, over the minibatches of the
            steps since. Of an epoch of m minibatches such a window is a sample, with standard errors. It does not reach
            over the end of an epoch, unless minibatches are independent, as those of a stream are.
        max_cost: the largest share of the training's time that measurements may take, as 0.05. Rows that would take
            more are left out; the last is not.
        cache_device: where the copies are kept; by default where the minibatches are.
        prefix: what the tags of the implicit terms begin with; several monitors of a trainer need different ones.

    Raises:
        ValueError: an argument has a value that is not allowed.

    Example:
        >>> monitor = ImplicitRegularizationMonitor(["ireg/sgd", "norm/l2"], every_n_epochs=5, prefix="reg/")
        >>> list(monitor.terms)
        ['reg/sgd', 'norm/l2']
    """

    def __init__(
        self,
        terms: Chosen = "default",
        *,
        criterion: Criterion | None = None,
        loss: ModelLoss | None = None,
        method: str = "auto",
        num_batches: int | None = None,
        mode: str = "as_trained",
        sampling: str | None = None,
        by: str | None = None,
        regularizer: Regularizer | None = None,
        check: str = "each",
        max_cache: int | str = "1GiB",
        progress: bool | None = None,
        every_n_epochs: int = 1,
        every_n_steps: int | None = None,
        max_cost: float | None = None,
        cache_device: torch.device | str | None = None,
        prefix: str = "ireg/",
    ) -> None:
        super().__init__()
        if every_n_epochs < 1:
            raise ValueError(f"every_n_epochs={every_n_epochs}: must be at least 1")
        if every_n_steps is not None and every_n_epochs != 1:
            raise ValueError(
                f"every_n_epochs={every_n_epochs} and every_n_steps={every_n_steps}: rows are of epochs or of steps; "
                "leave one of them out"
            )
        self._cadence = Cadence(every_n_steps=every_n_steps, max_cost=max_cost)
        self.options = Options(
            terms={
                prefix + tag.removeprefix("ireg/") if tag.startswith("ireg/") else tag: term
                for tag, term in chosen_terms(terms).items()
            },
            criterion=criterion,
            loss=loss,
            method=method,
            num_batches=num_batches,
            mode=mode,
            sampling=sampling,
            by=by,
            regularizer=regularizer,
            check=check,
            max_cache=max_cache,
            progress=progress,
        )
        self.every_n_epochs = every_n_epochs
        self.cache_device = cache_device
        self.prefix = prefix
        self._begin_fit()

    def _begin_fit(self) -> None:
        self.initial: dict[str, Tensor] = {}
        self._guard = Guard(self.options.check)
        self._asked = self.options  # with the sampling, once it is known
        self._kept: dict[str, Tensor] = {}  # what a measurement leaves for the next one
        self._recorder: PathRecorder | None = None
        self._witness: Witness | None = None
        self._optimizer: Optimizer | None = None
        self._rows: list[dict[str, float]] = []
        self._last: dict[str, Tensor] = {}  # the last row's values, for callbacks that look at them
        self._steps = Remembered(self.options.num_batches, self.cache_device)
        self._begin_window(0)
        self._forget_epoch(0)

    def _begin_window(self, number: int) -> None:
        """Forget the minibatches and steps since the last row."""
        self._steps.begin(number)
        self._clipped = 0
        self._due = False

    def _forget_epoch(self, epoch: int) -> None:
        self._epoch = epoch
        self._first: int | None = None  # the epoch's first minibatch that was seen
        self._ended = 0  # how many have been seen
        self._seen = 0  # steps taken before the window
        self._global_step = 0  # as the last step's passes saw it

    @property
    def by_steps(self) -> bool:
        """Whether rows are of steps, not of epochs."""
        return self._cadence.every_n_steps is not None

    @property
    def terms(self) -> dict[str, Term]:
        """The terms that are measured, functions by tag."""
        return self.options.chosen

    @property
    def rows(self) -> DataFrame:
        """What was measured, as one row each; `epoch` and `step` count what was completed by then."""
        from pandas import DataFrame  # only where it is wanted: it takes half a second to import

        return DataFrame(self._rows)

    def plot(self, tags: Sequence[str] | None = None) -> Figure:
        """Draw the rows over optimizer steps, as `ireg.Monitor.plot`.

        Args:
            tags: which; by default all but those of time and checks.

        Raises:
            ValueError: there are no rows yet, or a tag is not among them.
        """
        from ireg.rows_figure import rows_figure  # only where it is wanted

        return rows_figure(self.rows, tags)

    # Before training.

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Refuse a training that cannot be measured, and forget an earlier one if a new one begins.

        Raises:
            UserError: weights that are spread in an unknown way, manual optimization of the module's own loss, float16
                weights, or a `training_step` that takes the iterator of the loader.
        """
        if stage != "fit":
            return
        if trainer.current_epoch == 0 and trainer.global_step == 0:
            self._begin_fit()
        require_measurable(trainer, pl_module, own_step=self._by_step)

    @property
    def _by_step(self) -> bool:
        """Whether the loss is the module's own step."""
        return self.options.loss is None and self.options.criterion is None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Keep the initial weights, and refuse optimizers that cannot be measured.

        Raises:
            UserError: there is none, or one that evaluates the loss several times a step; a module that cannot be
                measured, or that is sharded itself.
        """
        require_optimizers(trainer, pl_module)
        lazy = any(is_lazy(value) for value in pl_module.parameters())
        with user_errors():
            self._optimizer = optimizer = unwrapped(trainer.optimizers)
            if not lazy:  # such layers get their shapes from the first minibatch
                bare_module(pl_module, sharded=True)
        if not self.initial and not lazy:
            self._keep_initial(pl_module)
        self._recorder = recorder_for(self.terms.values(), optimizer)
        self._witness = Witness(optimizer, pl_module, self.options.loss, self.options.criterion)
        warn = self._guard.warnings.once
        self._asked = with_sampling(self.options, trainer, by_steps=self.by_steps, warn=warn)
        if self.by_steps and self._asked.drawing == EPOCH:
            require_epochs_end(trainer)
            require_whole_windows(self._asked, self._population(trainer))
        self._cadence.group = ranks_of(trainer.strategy.model)
        self._cadence.begin()
        self._begin_epoch(trainer)  # a training that resumes within an epoch does not start one

    def _population(self, trainer: Trainer) -> int | None:
        """Return the number m of an epoch's optimizer steps, where a window has some of their minibatches."""
        if not self.by_steps or self._asked.drawing != EPOCH:
            return None
        return self._cadence.population(math.ceil(trainer.num_training_batches / trainer.accumulate_grad_batches))

    def _keep_initial(self, pl_module: LightningModule) -> None:
        self.initial = {name: value.clone() for name, value in detached_parameters(pl_module).items()}

    # During an epoch: which minibatches, and what their steps use.

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Forget the last epoch's minibatches."""
        self._begin_epoch(trainer)
        trainer.callback_metrics.update(self._last)

    def _begin_epoch(self, trainer: Trainer) -> None:
        assert self._witness is not None
        continued = self.by_steps and self._asked.drawing != EPOCH and len(self._steps.window)
        self._forget_epoch(trainer.current_epoch + 1)
        self._seen = self._witness.steps
        if continued:
            return
        self._begin_window(trainer.global_step if self.by_steps else self._epoch)
        if self._recorder is not None:
            self._recorder.start()
        self._guard.begin(self._witness)

    def _measures(self, trainer: Trainer) -> bool:
        """Return whether the window is to get a row, as far as is known yet, if the row is not too dear."""
        return self.by_steps or self._epoch % self.every_n_epochs == 0 or self._must_measure(trainer)

    def _must_measure(self, trainer: Trainer) -> bool:
        """Return whether the epoch gets a row, however dear."""
        last = self._epoch == trainer.max_epochs or self._ends(trainer)
        return last or (not self._rows and self._is_awaited(trainer))

    def _ends(self, trainer: Trainer) -> bool:
        """Return whether training ends with this epoch."""
        by_steps = trainer.max_steps not in (-1, None) and trainer.global_step >= trainer.max_steps
        return by_steps or (trainer.should_stop and trainer.fit_loop._can_stop_early)

    def _is_awaited(self, trainer: Trainer) -> bool:
        """Return whether a callback or scheduler reads a term after each epoch, and needs a first value."""
        watched = {getattr(callback, "monitor", None) for callback in trainer.callbacks}  # type: ignore[attr-defined]
        watched |= {config.monitor for config in trainer.lr_scheduler_configs}
        return bool(watched & self.terms.keys())

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Copy the minibatch before the step, which may change it in place.

        Raises:
            UserError: the epoch's minibatches take more memory than allowed.
        """
        assert self._witness is not None
        self._first = batch_idx if self._first is None else self._first
        self._ended = batch_idx + 1
        if self._steps.is_between_steps:
            self._witness.note_begin()
        self._steps.add(batch, batch_idx, needed=self._witness.asked)
        if self._steps.bytes > self.options.cache:
            self._leave_memory(trainer, batch_idx)

    def _leave_memory(self, trainer: Trainer, batch_idx: int) -> None:
        """Drop the minibatches of an epoch that need not be measured, as they take too much memory.

        Raises:
            UserError: the epoch is to be measured.
        """
        if self._measures(trainer):
            shorter = (
                "more often by every_n_steps"
                if self.by_steps
                else ("use smaller epochs by Trainer(limit_train_batches=...), or every_n_steps")
            )
            raise UserError(
                f"ImplicitRegularizationMonitor: minibatches up to the {batch_idx + 1}. of the epoch take "
                f"{self._steps.bytes / 2**20:.1f} MiB, more than max_cache={self.options.cache / 2**20:.1f} MiB; raise "
                "max_cache, with cache_device='cpu' if the accelerator's memory is short, or measure fewer of them by "
                f"num_batches (at least {SMALLEST}), or {shorter}"
            )
        self._steps.drop()

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        """Record the gradients, and whether the clipping that follows will change them."""
        assert self._witness is not None
        if not self.initial:
            self._keep_initial(pl_module)
        self._witness.note_gradient()
        self._global_step = trainer.global_step
        self._clipped += is_clipped(trainer, optimizer)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Close the window of minibatches if a step was taken.

        A `training_step` that returned None has no minibatch, and a step that was left out has no window.
        """
        assert self._witness is not None
        if isinstance(self._optimizer, SeveralOptimizers):
            self._optimizer.end_step()
        if not outputs and pl_module.automatic_optimization:
            self._steps.discard_last()
        accumulating = (batch_idx + 1) % trainer.accumulate_grad_batches and not _is_last(trainer, batch_idx)
        if accumulating and self._witness.steps == self._seen:
            return
        if self._witness.steps > self._seen:
            self._close_step(trainer, pl_module)
        self._steps.discard_step()
        self._seen = self._witness.steps
        if self.by_steps:
            self._measure_if_due(trainer, pl_module)

    def _close_step(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Remember the minibatches of a step, and what it used."""
        assert self._witness is not None
        assert self._witness.settings is not None
        recorded = self._steps.recorded
        step = self._steps.close_step(self._witness.settings, trainer.accumulate_grad_batches)
        if recorded is not None and self._steps.recorded is None:
            self._witness.forget()  # of a window that is gone
        if step is not None:
            self._judge(trainer, pl_module, step)

    def _measure_if_due(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Give a row if it is time, and begin a window after it."""
        assert self._witness is not None
        self._due = self._due or self._cadence.is_due(trainer.global_step)
        if not self._due or len(self._steps.window) < least_steps(self._asked, self._population(trainer)):
            return
        self._measure(trainer, pl_module)
        self._begin_window(trainer.global_step)
        if self._recorder is not None:
            self._recorder.start()
        self._guard.begin(self._witness)

    def _judge(self, trainer: Trainer, pl_module: LightningModule, step: MicroBatches) -> None:
        """Let the guard compute the step's gradient again, if it has asked for it.

        That of an objective with a penalty waits for all minibatches of the penalty.

        Raises:
            UserError: it is the first, and differs from what the optimizer got; a minibatch that is no pair, and
                `criterion` takes pairs.
        """
        assert self._witness is not None
        if self.options.criterion is not None and step.batches[0][0] is not None:
            with user_errors():
                require_minibatches([step.batches[0][0]], pairs=True)
        if self._witness.record is None:
            self._guard.ask_again(self._witness)
        elif self.options.regularizer is None:
            self._compare(trainer, pl_module, [step], 0)
        elif self._steps.recorded is None:
            self._steps.recorded = len(self._steps.window) - 1

    def _compare(self, trainer: Trainer, pl_module: LightningModule, steps: list[MicroBatches], position: int) -> None:
        """Compare the step that the witness has a record of.

        Args:
            trainer: of the module.
            pl_module: the module.
            steps: all that a penalty is of.
            position: that of the compared one.

        Raises:
            UserError: it is the first, and differs from what the optimizer got.
        """
        assert self._witness is not None
        assert self._witness.record is not None
        record = self._witness.record
        # A step that does not call the module itself was seen before Lightning's context of the precision alone.
        if "16" in str(trainer.precision) and record.autocast is None:
            half = torch.bfloat16 if "bf16" in str(trainer.precision) else torch.float16
            record.autocast = pl_module.device.type, half
        # The last is the step after `_global_step`; the one at `position` is as many steps earlier.
        step = self._global_step + 1 - (len(steps) - 1 - position)
        twin = muted_twin(pl_module, step - 1)
        options, batches = self._as_measured(trainer, pl_module, steps)
        measured = MeasuredLoss(
            twin,
            self._trained,
            options.criterion,
            options.loss,
            method=options.method,
            group=ranks_of(trainer.strategy.model),
        )
        if options.regularizer is not None:
            objective = Objective(measured.loss, options.regularizer, batches)
            measured.descended = lambda params, batch: objective.evaluate(params, batch).total
        start = time.perf_counter()
        with user_errors(), precision_of(trainer, options):
            self._guard.after_step(self._witness, measured, batches[position], mode=options.mode, step=step)
        self._cadence.note_gradient(time.perf_counter() - start)

    def _as_measured(
        self, trainer: Trainer, pl_module: LightningModule, steps: list[MicroBatches]
    ) -> tuple[Options, Sequence[Any]]:
        device = None if self.cache_device is None else pl_module.device
        return as_measured(trainer, self._asked, steps, device)

    @property
    def _trained(self) -> Optimizer:
        assert self._optimizer is not None
        return self._optimizer

    # After it.

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Measure the epoch, and give the row to loggers, callbacks and `rows`."""
        measures = not self.by_steps and self._measures(trainer)
        if measures and (self._must_measure(trainer) or self._cadence.is_affordable()):
            self._measure(trainer, pl_module)
        trainer.callback_metrics.update(self._last)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Measure the last epoch or window if it has no row, whatever has ended the training."""
        if len(self._steps.window) and (not self._rows or self._rows[-1].get("step") != trainer.global_step):
            if self._steps.dropped:
                self._guard.warnings.once(
                    "memory",
                    f"the last epoch has no row: its minibatches take more than max_cache="
                    f"{self.options.cache / 2**20:.1f} MiB; raise max_cache, or measure fewer of them by num_batches",
                )
            else:
                self._measure(trainer, pl_module)
        self._stop()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Remove the hooks from the module."""
        self._stop()

    def _stop(self) -> None:
        if self._witness is not None:
            self._witness.forget()

    def _measure(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Measure the window and add its row; a window without a step has none."""
        window = self._steps.window
        if not len(window) or self._steps.dropped or self._witness is None:
            return
        least = least_steps(self._asked, self._population(trainer))
        if len(window) < least:
            kind = "" if self._asked.drawing == EPOCH else "independent "
            what = f"the window before step {trainer.global_step}" if self.by_steps else f"epoch {self._epoch}"
            self._guard.warnings.once(
                "draws",
                f"{what} has no row: of {len(window)} {kind}minibatches nothing can be estimated; train with at least "
                f"{least} steps in each",
            )
            return
        minibatches = len(window.sample.items)
        if (line := self._cadence.warning(minibatches)) is not None:
            self._guard.warnings.once("cost", line)
        start = time.perf_counter()
        values = self._values(trainer, pl_module)
        if self._recorder is not None:
            self._recorder.stop()
        values |= self._marks(trainer)
        warn_of_measurement(self._guard.warnings, pl_module, window.settings, values, mode=self.options.mode)
        warn_of_clipping(self._guard.warnings, self._clipped, len(window))
        spent = time.perf_counter() - start
        self._cadence.note(spent, minibatches)
        self._add_row(trainer, {**values, "time/terms": spent})

    def _values(self, trainer: Trainer, pl_module: LightningModule) -> dict[str, float]:
        """Measure the window's terms at the present weights."""
        assert self._witness is not None
        items = self._steps.window.sample.items
        if self._steps.recorded is not None and self._witness.record is not None:
            self._compare(trainer, pl_module, items, self._steps.recorded)
        options, batches = self._as_measured(trainer, pl_module, items)
        twin = muted_twin(pl_module)
        if options.criterion is not None:
            note_passing(twin, batches[0][0])
        known = Epoch(
            batches=[],
            initial={name: value.to(pl_module.device) for name, value in self.initial.items()},
            generator=named_generator("terms", trainer.global_step if self.by_steps else self._epoch),
            kept=self._kept,
            path=None if self._recorder is None else self._recorder.path(),
            stepped=self._witness.stepped,
            modes=self._guard.modes,
            group=ranks_of(trainer.strategy.model),
            clip=clip_of(trainer),
        )
        epoch = replace(self._steps.window.epoch(known, self._population(trainer)), batches=batches)
        with precision_of(trainer, options):
            warn = partial(self._guard.warnings.once, "theory")
            return measure_epoch(twin, replace(options, check="off"), epoch, optimizer=self._trained, warn=warn)

    def _add_row(self, trainer: Trainer, values: dict[str, float]) -> None:
        """Give a row to `rows`, to the trainer's loggers and to its callbacks."""
        epoch: float = self._epoch
        if self.by_steps:
            epoch -= 1 - min(1.0, self._ended / trainer.num_training_batches)
        self._rows.append({"epoch": epoch, "step": trainer.global_step, **values})
        self._last = {tag: torch.tensor(value) for tag, value in values.items()}
        trainer.callback_metrics.update(self._last)
        for logger in trainer.loggers if trainer.is_global_zero else ():
            logger.log_metrics({**values, "epoch": epoch if self.by_steps else epoch - 1}, step=trainer.global_step)

    def _marks(self, trainer: Trainer) -> dict[str, float]:
        """Return the marks of the row, by tag: what stands in it beside its terms."""
        marks = self._guard.marks()
        share = self._share(trainer)
        if share < 1:
            marks[SHARE] = share
        if trainer.gradient_clip_val is not None:
            marks[f"{self.prefix}clipped"] = self._clipped / len(self._steps.window)
        return marks

    def _share(self, trainer: Trainer) -> float:
        """Return the share of a row's steps that were seen: 1, or less after training has resumed."""
        total = trainer.num_training_batches
        if not self.by_steps:
            return (self._ended - (self._first or 0)) / total if math.isfinite(total) else 1.0
        assert self._cadence.every_n_steps is not None
        due = (trainer.global_step - 1) % self._cadence.every_n_steps + 1
        if self._asked.drawing == EPOCH:
            due = min(due, math.ceil(self._ended / trainer.accumulate_grad_batches))
        return len(self._steps.window) / due

    # Checkpoints.

    @property
    def state_key(self) -> str:
        """The key of this monitor in a checkpoint; several monitors of a trainer need different prefixes."""
        return self._generate_state_key(prefix=self.prefix)

    def state_dict(self) -> dict[str, Any]:
        """Return the rows, the initial weights, and what a measurement leaves for the next one."""
        kept = {name: value.cpu() for name, value in self._kept.items()}
        return {"rows": self._rows, "initial": self.initial, "kept": kept}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take the rows and weights of a checkpoint, to continue after them."""
        self._rows = [dict(row) for row in state_dict["rows"]]
        self.initial = dict(state_dict["initial"])
        self._kept = dict(state_dict.get("kept", {}))


def _is_last(trainer: Trainer, batch_idx: int) -> bool:
    """Return whether a minibatch is the epoch's last, after which Lightning takes a step in any case."""
    return bool(trainer.is_last_batch) or batch_idx + 1 == trainer.num_training_batches
