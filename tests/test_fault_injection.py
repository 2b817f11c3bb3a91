"""A sweep that is killed again and again, at any moment, ends as one that was left alone."""

import json
import os
import random
import signal
import time
from contextlib import suppress

import pytest

from tests.conftest import TOLD, is_alive
from tests.content import differences, sweep_content

ARGUMENTS = [
    "-m",
    "optimizer=sgd,adam",
    "epochs=30",
    "lr=1e-2",
    "data.train_size=200",
    "data.test_size=100",
    "model.hidden=[16]",
    "batch_size=32",
    "name=sweep",
]
KILLS = 12


def rows(sweep):
    """How many rows the runs have written."""
    return sum(max(path.read_bytes().count(b"\n") - 1, 0) for path in sweep.glob("*/metrics.csv"))


def kill_from_outside(process, sweep, draw):
    """Kill after some further rows and a part of an epoch; without a row to wait for, during the start."""
    target = rows(sweep) + draw.randrange(4)
    while rows(sweep) < target and is_alive(process):
        time.sleep(0.002)
    time.sleep(draw.uniform(0, 0.05))
    with suppress(ProcessLookupError):
        os.kill(process, signal.SIGKILL)


@pytest.mark.slow
def test_a_sweep_killed_at_random_moments_ends_as_an_unbroken_one(tmp_path, forked_train, record_property):
    forked_train.start(*ARGUMENTS, cwd=tmp_path / "unbroken")
    assert forked_train.wait() == 0, (tmp_path / "unbroken" / "log").read_text()
    draw = random.Random(0)
    killed, sweep = [], tmp_path / "killed" / "multirun" / "sweep"
    while True:
        amid_write = len(killed) % 2 == 1
        more = len(killed) < KILLS
        # A run writes its status five times and an epoch three files: from the first status to some epochs later.
        process = forked_train.start(
            *ARGUMENTS, cwd=tmp_path / "killed", killed_at=draw.randrange(1, 20) if amid_write and more else 0
        )
        if more and not amid_write:
            kill_from_outside(process, sweep, draw)
        code = forked_train.wait()
        if code == 0:
            break
        assert code == -signal.SIGKILL, (tmp_path / "killed" / "log").read_text()
        killed.append("amid a write" if amid_write else "from outside")
    # All runs are done by now. A summary that is older than they are is written again, and the command killed at a
    # figure: the next one writes all of it.
    next(sweep.glob("*/metrics.csv")).touch()
    # The first file is the list of the runs, tables are not counted, and all others are figures.
    forked_train.start(*ARGUMENTS, cwd=tmp_path / "killed", killed_at=4)
    assert forked_train.wait() == -signal.SIGKILL
    assert list(sweep.glob("figures/.*.tmp-*"))
    killed.append("amid a figure")
    forked_train.start(*ARGUMENTS, cwd=tmp_path / "killed")
    assert forked_train.wait() == 0
    starts = [
        (path.parent.name, [start.get("epoch") for start in json.loads(path.read_text())["starts"]])
        for path in sorted(sweep.glob("*/status.json"))
    ]
    found = f"{len(killed)} kills, {killed.count('amid a write')} of them amid a write; runs began after epochs"
    epochs_by_run = "; ".join(f"{name.partition('_')[0]} {epochs}" for name, epochs in starts)
    record_property(TOLD, f"{found}: {epochs_by_run}")
    assert len(killed) >= 10
    assert any(epoch for _, epochs in starts for epoch in epochs)  # it did go on, and not begin again each time
    expected = sweep_content(tmp_path / "unbroken" / "multirun" / "sweep", tmp_path / "unbroken")
    content = sweep_content(sweep, tmp_path / "killed")
    assert differences(content, expected) == []
