"""`python -m benchmarks.guard`: what the guard and noting of steps cost, as shares of an epoch.

The epoch is that of the paper's network in a loop of one's own, with the default terms. An effect of a percent drowns
in the noise of epochs that are compared. So the time within the guard, and within what the optimizer calls at each
step, is added up, and divided by that of the epoch it is part of. It prints the median over epochs, and takes a minute.
"""

import argparse
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn
from torch.nn.functional import cross_entropy

import ireg
from benchmarks.case import Case
from benchmarks.sides import prepared
from ireg.core.witness import Witness
from ireg.guard import Guard
from ireg.models import MLP
from ireg.system.command import framed, run_as_process
from ireg.tables import markdown

EPOCHS = 12
"""Of which the first is not counted."""
WATCHED: dict[str, list[tuple[type, str]]] = {
    "guard": [(Guard, "begin"), (Guard, "after_step"), (Witness, "_before_forward"), (Witness, "_after_backward")],
    "noting of steps": [(Witness, "_before_step"), (Witness, "_after_step")],
}


class Clock:
    """Add up the time within methods, for as long as it is entered."""

    def __init__(self) -> None:
        self.seconds = dict.fromkeys(WATCHED, 0.0)
        self._before: list[tuple[type, str, Callable[..., Any]]] = []

    def __enter__(self) -> "Clock":
        for name, methods in WATCHED.items():
            for owner, method in methods:
                function = getattr(owner, method)
                self._before.append((owner, method, function))
                setattr(owner, method, self._timed(name, function))
        return self

    def __exit__(self, *error: object) -> None:
        for owner, method, function in self._before:
            setattr(owner, method, function)

    def _timed(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*arguments: Any, **keywords: Any) -> Any:
            start = time.perf_counter()
            try:
                return function(*arguments, **keywords)
            finally:
                self.seconds[name] += time.perf_counter() - start

        return timed


def shares(optimizer: str) -> dict[str, float]:
    """Return the median shares of an epoch, by what was watched."""
    _, data = prepared(Case(optimizer="sgd"))
    inputs, labels = data.train_inputs, data.train_labels.observed
    model = MLP(input_shape=(1, 28, 28), num_classes=10, hidden=[256] * 4)
    makers = {"sgd": torch.optim.SGD, "rmsprop": torch.optim.RMSprop, "adam": torch.optim.Adam}
    moving = makers[optimizer](model.parameters(), lr=1e-4)
    shares_of: dict[str, list[float]] = {name: [] for name in WATCHED}
    with Clock() as clock:
        monitor = ireg.Monitor(model, moving, criterion=cross_entropy)
        for _ in range(EPOCHS):
            start, before = time.perf_counter(), dict(clock.seconds)
            _train(model, moving, monitor, inputs, labels)
            monitor.compute()
            monitor.reset()
            epoch = time.perf_counter() - start
            for name, parts in shares_of.items():
                parts.append((clock.seconds[name] - before[name]) / epoch)
    return {name: statistics.median(parts[1:]) for name, parts in shares_of.items()} | {
        f"{name}, first epoch": parts[0] for name, parts in shares_of.items()
    }


def _train(model: nn.Module, optimizer: Any, monitor: ireg.Monitor, inputs: torch.Tensor, labels: torch.Tensor) -> None:
    for index in torch.randperm(len(inputs)).split(64):
        batch = inputs[index], labels[index]
        optimizer.zero_grad()
        cross_entropy(model(batch[0]), batch[1]).backward()
        optimizer.step()
        monitor.update(batch)


@framed
def main(arguments: Sequence[str] | None = None) -> int:
    """Print a table of shares."""
    argparse.ArgumentParser(prog="python -m benchmarks.guard", description=__doc__).parse_args(arguments)
    torch.set_num_threads(1)
    rows = [
        [optimizer, name, f"{100 * share:.2f} %"]
        for optimizer in ("sgd", "rmsprop", "adam")
        for name, share in shares(optimizer).items()
    ]
    print(markdown(["optimizer", "what", "share of an epoch"], rows, rule="---"), end="")
    return 0


if __name__ == "__main__":
    run_as_process(main)
