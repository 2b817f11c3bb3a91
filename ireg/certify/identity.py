"""What an identity is, and what its checks are made with.

An identity is computed twice: by the function that a term uses, and by its definition or a closed form. Its controls
are the same with one mistake. A check that accepts one shows nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from ireg.core.random import named_generator
from ireg.models import MLP

CLOSE = 1e-9
"""Largest relative error that passes."""
APART = 1e-2
"""Least relative error of a control."""

RATE = 0.05
STEPS = 12
Batches = list[tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Identity:
    """The result of an identity: its error, and those of its controls.

    Attributes:
        error: relative, of the identity.
        controls: the same of what is wrong in one place, by what is wrong.
        close: largest error that passes.
    """

    error: float
    controls: Mapping[str, float] = field(default_factory=dict)
    close: float = CLOSE

    @property
    def holds(self) -> bool:
        """Whether the identity is right, and every control is wrong."""
        return self.error <= self.close and not self.accepted

    @property
    def accepted(self) -> tuple[str, ...]:
        """Controls that pass for the truth."""
        return tuple(name for name, error in self.controls.items() if not error >= APART)


def minibatches(size: int = 5, count: int = 3, shape: Sequence[int] = (1, 4, 4)) -> Batches:
    """Draw minibatches of random images with three classes, the same every time.

    Args:
        size: examples in each.
        count: how many.
        shape: of an image.
    """
    generator = named_generator("identities")
    return [
        (
            torch.randn(size, *shape, generator=generator, dtype=torch.float64),
            torch.randint(3, (size,), generator=generator),
        )
        for _ in range(count)
    ]


def network(make: Callable[[], nn.Module]) -> nn.Module:
    """Make a network in double precision, with the same weights each time."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return make().double()


def mlp(activation: str = "relu", *, bias: bool = True) -> nn.Module:
    """Make a network with two hidden layers in double precision, with the same weights each time."""
    return network(lambda: MLP(input_shape=(1, 4, 4), num_classes=3, hidden=[6, 5], activation=activation, bias=bias))


def flat(values: Mapping[str, Tensor]) -> Tensor:
    """Join all values into one vector, detached."""
    return torch.cat([value.detach().flatten() for value in values.values()])


def relative(result: float | Tensor, expected: float | Tensor) -> float:
    """Compute the distance of a result from what is expected, over the size of that."""
    result, expected = (torch.as_tensor(value, dtype=torch.float64) for value in (result, expected))
    return float((result - expected).norm() / expected.norm())
