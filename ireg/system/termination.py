"""SIGTERM as an exception, also for a process whose parent is gone."""

import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

EXIT_INTERRUPTED = 128 + signal.SIGINT
EXIT_TERMINATED = 128 + signal.SIGTERM
"""Exit codes as a shell has them for processes that a signal ended: 130 and 143."""

PARENT_SECONDS = 1.0
"""Between two looks at whether the parent process is still there."""

GRACE_SECONDS = 20.0
"""For noting the end of a run after its parent has gone; then the process ends, whatever it does."""


class Terminated(BaseException):
    """SIGTERM was received.

    Like KeyboardInterrupt it is no `Exception`: nothing takes it for a failure.
    """


@contextmanager
def sigterm_raises() -> Iterator[None]:
    """Raise `Terminated` in the block when SIGTERM comes.

    A handler that is there already stays, as that of Slurm's launcher, which lets a job continue until it is preempted.
    Outside the main thread, where Python allows no handlers, nothing is done.
    """
    free = signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    if not free or threading.current_thread() is not threading.main_thread():
        yield
        return
    signal.signal(signal.SIGTERM, _raise)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


@contextmanager
def sigint_noted() -> Iterator[list[int]]:
    """Yield a list that notes when SIGINT comes, and raise KeyboardInterrupt as usual.

    A library whose import is interrupted may turn that into an error of its own: numpy, for example, into a
    RecursionError. A handler that is there already stays.
    """
    noted: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        noted.append(number)
        raise KeyboardInterrupt

    free = signal.getsignal(signal.SIGINT) == signal.default_int_handler
    if not free or threading.current_thread() is not threading.main_thread():
        yield noted
        return
    signal.signal(signal.SIGINT, note)
    try:
        yield noted
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _raise(number: int, frame: FrameType | None) -> None:
    raise Terminated


RESUMES = "the same command resumes"
"""A note on an interruption of training, for the line that reports it."""


@contextmanager
def noting_that_it_resumes() -> Iterator[None]:
    """Add to an interruption of the block the note that the same command resumes."""
    try:
        yield
    except (KeyboardInterrupt, Terminated) as ending:
        ending.add_note(RESUMES)
        raise


@contextmanager
def ends_with_its_parent() -> Iterator[None]:
    """Send SIGTERM to this worker if its parent ends during the block.

    The process then ends with the block, or `GRACE_SECONDS` after the signal.

    A worker is a process that Python's multiprocessing made, as joblib's are: nobody waits any more for what one gives
    back when the process that started it was killed. Any other process may outlive its parent, as under nohup.
    """
    if multiprocessing.parent_process() is None:
        yield
        return
    parent, left, gone = os.getppid(), threading.Event(), threading.Event()

    def watch() -> None:
        while not left.wait(PARENT_SECONDS):
            if os.getppid() != parent:
                gone.set()
                os.kill(os.getpid(), signal.SIGTERM)
                if not left.wait(GRACE_SECONDS):
                    os._exit(EXIT_TERMINATED)
                return

    threading.Thread(target=watch, name="parent", daemon=True).start()
    try:
        yield
    finally:
        left.set()
        if gone.is_set():
            os._exit(EXIT_TERMINATED)
