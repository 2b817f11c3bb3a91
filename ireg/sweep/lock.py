"""Who may write to a folder: one process at a time."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from ireg.errors import UserError

_NAME = ".lock"

PATIENCE_SECONDS = 2.0
"""How long a taken lock is waited for: one who only looks whether it is taken (`is_locked`) holds it for a moment."""


class FolderInUseError(UserError):
    """Another process holds a folder."""


@contextmanager
def locked(folder: Path, *, seconds: float = PATIENCE_SECONDS) -> Iterator[None]:
    """Hold a folder for this process; the lock goes with the process, however it ends.

    Args:
        folder: it must exist.
        seconds: how long to wait for another process.

    Raises:
        FolderInUseError: another process holds it.
    """
    lock = FileLock(folder / _NAME)
    try:
        lock.acquire(timeout=seconds)
    except Timeout as error:
        raise FolderInUseError(
            f"{folder} is in use by another process; wait for it, or choose another folder with name=…"
        ) from error
    try:
        yield
    finally:
        lock.release()


def is_locked(folder: Path) -> bool:
    """Whether a process holds the folder."""
    if not (folder / _NAME).exists():
        return False
    try:
        with locked(folder, seconds=0):
            return False
    except FolderInUseError:
        return True
