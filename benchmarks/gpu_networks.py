"""The networks that `python -m benchmarks.gpu` measures, and their training."""

import itertools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from ireg.core.types import Pair
from ireg.models import CNN, GPT, MLP, ResNet


@dataclass(frozen=True, kw_only=True)
class Network:
    """A network, its minibatches, and how long it is measured.

    Attributes:
        make: makes it.
        shape: of an example, or (context,).
        classes: of its outputs.
        batch: examples in a minibatch.
        seconds: no further turn begins that would end after so many.
        every: steps between two rows of terms.
        distinct: minibatches that are held, and that a pass of the terms is over.
    """

    make: Callable[[], nn.Module]
    shape: tuple[int, ...]
    classes: int
    batch: int
    seconds: float
    every: int = 100
    distinct: int = 16

    def batches(self, device: torch.device) -> list[Pair]:
        """Draw minibatches of random examples, on the device."""
        generator = torch.Generator().manual_seed(0)
        size = (self.batch, *self.shape)
        drawn = []
        for _ in range(self.distinct):
            if len(self.shape) == 1:
                characters = torch.randint(self.classes, (self.batch, self.shape[0] + 1), generator=generator)
                inputs, targets = characters[:, :-1], characters[:, 1:]
            else:
                inputs = torch.randn(size, generator=generator)
                targets = torch.randint(self.classes, (self.batch,), generator=generator)
            drawn.append((inputs.to(device), targets.to(device)))
        return drawn


def criterion(outputs: Tensor, targets: Tensor) -> Tensor:
    """Return the mean cross-entropy of classes, or of the next characters at all positions."""
    return cross_entropy(outputs.flatten(0, -2), targets.flatten())


class Training:
    """A network and AdamW on a device, with minibatches that come again and again."""

    def __init__(self, network: Network, device: torch.device) -> None:
        torch.manual_seed(0)
        self.network = network
        self.model = network.make().to(device)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-4)
        self.batches = network.batches(device)
        self._next: Iterator[Pair] = itertools.cycle(self.batches)

    def step(self) -> Pair:
        """Take a step, and return its minibatch."""
        inputs, targets = batch = next(self._next)
        self.optimizer.zero_grad()
        criterion(self.model(inputs), targets).backward()
        self.optimizer.step()
        return batch


def gpt2(width: int = 768, blocks: int = 12, context: int = 1024, classes: int = 50_257) -> GPT:
    """Make a decoder of GPT-2's shape: 124,439,808 weights, those of first and last layer being the same."""
    model = GPT(input_shape=(context,), num_classes=classes, width=width, blocks=blocks, heads=width // 64)
    model.last = nn.Linear(width, classes, bias=False)
    model.last.weight = model.embed.weight
    return model


_MNIST, _CIFAR = (1, 28, 28), (3, 32, 32)

NETWORKS: Mapping[str, Network] = {
    "mlp": Network(
        make=lambda: MLP(input_shape=_MNIST, num_classes=10, hidden=[256] * 4),
        shape=_MNIST,
        classes=10,
        batch=64,
        seconds=25,
    ),
    "cnn": Network(
        make=lambda: CNN(input_shape=_MNIST, num_classes=10), shape=_MNIST, classes=10, batch=64, seconds=25
    ),
    "resnet": Network(
        make=lambda: ResNet(input_shape=_CIFAR, num_classes=10), shape=_CIFAR, classes=10, batch=128, seconds=40
    ),
    "gpt": Network(make=lambda: GPT(input_shape=(64,), num_classes=76), shape=(64,), classes=76, batch=32, seconds=50),
    "gpt2": Network(make=gpt2, shape=(1024,), classes=50_257, batch=4, seconds=160),
}
"""By name; with the tests' time, their seconds are below eight minutes."""

_FEW: Mapping[str, Any] = {"seconds": 4, "every": 10, "distinct": 3}
_TINY = (1, 8, 8)

SMALL: Mapping[str, Network] = {
    "mlp": Network(
        make=lambda: MLP(input_shape=_TINY, num_classes=10, hidden=[16]), shape=_TINY, classes=10, batch=8, **_FEW
    ),
    "cnn": Network(
        make=lambda: CNN(input_shape=_TINY, num_classes=10, channels=[4]), shape=_TINY, classes=10, batch=4, **_FEW
    ),
    "resnet": Network(
        make=lambda: ResNet(input_shape=_TINY, num_classes=10, channels=[8]), shape=_TINY, classes=10, batch=4, **_FEW
    ),
    "gpt": Network(
        make=lambda: GPT(input_shape=(8,), num_classes=11, width=16, blocks=1, heads=2),
        shape=(8,),
        classes=11,
        batch=4,
        **_FEW,
    ),
    "gpt2": Network(make=lambda: gpt2(64, 2, 16, 101), shape=(16,), classes=101, batch=2, **_FEW),
}
"""The same in small, to try the code."""
