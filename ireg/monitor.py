"""Measure the terms in a training loop of one's own."""

import time
from collections.abc import Mapping, Sequence
from copy import copy
from dataclasses import replace
from functools import cached_property, partial
from typing import TYPE_CHECKING

from torch import Tensor, nn
from torch.optim import Optimizer

from ireg.catalogue import VALID_STRENGTH
from ireg.core.batches import copied
from ireg.core.clipping import Clip
from ireg.core.drawing import EPOCH, INDEPENDENT
from ireg.core.functional import detached_parameters
from ireg.core.moments import SMALLEST
from ireg.core.noise import noise_layers
from ireg.core.path import recorder_for
from ireg.core.random import named_generator
from ireg.core.ranks import ranks_of
from ireg.core.several import SeveralOptimizers
from ireg.core.types import Batch
from ireg.core.witness import Settings, Witness, settings_of
from ireg.core.wrappers import bare_module, called_module, unwrapped
from ireg.guard import NOISE, Guard, Warnings
from ireg.measured import Measurement
from ireg.measured_loss import Criterion, MeasuredLoss, ModelLoss, loss_function
from ireg.measurement import measure_epoch
from ireg.objective import Objective
from ireg.options import Epoch, Options, require_minibatches
from ireg.regularizers import Regularizer
from ireg.terms.named import Chosen
from ireg.window import Cadence, Window, least_steps, require_windows

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from pandas import DataFrame


class Monitor:
    """Remember the minibatches of steps, and measure the terms over them.

    The methods have torchmetrics' names: `update` after each step, `compute` after the epoch, `reset` before the next.
    With `every_n_steps` the monitor computes and resets itself, and `update` returns the row when there is one.

    Observing does not change the training: the weights are bit-equal with and without a monitor.

    Args:
        model: any module.
        optimizer: of the model; a list of several that step together, see `ireg.measure`.
        terms: what is measured. All that is asked for, from here on, is described in `ireg.options.Options`.
        criterion: `(outputs, targets) -> 0-d tensor`, for pairs.
        loss: `(model, batch) -> 0-d tensor`, for any minibatch. Give this or `criterion`.
        method: how gradient moments are computed.
        num_batches: estimate the terms from so many minibatches.
        mode: `as_trained`, `two_draws` or `eval`.
        sampling: `epoch` or `independent`.
        by: `layer` or `group`.
        regularizer: a penalty that is descended beside the loss.
        check: `each`, `first` or `off`; an epoch is what lies between two calls of `reset`.
        max_cache: memory that the copied minibatches may take.
        progress: show on standard error which term is being computed.
        every_n_steps: measure after each n-th step, over the minibatches of the steps since. A window does not reach
            over the end of an epoch, unless minibatches are independent.
        max_cost: the largest share of the training's time that measurements of `every_n_steps` may take, as 0.05. Rows
            that would take more are left out.
        population: the number m of the epoch's minibatches, as `len(loader)`, where a window has some of them only.
            With `every_n_steps` it is needed, unless minibatches are independent. By default a window is an epoch.

    Attributes:
        clip: how gradients are clipped before each step; None where they are not, or as the compared steps show it.

    Raises:
        ValueError: an argument has a value that `ireg.measure` refuses; `every_n_steps` without `population`.

    Example:
        >>> import torch
        >>> model = nn.Linear(2, 1)
        >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        >>> monitor = Monitor(model, optimizer, criterion=nn.functional.mse_loss, terms=["ireg/sgd", "norm/distance"])
        >>> loader = [(torch.ones(4, 2), torch.zeros(4, 1)) for _ in range(3)]
        >>> for epoch in range(2):
        ...     for inputs, targets in loader:
        ...         optimizer.zero_grad()
        ...         nn.functional.mse_loss(model(inputs), targets).backward()
        ...         optimizer.step()
        ...         monitor.update((inputs, targets))
        ...     values = monitor.compute()
        ...     monitor.reset()
        >>> monitor.rows.columns.tolist(), len(monitor.rows)
        (['step', 'ireg/sgd', 'norm/distance', 'check/replay', 'time/terms'], 2)
        >>> known = {"criterion": nn.functional.mse_loss, "terms": ["norm/l2"], "check": "off"}
        >>> monitor = Monitor(model, optimizer, every_n_steps=3, population=3, **known)
        >>> [monitor.update(batch) is None for batch in loader]
        [True, True, False]
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: Optimizer | Sequence[Optimizer],
        *,
        terms: Chosen = "default",
        criterion: Criterion | None = None,
        loss: ModelLoss | None = None,
        method: str = "auto",
        num_batches: int | None = None,
        mode: str = "as_trained",
        sampling: str = EPOCH,
        by: str | None = None,
        regularizer: Regularizer | None = None,
        check: str = "each",
        max_cache: int | str = "1GiB",
        progress: bool | None = None,
        every_n_steps: int | None = None,
        max_cost: float | None = None,
        population: int | None = None,
    ) -> None:
        self.options = Options(
            terms=terms,
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
        self._cadence = Cadence(every_n_steps=every_n_steps, max_cost=max_cost)
        self._steps_per_epoch = population
        self._population = self._sampled(population)
        self._due = False
        self.clip: Clip | None = None
        self._guard = Guard(check)
        self.warnings = self._guard.warnings
        self._known: list[int] = []  # identities of the parameters
        self._seen = 0  # steps taken before the last update
        self._before: Batch | None = None  # the minibatch before, where its step was not seen
        self.optimizer = unwrapped(optimizer)
        loss_function(model, criterion, loss, method)  # refused here, not after an epoch
        self.model = model
        module = bare_module(model, sharded=True)
        self._cadence.group = ranks_of(model)
        self.initial = {name: value.clone() for name, value in detached_parameters(module).items()}
        self.steps = 0
        self._rows: list[Measurement] = []
        self._kept: dict[str, Tensor] = {}
        self._recorder = recorder_for(self.options.chosen.values(), self.optimizer)
        self._witness = Witness(self.optimizer, module, criterion, loss, called=called_module(model))
        self.reset()

    def _sampled(self, population: int | None) -> int | None:
        """Return the number of the epoch's minibatches, of which a window has some; None where it is an epoch.

        Raises:
            ValueError: it is missing, has no meaning, or a term has no estimate from some of the minibatches.
        """
        options, every = self.options, self._cadence.every_n_steps
        if population is None:
            if every is not None and options.drawing == EPOCH:
                raise ValueError(
                    f"every_n_steps={every}: a window has some of an epoch's minibatches, and their number is not "
                    f"known; give population=len(loader), or sampling={INDEPENDENT!r} for a stream that never repeats"
                )
            return None
        if population < 1:
            raise ValueError(f"population={population}: must be at least 1, the number of an epoch's minibatches")
        if options.drawing != EPOCH:
            raise ValueError(
                f"population={population}: independent minibatches are drawn from no number of them; leave it out, or "
                f"take sampling={EPOCH!r}"
            )
        sampled = self._cadence.population(population)
        if sampled is not None:
            require_windows(options, sampled)
        return sampled

    def update(self, batch: Batch) -> Measurement | None:
        """Remember a minibatch and what its step used; to be called after `optimizer.step()`.

        The minibatch is copied. A minibatch whose step was not taken, as a gradient scaler leaves steps out, is not
        remembered.

        Args:
            batch: as `criterion` or `loss` takes it.

        Returns:
            The row, if one is due after this step; else None.

        Raises:
            ValueError: it is no pair, and `criterion` takes pairs; the minibatches take more memory than allowed; the
                gradient of the first step, computed again, is not the one that the optimizer got; where a row is due,
                as `compute`.
        """
        require_minibatches([batch], pairs=self.options.criterion is not None)
        if isinstance(self.optimizer, SeveralOptimizers):
            self.optimizer.end_step()
        taken = self._witness.steps
        if taken and taken == self._seen:
            self._before = copied(batch) if self._witness.asked else None
            return None
        # What came before the first step that was taken trained nothing.
        if taken and not self._seen and len(self._window):
            self.steps -= len(self._window)
            self._start_window()
        if len(self._window) and len(self._window.settings[0]) != len(self.optimizer.param_groups):
            self._start_window()  # a parameter group has joined: steps before it moved other weights
        self._seen = taken
        place = self._window.sample.place()
        if place is not None:
            self._keep(place, copied(batch))
        self._window.settings.append(self._witness.settings or settings_of(self.optimizer))
        self.steps += 1
        if self._witness.record is None:
            self._guard.ask_again(self._witness)
        elif self.options.regularizer is None:
            self._compare(batch)
        self._before = copied(batch) if not taken and self._witness.asked else None
        return self._row_if_due()

    def _row_if_due(self) -> Measurement | None:
        """Measure if it is time, and begin a window after it, and after each epoch."""
        if self._cadence.every_n_steps is None:
            return None
        self._due = self._due or self._cadence.is_due(self.steps)
        if self._due and (row := self.compute_rest()) is not None:
            return row
        if self._steps_per_epoch is not None and self.steps % self._steps_per_epoch == 0:
            if self.options.regularizer is None:
                self._start_window()  # the guard has seen a step of this row
            else:
                self.reset()  # the step of a penalty is compared with the window's first minibatch
        return None

    def _keep(self, place: int, batch: Batch) -> None:
        """Put a minibatch into the sample of the window.

        Raises:
            ValueError: the sample takes more memory than `max_cache` allows.
        """
        self._window.put(place, batch)
        size = self._window.bytes
        if size > self.options.cache:
            raise ValueError(
                f"the copies of {len(self._window.sample.items)} minibatches take {size / 2**20:.1f} MiB, more than "
                f"max_cache={self.options.cache / 2**20:.1f} MiB; raise max_cache, or keep fewer of them by "
                f"num_batches (at least {SMALLEST}), or call compute and reset more often"
            )

    def _compare(self, batch: Batch) -> None:
        """Let the guard compute the gradient of the minibatch's step again."""
        start = time.perf_counter()
        self._guard.after_step(
            self._witness, self._measured, batch, mode=self.options.mode, step=self.steps, before=self._before
        )
        self._cadence.note_gradient(time.perf_counter() - start)

    def _compare_with_penalty(self) -> None:
        """Compare the window's first step, once all minibatches of the penalty are known."""
        regularizer = self.options.regularizer
        items = self._window.sample.items
        if regularizer is None or self._witness.record is None or not items:
            return
        objective = Objective(self._measured.loss, regularizer, items)
        self._measured.descended = lambda params, batch: objective.evaluate(params, batch).total
        self._compare(items[0])

    @cached_property
    def _measured(self) -> MeasuredLoss:
        options = self.options
        return MeasuredLoss(self.model, self.optimizer, options.criterion, options.loss, method=options.method)

    def compute(self) -> Measurement:
        """Measure the terms at the present weights, over the minibatches since the last `reset`.

        The values are also added to `rows`. `check/replay` is by how much of its norm the gradient of the window's
        first step, computed again, differs from what the optimizer got. Where it is above rounding, terms may be wrong.

        Returns:
            The values by tag, without those that do not exist for the optimizer, see `ireg.Measurement`.

        Raises:
            ValueError: there are no minibatches, or `ireg.measure` refuses something; with a regularizer, the gradient
                of the first step, computed again, is not the one that the optimizer got.
        """
        minibatches = len(self._window.sample.items)
        if (line := self._cadence.warning(minibatches)) is not None:
            self._guard.warnings.once("cost", line)
        start = time.perf_counter()
        self._compare_with_penalty()
        options = replace(self.options, check="off")  # the guard has compared a step
        # What the guard compares at each row is known to be the same function as at the row before.
        known = self._measured if self.options.check == "each" else None
        warn = partial(self._guard.warnings.once, "theory")
        values = measure_epoch(self.model, options, self._epoch(), optimizer=self.optimizer, measured=known, warn=warn)
        values |= self._guard.marks()
        warn_of_measurement(self._guard.warnings, self.model, self._window.settings, values, mode=options.mode)
        spent = time.perf_counter() - start
        self._cadence.note(spent, minibatches)
        epochs = {} if self._steps_per_epoch is None else {"epoch": self.steps / self._steps_per_epoch}
        self._rows.append(values.with_values({"step": self.steps, **epochs, **values, "time/terms": spent}))
        return values

    def mark(self, tag: str, value: float) -> None:
        """Add a value of one's own to the last row."""
        self._rows[-1][tag] = value

    def compute_rest(self) -> Measurement | None:
        """Measure the steps since the last row, as after the last step of a training with `every_n_steps`.

        Returns:
            The row; None if there are too few steps for one.

        Raises:
            ValueError: as `compute`.
        """
        if len(self._window) < least_steps(self.options, self._population):
            return None
        self.compute()
        self.reset()
        return copy(self._rows[-1])

    def _epoch(self) -> Epoch:
        """Return what is known of the window's minibatches and steps."""
        epoch = Epoch(
            batches=[],
            initial=self.initial,
            generator=named_generator("terms", self.steps),
            kept=self._kept,
            path=None if self._recorder is None else self._recorder.path(),
            clip=self.clip or self._guard.clip,
        )
        if len(self._window):
            epoch = replace(epoch, stepped=self._witness.stepped or None, modes=self._guard.modes)
        return self._window.epoch(epoch, self._population)

    def reset(self) -> None:
        """Forget the minibatches and begin the next epoch; `rows` stay."""
        self._seen, self._before = self._witness.steps, None
        self._start_window()
        known = [id(parameter) for parameter in bare_module(self.model, sharded=True).parameters()]
        if known != self._known:  # a network that has grown is another function
            self.__dict__.pop("_measured", None)
        self._known = known
        self._guard.begin(self._witness)

    def _start_window(self) -> None:
        self._due = False
        self._window: Window[Batch] = Window(self.options.num_batches, number=self.steps)
        if self._recorder is not None:
            self._recorder.start()

    @property
    def rows(self) -> "DataFrame":
        """What was computed so far; `step` counts the optimizer's steps."""
        from pandas import DataFrame  # only where it is wanted: it takes half a second to import

        return DataFrame(self._rows)

    def plot(self, tags: Sequence[str] | None = None) -> "Figure":
        """Draw the rows over optimizer steps, a panel for each kind of term like `ireg/…` or `noise/…`.

        Bars are of one standard error; a row without a value is a gap.

        Args:
            tags: which; by default all but those of time and checks.

        Raises:
            ValueError: there are no rows yet, or a tag is not among them.
        """
        from ireg.rows_figure import rows_figure  # only where it is wanted

        return rows_figure(self.rows, tags)


def warn_of_clipping(warnings: Warnings, clipped: int, steps: int) -> None:
    """Warn once that clipping has changed the gradients of a row's steps."""
    if clipped:
        warnings.once(
            "clipping",
            f"gradient clipping acted in {clipped} of {steps} steps; ireg/own_full_batch of SGD and momentum has it, "
            "other terms are those of steps without it",
        )


def warn_of_measurement(
    warnings: Warnings, model: nn.Module, settings: Sequence[Settings], values: Mapping[str, float], *, mode: str
) -> None:
    """Warn of what changes the meaning of a measurement, each cause once."""
    if any(_differ(step, settings[0], "lr") for step in settings):
        warnings.once(
            "rates",
            "the learning rate changes within the epoch: the terms have the coefficients for that; those of an "
            "optimizer with memory are for a last rate that stays",
        )
    changing = sorted(
        {
            key
            for group in settings[0]
            for key in group.keys() - {"lr", "initial_lr"}
            if any(_differ(step, settings[0], key) for step in settings)
        }
    )
    if changing:
        warnings.once(
            "settings",
            f"{', '.join(changing)} changes within the epoch: the terms use the value of the last step; ireg/own… has "
            "the momentum of each step",
        )
    if noise_layers(model) and mode == "as_trained":
        warnings.once(
            "dropout",
            "the model has dropout, which is off in the terms: at p = 0.1 they are about 1 % off, at p = 0.5 5 %; "
            "mode='two_draws' has it on, without bias, in twice the time",
        )
    if values.get(NOISE):
        warnings.once(
            "noise",
            f"the loss draws random numbers that are not known as noise, like dropout: by another seed it differs by "
            f"{values[NOISE]:.2g} of itself, and the terms hold that noise; mode='two_draws' has their means, "
            "without bias, in twice the time",
        )
    strength = values.get("ireg/strength", 0.0)
    if strength > VALID_STRENGTH:
        warnings.once(
            "strength",
            f"ireg/strength is {strength:.2g}: above {VALID_STRENGTH:g} the expansion says nothing about this run",
        )


def _differ(one: Settings, other: Settings, key: str) -> bool:
    return any(left.get(key) != right.get(key) for left, right in zip(one, other, strict=True))
