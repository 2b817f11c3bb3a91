"""Measure the terms on anybody's LightningModule."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.strategies import SingleDeviceStrategy
from torch import Tensor
from torch.optim import Optimizer

from ireg.core.batches import copied
from ireg.core.functional import detached_parameters
from ireg.core.moments import SMALLEST
from ireg.core.path import PathRecorder, recorder_for
from ireg.core.random import named_generator
from ireg.core.reservoir import Reservoir
from ireg.errors import UserError
from ireg.lit.twin import muted_twin
from ireg.lit.windows import Window, as_bytes, is_clipped, moved, size_of, window_loss
from ireg.measurement import ModelLoss, measure, require_estimates, require_mode
from ireg.monitor import Warnings, rates_of
from ireg.terms.named import Chosen, chosen_terms

if TYPE_CHECKING:
    from pandas import DataFrame


class ImplicitRegularizationMonitor(Callback):
    """Lightning callback that measures the terms after training epochs.

    The loss is the module's own `training_step`, as a function of the parameters, over the minibatches that were used.
    It is called on a copy of the module that shares its parameters. Training with and without the callback is
    bit-equal, and the module's own records stay as they are. A minibatch is all that one optimizer step has seen, so
    that gradient accumulation is measured as it trains.

    The copy's `training_step` sees the trainer as it is at the end of the epoch. Its logging is muted. A step that
    depends on `global_step`, on `is_last_batch`, or on noise that it draws, computes another loss than in training.
    Give `loss` then.

    A row goes to the trainer's loggers and to `rows`, and callbacks like `ModelCheckpoint(monitor="ireg/sgd")` see it.
    Rows are part of the trainer's checkpoints.

    Args:
        terms: `"default"`, `"theory"`, tags, or functions by tag, see `ireg.terms.named.chosen_terms`.
        every_n_epochs: measure every n-th epoch, and the last.
        num_batches: estimate the terms from so many of the epoch's minibatches, see `ireg.Monitor`.
        loss: `(module, batch) -> 0-d tensor` instead of `training_step`.
        mode: `as_trained`, `two_draws` or `eval`, see `ireg.measure`.
        max_cache: memory that the epoch's minibatches may take, in bytes or like `"1GiB"`.
        cache_device: where they are kept; by default where they are.
        method: how gradient moments are computed, see `ireg.core.moments.gradient_moments`.
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
        every_n_epochs: int = 1,
        num_batches: int | None = None,
        loss: ModelLoss | None = None,
        mode: str = "as_trained",
        max_cache: int | str = "1GiB",
        cache_device: torch.device | str | None = None,
        method: str = "auto",
        prefix: str = "ireg/",
    ) -> None:
        super().__init__()
        if every_n_epochs < 1:
            raise ValueError(f"every_n_epochs={every_n_epochs}: must be at least 1")
        require_mode(mode)
        self.terms = {
            prefix + tag.removeprefix("ireg/") if tag.startswith("ireg/") else tag: term
            for tag, term in chosen_terms(terms).items()
        }
        require_estimates(self.terms, mode, num_batches)
        self.every_n_epochs = every_n_epochs
        self.num_batches = num_batches
        self.loss = loss
        self.mode = mode
        self.max_cache = as_bytes(max_cache)
        self.cache_device = cache_device
        self.method = method
        self.prefix = prefix
        self.initial: dict[str, Tensor] = {}
        self._recorder: PathRecorder | None = None
        self.warnings = Warnings()
        self._rows: list[dict[str, float]] = []
        self._forget(0)

    @property
    def rows(self) -> DataFrame:
        """What was measured, one row an epoch; `epoch` counts the completed ones."""
        from pandas import DataFrame  # only where it is wanted: it takes half a second to import

        return DataFrame(self._rows)

    # Before training.

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Refuse what cannot be measured.

        Raises:
            UserError: see the text of each.
        """
        if stage != "fit":
            return
        for wrong, text in (
            (trainer.world_size > 1, f"devices={trainer.world_size}: the minibatches of one device are not those of a "
             "step; use devices=1"),
            (not isinstance(trainer.strategy, SingleDeviceStrategy), f"strategy={type(trainer.strategy).__name__}: "
             "shards or spreads the weights; use strategy='auto' with devices=1"),
            (not pl_module.automatic_optimization, "automatic_optimization=False: what a step is stands in the module "
             "alone; use automatic optimization, or ireg.Monitor in the training_step"),
            (trainer.precision == "16-true", "precision=16-true: gradients leave its range; use bf16-mixed, 16-mixed "
             "or 32-true"),
            (self.loss is None and "dataloader_iter" in inspect.signature(pl_module.training_step).parameters,
             "training_step takes the iterator of the loader; take (batch, batch_idx), or use ireg.Monitor"),
        ):  # fmt: skip
            if wrong:
                raise UserError(f"ImplicitRegularizationMonitor: {text}")

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Keep the initial weights, and refuse optimizers that cannot be measured.

        Raises:
            UserError: there are several, or one that evaluates the loss several times a step.
        """
        if len(trainer.optimizers) != 1:
            raise UserError(
                f"ImplicitRegularizationMonitor: {len(trainer.optimizers)} optimizers: no modified loss is known for "
                "several; use one, with parameter groups"
            )
        if isinstance(trainer.optimizers[0], torch.optim.LBFGS):
            raise UserError("ImplicitRegularizationMonitor: LBFGS evaluates the loss several times a step; use another")
        if not self.initial:
            self.initial = {name: value.clone() for name, value in detached_parameters(pl_module).items()}
        self._recorder = recorder_for(self.terms.values(), trainer.optimizers[0])

    # During an epoch: which minibatches, and at which rates.

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Forget the last epoch's minibatches."""
        self._forget(trainer.current_epoch + 1)
        if self._recorder is not None and self._measures(trainer):
            self._recorder.start()

    def _forget(self, epoch: int) -> None:
        self._pending: list[tuple[Any, int]] = []
        self._place: int | None = None  # of the window in the sample; None leaves it out
        self._drawn = False  # whether that has been decided
        self._step_rates: tuple[float, ...] | None = None
        self._sample: Reservoir[Window] = Reservoir(self.num_batches, named_generator("minibatches", epoch))
        self._rates: list[tuple[float, ...]] = []
        self._size = 0
        self._clipped = 0

    def _measures(self, trainer: Trainer) -> bool:
        epoch = trainer.current_epoch + 1
        return epoch % self.every_n_epochs == 0 or epoch == trainer.max_epochs

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Copy the minibatch before the step, which may change it in place.

        Raises:
            UserError: the epoch's minibatches take more memory than allowed.
        """
        if not self._measures(trainer):
            return
        if not self._drawn:
            self._place, self._drawn = self._sample.place(), True
        if self._place is None:
            self._pending.append((None, batch_idx))
            return
        kept = copied(batch)
        if self.cache_device is not None:
            kept = moved(kept, self.cache_device)
        self._size += size_of(kept)
        if self._size > self.max_cache:
            raise UserError(
                f"ImplicitRegularizationMonitor: minibatches up to the {batch_idx + 1}. of the epoch take "
                f"{self._size / 2**20:.1f} MiB, more than max_cache={self.max_cache / 2**20:.1f} MiB; raise max_cache, "
                "with cache_device='cpu' if the accelerator's memory is short, or measure fewer of them by num_batches "
                f"(at least {SMALLEST}), or use smaller epochs by Trainer(limit_train_batches=...)"
            )
        self._pending.append((kept, batch_idx))

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        """Note the rates of this step, and whether clipping acts.

        A scheduler may change the rates afterwards.
        """
        if self._measures(trainer):
            self._step_rates = rates_of(trainer.optimizers[0])
            self._clipped += is_clipped(trainer, optimizer)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Close the window if a step was taken.

        A `training_step` that returned None has no minibatch.
        """
        if not outputs and self._pending:
            self._size -= size_of(self._pending.pop())
        if self._step_rates is None:
            return
        if self._pending:
            self._rates.append(self._step_rates)
            if self._place is not None:
                window = Window(tuple(self._pending), trainer.accumulate_grad_batches)
                self._size -= size_of(self._sample.put(self._place, window))
            self._drawn = False
        self._pending, self._step_rates = [], None

    # After it.

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Measure, and give the row to loggers, callbacks and `rows`."""
        if not self._measures(trainer) or not self._rates:
            return
        twin = muted_twin(pl_module)
        values = measure(
            twin,
            self._sample.items,
            optimizer=trainer.optimizers[0],
            loss=window_loss(trainer, self.loss, cached_elsewhere=self.cache_device is not None),
            terms=self.terms,
            rates=self._rates,
            initial={name: value.to(pl_module.device) for name, value in self.initial.items()},
            generator=named_generator("terms", trainer.current_epoch + 1),
            population=None if self.num_batches is None else len(self._rates),
            method=self.method,
            mode=self.mode,
            path=None if self._recorder is None else self._recorder.path(),
        )
        if self._recorder is not None:
            self._recorder.stop()
        self.warnings.of_measurement(pl_module, self._rates, values, mode=self.mode)
        if trainer.gradient_clip_val is not None:
            values[f"{self.prefix}clipped"] = self._clipped / len(self._rates)
            if self._clipped:
                self.warnings.once(
                    "clipping",
                    f"gradient clipping acted in {self._clipped} of {len(self._rates)} steps of the epoch; the terms "
                    "are those of steps without it",
                )
        self._rows.append({"epoch": trainer.current_epoch + 1, **values})
        trainer.callback_metrics.update({tag: torch.tensor(value) for tag, value in values.items()})
        for logger in trainer.loggers:
            logger.log_metrics({**values, "epoch": trainer.current_epoch}, step=trainer.global_step)

    # Checkpoints.

    @property
    def state_key(self) -> str:
        """Several monitors of a trainer need prefixes of their own."""
        return self._generate_state_key(prefix=self.prefix)

    def state_dict(self) -> dict[str, Any]:
        """Rows and initial weights."""
        return {"rows": self._rows, "initial": self.initial}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue after the rows of a checkpoint."""
        self._rows = [dict(row) for row in state_dict["rows"]]
        self.initial = dict(state_dict["initial"])
