"""What is remembered of the steps since a measurement, and after which step the next one is due."""

import time
from dataclasses import dataclass, field, replace
from typing import Any, Generic, TypeVar

from ireg.core.batches import size_of
from ireg.core.drawing import EPOCH
from ireg.core.moments import SMALLEST
from ireg.core.random import named_generator
from ireg.core.ranks import decision_of_first
from ireg.core.reservoir import Reservoir
from ireg.core.witness import Settings
from ireg.core.wrappers import rate_of
from ireg.options import Epoch, Options, require_all

Item = TypeVar("Item")

LONG, LARGE_SHARE = 2.0, 0.1
"""A warning precedes a measurement of so many seconds that takes such a share of the training's time."""


class Window(Generic[Item]):
    """The steps since a measurement: what each of them used, and the minibatches of as many as are wanted.

    Args:
        size: how many minibatches are kept, drawn at random as a reservoir does; None keeps all.
        number: of the window, which seeds the draw.

    Attributes:
        sample: the minibatches.
        settings: of each step, what each parameter group used.
        bytes: memory of the minibatches.

    Example:
        >>> window = Window(3, number=0)
        >>> for step in range(10):
        ...     place = window.sample.place()
        ...     if place is not None:
        ...         window.put(place, step)
        ...     window.settings.append(({"lr": 0.1},))
        >>> len(window.sample.items), len(window), window.epoch(Epoch(batches=[])).rates[0]
        (3, 10, (0.1,))
    """

    def __init__(self, size: int | None, *, number: int) -> None:
        self.sample: Reservoir[Item] = Reservoir(size, named_generator("minibatches", number))
        self.settings: list[Settings] = []
        self.bytes = 0

    def __len__(self) -> int:
        """Return the number of steps."""
        return len(self.settings)

    def put(self, place: int, item: Item) -> None:
        """Put a minibatch at its place in the sample, whose memory it adds to."""
        self.bytes += size_of(item) - size_of(self.sample.put(place, item))

    def epoch(self, known: Epoch, population: int | None = None) -> Epoch:
        """Return what is known of an epoch, with the minibatches and rates of the window.

        Args:
            known: all else.
            population: the number m of the epoch's minibatches, where the window has some of them; None where it has
                all, or where they are independent.
        """
        if population is None and self.sample.size is not None:
            population = len(self)
        known = replace(known, batches=self.sample.items, population=population)
        if not self.settings:  # refused where it is measured
            return known
        rates = [tuple(rate_of(group) for group in step) for step in self.settings]
        return replace(known, rates=rates, settings=self.settings)


def least_steps(options: Options, population: int | None = None) -> int:
    """Return how many steps a window needs, so that each of its numbers exists.

    Args:
        options: what is asked for.
        population: the number m of the epoch's minibatches, of which the window has some.
    """
    if options.drawing == EPOCH:
        return 1 if population is None else min(SMALLEST, population)
    return 2 if options.num_batches is None else SMALLEST


def require_windows(options: Options, population: int) -> None:
    """Check that what is asked for can be measured over windows with some of an epoch's m minibatches.

    Args:
        options: what is asked for.
        population: m.

    Raises:
        ValueError: a term or a penalty needs all of them.
    """
    options.require_estimates(least_steps(options, population), population)
    require_all(options.regularizer, population)


@dataclass(kw_only=True)
class Cadence:
    """Say after which optimizer steps a measurement is due.

    Attributes:
        every_n_steps: how many steps lie between two measurements; None asks for none.
        max_cost: the largest share of the training's time that measurements may take. A measurement that took d seconds
            is followed by d / max_cost seconds without one. The first is always made, since its cost is not known
            before. None makes all.
        group: the ranks that measure together, of which the first decides; None for a process of its own.

    Raises:
        ValueError: a number of steps below one, or a share that is not above 0.

    Example:
        >>> cadence = Cadence(every_n_steps=100)
        >>> [step for step in range(1, 301) if cadence.is_due(step)]
        [100, 200, 300]
    """

    every_n_steps: int | None = None
    max_cost: float | None = None
    group: Any = None
    _until: float = field(default=0.0, init=False)
    _since: float = field(default_factory=time.perf_counter, init=False)
    _per_minibatch: float = field(default=0.0, init=False)
    _measured: bool = field(default=False, init=False)

    def __post_init__(self) -> None:
        if self.every_n_steps is not None and self.every_n_steps < 1:
            raise ValueError(f"every_n_steps={self.every_n_steps}: must be at least 1")
        if self.max_cost is not None and not self.max_cost > 0:
            raise ValueError(f"max_cost={self.max_cost}: must be above 0, a share of the training's time like 0.05")

    def population(self, steps_per_epoch: int) -> int | None:
        """Return the number m of an epoch's minibatches; None where a window has them all."""
        whole = self.every_n_steps is not None and self.every_n_steps % steps_per_epoch == 0
        return None if whole else steps_per_epoch

    def is_due(self, step: int) -> bool:
        """Return whether a measurement is to follow a step."""
        return self.every_n_steps is not None and step % self.every_n_steps == 0 and self.is_affordable()

    def is_affordable(self) -> bool:
        """Return whether the last measurement's time has been trained long enough."""
        return self.max_cost is None or decision_of_first(time.perf_counter() >= self._until, self.group)

    def begin(self) -> None:
        """Note that training begins now."""
        self._since = time.perf_counter()

    def note_gradient(self, seconds: float) -> None:
        """Note how long a minibatch's gradient has taken, which says something before the first measurement."""
        if not self._measured:
            self._per_minibatch = seconds

    def note(self, seconds: float, minibatches: int) -> None:
        """Note how long a measurement has taken, which ends now."""
        self._since = time.perf_counter()
        self._per_minibatch, self._measured = seconds / minibatches, True
        if self.max_cost is not None:
            self._until = self._since + seconds / self.max_cost

    def warning(self, minibatches: int) -> str | None:
        """Return what to say before a measurement that takes long beside the training since the last one."""
        seconds, trained = self._per_minibatch * minibatches, time.perf_counter() - self._since
        if seconds < LONG or seconds < LARGE_SHARE * trained:
            return None
        return (
            f"the terms of {minibatches} minibatches take about {seconds:.0f} s, after {trained:.0f} s of training; "
            "measure fewer minibatches by num_batches, less often, or at most a share of the time by max_cost=0.05"
        )
