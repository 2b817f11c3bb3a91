"""Training a classifier, and measuring it after each epoch."""

import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence

import lightning as L
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.optim import Optimizer
from torchmetrics import MeanMetric

from ireg.core.batches import IndexedBatches
from ireg.core.functional import detached_parameters, evaluating, functional_loss
from ireg.core.optimizer_view import view
from ireg.core.random import named_generator
from ireg.core.snapshot import Snapshot
from ireg.lit.data import NoisyImages, ShuffledBatches

Term = Callable[[Snapshot], Tensor | None]


class Classifier(L.LightningModule):
    """A classifier trained with cross-entropy, and what is measured of it, one row of numbers an epoch.

    Row 0 is the state before training, row e the state after e epochs. The terms are computed at the epoch's final
    weights over exactly the minibatches the epoch was trained with, in eval mode; row 0 takes those of the first
    epoch. Measuring changes neither weights nor optimizer nor any random stream: training with all terms and with
    none gives the same weights to the last bit.

    `train/loss` and `train/error` are means over the epoch as it ran: over its minibatches (as C is defined), and
    over its examples. In row 0, where nothing has run, they are those of the initial weights on all examples.

    Needs a `NoisyImages` as the trainer's datamodule, and `num_sanity_val_steps=-1` for row 0.

    Args:
        model: maps inputs to logits.
        optimizer: makes an optimizer from the parameters.
        terms: function by tag; one that returns None is left out of the row.
        terms_every: measure the terms each so many epochs, before training and after the last epoch.
        method: how gradient moments are computed, see `ireg.core.moments.gradient_moments`.
        seed: of the random numbers that terms may draw.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: Callable[[Iterable[nn.Parameter]], Optimizer],
        terms: Mapping[str, Term],
        *,
        terms_every: int = 1,
        method: str = "auto",
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.model = model
        self.make_optimizer = optimizer
        self.terms = dict(terms)
        self.terms_every = terms_every
        self.method = method
        self.seed = seed
        self.initial = {name: value.clone() for name, value in detached_parameters(model).items()}
        self.loss_function = functional_loss(model, cross_entropy)
        self.minibatches: list[Tensor] = []
        self.diverged = False
        self.evaluation: dict[str, float] = {}
        # A loss that is not finite must be seen, not left out of the mean.
        self.means = {name: MeanMetric(nan_strategy="disable") for name in _EVALUATED}
        self._metrics = nn.ModuleList(self.means.values())  # so that they move with the module
        self._clock = time.perf_counter()

    def configure_optimizers(self) -> Optimizer:
        """The optimizer of all parameters of the model."""
        return self.make_optimizer(self.model.parameters())

    def forward(self, inputs: Tensor) -> Tensor:
        """Logits (N, C)."""
        logits: Tensor = self.model(inputs)
        return logits

    # Training: running sums stay tensors, so that no step waits for the device; they are read once an epoch.

    def on_train_epoch_start(self) -> None:
        """Forget the last epoch's minibatches and sums."""
        self.minibatches = []
        self.loss_sum = torch.zeros((), device=self.device)
        self.wrong_sum = torch.zeros((), device=self.device, dtype=torch.long)

    def training_step(self, batch: tuple[Tensor, Tensor, Tensor], batch_index: int) -> Tensor:
        """Mean cross-entropy of one minibatch; its indices are remembered for the terms."""
        inputs, labels, indices = batch
        logits = self(inputs)
        loss = cross_entropy(logits, labels)
        with torch.no_grad():
            self.loss_sum += loss
            self.wrong_sum += (logits.argmax(1) != labels).sum()
        self.minibatches.append(indices)
        return loss

    # Evaluation: Lightning runs it after each epoch, before `on_train_epoch_end`, and as its sanity check at the start.

    def on_validation_epoch_start(self) -> None:
        """Begin the means anew."""
        for mean in self.means.values():
            mean.reset()

    def validation_step(self, batch: tuple[Tensor, Tensor, Tensor], batch_index: int, dataloader_idx: int = 0) -> None:
        """Add one batch of the test examples (first loader) or of the training examples (second)."""
        inputs, labels, indices = batch
        logits = self(inputs)
        predicted = logits.argmax(1)
        split = ("test", "train")[dataloader_idx]
        self.means[f"{split}_loss"].update(cross_entropy(logits, labels), len(labels))
        self.means[f"{split}_error"].update((predicted != labels).float())
        if split == "train":
            truth = self.data.train_labels
            clean, corrupted = truth.clean[indices], truth.corrupted[indices]
            self.means["clean_error"].update((predicted != clean)[~corrupted].float())
            self.means["memorized"].update((predicted == labels)[corrupted].float())
            self.means["recovered"].update((predicted == clean)[corrupted].float())

    def on_validation_epoch_end(self) -> None:
        """Read the means; a share of no examples (no label corrupted, or all) is left out."""
        # Divided here, in double precision: a share of 10,000 examples is then the number one expects.
        self.evaluation = {
            name: float(mean.mean_value) / float(mean.weight) for name, mean in self.means.items() if mean.weight > 0
        }

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
        """Record row 0."""
        if self.current_epoch == 0:
            loader = self.trainer.train_dataloader
            assert isinstance(loader, ShuffledBatches)
            row = {"train/loss": self.evaluation["train_loss"], "train/error": self.evaluation["train_error"]}
            self._record(0, row, loader.indices(0))

    def on_train_epoch_end(self) -> None:
        """Record the epoch's row, and stop if the loss is not finite any more."""
        num_examples = sum(len(indices) for indices in self.minibatches)
        row = {
            "train/loss": float(self.loss_sum) / len(self.minibatches),
            "train/error": float(self.wrong_sum) / num_examples,
        }
        if not (math.isfinite(row["train/loss"]) and math.isfinite(self.evaluation["test_loss"])):
            self.diverged = True
            self.trainer.should_stop = True
        self._record(self.current_epoch + 1, row, self.minibatches)

    def _record(self, epoch: int, row: dict[str, float], minibatches: Sequence[Tensor]) -> None:
        """Complete the row with evaluation, terms and times, and give it to the loggers."""
        row |= {tag: self.evaluation[name] for name, tag in _EVALUATED.items() if tag and name in self.evaluation}
        last = self.trainer.should_stop or epoch == self.trainer.max_epochs
        if epoch % self.terms_every == 0 or last:
            start = time.perf_counter()
            row |= self.measure(epoch, minibatches)
            row["time/terms"] = time.perf_counter() - start
        now = time.perf_counter()
        row["time/epoch"], self._clock = now - self._clock, now
        if epoch > 0:  # row 0 comes from a hook that cannot log
            self.log_dict(row, logger=False)
        for logger in self.trainer.loggers:
            logger.log_metrics(row, step=epoch)

    def measure(self, epoch: int, minibatches: Sequence[Tensor]) -> dict[str, float]:
        """The terms by tag, at the present weights over the given minibatches (index tensors)."""
        with evaluating(self.model):
            snapshot = self.snapshot(epoch, minibatches)
            values = {tag: term(snapshot) for tag, term in self.terms.items()}
        return {tag: float(value) for tag, value in values.items() if value is not None}

    def snapshot(self, epoch: int, minibatches: Sequence[Tensor]) -> Snapshot:
        """What the terms may look at, at the present weights."""
        optimizer = self.optimizers(use_pl_optimizer=False)
        assert isinstance(optimizer, Optimizer)
        return Snapshot(
            params=detached_parameters(self.model),
            initial={name: value.to(self.device) for name, value in self.initial.items()},
            loss=self.loss_function,
            batches=IndexedBatches(self.data.train_inputs, self.data.train_labels.observed, minibatches),
            optimizer=view(optimizer, dict(self.model.named_parameters())),
            generator=named_generator("terms", self.seed, epoch),
            method=self.method,
        )


# What the evaluation passes measure, and the tag it is logged under; the training examples' loss and error on the
# observed labels are logged for row 0 only, under the tags of the training epoch.
_EVALUATED = {
    "test_loss": "test/loss",
    "test_error": "test/error",
    "train_loss": "",
    "train_error": "",
    "clean_error": "fit/clean_error",
    "memorized": "fit/memorized",
    "recovered": "fit/recovered",
}
