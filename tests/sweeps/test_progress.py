import io
import re
import time

import pytest
from rich.console import Console

from ireg.runs.status import Status
from ireg.sweeps import progress
from ireg.sweeps.progress import ProgressDisplay


def run(folder, epochs=10, done=0, seconds=2.0, state="running"):
    folder.mkdir()
    status = Status(folder, {"epochs": epochs, "threads": 1})
    for epoch in range(done + 1):
        status.row(epoch, {"time/epoch": seconds, "train/error": 0.25, "test/error": 0.5})
    status.update(state=state)
    return folder


def test_what_an_earlier_command_left_unfinished_does_not_count_until_it_goes_on(tmp_path):
    folders = [run(tmp_path / "a", done=3, state="interrupted"), run(tmp_path / "b", done=10, state="done")]
    display = ProgressDisplay(folders)
    assert "1 of 2 runs ended | starting" in display.line()
    Status(tmp_path / "a", {"epochs": 10, "threads": 1})
    assert "a: epoch 3/10" in display.line()


def test_a_line_says_how_far_each_run_is_and_what_is_left(tmp_path):
    display = ProgressDisplay([tmp_path / "a", tmp_path / "b", tmp_path / "c"])
    run(tmp_path / "a", done=4)
    run(tmp_path / "b", done=10, state="done")
    line = display.line()
    assert "1 of 3 runs ended" in line
    assert "a: epoch 4/10 train error 25.0 %, test error 50.0 %" in line
    assert "b:" not in line
    assert line.endswith("time left: 0:34")  # 6 epochs of a and 10 of c, one run at a time, and 2 s to start c


def test_runs_side_by_side_share_what_waits(tmp_path):
    display = ProgressDisplay([tmp_path / "a", tmp_path / "b", tmp_path / "c"])
    run(tmp_path / "a", done=1)
    run(tmp_path / "b", done=1)
    assert display.line().endswith("time left: 0:29")  # (9 + 9 + 10) / 2 epochs, and half of the 2 s to start c


def test_runs_that_are_not_known_beforehand(tmp_path):
    display = ProgressDisplay(tmp_path)
    assert "starting" in display.line()
    run(tmp_path / "a", done=4)
    run(tmp_path / "b", done=10, state="done")
    assert "1 of 2 runs ended | a: epoch 4/10" in display.line()


def test_a_single_run(tmp_path):
    display = ProgressDisplay([tmp_path / "a"])
    assert "starting | time left: unknown yet" in display.line()
    run(tmp_path / "a", epochs=4000, done=1)
    line = display.line()
    assert "runs ended" not in line
    assert line.endswith("time left: 2:13:18")


def test_lines_come_in_their_time_where_there_is_no_terminal(tmp_path, monkeypatch):
    monkeypatch.setattr(progress, "LINE_SECONDS", 0.02)
    output = io.StringIO()
    display = ProgressDisplay([tmp_path / "a"], console=Console(file=output), poll_seconds=0.01)
    run(tmp_path / "a", done=3)
    display.start()
    time.sleep(0.3)
    display.stop()
    display.stop()
    lines = output.getvalue().splitlines()
    assert len(lines) >= 2
    assert all("epoch 3/10" in line for line in lines)


def shown_on_a_terminal(tmp_path, folders, width, names=None, during=None):
    output = io.StringIO()
    console = Console(file=output, force_terminal=True, width=width)
    display = ProgressDisplay(folders, names=names, console=console, poll_seconds=0.01)
    for folder in folders[:1]:
        run(folder, epochs=300, done=3)
    for folder in folders[1:]:
        run(folder, done=10, state="diverged")
    display.start()
    time.sleep(0.3)
    if during is not None:
        during()
        time.sleep(0.3)
    display.stop()
    # What a terminal shows: the control sequences taken out, line by line.
    return re.split(r"[\r\n]+", re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", output.getvalue()))


@pytest.mark.parametrize("width", [50, 80, 120])
def test_epochs_and_errors_never_vanish_from_a_terminal(tmp_path, width):
    folders = [tmp_path / ("m[abc]" + "_a.long.key=0.123456" * 4), tmp_path / "b"]
    lines = shown_on_a_terminal(tmp_path, folders, width)
    (line,) = {line.rstrip() for line in lines if "3/300" in line}
    assert line.startswith("m[abc]")
    assert line.endswith("3/300 train 25.0 %, test 50.0 %")
    assert len(line) <= width
    assert any("1/2" in line and "time left: 9:54" in line for line in lines)  # 297 epochs of two seconds
    assert ("━" in "".join(lines)) == (width >= progress.ROOM_FOR_BARS)


def test_runs_that_end_leave_a_line(tmp_path):
    folders = [tmp_path / name for name in ("a", "b", "c")]
    names = {tmp_path / "a": "adam seed=0", tmp_path / "b": "adam seed=1"}

    def end():
        status = Status(tmp_path / "a", {"epochs": 10, "threads": 1})
        status.row(10, {"time/epoch": 1.0, "train/error": 0.25, "test/error": 0.125})
        status.update(state="done")

    lines = shown_on_a_terminal(tmp_path, folders, 80, names, end)
    ended = [line.strip() for line in lines if "done" in line]
    assert ended == ["adam seed=0: done, train 25.0 %, test 12.5 % (best so far)"]
