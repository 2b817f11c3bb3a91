"""Small problems in float64, and the tolerances of the tests."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, mse_loss

# Two ways to compute the same in float64 differ by rounding only: some 100 operations of 2e-16 each.
EXACT = {"rtol": 1e-10, "atol": 1e-12}
# The same computation in float32, as in training, against float64.
SINGLE = {"rtol": 1e-4, "atol": 1e-7}


@dataclass(frozen=True)
class Problem:
    """A model, its loss and its minibatches."""

    name: str
    module: nn.Module
    criterion: Callable[[Tensor, Tensor], Tensor]
    batches: list[tuple[Tensor, Tensor]]


class SharedWeights(nn.Module):
    """One layer used twice, under two names."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(5, 5)
        self.second = self.first
        self.last = nn.Linear(5, 3)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.last(torch.tanh(self.second(torch.tanh(self.first(inputs)))))


class Temperature(nn.Module):
    """A parameter that is one number."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(5, 3)
        self.temperature = nn.Parameter(torch.tensor(2.0))

    def forward(self, inputs: Tensor) -> Tensor:
        return self.layer(inputs) / self.temperature


class UnusedParameter(nn.Module):
    """A parameter that the output does not depend on."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(5, 3)
        self.unused = nn.Parameter(torch.ones(2))

    def forward(self, inputs: Tensor) -> Tensor:
        return self.layer(inputs)


def problems() -> list[Problem]:
    """The problems, made anew: sizes are such that the last minibatch is often smaller."""
    generator = torch.Generator().manual_seed(1)

    def classification(name: str, module: nn.Module, sizes: list[int], shape: tuple[int, ...] = (5,)) -> Problem:
        batches = [
            (
                torch.randn(size, *shape, generator=generator, dtype=torch.float64),
                torch.randint(0, 3, (size,), generator=generator),
            )
            for size in sizes
        ]
        return Problem(name, module.double(), cross_entropy, batches)

    with torch.random.fork_rng():
        torch.manual_seed(2)
        linear = nn.Linear(4, 1, bias=False).double()
        mlp = nn.Sequential(nn.Linear(5, 7), nn.ReLU(), nn.Linear(7, 3))
        convolution = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Flatten(), nn.Linear(32, 3))
        regression = [
            (
                torch.randn(size, 4, generator=generator, dtype=torch.float64),
                torch.randn(size, 1, generator=generator, dtype=torch.float64),
            )
            for size in (6, 6, 2)
        ]
        return [
            Problem("linear regression", linear, mse_loss, regression),
            classification("mlp, ragged last batch", mlp, [4, 4, 4, 3]),
            classification("mlp, equal batches", mlp, [4, 4, 4]),
            classification("mlp, one batch", mlp, [9]),
            classification("mlp, batches of one", mlp, [1, 1, 1]),
            classification("cnn", convolution, [4, 4, 1], (1, 6, 6)),
            classification("shared weights", SharedWeights(), [4, 4, 2]),
            classification("unused parameter", UnusedParameter(), [4, 4]),
            classification("a parameter of one number", Temperature(), [4, 4, 3]),
        ]


IDS = [problem.name for problem in problems()]
