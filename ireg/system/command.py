"""The frame of every command: one line and an exit code for a user's error, Ctrl-C and SIGTERM."""

import argparse
import functools
import os
import re
import shlex
import shutil
import sys
import sysconfig
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn, Protocol

import ireg
from ireg.system.errors import UserError, did_you_mean, in_one_line
from ireg.system.terminal import as_command
from ireg.system.termination import EXIT_INTERRUPTED, EXIT_TERMINATED, Terminated, sigint_noted, sigterm_raises

EXIT_FAILED = 1
"""Runs failed; also Python's own code after a traceback, for errors that are not the user's."""
EXIT_USER_ERROR = 2
"""As argparse has it."""

# Read at import: train.py sets the variable later, to make Hydra hand over its exceptions instead of printing them.
WANTS_TRACEBACK = os.environ.get("HYDRA_FULL_ERROR") == "1"


class Main(Protocol):
    """A command's function: it returns 0, or 1 where runs failed."""

    def __call__(self, arguments: Sequence[str] | None = None) -> int:
        """Do what the arguments say; None takes those of the process's command line."""


def plainly(error: Exception) -> str | None:
    """Return the line for a user's error; None for another error."""
    is_theirs = isinstance(error, UserError) or (isinstance(error, OSError) and error.filename is not None)
    return in_one_line(error) if is_theirs else None  # type: ignore[arg-type]


class _Ended(SystemExit):
    """An ending that has been reported."""


@contextmanager
def endings_in_one_line(
    explain: Callable[[Exception], str | None] = plainly, code: Callable[[], int] = lambda: EXIT_USER_ERROR
) -> Iterator[None]:
    """End the process with one line and an exit code for a user's error, Ctrl-C and SIGTERM.

    | ending | code |
    |---|---|
    | the user's error | 2 |
    | Ctrl-C | 130 |
    | SIGTERM | 143 |

    Other errors are raised as they are; HYDRA_FULL_ERROR=1 shows the traceback of the user's errors, too.

    Args:
        explain: the line for an error; None for one that is not the user's.
        code: the exit code for the user's error.
    """
    interrupted: list[int] = []
    try:
        with sigterm_raises(), sigint_noted() as interrupted:
            yield
    except KeyboardInterrupt as ending:
        _end("interrupted", ending, EXIT_INTERRUPTED)
    except Terminated as ending:
        _end("terminated", ending, EXIT_TERMINATED)
    except Exception as error:
        if interrupted:
            _end("interrupted", error, EXIT_INTERRUPTED)
        line = explain(error)
        if line is None:
            raise
        if WANTS_TRACEBACK:
            traceback.print_exc()
        print(f"error: {line}", file=sys.stderr)
        raise _Ended(code()) from error


def _end(how: str, ending: BaseException, code: int) -> NoReturn:
    """End with one line: how, and the notes of the exception."""
    print("; ".join([how, *dict.fromkeys(getattr(ending, "__notes__", []))]), file=sys.stderr)
    raise _Ended(code) from None


def module_as_command(name: str) -> list[str]:
    """Return the command that starts a module without looking for modules in the current folder.

    That folder may be anybody's, and a file of it that is named like a module would be run.
    """
    return [sys.executable, "-P", "-m", name]


def called(name: str, *arguments: str | Path) -> str:
    """Return a line for a shell in the current folder that calls a tool of this environment.

    It names the script `ireg` where PATH leads to that of this environment, else its path, and where there is none, as
    in a clone that is not installed, this Python.

    Args:
        name: the tool's.
        arguments: of the tool; a path below the current folder is written from there.
    """
    script, python = Path(sysconfig.get_path("scripts")) / "ireg", Path(sys.executable)
    first = [_by_name(script), name] if script.is_file() else [_by_name(python), "-m", f"ireg.{name}"]
    line = shlex.join([*first, *(_from_here(given) if isinstance(given, Path) else given for given in arguments)])
    places = [*os.environ.get("PYTHONPATH", "").split(os.pathsep), sysconfig.get_path("purelib"), os.getcwd()]
    root = str(Path(__file__).parents[2])
    return line if script.is_file() or root in places else f"PYTHONPATH={shlex.quote(root)} {line}"


def _by_name(program: Path) -> str:
    """Return a program's name where PATH leads to this one, else its path."""
    found = shutil.which(program.name)
    return program.name if found is not None and Path(found).absolute() == program else _from_here(program)


def _from_here(path: Path) -> str:
    """Write a path from the current folder, where it lies below that."""
    path = path.absolute()
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)


def environment_of_children() -> dict[str, str]:
    """Return an environment in which this `ireg` is found, wherever it was imported from."""
    places = [str(Path(__file__).parents[2]), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(places)}


def framed(main: Main) -> Main:
    """Make `main(arguments)`, which may raise, return its exit code.

    Returns:
        A function that returns 0, 1 where runs failed, or the code of how the command ended.
    """

    @functools.wraps(main)
    def returning(arguments: Sequence[str] | None = None) -> int:
        try:
            with endings_in_one_line():
                return main(arguments)
        except _Ended as ending:
            return int(ending.code or 0)

    return returning


def program(name: str) -> str:
    """Return how the tool of this name was called: by the script `ireg`, or with `python -m`."""
    spec = getattr(sys.modules.get("__main__"), "__spec__", None)
    module = "" if spec is None else spec.name.removesuffix(".__main__")
    return {f"ireg.{name}": f"python -m ireg.{name}", "ireg": f"python -m ireg {name}"}.get(module, f"ireg {name}")


VERSION = f"ireg {ireg.__version__}"
"""What `--version` prints."""


class Parser(argparse.ArgumentParser):
    """Parser of a tool's command line, whose errors are one line each.

    Args:
        name: the tool's; by default the parser is one of a tool's subcommands.
        options: those of `argparse.ArgumentParser`.
    """

    def __init__(self, name: str | None = None, **options: Any) -> None:
        if name is not None:
            options["prog"] = program(name)
        super().__init__(**options)
        self.add_argument("--version", action="version", version=VERSION, help=argparse.SUPPRESS)

    def error(self, message: str) -> NoReturn:
        """Report a wrong command line.

        Raises:
            UserError: always.
        """
        unknown = re.fullmatch(r"unrecognized arguments: (\S+).*", message, re.DOTALL)
        choice = re.fullmatch(r"argument (.+): invalid choice: '(.*)' \(choose from (.*)\)", message, re.DOTALL)
        if unknown:
            word = unknown[1].partition("=")[0]
            message = f"{word}: no such argument{did_you_mean(word, self._option_string_actions)}"
        elif choice:
            known = re.findall(r"[\w-]+", choice[3])
            message = f"{choice[1]}: {choice[2]}: no such choice{did_you_mean(choice[2], known)}; choose one of "
            message += ", ".join(known)
        raise UserError(f"{message.removeprefix('argument ')}; {self.prog} --help says more")


def run_as_process(main: Main) -> None:
    """Run a command as this process, and end with its exit code; see `ireg.system.terminal.as_command`."""
    with as_command(exit_code=EXIT_USER_ERROR):
        sys.exit(main())
