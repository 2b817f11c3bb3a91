"""What a command is started from changes neither its work nor its words."""

import ast
import errno
import io
import os
import re
import sys

import pytest

from ireg.system.terminal import EXIT_PIPE_CLOSED, as_command, as_shown, make_console, saying
from tests.conftest import ROOT, SMALL, call_train

FULL = "error: standard output: No space left on device; choose another place, or repair this one\n"
FRAME = r"    run_as_process\(main\)\n|    with as_command\(|        as_command\("
INNER = {"make_digits.py", "subset.py", "memory.py"}
"""Not called by users."""
SOURCES = [*(ROOT / "ireg").rglob("*.py"), *(ROOT / "benchmarks").rglob("*.py"), ROOT / "train.py"]


@pytest.fixture(autouse=True)
def _own_environment(monkeypatch):
    for name in ("MPLBACKEND", "MATPLOTLIBRC"):
        monkeypatch.setenv(name, "the user's")


def output(monkeypatch, file, **options):
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(file, **options))


@pytest.mark.parametrize(
    ("text", "encoding", "errors", "expected"),
    [
        ("1 ± 2 – η², ‖ḡ‖ …", "ascii", "strict", b"1 +- 2 - eta2, ||g|| ..."),
        ("1 ± 2", "ascii", "surrogateescape", b"1 +- 2"),  # as in the locale C
        ("1 ± 2 – 3", "latin-1", "strict", b"1 \xb1 2 - 3"),
        ("1 ± 2", "utf-8", "strict", b"1 \xc2\xb1 2"),
        ("1 ± 2", "ascii", "replace", b"1 ? 2"),  # what the user has chosen
        ("né 雪", "ascii", "strict", b"n\\xe9 \\u96ea"),
        ("a\udcffb", "utf-8", "strict", b"a\xffb"),  # a name that is not UTF-8
    ],
)
def test_every_character_is_shown(monkeypatch, text, encoding, errors, expected):
    file = io.BytesIO()
    output(monkeypatch, file, encoding=encoding, errors=errors)
    with as_command():
        print(text)
    assert file.getvalue() == expected + b"\n"


def test_a_spelled_text_has_the_length_it_is_shown_with(monkeypatch):
    assert as_shown("1 ± 2") == "1 ± 2"
    output(monkeypatch, io.BytesIO(), encoding="ascii")
    assert as_shown("1 ± 2") == "1 +- 2"


@pytest.mark.parametrize("ending", [lambda: None, lambda: sys.exit(0)])
@pytest.mark.parametrize(
    ("number", "code", "line"),
    [
        (errno.EPIPE, EXIT_PIPE_CLOSED, ""),
        (errno.ENOSPC, 2, FULL),
    ],
)
def test_an_output_that_fails_costs_no_work(monkeypatch, capsys, ending, number, code, line):
    class Failing(io.RawIOBase):
        def writable(self):
            return True

        def write(self, data):
            raise OSError(number, os.strerror(number))

    output(monkeypatch, Failing(), write_through=True)
    done = []

    @as_command(exit_code=2)
    def command():
        print("first", flush=True)
        print("second" * 10_000)
        done.append("work")
        ending()

    with pytest.raises(SystemExit) as ended:
        command()
    assert (done, ended.value.code) == (["work"], code)
    assert capsys.readouterr().err == line


def test_another_error_comes_first(monkeypatch):
    reader, writer = os.pipe()
    os.close(reader)
    output(monkeypatch, open(writer, "wb"), encoding="utf-8")  # noqa: SIM115

    @as_command()
    def command():
        print("something")
        sys.exit("error: mistyped")

    with pytest.raises(SystemExit, match="error: mistyped"):
        command()


def test_matplotlib_is_asked_for_nothing_of_the_users(monkeypatch):
    with as_command():
        assert (os.environ["MPLBACKEND"], os.environ["MATPLOTLIBRC"]) == ("agg", os.devnull)


def test_names_are_no_markup(capsys):
    make_console().print("[/abc] [red]a:100:b[/red]")
    assert capsys.readouterr().out == "[/abc] [red]a:100:b[/red]\n"


def test_every_command_and_every_console_is_made_in_one_place():
    commands = [path for path in SOURCES if 'if __name__ == "__main__":' in path.read_text(encoding="utf-8")]
    assert len(commands) >= 6
    for path in commands:
        assert path.name in INNER or re.search(FRAME, path.read_text(encoding="utf-8")), path
    for path in SOURCES:
        calls = [node.func for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if type(node) is ast.Call]
        assert path.name == "terminal.py" or "Console" not in map(ast.unparse, calls), path


def test_a_run_in_bad_surroundings(tmp_path):
    """A notebook's backend that is not installed here, a terminal without ±, and markup in the folder's name."""
    surroundings = {"MPLBACKEND": "module://not_installed", "PYTHONIOENCODING": "ascii"}
    done = call_train("-m", *SMALL, "epochs=1", "seed=0,1,2", "hydra.sweep.dir='m[/abc]'", cwd=tmp_path, **surroundings)
    assert done.returncode == 0
    assert " +- " in done.stdout
    assert f"written: {tmp_path}/m[/abc]/summary.csv" in done.stdout
    assert (tmp_path / "m[" / "abc]" / "figures" / "test_error.png").exists()


@pytest.mark.parametrize("is_terminal", [True, False])
def test_what_is_being_done_is_said_on_a_terminal_alone(monkeypatch, is_terminal):
    stream = io.StringIO()
    stream.isatty = lambda: is_terminal
    monkeypatch.setattr(sys, "stderr", stream)
    monkeypatch.setenv("TERM", "xterm")
    with saying("drawing [figures]"):
        pass
    assert ("drawing [figures]" in stream.getvalue()) == is_terminal
