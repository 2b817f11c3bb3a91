"""An ordinary Lightning program, as a competent user writes it from the tutorials, to compare with.

A torchvision dataset with `ToTensor` in a shuffling DataLoader, a LightningModule that logs loss and accuracy with
`self.log` and torchmetrics in each step, and a Trainer with its defaults and a CSV logger. The terms come from a loop
over the epoch's minibatches, kept until `on_train_epoch_end`; the loop is that of `benchmarks.loop`. What became of the
training examples (`fit/*`) is left out.
"""

import time
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.loggers import CSVLogger
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.optim import Optimizer
from torch.utils.data import DataLoader
from torchmetrics.classification import MulticlassAccuracy
from torchvision.datasets import MNIST
from torchvision.transforms import ToTensor

from benchmarks.loop import terms_pass
from benchmarks.times import EpochTime
from ireg.data.idx import PACKAGED

NUM_CLASSES = 10


class OrdinaryClassifier(L.LightningModule):
    """A classifier that logs as the tutorials do, and computes the terms after each epoch.

    Args:
        model: maps inputs to logits.
        make_optimizer: makes an optimizer from the parameters.
    """

    def __init__(self, model: nn.Module, make_optimizer: Callable[[Iterable[nn.Parameter]], Optimizer]) -> None:
        super().__init__()
        self.model = model
        self.make_optimizer = make_optimizer
        self.initial = [parameter.detach().clone() for parameter in model.parameters()]
        self.train_accuracy = MulticlassAccuracy(NUM_CLASSES, average="micro")
        self.test_accuracy = MulticlassAccuracy(NUM_CLASSES, average="micro")
        self.batches: list[tuple[Tensor, Tensor]] = []

    def configure_optimizers(self) -> Optimizer:
        """Return the optimizer of all parameters."""
        return self.make_optimizer(self.model.parameters())

    def forward(self, inputs: Tensor) -> Tensor:
        """Return logits (N, C)."""
        return self.model(inputs)

    def training_step(self, batch: tuple[Tensor, Tensor], batch_index: int) -> Tensor:
        """Return the mean cross-entropy of one minibatch, which is kept for the terms."""
        inputs, labels = batch
        logits = self(inputs)
        loss = cross_entropy(logits, labels)
        self.train_accuracy(logits, labels)
        self.log("train/loss", loss)
        self.log("train/accuracy", self.train_accuracy, on_step=False, on_epoch=True)
        self.batches.append((inputs, labels))
        return loss

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_index: int) -> None:
        """Log loss and accuracy on the test examples."""
        inputs, labels = batch
        logits = self(inputs)
        self.test_accuracy(logits, labels)
        self.log("test/loss", cross_entropy(logits, labels))
        self.log("test/accuracy", self.test_accuracy)

    def on_train_epoch_end(self) -> None:
        """Log the terms over the epoch's minibatches, and forget these."""
        optimizer = self.optimizers(use_pl_optimizer=False)
        assert isinstance(optimizer, Optimizer)
        terms, _ = terms_pass(self.model, optimizer, self.initial, self.batches)
        self.log_dict(terms)
        self.batches.clear()


class EpochClock(L.Callback):
    """Seconds of each epoch, to the start of the next, or to the end of training."""

    def __init__(self) -> None:
        self.marks: list[float] = []

    def on_train_epoch_start(self, *_: Any) -> None:
        """Mark a start."""
        self.marks.append(time.perf_counter())

    def on_train_end(self, *_: Any) -> None:
        """Mark the end."""
        self.marks.append(time.perf_counter())


def epochs_the_ordinary_way(
    model: nn.Module,
    make_optimizer: Callable[[Iterable[nn.Parameter]], Optimizer],
    train: tuple[Tensor, Tensor],
    test: tuple[Tensor, Tensor],
    *,
    batch_size: int,
    num_epochs: int,
    folder: Path,
) -> list[EpochTime]:
    """Train on MNIST, and return the seconds of each epoch.

    Args:
        model: maps inputs to logits; trained in place.
        make_optimizer: makes an optimizer from the parameters.
        train: which of the package's training examples, and their observed labels.
        test: the same of the test examples.
        batch_size: examples in a batch.
        num_epochs: number of epochs.
        folder: where logs and checkpoints go.
    """
    clock = EpochClock()
    trainer = L.Trainer(
        accelerator="cpu",
        max_epochs=num_epochs,
        logger=CSVLogger(folder),
        callbacks=[clock],
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    train_loader = DataLoader(_dataset(*train, train=True), batch_size=batch_size, shuffle=True)
    test_loader = DataLoader(_dataset(*test, train=False), batch_size=batch_size)
    with warnings.catch_warnings():
        # Lightning advises worker processes; on as many cores as threads are allowed here they are slower.
        warnings.filterwarnings("ignore", message=".*does not have many workers.*")
        warnings.filterwarnings("ignore", message=".*LeafSpec.*is deprecated")
        trainer.fit(OrdinaryClassifier(model, make_optimizer), train_loader, test_loader)
    return [EpochTime(end - start) for start, end in zip(clock.marks, clock.marks[1:], strict=False)]


def _dataset(indices: Tensor, labels: Tensor, *, train: bool) -> MNIST:
    """Return MNIST of the package's files, with these examples and labels; images become tensors singly."""
    dataset = MNIST(PACKAGED, train=train, transform=ToTensor())
    dataset.data, dataset.targets = dataset.data[indices], torch.as_tensor(labels)
    return dataset
