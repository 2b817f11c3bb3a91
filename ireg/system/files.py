"""Files that are whole or absent, in folders that no link leads out of.

They are written under a temporary name, then renamed.
"""

import csv
import fcntl
import os
import re
import stat
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from ireg.system.errors import UserError
from ireg.system.reading import read_start

_MARK = ".tmp-"
"""In the name of every temporary file, so that what a killed process left can be recognized."""


def _umask() -> int:
    """Return the mask of rights that this process takes from the files that it makes."""
    mask = os.umask(0)
    os.umask(mask)
    return mask


_UMASK = _umask()
"""Read once: reading sets it for a moment, in which another thread's files would be everybody's."""


@contextmanager
def replacing(path: Path, *, durable: bool = False, before: Path | None = None) -> Iterator[Path]:
    """Yield a temporary path that takes the place of `path` when the block ends without an error.

    The temporary name keeps the suffix (writers choose a format by it) and lies in the same folder (a rename
    is atomic only within one file system). Missing folders are made. After an error `path` is as it was and
    the temporary file is gone; an `OSError` that names no file, as of a full disk, is made to name this one.
    What killed processes left of writing `path` is removed.

    Args:
        path: the file.
        durable: whether its content is on the disk before it takes the place, and its name there afterwards, so that
            a power cut leaves the old file or the new one. Without it, an empty file may be left.
        before: the name under which the old file is kept, if there is one; it replaces what has that name.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    _remove_abandoned(path)
    handle, temporary = _temporary_beside(path)
    try:
        # mkstemp makes files private; results are meant to be read by others under the user's own umask.
        os.fchmod(handle, 0o666 & ~_UMASK)
        yield temporary
        if durable:
            os.fsync(handle)
        if before is not None and path.exists():
            _keep(path, before)
        os.replace(temporary, path)
        if durable:
            flush(path.parent)
    except OSError as error:
        if error.filename is None:
            error.filename = str(path)
        raise
    finally:
        temporary.unlink(missing_ok=True)
        os.close(handle)


def _keep(path: Path, before: Path) -> None:
    """Give a file a second name; where the file system has no hard links, rename it."""
    before.unlink(missing_ok=True)
    try:
        os.link(path, before)
    except OSError:
        os.replace(path, before)


def _temporary_beside(path: Path) -> tuple[int, Path]:
    """Make a temporary file; return it opened and locked, and its name."""
    while True:
        handle, name = tempfile.mkstemp(prefix=f".{path.stem}{_MARK}", suffix=path.suffix, dir=path.parent)
        with suppress(OSError):  # a file system without locks: then what is abandoned stays there
            fcntl.flock(handle, fcntl.LOCK_EX)
        if os.path.exists(name):
            return handle, Path(name)
        os.close(handle)  # taken for abandoned before it was locked


def _remove_abandoned(path: Path) -> None:
    """Remove temporary files of `path` that no process is writing: such a process holds a lock."""
    ours = re.compile(rf"\.{re.escape(path.stem + _MARK)}[a-z0-9_]{{8}}{re.escape(path.suffix)}")  # as mkstemp's
    for name in filter(ours.fullmatch, os.listdir(path.parent)):
        with suppress(OSError, UserError):  # another has removed it, writes it, or owns it; or it is no file
            handle = open_regular(path.with_name(name), os.O_RDWR)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                path.with_name(name).unlink()
            finally:
                os.close(handle)


def flush(place: Path) -> None:
    """Wait until a file's content, or the names in a folder, are on the disk.

    Raises:
        OSError: it cannot be opened, or a file not be flushed; some file systems of networks refuse it for folders.
    """
    handle = os.open(place, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError:
        if not place.is_dir():
            raise
    finally:
        os.close(handle)


def below(folder: Path, *names: str) -> Path:
    """Return a place below a folder, and refuse one that a link leads to.

    The folder itself may be a link: its user has named it.

    Args:
        folder: where.
        names: the parts of the path below it.

    Raises:
        UserError: a part of the place is a link.
    """
    link = _first_link(folder, names)
    if link is not None:
        raise UserError(
            f"{link} is a link to {os.readlink(link)}, and nothing is written through links; remove the link, "
            "or choose another folder"
        )
    return folder.joinpath(*names)


def is_reached_by_a_link(folder: Path, place: Path) -> bool:
    """Say whether a link leads from a folder to a place below it.

    Args:
        folder: itself not looked at.
        place: below it, as a path that begins with the folder's.
    """
    return _first_link(folder, place.relative_to(folder).parts) is not None


def _first_link(folder: Path, names: Sequence[str]) -> Path | None:
    """Return the first link that leads from a folder to a place below it; None without one."""
    places = (folder.joinpath(*names[: count + 1]) for count in range(len(names)))
    return next((place for place in places if place.is_symlink()), None)


def open_regular(path: Path, flags: int) -> int:
    """Open a regular file, and none that a link leads to.

    Args:
        path: the file.
        flags: of `os.open`.

    Returns:
        The descriptor, which the caller closes.

    Raises:
        UserError: it is a link, or no regular file.
        OSError: it cannot be opened.
    """
    below(path.parent, path.name)
    # Without waiting, as the other end of a pipe may never come; and between the two looks it may become a link.
    handle = os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC, 0o666)
    if stat.S_ISREG(os.fstat(handle).st_mode):
        return handle
    os.close(handle)
    raise UserError(f"{path} is not a regular file; move it, or choose another folder")


@contextmanager
def making(folder: Path) -> Iterator[None]:
    """Make a folder and its parents for the block, and remove the empty ones after an error in it."""
    made = [place for place in (folder, *folder.parents) if not place.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        yield
    except BaseException:
        for place in made:
            with suppress(OSError):  # it holds something, or was not made
                place.rmdir()
        raise


def set_aside(path: Path) -> Path:
    """Rename a file that cannot be used; return its new name."""
    number = 1
    while os.path.lexists(aside := path.with_name(f"{path.name}.unusable-{number}")):
        number += 1
    os.replace(path, aside)
    return aside


def write_text(path: Path, text: str, *, durable: bool = False) -> None:
    """Write `text` to `path` atomically, in UTF-8; see `replacing`."""
    with replacing(path, durable=durable) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_bytes(path: Path, content: bytes) -> None:
    """Write `content` to `path` atomically."""
    with replacing(path) as temporary:
        temporary.write_bytes(content)


def as_cell(value: object) -> object:
    """Return a value as the cell of a table for others, and quote what a spreadsheet would compute.

    Example:
        >>> as_cell("=1+1"), as_cell("sgd"), as_cell(-1.0)
        ("'=1+1", 'sgd', -1.0)
    """
    return f"'{value}" if isinstance(value, str) and value[:1] in ("=", "+", "-", "@", "\t", "\r") else value


def write_table(path: Path, header: Iterable[str], rows: Iterable[Iterable[object]]) -> None:
    """Write a table of comma-separated values to `path` atomically; see `as_cell`."""
    with replacing(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        lines = csv.writer(file, lineterminator="\n")
        lines.writerow(header)
        lines.writerows(map(as_cell, row) for row in rows)


def is_writable(folder: Path) -> bool:
    """Say whether files can be made in a folder, which need not exist yet."""
    place = next(place for place in (folder, *folder.parents) if os.path.exists(place))
    return place.is_dir() and os.access(place, os.W_OK | os.X_OK, effective_ids=os.access in os.supports_effective_ids)


def require_own(folder: Path, table: str, header: str, names: Iterable[str]) -> None:
    """Refuse a folder that holds files of these names, unless its table has a header of ours.

    Args:
        folder: where the files are to be written, the table first.
        table: the name of the table.
        header: what its first line begins with.
        names: of all files.

    Raises:
        UserError: there are such files, and the table is missing or another's.
    """
    existing = [name for name in names if (folder / name).exists()]
    beginning = header.encode()
    with suppress(OSError):
        if read_start(folder / table, len(beginning)) == beginning:
            return
    if existing:
        raise UserError(
            f"{folder}: ireg did not write {', '.join(existing[:3])} there, and would replace what has that name; "
            "move it, or choose another folder"
        )
