"""Locks on files, which the system releases however a process ends."""

import fcntl
import math
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ireg.system.files import open_regular

POLL_SECONDS = 0.05
"""Between two tries to take a lock that another process holds."""


class HeldError(Exception):
    """Another process holds the lock."""


class NoLocksError(Exception):
    """Error of a file system without locks, with the system's reason."""


@contextmanager
def held(path: Path, *, seconds: float = math.inf) -> Iterator[None]:
    """Hold the lock of a file for this process.

    Args:
        path: the file; it is made, but not its folder, and stays.
        seconds: how long to wait for another process.

    Raises:
        HeldError: another process holds it.
        NoLocksError: the file system has none; a file that was made is gone again.
        UserError: it is a link, or no regular file.
    """
    there = path.exists()
    file = open_regular(path, os.O_RDWR | os.O_CREAT)
    try:
        try:
            _wait(file, seconds)
        except NoLocksError:
            if not there:
                path.unlink()
            raise
        yield
    finally:
        os.close(file)


def is_held(path: Path) -> bool:
    """Say whether a process holds the lock of a file; nothing is written.

    Raises:
        NoLocksError: the file system has none.
        UserError: it is a link, or no regular file.
        OSError: the file cannot be opened.
    """
    file = open_regular(path, os.O_RDONLY)  # enough for a shared lock, also where locks cross a network
    try:
        return not _try(file, fcntl.LOCK_SH)
    finally:
        os.close(file)


def _wait(file: int, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not _try(file, fcntl.LOCK_EX):
        if time.monotonic() >= deadline:
            raise HeldError
        time.sleep(POLL_SECONDS)


def _try(file: int, kind: int) -> bool:
    """Take a lock of this kind; say whether it was free."""
    try:
        fcntl.flock(file, kind | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):  # EAGAIN; some file systems say EACCES
        return False
    except OSError as error:  # ENOLCK, EOPNOTSUPP, ENOSYS, 524: each file system has its own
        raise NoLocksError(
            f"this file system has no locks ({error.strerror}), without which two processes could write to one place; "
            "have it mounted with them (Lustre: -o flock), or use another"
        ) from error
    return True
