"""Every ending of a command: its line on standard error, and its exit code."""

import signal
import sys
from importlib.machinery import ModuleSpec
from types import SimpleNamespace

import pytest

import ireg
from ireg.analysis.__main__ import main as analysis
from ireg.drift.__main__ import main as drift
from ireg.experiment.run import main as run
from ireg.sweeps import callback
from ireg.sweeps.__main__ import main as sweep
from ireg.system import command as command_module
from ireg.system.command import Parser, called, endings_in_one_line, framed, program
from ireg.system.errors import UserError, in_one_line
from ireg.verify import main as verify
from tests.conftest import ROOT


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


@pytest.mark.parametrize(
    ("module", "called"),
    [
        ("ireg.basins.__main__", "python -m ireg.basins"),
        ("ireg.basins", "python -m ireg.basins"),
        ("ireg.__main__", "python -m ireg basins"),
        ("pytest.__main__", "ireg basins"),
        (None, "ireg basins"),  # a script
    ],
)
def test_a_tool_is_called_as_its_user_did(monkeypatch, module, called):
    spec = None if module is None else ModuleSpec(module, None)
    monkeypatch.setitem(sys.modules, "__main__", SimpleNamespace(__spec__=spec))
    assert program("basins") == called


@pytest.fixture
def environment(tmp_path, monkeypatch):
    """An environment below the current folder, with a Python and no script, as a clone has it that is not installed."""
    scripts = tmp_path / "my env" / "bin"
    scripts.mkdir(parents=True)
    (tmp_path / "multirun").mkdir()
    (scripts / "python").touch(mode=0o755)
    paths = {"scripts": str(scripts), "purelib": str(tmp_path / "my env" / "site")}
    monkeypatch.setattr(command_module.sysconfig, "get_path", paths.__getitem__)
    monkeypatch.setattr(sys, "executable", str(scripts / "python"))
    monkeypatch.setenv("PATH", "/usr/bin")
    monkeypatch.delenv("PYTHONPATH", raising=False)
    monkeypatch.chdir(tmp_path)
    return scripts


def test_a_tool_is_named_as_it_can_be_called_from_here(environment, tmp_path, monkeypatch):
    folder = tmp_path / "multirun" / "a[1]"
    root = ROOT.as_posix()
    line = "'my env/bin/python' -m ireg.browse 'multirun/a[1]'"
    assert called("browse", folder) == f"PYTHONPATH={root} {line}"
    monkeypatch.setenv("PYTHONPATH", f"/elsewhere:{root}")
    assert called("browse", folder) == line
    (environment / "ireg").touch(mode=0o755)
    assert called("browse", folder) == "'my env/bin/ireg' browse 'multirun/a[1]'"
    monkeypatch.setenv("PATH", f"/usr/bin:{environment}")
    assert called("browse", folder) == "ireg browse 'multirun/a[1]'"
    assert called("browse", "--port", "7", tmp_path.parent) == f"ireg browse --port 7 {tmp_path.parent}"
    monkeypatch.chdir(ROOT)
    assert called("browse", folder) == f"ireg browse '{folder}'"
    other = tmp_path / "other"  # another environment's script comes first
    other.mkdir()
    (other / "ireg").touch(mode=0o755)
    monkeypatch.setenv("PATH", f"{other}:{environment}")
    monkeypatch.chdir(tmp_path)
    assert called("browse", folder) == "'my env/bin/ireg' browse 'multirun/a[1]'"


def test_python_is_named_where_there_is_no_script(environment, tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)  # whose package is found from there
    monkeypatch.setenv("PATH", str(environment))
    assert called("analysis", ROOT / "multirun" / "a") == "python -m ireg.analysis multirun/a"


@pytest.mark.parametrize(
    ("main", "arguments", "line"),
    [
        (analysis, [], "the following arguments are required: FOLDER; ireg analysis --help says more"),
        (analysis, ["a", "--fulll"], "--fulll: no such argument, did you mean --full?; ireg analysis --help says more"),
        (analysis, ["a", "--zz=1"], "--zz: no such argument; ireg analysis --help says more"),
        (analysis, ["a", "b c"], "b: no such argument; ireg analysis --help says more"),
        (
            analysis,
            ["a", "--table", "latx"],
            "--table: latx: no such choice, did you mean latex?; choose one of markdown, latex; ireg analysis --help "
            "says more",
        ),
        (
            sweep,
            ["statsu", "a"],
            "command: statsu: no such choice, did you mean status?; choose one of status, retry; ireg sweep "
            "--help says more",
        ),
        (
            sweep,
            ["retry", "a", "--jobs", "0"],
            "--jobs: 0: must be an integer of at least 1; ireg sweep retry --help says more",
        ),
    ],
)
def test_a_wrong_argument_is_one_line(capsys, main, arguments, line):
    assert main(arguments) == 2
    assert capsys.readouterr() == ("", f"error: {line}\n")


def test_every_parser_names_the_version(capsys):
    with pytest.raises(SystemExit, match="0"):
        Parser("sweep").parse_args(["--version"])
    assert capsys.readouterr().out == f"ireg {ireg.__version__}\n"


def test_once_a_sweep_has_begun_an_error_is_a_failed_run(monkeypatch):
    monkeypatch.setattr(callback, "_begun_sweeps", [])
    assert callback.exit_code() == 2
    monkeypatch.setattr(callback, "_begun_sweeps", ["multirun/a"])
    assert callback.exit_code() == 1
