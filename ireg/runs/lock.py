"""Who may write to a folder: one process at a time."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from ireg.system.errors import UserError
from ireg.system.locks import HeldError, NoLocksError, held, is_held

_NAME = ".lock"

PATIENCE_SECONDS = 2.0
"""How long a taken lock is waited for: one who only looks whether it is taken (`is_locked`) holds it for a moment."""


class FolderInUseError(UserError):
    """Another process holds a folder."""


@contextmanager
def locked(folder: Path, *, seconds: float = PATIENCE_SECONDS) -> Iterator[None]:
    """Hold a folder for this process, until the block ends or the process does.

    Args:
        folder: it must exist.
        seconds: how long to wait for another process.

    Raises:
        FolderInUseError: another process holds it.
        UserError: its file system has no locks.
    """
    with ExitStack() as stack:
        try:
            stack.enter_context(held(folder / _NAME, seconds=seconds))
        except HeldError as error:
            raise FolderInUseError(
                f"{folder} is in use by another process; wait for it, or choose another folder with name=…"
            ) from error
        except NoLocksError as error:
            raise UserError(f"{folder}: {error} with hydra.run.dir=… (under -m, hydra.sweep.dir=…)") from error
        yield


def is_locked(folder: Path) -> bool:
    """Say whether a process holds the folder, without writing to it; yes where that cannot be seen."""
    try:
        return is_held(folder / _NAME)
    except (FileNotFoundError, UserError):  # none, or what no run takes for a lock
        return False
    except (NoLocksError, OSError):  # no locks, or another user's file that cannot be read
        return True
