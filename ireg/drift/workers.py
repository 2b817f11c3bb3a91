"""Work shared out over processes, with its progress told on standard error."""

from __future__ import annotations

import pickle
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from multiprocessing import get_context
from typing import Any

import torch

from ireg.drift.problem import Problem

LINE_SECONDS = 10.0
"""Seconds between two lines of progress."""

Task = tuple[Any, ...]
_problem: Problem | None = None


class Progress:
    """Tells on standard error how much is done and how long the rest will take.

    Args:
        epochs: the whole of the work, in epochs of training.
    """

    def __init__(self, epochs: float) -> None:
        self.epochs = epochs
        self.done = 0.0
        self._begun = time.monotonic()
        self._last: float | None = None

    def expect(self, epochs: float) -> None:
        """Note that there is so much more to do."""
        self.epochs += epochs

    def add(self, epochs: float) -> None:
        """Note that so much is done; the first time, and each some seconds, say so."""
        self.done += epochs
        now = time.monotonic()
        if epochs == 0 or (self._last is not None and now - self._last < LINE_SECONDS):
            return
        left = (now - self._begun) * (self.epochs - self.done) / self.done
        text = f"{self.done:.0f} of {self.epochs:.0f} epochs; time left: {duration(left)}"
        print(text if self.done < self.epochs else f"{self.done:.0f} epochs", file=sys.stderr)
        self._last = now


def duration(seconds: float) -> str:
    """Minutes and seconds.

    Example:
        >>> duration(83.2)
        '1:23'
    """
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}:{rest:02d}"


class Workers:
    """Does tasks of a problem in several processes, with one thread of torch each; in this one if there is one only.

    The results do not depend on the number of processes.

    Args:
        problem: what the tasks are about; each process gets it once.
        pool: the processes; None for this one.
        progress: told what is done.
    """

    def __init__(self, problem: Problem, pool: ProcessPoolExecutor | None, progress: Progress) -> None:
        self.problem = problem
        self.progress = progress
        self._pool = pool

    def map(self, function: Callable[..., Any], tasks: Sequence[Task], *, epochs: Sequence[float] = ()) -> list[Any]:
        """The results of `function(problem, *task)`, in the order of the tasks; the most work is begun first.

        Args:
            function: of a module, so that other processes find it.
            tasks: its arguments.
            epochs: the work of each task, for the progress.
        """
        work = list(epochs) or [0.0] * len(tasks)
        results: list[Any] = [None] * len(tasks)
        for index, result in self._results(function, tasks, sorted(range(len(tasks)), key=lambda index: -work[index])):
            results[index] = result
            self.progress.add(work[index])
        return results

    def _results(
        self, function: Callable[..., Any], tasks: Sequence[Task], order: Sequence[int]
    ) -> Iterator[tuple[int, Any]]:
        if self._pool is None:
            for index in order:
                yield index, function(self.problem, *tasks[index])
            return
        # Pickled here: torch would share each tensor through a file descriptor of its own.
        futures: dict[Future[bytes], int] = {
            self._pool.submit(_call, pickle.dumps((function, tasks[index]))): index for index in order
        }
        for future in as_completed(futures):
            yield futures[future], pickle.loads(future.result())


@contextmanager
def workers(problem: Problem, processes: int, progress: Progress) -> Iterator[Workers]:
    """Start the processes, and end them at the end of the block; see `Workers`."""
    threads = torch.get_num_threads()
    if processes == 1:
        torch.set_num_threads(1)
        try:
            yield Workers(problem, None, progress)
        finally:
            torch.set_num_threads(threads)
        return
    # Spawned: a fork of a process with torch's threads may hang.
    pool = ProcessPoolExecutor(
        processes, mp_context=get_context("spawn"), initializer=_begin, initargs=(pickle.dumps(problem),)
    )
    try:
        yield Workers(problem, pool, progress)
    finally:
        pool.shutdown(cancel_futures=True)


def _begin(problem: bytes) -> None:
    global _problem
    torch.set_num_threads(1)
    _problem = pickle.loads(problem)


def _call(task: bytes) -> bytes:
    function, arguments = pickle.loads(task)
    return pickle.dumps(function(_problem, *arguments))
