"""Read files of folders that anybody may have written.

Only regular files below a size are read: a pipe would wait for ever, and `/dev/zero` has no end.
"""

import errno
import os
import stat
from pathlib import Path

MEBIBYTE = 2**20

LARGEST_RECORD = 16 * MEBIBYTE
"""Bytes of the largest record: a status, or a list of the runs that were asked for."""

LARGEST_LIST = MEBIBYTE // 8
"""Bytes of the largest list of what was set for a run: no command line is longer."""

LARGEST_TABLE = 128 * MEBIBYTE
"""Bytes of the largest table: 100,000 epochs of 50 numbers have 100 MB."""

LARGEST_CHECKPOINT = 64 * 1024 * MEBIBYTE
"""Bytes of the largest checkpoint: four billion weights with both moments of Adam."""


class NotReadError(OSError):
    """Error of a file that is not read, because of its kind or its size.

    As of any `OSError`, `filename` and `strerror` say which file and why.
    """


def read_bytes(path: Path, *, largest: int) -> bytes:
    """Read a regular file of at most so many bytes, also through a link to it.

    Args:
        path: the file.
        largest: the most bytes that it may have.

    Raises:
        NotReadError: it is no regular file, or is larger.
        OSError: it cannot be opened or read; the error names the file.
    """
    return _read(path, largest, whole=True)


def read_start(path: Path, count: int) -> bytes:
    """Read the first bytes of a regular file, fewer where it has fewer.

    Args:
        path: the file.
        count: how many bytes.

    Raises:
        NotReadError: it is no regular file.
        OSError: it cannot be opened or read; the error names the file.
    """
    return _read(path, count, whole=False)


def _read(path: Path, count: int, *, whole: bool) -> bytes:
    # Without waiting: opening a pipe would wait for somebody who writes to it.
    handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    try:
        status = os.fstat(handle)
        if stat.S_ISDIR(status.st_mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
        if not stat.S_ISREG(status.st_mode):
            raise NotReadError(errno.EINVAL, "is not a regular file", str(path))
        if whole and status.st_size > count:
            raise NotReadError(errno.EFBIG, f"has more than the {count:,} bytes that are read of it", str(path))
        with open(handle, "rb", closefd=False) as file:
            return file.read(min(status.st_size, count))
    except OSError as error:
        error.filename = str(path)  # an error of reading names none
        raise
    finally:
        os.close(handle)


def read_text(path: Path, *, largest: int = LARGEST_RECORD, errors: str = "strict") -> str:
    """Read the UTF-8 text of a regular file, its lines ending with a line feed whatever ends them there.

    Args:
        path: the file.
        largest: the most bytes that it may have.
        errors: what is done with bytes that are not UTF-8, as of `bytes.decode`.

    Raises:
        NotReadError: it is no regular file, or is larger.
        OSError: it cannot be opened or read; the error names the file.
        UnicodeDecodeError: it is not UTF-8, and `errors` is strict.
    """
    text = read_bytes(path, largest=largest).decode("utf-8", errors)
    return text.replace("\r\n", "\n").replace("\r", "\n")
