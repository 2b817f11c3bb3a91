"""Work shared out over processes, with its progress reported on standard error."""

from __future__ import annotations

import pickle
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from multiprocessing import get_context
from typing import Any, Generic, Protocol, TypeVar

import torch

LINE_SECONDS = 10.0
"""Seconds between two lines of progress."""

Task = tuple[Any, ...]
Subject = TypeVar("Subject")
_subject: Any = None


class Progress(Protocol):
    """What is notified of work that is done."""

    def expect(self, work: float) -> None:
        """Note that there is so much more to do."""

    def add(self, work: float) -> None:
        """Note that so much is done."""


class LinesOfProgress:
    """Lines on standard error: how much is done, and how long the rest will take.

    Args:
        epochs: the whole of the work, in epochs of training.
    """

    def __init__(self, epochs: float) -> None:
        self.epochs = epochs
        self.done = 0.0
        self._begun = time.monotonic()
        self._last: float | None = None

    def expect(self, work: float) -> None:
        """Note that there is so much more to do."""
        self.epochs += work

    def add(self, work: float) -> None:
        """Note that so much is done, and print a line the first time and then every `LINE_SECONDS`."""
        self.done += work
        now = time.monotonic()
        if work == 0 or (self._last is not None and now - self._last < LINE_SECONDS):
            return
        left = (now - self._begun) * (self.epochs - self.done) / self.done
        text = f"{self.done:.0f} of {self.epochs:.0f} epochs; time left: {duration(left)}"
        print(text if self.done < self.epochs else f"{self.done:.0f} epochs", file=sys.stderr)
        self._last = now


def duration(seconds: float) -> str:
    """Write seconds as minutes and seconds.

    Example:
        >>> duration(83.2)
        '1:23'
    """
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}:{rest:02d}"


class Workers(Generic[Subject]):
    """Processes, or this one alone, that do tasks about a subject.

    Each process has one thread of torch. The results do not depend on the number of processes.

    Attributes:
        subject: what the tasks are about.
        progress: notified of what is done.
    """

    def __init__(self, subject: Subject, pool: ProcessPoolExecutor | None, progress: Progress) -> None:
        self.subject = subject
        self.progress = progress
        self._pool = pool

    def map(self, function: Callable[..., Any], tasks: Sequence[Task], *, work: Sequence[float] = ()) -> list[Any]:
        """Compute `function(subject, *task)` of each task, those with the most work first.

        Args:
            function: of a module, so that other processes can import it.
            tasks: its arguments.
            work: that of each task, for the progress; 0 if left out.

        Returns:
            The results, in the order of the tasks.
        """
        amounts = list(work) or [0.0] * len(tasks)
        results: list[Any] = [None] * len(tasks)
        for index, result in self._results(function, tasks, sorted(range(len(tasks)), key=lambda i: -amounts[i])):
            results[index] = result
            self.progress.add(amounts[index])
        return results

    def _results(
        self, function: Callable[..., Any], tasks: Sequence[Task], order: Sequence[int]
    ) -> Iterator[tuple[int, Any]]:
        if self._pool is None:
            for index in order:
                yield index, function(self.subject, *tasks[index])
            return
        # Pickled here: torch would share each tensor through a file descriptor of its own.
        futures: dict[Future[bytes], int] = {
            self._pool.submit(_call, pickle.dumps((function, tasks[index]))): index for index in order
        }
        for future in as_completed(futures):
            yield futures[future], pickle.loads(future.result())


@contextmanager
def workers(subject: Subject, processes: int, progress: Progress) -> Iterator[Workers[Subject]]:
    """Start processes for tasks about a subject, for the block; see `Workers`.

    Args:
        subject: what the tasks are about; each process gets it once.
        processes: how many; 1 for this one.
        progress: notified of what is done.
    """
    threads = torch.get_num_threads()
    if processes == 1:
        torch.set_num_threads(1)
        try:
            yield Workers(subject, None, progress)
        finally:
            torch.set_num_threads(threads)
        return
    # Spawned: a fork of a process with torch's threads may hang.
    pool = ProcessPoolExecutor(
        processes, mp_context=get_context("spawn"), initializer=_begin, initargs=(pickle.dumps(subject),)
    )
    try:
        yield Workers(subject, pool, progress)
    except BaseException:
        for process in list((pool._processes or {}).values()):  # what they are at would be waited for, to be discarded
            process.terminate()
        raise
    finally:
        pool.shutdown(cancel_futures=True)


def _begin(subject: bytes) -> None:
    """Prepare a process: one thread, and Ctrl-C left to its parent, which ends it."""
    global _subject
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _subject = pickle.loads(subject)


def _call(task: bytes) -> bytes:
    function, arguments = pickle.loads(task)
    return pickle.dumps(function(_subject, *arguments))
