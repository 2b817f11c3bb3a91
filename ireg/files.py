"""Files that are whole or absent.

They are written under a temporary name, then renamed.
"""

import os
import re
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ireg.errors import UserError

_MARK = ".tmp-"
"""In the name of every temporary file, so that what a killed process left can be recognized."""


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`.

    It takes the place of `path` when the block ends without an error.

    The temporary name keeps the suffix (writers choose a format by it) and lies in the same folder (a rename
    is atomic only within one file system). Missing folders are made. After an error `path` is as it was and
    the temporary file is gone; an `OSError` that names no file, as of a full disk, is made to name this one.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.stem}{_MARK}", suffix=path.suffix, dir=path.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        # mkstemp makes files private; results are meant to be read by others under the user's own umask.
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)
        yield temporary
        os.replace(temporary, path)
    except OSError as error:
        if error.filename is None:
            error.filename = str(path)
        raise
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def making(folder: Path) -> Iterator[None]:
    """Make a folder and its parents for the block.

    After an error in the block, those that were made and are empty are removed.
    """
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


def write_text(path: Path, text: str) -> None:
    """Write `text` to `path` atomically, in UTF-8."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_bytes(path: Path, content: bytes) -> None:
    """Write `content` to `path` atomically."""
    with replacing(path) as temporary:
        temporary.write_bytes(content)


def is_writable(folder: Path) -> bool:
    """Say whether files can be made in a folder.

    The folder need not exist yet.
    """
    place = next(place for place in (folder, *folder.parents) if os.path.exists(place))
    return place.is_dir() and os.access(place, os.W_OK | os.X_OK, effective_ids=os.access in os.supports_effective_ids)


def require_own(folder: Path, table: str, header: str, names: Iterable[str]) -> None:
    """Refuse a folder that holds files of these names.

    A folder whose table has a header of ours is accepted.

    Args:
        folder: where the files are to be written, the table first.
        table: the name of the table.
        header: what its first line begins with.
        names: of all files.

    Raises:
        UserError: there are such files, and the table is missing or another's.
    """
    found = [name for name in names if (folder / name).exists()]
    with suppress(OSError), (folder / table).open(encoding="utf-8", errors="replace") as file:
        if file.readline().startswith(header):
            return
    if found:
        raise UserError(
            f"{folder}: ireg did not write {', '.join(found[:3])} there, and would replace what has that name; "
            "move it, or choose another folder"
        )


def remove_leftovers(folder: Path, names: Iterable[str]) -> None:
    """Remove what killed processes left of writing these files.

    Nobody may be writing there meanwhile.
    """
    for name in map(Path, names):
        ours = re.compile(rf"\.{re.escape(name.stem + _MARK)}[a-z0-9_]{{8}}{re.escape(name.suffix)}")  # as mkstemp's
        for path in folder.glob(f".*{_MARK}*"):
            if ours.fullmatch(path.name):
                path.unlink()
