import io
import time

import pytest
from rich.console import Console

from ireg.sweep import progress
from ireg.sweep.progress import ProgressDisplay
from ireg.sweep.status import Status


@pytest.fixture(autouse=True)
def begun_long_ago(monkeypatch):
    """Displays begin before the statuses that the tests make."""
    monkeypatch.setattr(progress, "now", lambda: "2000-01-01T00:00:00+00:00")


def test_what_an_earlier_command_left_unfinished_does_not_count(tmp_path, monkeypatch):
    folders = [run(tmp_path / "a", done=3, state="interrupted"), run(tmp_path / "b", done=10, state="done")]
    monkeypatch.setattr(progress, "now", lambda: "2999-01-01T00:00:00+00:00")
    assert "1 of 2 runs ended | starting" in ProgressDisplay(folders).line()


def run(folder, epochs=10, done=0, seconds=2.0, state="running"):
    folder.mkdir()
    status = Status(folder, {"epochs": epochs, "threads": 1})
    for epoch in range(done + 1):
        status.row(epoch, {"time/epoch": seconds, "train/error": 0.25, "test/error": 0.5})
    status.update(state=state)
    return folder


def test_a_line_says_how_far_each_run_is_and_what_is_left(tmp_path):
    folders = [run(tmp_path / "a", done=4), run(tmp_path / "b", done=10, state="done"), tmp_path / "c"]
    line = ProgressDisplay(folders).line()
    assert "1 of 3 runs ended" in line
    assert "a: epoch 4/10 train error 25.0 %, test error 50.0 %" in line
    assert "b:" not in line
    assert line.endswith("time left: 0:32")  # 6 epochs of a and 10 of c, one run at a time


def test_runs_side_by_side_share_what_waits(tmp_path):
    folders = [run(tmp_path / "a", done=1), run(tmp_path / "b", done=1), tmp_path / "c"]
    assert ProgressDisplay(folders).line().endswith("time left: 0:28")  # (9 + 9 + 10) / 2 epochs


def test_a_single_run(tmp_path):
    assert "starting | time left: unknown yet" in ProgressDisplay([tmp_path / "a"]).line()
    line = ProgressDisplay([run(tmp_path / "a", epochs=4000, done=1)]).line()
    assert "runs ended" not in line
    assert line.endswith("time left: 2:13:18")


def test_lines_come_in_their_time_where_there_is_no_terminal(tmp_path, monkeypatch):
    monkeypatch.setattr(progress, "LINE_SECONDS", 0.02)
    output = io.StringIO()
    display = ProgressDisplay([run(tmp_path / "a", done=3)], console=Console(file=output), poll_seconds=0.01)
    display.start()
    time.sleep(0.3)
    display.stop()
    display.stop()
    lines = output.getvalue().splitlines()
    assert len(lines) >= 2
    assert all("epoch 3/10" in line for line in lines)


def test_bars_on_a_terminal(tmp_path):
    output = io.StringIO()
    console = Console(file=output, force_terminal=True, width=120)
    folders = [run(tmp_path / "a", done=3), run(tmp_path / "b", done=10, state="diverged")]
    display = ProgressDisplay(folders, console=console, poll_seconds=0.01)
    display.start()
    time.sleep(0.4)
    display.stop()
    text = output.getvalue()
    assert "3/10" in text
    assert "train error 25.0 %" in text
    assert "1/2" in text
    assert "time left: 0:14" in text
