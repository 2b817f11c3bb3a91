"""Time and memory of a network for `python -m benchmarks.gpu`, and the overhead of terms by steps."""

import gc
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch

import ireg
from benchmarks.gpu_networks import Network, Training, criterion
from benchmarks.memory import peak_tensors
from ireg.core.functional import functional_loss
from ireg.core.moments import METHODS, NotServedError, choose_method
from ireg.core.moments.needs import EVERYTHING

SAMPLE = 8
"""Minibatches that a row of terms by steps is from."""
TURNS = 5


@dataclass(kw_only=True)
class Figures:
    """What was measured of a network; None where it was left out, for the reason in `left_out`.

    Attributes:
        weights: their number.
        batch: examples in a minibatch.
        every: steps between two rows of terms.
        distinct: minibatches that `terms` are over.
        auto: what `method="auto"` takes.
        step: seconds of a training step, the median of the turns.
        terms: seconds of the default terms over all minibatches that are held, by method, for one minibatch.
        training_memory: peak bytes of a step above what is held without it.
        terms_memory: the same of a measurement from `SAMPLE` minibatches.
        model_memory: bytes of the weights.
        overhead: by how much of its time training with terms by steps is longer, in each turn.
        left_out: reasons by what was left out.
    """

    weights: int
    batch: int
    every: int
    distinct: int
    model_memory: int
    auto: str
    step: float | None = None
    terms: dict[str, float] = field(default_factory=dict)
    training_memory: int | None = None
    terms_memory: int | None = None
    overhead: list[float] = field(default_factory=list)
    left_out: dict[str, str] = field(default_factory=dict)


class Clock:
    """Seconds and peak memory on a device, and what is left of a part's time."""

    def __init__(self, device: torch.device, seconds: float) -> None:
        self.device = device
        self._end = time.perf_counter() + seconds

    def wait(self) -> None:
        """Wait until the device has done what it was given."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def seconds(self, call: Callable[[], object]) -> float:
        """Return how long a call takes, until the device has done its work."""
        self.wait()
        start = time.perf_counter()
        call()
        self.wait()
        return time.perf_counter() - start

    def peak(self, call: Callable[[], object]) -> int:
        """Return the peak bytes of tensors during a call, above what is in use before it."""
        gc.collect()
        if self.device.type != "cuda":
            return peak_tensors(call)
        self.wait()
        torch.cuda.reset_peak_memory_stats(self.device)
        before = torch.cuda.memory_allocated(self.device)
        call()
        self.wait()
        return torch.cuda.max_memory_allocated(self.device) - before

    def has(self, seconds: float) -> bool:
        """Say whether so many seconds are left."""
        return time.perf_counter() + seconds <= self._end


def measured(network: Network, device: torch.device) -> Figures:
    """Measure a network within its time: a part that does not fit is left out, and the others follow."""
    clock = Clock(device, network.seconds)
    training = Training(network, device)
    params = {name: value.detach() for name, value in training.model.named_parameters()}
    figures = Figures(
        weights=sum(value.numel() for value in params.values()),
        batch=network.batch,
        every=network.every,
        distinct=network.distinct,
        model_memory=sum(value.numel() * value.element_size() for value in params.values()),
        auto=choose_method(functional_loss(training.model, criterion), params, training.batches, EVERYTHING),
    )
    for part in (_step, _overhead, _terms, _memory):
        if figures.step is not None or part is _step:
            with _left_out(figures, part.__name__.removeprefix("_")):
                part(training, clock, figures)
    return figures


@contextmanager
def _left_out(figures: Figures, part: str) -> Iterator[None]:
    """Note what the device has no memory for, and leave it out."""
    try:
        yield
    except torch.OutOfMemoryError:
        figures.left_out[part] = "not enough memory on the device"
    gc.collect()


def _step(training: Training, clock: Clock, figures: Figures) -> None:
    """Time training steps, after one that sets libraries up."""
    training.step()
    block = training.network.seconds / 50
    steps = max(1, min(100, int(block / clock.seconds(training.step))))
    figures.step = statistics.median(clock.seconds(lambda: _steps(training, steps)) / steps for _ in range(3))


def _memory(training: Training, clock: Clock, figures: Figures) -> None:
    """Find the peak memory of a step and of a measurement from a sample."""
    training.optimizer.zero_grad()  # gradients count as memory of either
    figures.training_memory = clock.peak(training.step)
    training.optimizer.zero_grad()
    figures.terms_memory = clock.peak(lambda: _measure(training, sample=True))


def _overhead(training: Training, clock: Clock, figures: Figures) -> None:
    """Train with a row of terms by steps and without, in turns, while they fit into half of the time.

    What is watched is a second network: a monitor's hooks stay on the first.
    """
    other = Training(training.network, clock.device)
    monitor = ireg.Monitor(
        other.model,
        other.optimizer,
        criterion=criterion,
        every_n_steps=training.network.every,
        num_batches=SAMPLE,
        sampling="independent",
        progress=False,
    )
    every = training.network.every
    turn = 2.5 * every * _known(figures.step)
    for number in range(TURNS):
        if not clock.has(turn + training.network.seconds / 2):
            if number == 0:
                figures.left_out["overhead"] = f"a turn of {turn:.2g} s does not fit"
            return
        bare, watched = 0.0, 0.0
        # Whichever comes first may find another clock rate: they change places.
        for with_terms in (number % 2 == 0, number % 2 == 1):
            if with_terms:
                watched = clock.seconds(lambda: _steps(other, every, monitor))
            else:
                bare = clock.seconds(lambda: _steps(training, every))
        turn = 1.1 * (bare + watched)
        figures.overhead.append(watched / bare - 1)


def _terms(training: Training, clock: Clock, figures: Figures) -> None:
    """Time the default terms over all minibatches that are held, by each method that serves the network."""
    needed = 8 * figures.distinct * _known(figures.step)  # of two passes, by experience
    for method in sorted(METHODS, key=lambda name: name != figures.auto):  # what auto takes comes first
        part = f"terms by {method}"
        if not clock.has(needed):
            figures.left_out[part] = "does not fit into the network's time"
            continue
        with _left_out(figures, part):
            try:
                _measure(training, method=method)
            except (NotServedError, ValueError) as error:
                figures.left_out[part] = str(error).splitlines()[0]
                continue
            seconds = clock.seconds(lambda name=method: _measure(training, method=name))  # type: ignore[misc]
            figures.terms[method] = seconds / figures.distinct
            needed = 3 * seconds


def _known(seconds: float | None) -> float:
    if seconds is None:
        raise RuntimeError("the training step is measured first")
    return seconds


def _measure(training: Training, *, method: str = "auto", sample: bool = False) -> dict[str, float]:
    return ireg.measure(
        training.model,
        training.batches[:SAMPLE] if sample else training.batches,
        optimizer=training.optimizer,
        criterion=criterion,
        method=method,
        sampling="independent" if sample else "epoch",
        population=None,
        progress=False,
    )


def _steps(training: Training, count: int, monitor: ireg.Monitor | None = None) -> None:
    for _ in range(count):
        batch = training.step()
        if monitor is not None:
            monitor.update(batch)
