"""What a command is started from: standard streams and environment."""

from __future__ import annotations

import codecs
import errno
import io
import os
import re
import sys
import unicodedata
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from threading import Timer
from typing import IO, TYPE_CHECKING, Any, TextIO

if TYPE_CHECKING:  # rich takes a while to import
    from rich.console import Console

EXIT_PIPE_CLOSED = 141
"""What a shell shows of a process that SIGPIPE ended, as in `command | head -1`."""

_SPELLINGS = {"±": "+-", "−": "-", "–": "-", "×": "x", "→": "->", "‖": "||", "ḡ": "g", "\u0304": "", "∇": "grad "}
_SPELLED = "ireg.spelled"
_ENVIRONMENT = {
    # A notebook's shell hands down a backend that may not be installed here, and torchmetrics imports pyplot.
    "MPLBACKEND": "agg",
    # An empty file in place of the user's own, which may ask for LaTeX, or not be readable.
    "MATPLOTLIBRC": os.devnull,
    # Processes that are started do not look for modules in the current folder, which may be anybody's.
    "PYTHONSAFEPATH": "1",
}


@contextmanager
def as_command(*, exit_code: int = 1) -> Iterator[None]:
    """Run the block as a command, independent of its surroundings.

    Characters that an output cannot show are spelled, as ± by +-. Control characters do not reach it, see `printable`.
    An output that fails does not stop the work: what follows is discarded. A command that has nothing else to report
    then ends with one line and `exit_code`, or silently with `EXIT_PIPE_CLOSED` if the reader of a pipe has left.
    matplotlib's settings are its own defaults. The environment is the caller's again afterwards.
    """
    output, errors = _Output.over(sys.stdout), _Output.over(sys.stderr)
    with _environment(), redirect_stdout(output), redirect_stderr(errors), printable_output():
        try:
            yield
        except SystemExit as ending:
            if ending.code not in (None, 0):
                raise
        finally:
            for stream in filter(None, (output, errors)):
                stream.flush()
    failure = output.failure if isinstance(output, _Output) else None
    if failure is not None and failure.errno == errno.EPIPE:
        sys.exit(EXIT_PIPE_CLOSED)
    if failure is not None:
        print(f"error: standard output: {failure.strerror}; choose another place, or repair this one", file=sys.stderr)
        sys.exit(exit_code)


@contextmanager
def _environment() -> Iterator[None]:
    """Set `_ENVIRONMENT` for the block, and what was there before after it.

    Whoever calls a command within a process may start others, which are not the command's.
    """
    before = {name: os.environ.get(name) for name in _ENVIRONMENT}
    os.environ.update(_ENVIRONMENT)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


_CONTROL = re.compile(r"\x1b(?!\[[0-9;]*m)|[\x00-\x08\x0b-\x1a\x1c-\x1f\x7f-\x9f]")
"""Characters of the category Cc, but for line feeds, tabs and what begins a colour."""


def printable(text: str) -> str:
    r"""Replace control characters by question marks, but for line feeds, tabs and colours.

    A file or a folder of somebody else's may hold some in any text; a terminal obeys them: it clears the screen, or
    puts a text into the clipboard.

    Example:
        >>> printable("loss\x1b[2J 0.1")
        'loss?[2J 0.1'
    """
    return _CONTROL.sub("?", text)


@contextmanager
def printable_output() -> Iterator[None]:
    """Make what is printed in the block printable, see `printable`."""
    with redirect_stdout(_Printable.over(sys.stdout)), redirect_stderr(_Printable.over(sys.stderr)):
        yield


class _Printable:
    """A text stream that writes printable text to another.

    Attributes:
        unfiltered: the other, for those who move the cursor.
    """

    def __init__(self, stream: TextIO) -> None:
        self.unfiltered = stream

    @classmethod
    def over(cls, stream: Any) -> Any:
        """Return a printable stream; what is one already, or no stream at all, is returned as it is."""
        return stream if stream is None or isinstance(stream, cls) else cls(stream)

    def write(self, text: str) -> int:
        self.unfiltered.write(printable(text))
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.unfiltered, name)


class _Output(io.TextIOWrapper):
    """A standard stream that writes every character, and notes an error of the file below."""

    @classmethod
    def over(cls, stream: TextIO | None) -> TextIO | None:
        """Return a stream that writes to the same file; what is no file, or None, is returned as it is."""
        if not isinstance(stream, io.TextIOWrapper):
            return stream
        stream.flush()
        chosen = stream.errors in ("ignore", "replace", "xmlcharrefreplace", "namereplace")
        file: Any = stream.buffer  # which is the raw file itself under `python -u`
        return cls(
            io.BufferedWriter(_Discarding(getattr(file, "raw", file))),
            encoding=stream.encoding,
            errors=stream.errors if chosen else _SPELLED,
            line_buffering=stream.line_buffering or stream.write_through,
        )

    @property
    def failure(self) -> OSError | None:
        """The first error of a write."""
        return self.buffer.raw.failure  # type: ignore[attr-defined]


class _Discarding(io.RawIOBase):
    """A file that is written to until that fails; the first error is noted, what follows is discarded."""

    def __init__(self, file: io.RawIOBase) -> None:
        self._file = file
        self.failure: OSError | None = None

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._file.fileno()

    def isatty(self) -> bool:
        return self._file.isatty()

    def write(self, data: Any, /) -> int | None:
        if self.failure is None:
            try:
                return self._file.write(data)
            except OSError as error:
                self.failure = error
        return memoryview(data).nbytes


def _spell(error: UnicodeError) -> tuple[str | bytes, int]:
    """Replace the characters that an encoding lacks.

    Signs become ASCII, a name's bytes stay as they are, other characters become escapes.
    """
    if not isinstance(error, UnicodeEncodeError):
        raise error
    character = error.object[error.start]
    if "\udc80" <= character <= "\udcff":  # how Python reads a byte of a name that is not UTF-8
        return bytes([ord(character) - 0xDC00]), error.start + 1
    *script, name = unicodedata.name(character, "unnamed").split()
    greek = name.lower() if "GREEK" in script else unicodedata.normalize("NFKC", character)  # "…" has an ASCII form
    spelled = _SPELLINGS.get(character, greek)
    if spelled.isascii():
        return spelled, error.start + 1
    escaped, _ = codecs.backslashreplace_errors(
        UnicodeEncodeError(error.encoding, error.object, error.start, error.start + 1, error.reason)
    )
    return escaped, error.start + 1


codecs.register_error(_SPELLED, _spell)


def as_shown(text: str) -> str:
    """Return a text as standard output shows it, so that its length is right for a table."""
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    return text.encode(encoding, _SPELLED).decode(encoding, "surrogateescape")


def make_console(**options: Any) -> Console:
    """Return a console that prints text as it is, and printable, see `printable`.

    Names of folders may hold what rich reads as markup or emoji codes.
    """
    from rich.console import Console, ConsoleOptions, RenderableType
    from rich.segment import Segment

    class PrintableConsole(Console):
        @property
        def file(self) -> IO[str]:
            """Where it prints; it moves the cursor."""
            chosen = super().file
            return getattr(chosen, "unfiltered", chosen)

        @file.setter
        def file(self, chosen: IO[str]) -> None:
            self._file = chosen

        def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterator[Segment]:
            """Render what is printed, its texts made printable."""
            for segment in super().render(renderable, options):
                yield segment if segment.control else segment._replace(text=printable(segment.text))

    return PrintableConsole(markup=False, emoji=False, highlight=False, **options)


@contextmanager
def saying(what: str) -> Iterator[None]:
    """Say on standard error, if it is a terminal, what is being done during the block."""
    console = make_console(file=sys.stderr)
    if not console.is_terminal:
        yield
        return
    from rich.text import Text

    with console.status(Text(what)):
        yield


PATIENCE = 2.0
"""Seconds after which work is shown on a terminal."""


@contextmanager
def counting(total: int, *, shown: bool | None) -> Iterator[Callable[[str], None]]:
    """Show on standard error which of several things is being done, and for how long.

    Args:
        total: how many there are.
        shown: whether anything is shown; None shows it on a terminal, once the work has taken `PATIENCE` seconds.

    Yields:
        What is called with the name of each when it begins.
    """
    if not (sys.stderr.isatty() if shown is None else shown):
        yield lambda name: None
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    progress = Progress(*columns, console=make_console(stderr=True))
    task = progress.add_task("", total=total, completed=-1)
    waiting = Timer(PATIENCE, progress.start)
    waiting.daemon = True
    if shown:
        progress.start()
    else:
        waiting.start()
    try:
        yield lambda name: progress.update(task, description=name, advance=1)
        progress.update(task, completed=total)
    finally:
        waiting.cancel()
        if waiting.ident is not None:
            waiting.join()  # or the display may begin after this
        if progress.live.is_started:
            progress.stop()
