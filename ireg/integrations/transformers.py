"""Measure the terms of a training by transformers' `Trainer`, every n steps."""

from __future__ import annotations

import math
import warnings
from typing import TYPE_CHECKING, Any, NamedTuple

from torch import Tensor
from torch.utils.data import BatchSampler, IterableDataset
from transformers import Trainer, TrainerCallback
from transformers.trainer_pt_utils import LengthGroupedSampler

from ireg.core.batches import examples_of
from ireg.core.clipping import Clip
from ireg.core.drawing import EPOCH, INDEPENDENT, sampling_of
from ireg.monitor import Monitor, warn_of_clipping
from ireg.terms.named import Chosen

if TYPE_CHECKING:
    from pandas import DataFrame


CLIPPED = "ireg/clipped"
"""Tag of the share of a row's steps whose gradients were clipped."""


class MicroBatch(NamedTuple):
    """One micro-batch of an optimizer step, as `Trainer.training_step` got it.

    Attributes:
        inputs: of the model.
        items: tokens of the whole step, or what else the losses of its micro-batches are divided by; None where
            their mean is taken.
        divisor: the number of the step's micro-batches.
    """

    inputs: dict[str, Any]
    items: Any
    divisor: int


class Step(NamedTuple):
    """The micro-batches of one optimizer step."""

    micro_batches: tuple[MicroBatch, ...]

    @property
    def examples(self) -> int | None:
        """How many examples, as sequences, the step took; None where a micro-batch does not say."""
        counts = examples_of([inputs for inputs, _, _ in self.micro_batches])
        return None if counts is None else sum(counts)


def watch(
    trainer: Trainer,
    terms: Chosen = "default",
    *,
    every_n_steps: int = 100,
    num_batches: int | None = 8,
    sampling: str | None = None,
    **options: Any,
) -> Watch:
    """Measure a `Trainer`'s training every n optimizer steps, and give the rows to its own log.

    The loss is `Trainer.compute_loss` of the step's micro-batches, divided as `Trainer` divides it: by the tokens of
    the whole step, or by the number of micro-batches. So accumulated gradients are measured as they train. The weights
    are bit-equal with and without it. Rates, decay and momentum are those that the step has used.

    The rows' tags appear in the trainer's log beside its own, and in `rows`. A loss of which `compute_loss` is not all,
    as with a `training_step` of one's own, is refused at the first step, whose gradient is compared.

    Args:
        trainer: before `train` is called.
        terms: what is measured. All that is asked for is described in `ireg.options.Options`.
        every_n_steps: how many optimizer steps lie between two rows.
        num_batches: estimate the terms from so many of these steps, drawn at random; None takes all.
        sampling: `epoch` or `independent`. By default it is read off the loader: of a stream without length it is
            `independent`.
        options: more arguments of `ireg.Monitor`, as `mode`, `check`, `max_cache` and `max_cost`.

    Returns:
        The callback, which is among the trainer's. Its `rows` are a table.

    Raises:
        ValueError: an argument has a value that is not allowed; within training, as `ireg.Monitor`.

    Example:
        >>> watched = watch(trainer, every_n_steps=100)  # doctest: +SKIP
        >>> trainer.train()  # doctest: +SKIP
        >>> watched.rows[["step", "ireg/sgd", "ireg/own"]]  # doctest: +SKIP
    """
    for name in ("criterion", "loss", "population"):
        if name in options:
            raise ValueError(f"{name} is the trainer's own; leave it out")
    callback = Watch(
        trainer,
        {"terms": terms, "every_n_steps": every_n_steps, "num_batches": num_batches, **options},
        sampling=sampling,
    )
    trainer.add_callback(callback)
    return callback


class Watch(TrainerCallback):  # type: ignore[misc, unused-ignore]
    """What `watch` adds to a trainer.

    Args:
        trainer: the trainer.
        options: of `ireg.Monitor`.
        sampling: how minibatches are drawn; None reads it off the loader.

    Attributes:
        monitor: of the training that runs or has run; None before.
    """

    def __init__(self, trainer: Trainer, options: dict[str, Any], *, sampling: str | None) -> None:
        self.trainer = trainer
        self.monitor: Monitor | None = None
        self._options = options
        self._sampling = sampling
        self._step: list[MicroBatch] = []
        self._row: dict[str, float] | None = None

    @property
    def rows(self) -> DataFrame:
        """What was measured, as one row each.

        Raises:
            ValueError: no training has begun.
        """
        if self.monitor is None:
            raise ValueError("no training has begun; call trainer.train() first")
        return self.monitor.rows

    def on_train_begin(self, args: Any, state: Any, control: Any, **known: Any) -> None:
        """Begin to look at the trainer's micro-batches and steps."""
        trainer, loader = self.trainer, known["train_dataloader"]
        sampling = self._sampling or sampling_of_loader(loader)
        epoch = None
        if sampling == EPOCH:
            epoch = math.ceil(len(loader) / args.gradient_accumulation_steps)
        self.monitor = Monitor(
            trainer.model_wrapped,
            known["optimizer"],
            loss=self._loss,
            sampling=sampling,
            population=epoch,
            **self._options,
        )
        self.monitor.clip = Clip(args.max_grad_norm) if args.max_grad_norm else None
        self.monitor.steps = state.global_step
        self.monitor.reset()
        self._step = []
        self._taken = self._clipped = 0
        if vars(trainer).get("training_step") != self._training_step:  # as it is after an interrupted training
            self._own_step = trainer.training_step
            trainer.training_step = self._training_step
        self._accelerator = trainer.accelerator
        if vars(self._accelerator).get("clip_grad_norm_") != self._clip:
            self._own_clip = self._accelerator.clip_grad_norm_
            self._accelerator.clip_grad_norm_ = self._clip

    def _training_step(self, model: Any, inputs: dict[str, Any], num_items_in_batch: Any = None) -> Tensor:
        divisor = self.trainer.current_gradient_accumulation_steps
        self._step.append(MicroBatch(dict(inputs), num_items_in_batch, divisor))
        loss: Tensor = self._own_step(model, inputs, num_items_in_batch)
        return loss

    def _clip(self, parameters: Any, max_norm: float, norm_type: float = 2) -> Any:
        """Clip as accelerate does, and count the steps whose gradients are above the bound."""
        norm = self._own_clip(parameters, max_norm, norm_type)
        self._clipped += bool(norm is not None and norm > max_norm)
        return norm

    def _loss(self, model: Any, step: Step) -> Tensor:
        """Compute the loss of a step as `Trainer.training_step` does, without its backward pass."""
        trainer = self.trainer
        total: Tensor | float = 0.0
        for inputs, items, divisor in step.micro_batches:
            # compute_loss may take the labels out of its inputs.
            inputs = trainer._prepare_inputs(dict(inputs))
            with trainer.compute_loss_context_manager():
                loss = trainer.compute_loss(model, inputs, num_items_in_batch=items)
            total = total + (loss if self._is_scaled(items) else loss / divisor)
        assert isinstance(total, Tensor)
        return total

    def _is_scaled(self, items: Any) -> bool:
        """Return whether `compute_loss` has divided by the items of the whole step."""
        said: bool | None = getattr(self.trainer, "loss_is_scaled_for_ga", None)
        if said is not None:
            return said
        by_items = bool(self.trainer.model_accepts_loss_kwargs) and items is not None
        return by_items or self.trainer.compute_loss_func is not None

    def on_optimizer_step(self, args: Any, state: Any, control: Any, **known: Any) -> None:
        """Look at the step that has been taken, before a scheduler changes the rate."""
        assert self.monitor is not None
        step, self._step = Step(tuple(self._step)), []
        self._taken += 1
        self._row = self.monitor.update(step)

    def on_step_end(self, args: Any, state: Any, control: Any, **known: Any) -> None:
        """Give a row to the trainer's log, which counts the step by now."""
        assert self.monitor is not None
        if self._row is None and (state.global_step >= state.max_steps or control.should_training_stop):
            self._row = self.monitor.compute_rest()
        if self._row is not None:
            self._note_clipping(self._row, self.monitor, args.max_grad_norm)
            due = control.should_log  # which any entry clears, and the trainer's own loss would be left out
            self.trainer.log({tag: value for tag, value in self._row.items() if tag not in ("step", "epoch")})
            control.should_log = self.trainer.control.should_log = due
            self._row = None

    def _note_clipping(self, row: dict[str, float], monitor: Monitor, bound: float | None) -> None:
        """Add the share of the steps since the last row whose gradients were clipped."""
        if bound:
            row[CLIPPED] = self._clipped / self._taken
            monitor.mark(CLIPPED, row[CLIPPED])
            warn_of_clipping(monitor.warnings, self._clipped, self._taken)
        self._taken = self._clipped = 0

    def on_train_end(self, args: Any, state: Any, control: Any, **known: Any) -> None:
        """Leave the trainer as it was."""
        if vars(self.trainer).get("training_step") == self._training_step:
            self.trainer.training_step = self._own_step
        if vars(self._accelerator).get("clip_grad_norm_") == self._clip:
            self._accelerator.clip_grad_norm_ = self._own_clip


def sampling_of_loader(loader: Any) -> str:
    """Return how the loader of a `Trainer` draws its minibatches.

    Args:
        loader: as accelerate has prepared it.

    Returns:
        One of `ireg.core.drawing.SAMPLINGS`. A stream counts as independent draws, and what is not known as an epoch,
        with a warning.
    """
    known = sampling_of(loader)
    if known is not None:
        return known
    if isinstance(getattr(loader, "dataset", None), IterableDataset):
        return INDEPENDENT
    sampler: Any = getattr(loader, "batch_sampler", None)
    while hasattr(sampler, "batch_sampler"):  # accelerate's share of a process
        sampler = sampler.batch_sampler
    if type(sampler) is BatchSampler:
        within = sampler.sampler
        # Each shuffles all examples once an epoch.
        if isinstance(within, LengthGroupedSampler) or type(within).__name__ == "SeedableRandomSampler":
            return EPOCH
    warnings.warn(
        f"how {type(loader).__name__} draws its minibatches is not known: the terms are those of sampling={EPOCH!r}, "
        f"each minibatch once an epoch; with replacement, give sampling={INDEPENDENT!r}",
        UserWarning,
        stacklevel=2,
    )
    return EPOCH
