"""What a terminal of 50, 80 and 120 columns shows, in a real pseudo-terminal."""

import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from contextlib import chdir

import pytest

from ireg.system.command import called
from tests.conftest import ROOT

CONTROL = re.compile(r"\x1b(\[[0-9;?]*[A-Za-z]|\].*?(\x1b\\|\x07))")
SWEEP = ["-m", "name=grid", "optimizer=sgd,momentum,rmsprop,adam", "lr=1e-2,1e-1", "seed=0,1", "epochs=2"]
SWEEP += ["data.train_size=200", "data.test_size=100", "model.hidden=[8]", "batch_size=50"]

WATCH = """
import sys, time
from pathlib import Path
from ireg.runs.status import Status
from ireg.sweeps.progress import ProgressDisplay

folder = Path(sys.argv[1])
names = {folder / f"adam_{number}": f"adam lr=0.{number} optimizer.betas=[0.9,0.99]" for number in range(16)}
display = ProgressDisplay(list(names), names=names, poll_seconds=0.2)
display.start()
for number, path in enumerate(list(names)[:2]):
    path.mkdir()
    status = Status(path, {"epochs": 300, "threads": 1})
    for epoch in (0, 1, 123):
        status.row(epoch, {"time/epoch": 1.0, "train/error": 0.125, "test/error": 0.25})
    time.sleep(0.6)
    status.update(state="done" if number == 0 else "running")
time.sleep(0.6)
display.stop()
"""


def in_terminal(columns, command, cwd):
    """What a command writes to a terminal of so many columns, and its exit code."""
    ours, its = pty.openpty()
    fcntl.ioctl(its, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
    environment = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES", "NO_COLOR")}
    environment |= {"TERM": "xterm-256color", "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(command, stdin=its, stdout=its, stderr=its, cwd=cwd, env=environment, close_fds=True)
    os.close(its)
    written = b""
    while True:
        try:
            piece = os.read(ours, 65536)
        except OSError:  # the other side is closed
            break
        if not piece:
            break
        written += piece
    os.close(ours)
    return CONTROL.sub("", written.decode()), process.wait(timeout=60)


def screens(text):
    """Lines as they stood on the screen: what a carriage return has written over is a line of its own here."""
    return [line for line in re.split(r"[\r\n]+", text) if line.strip()]


@pytest.mark.parametrize("columns", [50, 80, 120])
def test_run_epoch_and_errors_are_always_visible(tmp_path, columns):
    text, code = in_terminal(columns, [sys.executable, "-c", WATCH, str(tmp_path)], ROOT)
    assert code == 0, text
    lines = screens(text)
    assert all(len(line) <= columns for line in lines)
    running = [line for line in lines if "123/300" in line]
    assert running
    assert all(re.match(r"adam lr=0?", line) for line in running)
    assert all("train 12.5 %, test 25.0 %" in line for line in running)
    assert any(re.match(r"runs .*\b1/16\b.*time left", line) for line in lines)
    assert "[0.9,0.99]: done, train 12.5 %, test 25.0 % (best so far)" in " ".join(" ".join(lines).split())


@pytest.fixture(scope="module")
def sweep(tmp_path_factory):
    """A real sweep of 16 runs at 80 columns."""
    folder = tmp_path_factory.mktemp("terminal")
    return folder, *in_terminal(80, [sys.executable, str(ROOT / "train.py"), *SWEEP], folder)


def test_a_sweep_says_what_it_does_from_start_to_end(sweep):
    _, text, code = sweep
    assert code == 0, text
    lines = screens(text)
    for said in ("checking the runs", "drawing figures and writing the report"):
        assert any(said in line for line in lines)
    assert any(re.search(r"\d+/16 .*time left: \d", line) for line in lines)
    assert sum(": done, train" in line for line in lines) == 16  # a line a run that has ended


@pytest.mark.parametrize("columns", [50, 80, 120])
def test_the_end_is_one_screen_and_no_number_is_broken(sweep, columns):
    folder, text, code = sweep
    if columns != 80:  # the same command again, which prints the same
        text, code = in_terminal(columns, [sys.executable, str(ROOT / "train.py"), *SWEEP], folder)
        assert "16 of 16 done already" in text
    assert code == 0, text
    lines = screens(text)
    start = next(number for number, line in enumerate(lines) if "16 runs (16 done)" in line)
    rows = sum(-(-len(line) // columns) for line in lines[start:])  # as the terminal breaks them
    assert rows <= 40
    table = lines[start + 1 : next(n for n, line in enumerate(lines) if line.startswith("best: "))]
    assert all(len(line) <= columns for line in table)
    settings = [line for line in table[1:] if re.match(r"(sgd|momentum|rmsprop|adam)\b", line)]
    assert len(settings) == 8
    assert all(re.search(r"\d+\.\d\d, \d+\.\d\d %", line) for line in settings)
    # A number that were broken would end or begin a line in its middle.
    assert not any(re.search(r"(\de[+-]?|\d\.|,)$", line.rstrip()) for line in table)
    best = next(line for line in lines if line.startswith("best: "))
    assert re.search(r"lr=0\.0?1, test error \d+\.\d\d, \d+\.\d\d %", best)
    assert any(line.startswith("report: ") for line in lines)
    with chdir(folder):
        assert lines[-1] == "browse: " + called("browse", "multirun/grid")
