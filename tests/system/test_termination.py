"""Being told to end: exit codes, states, no process left behind."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from ireg.system import termination
from ireg.system.termination import Terminated, ends_with_its_parent, sigint_noted, sigterm_raises
from tests.conftest import ROOT, is_alive
from tests.content import differences, run_content

SMALL = ["data.train_size=200", "data.test_size=100", "model.hidden=[16]", "batch_size=32", "lr=1e-2"]


def until(condition, seconds=120):
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.01)
    return found


def states(sweep):
    return {json.loads(path.read_text())["state"] for path in sweep.glob("*/status.json")}


@pytest.mark.parametrize(
    ("number", "code", "word", "error"),
    [
        (signal.SIGTERM, 143, "terminated", "terminated (SIGTERM)"),
        (signal.SIGINT, 130, "interrupted", "interrupted (SIGINT)"),
    ],
)
def test_a_run_that_is_told_to_end_says_so_and_goes_on_later(
    tmp_path, forked_train, small_run, number, code, word, error
):
    run = tmp_path / "run"
    process = forked_train.start(*SMALL, "epochs=30", "hydra.run.dir=run", cwd=tmp_path)
    until(lambda: (run / "checkpoints" / "previous.ckpt").exists())
    os.kill(process, number)
    assert forked_train.wait() == code
    log = (tmp_path / "log").read_text()
    assert log.endswith(f"{word}; the same command resumes\n")
    assert "Traceback" not in log
    status = json.loads((run / "status.json").read_text())
    assert (status["state"], status["error"]) == ("interrupted", error)
    assert (run / "checkpoints" / "last.ckpt").exists()
    forked_train.start(*SMALL, "epochs=30", "hydra.run.dir=run", cwd=tmp_path)
    assert forked_train.wait() == 0
    small_run(tmp_path / "unbroken", "lr=1e-2", "epochs=30")
    content = {name: value for name, value in run_content(run).items() if not name.startswith(".hydra")}
    assert differences(content, run_content(tmp_path / "unbroken")) == []


def workers_of(process):
    """Process ids of the workers that train for a process."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(path.read_text().rpartition(")")[2].split()[1])
            if parent == process and b"popen_loky" in (path.parent / "cmdline").read_bytes():
                found.append(int(path.parent.name))
        except (FileNotFoundError, ProcessLookupError):  # it has just ended
            continue
    return found


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks for processes in /proc")
@pytest.mark.parametrize("number", [signal.SIGTERM, pytest.param(signal.SIGKILL, marks=pytest.mark.slow)])
def test_no_worker_is_left_when_the_command_ends(tmp_path, forked_train, number):
    sweep = tmp_path / "multirun" / "both"
    arguments = ["-m", "hydra/launcher=joblib", "hydra.launcher.n_jobs=2", "optimizer=sgd,adam", "name=both"]
    process = forked_train.start(*arguments, *SMALL, "epochs=100000", cwd=tmp_path)
    until(lambda: len(list(sweep.glob("*/checkpoints/last.ckpt"))) == 2)
    workers = workers_of(process)
    assert len(workers) == 2
    os.kill(process, number)
    assert forked_train.wait() == (143 if number == signal.SIGTERM else -number)
    until(lambda: not any(is_alive(worker) for worker in workers))
    assert states(sweep) == {"interrupted"}
    if number == signal.SIGTERM:
        assert (tmp_path / "log").read_text().endswith("terminated; the same command resumes\n")
        assert (sweep / "summary.csv").exists()


def test_sigterm_becomes_an_exception_and_the_handler_goes():
    def told_to_end():
        with sigterm_raises():
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(10)

    with pytest.raises(Terminated):
        told_to_end()
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_a_handler_that_is_there_stays():
    heard = []
    signal.signal(signal.SIGTERM, lambda *_: heard.append(1))
    try:
        with sigterm_raises():
            os.kill(os.getpid(), signal.SIGTERM)
            until(lambda: heard)
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def test_outside_the_main_thread_nothing_is_done():
    def inside():
        with sigterm_raises(), sigint_noted() as noted:
            seen.extend(signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT))
            seen.append(noted)

    seen, before = [], signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        thread = threading.Thread(target=inside)
        thread.start()
        thread.join()
    finally:
        signal.signal(signal.SIGINT, before)
    assert seen == [signal.SIG_DFL, signal.default_int_handler, []]


def test_a_process_that_is_no_worker_may_outlive_its_parent():
    before = threading.active_count()
    with ends_with_its_parent():
        assert threading.active_count() == before


STUBBORN = """
import multiprocessing, os, signal, sys, time
from ireg.system import termination
termination.PARENT_SECONDS = 0.05
termination.GRACE_SECONDS = 0.2

def work(path):
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    with termination.ends_with_its_parent():
        open(path, "w").write(str(os.getpid()))
        time.sleep(600)

if __name__ == "__main__":
    multiprocessing.get_context("spawn").Process(target=work, args=(sys.argv[1],)).start()
    while not os.path.exists(sys.argv[1]) or not open(sys.argv[1]).read():
        time.sleep(0.01)
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks for processes in /proc")
def test_a_worker_that_does_not_listen_is_ended_after_a_while(tmp_path):
    (tmp_path / "stubborn.py").write_text(STUBBORN)
    note = tmp_path / "worker"
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, str(tmp_path / "stubborn.py"), str(note)], env=environment, timeout=60)
    until(lambda: not is_alive(int(note.read_text())), seconds=20)


def test_exit_codes_are_those_of_a_shell():
    assert (termination.EXIT_INTERRUPTED, termination.EXIT_TERMINATED) == (130, 143)
