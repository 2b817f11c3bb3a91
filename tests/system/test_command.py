"""Every ending of a command: its line on standard error, and its exit code."""

import signal

import pytest

from ireg.analysis.__main__ import main as analysis
from ireg.drift.__main__ import main as drift
from ireg.experiment.run import main as run
from ireg.sweep import callback
from ireg.sweep.__main__ import main as sweep
from ireg.system.command import endings_in_one_line, framed
from ireg.system.errors import UserError, in_one_line
from ireg.verify import main as verify


def ending(what):
    def main(arguments=None):
        if what is UserError:
            raise UserError("lr=-1: must be > 0")
        if what is OSError:
            raise OSError(28, "No space left on device", "a/b")
        if isinstance(what, signal.Signals):
            signal.raise_signal(what)
        return what

    return framed(main)


@pytest.fixture
def ctrl_c_raises():
    """A shell starts background jobs with SIGINT ignored, and Python then leaves it so."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("ctrl_c_raises")
@pytest.mark.parametrize(
    ("what", "code", "line"),
    [
        (0, 0, ""),
        (1, 1, ""),
        (UserError, 2, "error: lr=-1: must be > 0\n"),
        (OSError, 2, "error: a/b: No space left on device; choose another place, or repair this one\n"),
        (signal.SIGINT, 130, "interrupted\n"),
        (signal.SIGTERM, 143, "terminated\n"),
    ],
)
def test_the_exit_code_and_the_line_of_every_ending(capsys, what, code, line):
    assert ending(what)() == code
    assert capsys.readouterr().err == line


@pytest.mark.usefixtures("ctrl_c_raises")
def test_an_error_that_a_library_makes_of_ctrl_c_is_ctrl_c(capsys):
    def main(arguments=None):
        try:
            signal.raise_signal(signal.SIGINT)
        except KeyboardInterrupt:
            raise RecursionError("numpy, interrupted in its import") from None

    assert framed(main)() == 130
    assert capsys.readouterr().err == "interrupted\n"
    assert signal.getsignal(signal.SIGINT) == signal.default_int_handler


def test_a_handler_of_sigint_that_is_there_stays(capsys):
    seen = []
    before = signal.signal(signal.SIGINT, lambda number, frame: seen.append(number))
    try:
        assert ending(signal.SIGINT)() == signal.SIGINT
    finally:
        signal.signal(signal.SIGINT, before)
    assert seen == [signal.SIGINT]


def test_other_errors_are_raised():
    def main(arguments=None):
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        framed(main)()
    with pytest.raises(OSError, match="no file of the user's"), endings_in_one_line():
        raise OSError("no file of the user's")
    with pytest.raises(OSError, match="no file of the user's"):
        in_one_line(OSError("no file of the user's"))


@pytest.mark.parametrize("main", [analysis, drift, run, sweep, verify])
def test_every_command_is_framed(main, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    arguments = {sweep: ["status", "nowhere"], verify: ["--optimizer", "nowhere"]}.get(main, ["nowhere"])
    assert main(arguments) == 2
    assert capsys.readouterr().err.startswith("error: ")
    with pytest.raises(SystemExit, match="0"):
        main(["--help"])


def test_once_a_sweep_has_begun_an_error_is_a_failed_run(monkeypatch):
    monkeypatch.setattr(callback, "_begun_sweeps", [])
    assert callback.exit_code() == 2
    monkeypatch.setattr(callback, "_begun_sweeps", ["multirun/a"])
    assert callback.exit_code() == 1
