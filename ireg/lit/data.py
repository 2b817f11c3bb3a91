"""Images in memory with label noise, as Lightning's data module."""

from collections.abc import Sequence

import lightning as L
import torch
from torch import Tensor

from ireg.core.drawing import EPOCH, require_sampling
from ireg.core.random import named_generator
from ireg.data.batches import Batches, IndependentBatches, ShuffledBatches
from ireg.data.labels import NoisyLabels, corrupt
from ireg.data.source import Source, as_numbers, read_split, require_one_shape
from ireg.system.errors import UserError


class NoisyImages(L.LightningDataModule):
    """Images as one float32 tensor, with noisy labels, and with minibatches as tensors.

    The noise has its own seed.

    Everything is a function of the arguments: the noise is made from the clean labels, so `setup` may be called
    again and changes nothing.

    Args:
        source: reads the images and clean labels.
        num_train: number of training examples the source is to have.
        num_test: number of test examples the source is to have.
        num_classes: number of classes C.
        batch_size: examples in a training minibatch; None for all of them.
        seed: of the order of the training examples.
        noise_kind: see `ireg.data.labels.corrupt`.
        noise_rate: share of the training labels that are redrawn.
        noise_seed: of the noise.
        test_noise_rate: share of the test labels that are redrawn.
        train_size: size of a random subset of the training examples; None for all.
        test_size: the same of the test examples.
        holdout: number of training examples that are held out at random after the noise; None for none.
        subset_seed: of the subsets, and of what is held out.
        mean: mean of a pixel in [0, 1], over the data set; one number, or one a channel.
        std: its standard deviation, in the same form.
        standardize: subtract `mean` and divide by `std`; otherwise pixels are in [0, 1].
        eval_batch_size: examples in an evaluation batch.
        sampling: how training draws minibatches: `epoch` takes every example once an epoch, `independent` draws each
            minibatch on its own.
        steps: minibatches of an epoch, see `ireg.data.batches.ShuffledBatches`; None for those of one pass.

    Attributes:
        train_inputs: float32 (N, C, H, W).
        train_labels: observed, clean, corrupted, each (N,).
        train_indices: which of the source's examples these are.
        test_inputs: as `train_inputs`.
        test_labels: as `train_labels`.
        test_indices: as `train_indices`.
        holdout_inputs: the same of the examples that are held out, of which there may be none.
        holdout_labels: as `train_labels`.
        holdout_indices: as `train_indices`.

    Raises:
        ValueError: an unknown sampling.
    """

    example = "image"
    """What messages call an example."""

    has_noisy_labels = True
    """Whether labels may be wrong, so that a row says what became of the training examples."""

    def __init__(
        self,
        source: Source,
        *,
        num_train: int,
        num_test: int,
        num_classes: int,
        batch_size: int | None,
        seed: int,
        noise_kind: str,
        noise_rate: float,
        noise_seed: int,
        test_noise_rate: float = 0.0,
        train_size: int | None = None,
        test_size: int | None = None,
        holdout: int | None = None,
        subset_seed: int = 0,
        mean: float | Sequence[float] = 0.0,
        std: float | Sequence[float] = 1.0,
        standardize: bool = False,
        eval_batch_size: int = 2000,
        sampling: str = EPOCH,
        steps: int | None = None,
    ) -> None:
        super().__init__()
        require_sampling(sampling)
        self.source = source
        self.num_examples = {"train": num_train, "test": num_test}
        self.num_classes = num_classes
        self.batch_size = batch_size
        self.seed = seed
        self.noise_kind = noise_kind
        self.noise_rates = {"train": noise_rate, "test": test_noise_rate}
        self.noise_seed = noise_seed
        self.sizes = {"train": train_size, "test": test_size}
        self.holdout = holdout or 0
        self.subset_seed = subset_seed
        self.shift: float | Sequence[float]
        self.scale: float | Sequence[float]
        self.shift, self.scale = (mean, std) if standardize else (0.0, 1.0)
        self.eval_batch_size = eval_batch_size
        self.sampling = sampling
        self.steps = steps
        self._loaded = False

    def setup(self, stage: str | None = None) -> None:
        """Read the data and make the noise; a second call does nothing.

        Raises:
            UserError: the source returns something else than `Source` and the arguments say.
        """
        if self._loaded:
            return
        examples = self._split("train")
        held_out = self._held_out(len(examples[0]))
        self.holdout_inputs, self.holdout_labels, self.holdout_indices = _those(held_out, *examples)
        rest = _those(~held_out, *examples) if self.holdout else examples
        self.train_inputs, self.train_labels, self.train_indices = rest
        self.test_inputs, self.test_labels, self.test_indices = self._split("test")
        require_one_shape(self.train_inputs, self.test_inputs)
        self._loaded = True

    def _held_out(self, count: int) -> Tensor:
        """Say of so many training examples which are held out, (N,): `holdout` of them, at random."""
        order = torch.randperm(count, generator=named_generator("holdout", self.subset_seed))
        return torch.zeros_like(order, dtype=torch.bool).index_fill(0, order[: self.holdout], True)

    def _chosen(self, split: str, count: int) -> Tensor:
        """Return which of so many examples of a split are taken: all, or a random subset."""
        size = self.sizes[split]
        if size is None:
            return torch.arange(count)
        subset = torch.randperm(count, generator=named_generator(f"{split} subset", self.subset_seed))
        return subset[:size].sort().values

    def _split(self, split: str) -> tuple[Tensor, NoisyLabels, Tensor]:
        images, clean = read_split(
            self.source, split, num_examples=self.num_examples[split], num_classes=self.num_classes
        )
        indices = self._chosen(split, len(images))
        labels = corrupt(
            clean[indices],
            rate=self.noise_rates[split],
            num_classes=self.num_classes,
            kind=self.noise_kind,
            generator=named_generator(f"{split} label noise", self.noise_seed),
        )
        inputs = as_numbers(images[indices])
        if inputs.ndim == 3:
            inputs = inputs[:, None]
        shift, scale = (_by_channel(key, value, inputs) for key, value in (("mean", self.shift), ("std", self.scale)))
        return inputs.sub_(shift).div_(scale), labels, indices

    @property
    def input_shape(self) -> tuple[int, ...]:
        """The shape of one input, (C, H, W)."""
        return tuple(self.train_inputs.shape[1:])

    def train_dataloader(self) -> ShuffledBatches:
        """Return the training minibatches, with observed labels."""
        self._prepare()
        draw = ShuffledBatches if self.sampling == EPOCH else IndependentBatches
        return draw(
            self.train_inputs,
            self.train_labels.observed,
            batch_size=self.batch_size or len(self.train_inputs),
            seed=self.seed,
            steps=self.steps,
        )

    def val_dataloader(self) -> Batches:
        """Return the test examples, in evaluation batches."""
        self._prepare()
        return Batches(self.test_inputs, self.test_labels.observed, batch_size=self.eval_batch_size)

    def train_batches(self) -> Batches:
        """Return the training examples in their stored order, in evaluation batches."""
        return Batches(self.train_inputs, self.train_labels.observed, batch_size=self.eval_batch_size)

    def holdout_batches(self) -> Batches:
        """Return the held-out examples, in evaluation batches."""
        return Batches(self.holdout_inputs, self.holdout_labels.observed, batch_size=self.eval_batch_size)

    def _prepare(self) -> None:
        """Move the data to the trainer's device and precision, once and not for each batch."""
        if self.trainer is None:
            return
        device, convert = self.trainer.strategy.root_device, self.trainer.precision_plugin.convert_input
        for split in ("train", "test", "holdout"):
            setattr(self, f"{split}_inputs", convert(getattr(self, f"{split}_inputs").to(device)))
            labels = getattr(self, f"{split}_labels")
            setattr(self, f"{split}_labels", NoisyLabels(*(part.to(device) for part in labels)))


def _those(chosen: Tensor, inputs: Tensor, labels: NoisyLabels, indices: Tensor) -> tuple[Tensor, NoisyLabels, Tensor]:
    return inputs[chosen], NoisyLabels(*(part[chosen] for part in labels)), indices[chosen]


def _by_channel(key: str, value: float | Sequence[float], inputs: Tensor) -> float | Tensor:
    """Return a number as it is, and one for each channel with the shape (C, 1, 1).

    Raises:
        UserError: the images have another number of channels.
    """
    if isinstance(value, int | float):
        return value
    if len(value) != inputs.shape[1]:
        raise UserError(
            f"data.{key}={list(value)}: {len(value)} numbers for images of {inputs.shape[1]} channels; give one, or "
            "one a channel"
        )
    return torch.tensor(value, dtype=inputs.dtype)[:, None, None]
