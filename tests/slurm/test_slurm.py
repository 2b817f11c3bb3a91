"""Sweeps on a Slurm cluster of one node that is started for these tests: runs end as they do without it.

Where none can be started, the tests are skipped; IREG_NEEDS_SLURM=1 makes a failure of that.
"""

import os
import re
import signal
import subprocess
import time
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from ireg.sweep.status import read_status
from tests.conftest import SMALL, call_train, command
from tests.content import differences, run_content

HERE = Path(__file__).parent
EPOCHS = 20
# The launcher waits for the runs in this order, up to the first that is lost: the one to be killed is the last.
OPTIMIZERS = ("sgd", "rmsprop", "adam")
GRID = ("-m", f"optimizer={','.join(OPTIMIZERS)}", *SMALL, f"epochs={EPOCHS}", "name=test")
SLURM = ("hydra/launcher=slurm", "hydra.launcher.mem_gb=1", "hydra.launcher.timeout_min=9")
PATIENCE_SECONDS = 240


@pytest.fixture(scope="session")
def slurm(tmp_path_factory):
    """Environment variables with which a process finds the cluster."""
    folder = tmp_path_factory.mktemp("slurm")
    started = subprocess.run([HERE / "up.sh", folder], capture_output=True, text=True, timeout=300)
    if started.returncode != 0:
        message = f"NO SLURM IS TESTED: {started.stderr.strip()}"
        if os.environ.get("IREG_NEEDS_SLURM") == "1":
            pytest.fail(message)
        pytest.skip(message)
    try:
        shown = subprocess.run(
            ["bash", "-c", '. "$0" && env -0', folder / "env.sh"], capture_output=True, text=True, check=True
        )
        variables = dict(line.split("=", 1) for line in shown.stdout.split("\0") if line)
        yield {name: variables[name] for name in ("SLURM_CONF", "LD_LIBRARY_PATH", "PATH")}
    finally:
        subprocess.run([HERE / "down.sh", folder], check=True, timeout=120)


def run_folder(sweep, optimizer):
    (status,) = sweep.glob(f"{optimizer}_*/status.json")
    return status.parent


def content(sweep):
    """What the runs of a sweep hold, but for Hydra's files, in which the launcher stands."""
    found = {}
    for optimizer in OPTIMIZERS:
        files = run_content(run_folder(sweep, optimizer))
        found[optimizer] = {name: value for name, value in files.items() if not name.startswith(".hydra/")}
        del found[optimizer]["status.json"]["git"]  # of no interest here, and it may change while the tests are written
    return found


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    """What the runs hold when they are done one after the other, in one process."""
    folder = tmp_path_factory.mktemp("unbroken")
    result = call_train(*GRID, cwd=folder)
    assert result.returncode == 0, result.stderr
    return content(folder / "multirun" / "test")


def test_every_file_of_a_run_is_compared(unbroken):
    assert set(unbroken) == set(OPTIMIZERS)
    files = {"events", "metrics.csv", "labels.npz", "status.json", "checkpoints/last.ckpt"}
    for run in unbroken.values():
        assert files <= set(run)
        assert len(run["metrics.csv"]) == EPOCHS + 1
        assert run["status.json"]["state"] == "done"
    assert differences(unbroken["sgd"], unbroken["adam"])


def test_joblib_does_the_same_runs(tmp_path, unbroken):
    result = call_train(*GRID, "hydra/launcher=joblib", "hydra.launcher.n_jobs=2", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert differences(content(tmp_path / "multirun" / "test"), unbroken) == []


def test_slurm_does_the_same_runs_as_one_array(tmp_path, unbroken, slurm):
    result = call_train(*GRID, *SLURM, cwd=tmp_path, **slurm)
    assert result.returncode == 0, result.stderr
    sweep = tmp_path / "multirun" / "test"
    assert differences(content(sweep), unbroken) == []
    (array,) = {job_of(run_folder(sweep, optimizer)).split("_")[0] for optimizer in OPTIMIZERS}
    shown = subprocess.run(
        ["scontrol", "--oneliner", "show", "job", array],
        env={**os.environ, **slurm},
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert sorted(re.findall(r"ArrayTaskId=(\d+)", shown)) == ["0", "1", "2"]
    assert set(re.findall(r"JobState=(\w+)", shown)) == {"COMPLETED"}
    assert set(re.findall(r"Requeue=(\d)", shown)) == {"1"}
    assert set(re.findall(r"TimeLimit=(\S+)", shown)) == {"00:09:00"}
    assert set(re.findall(r"CPUs/Task=(\d+)", shown)) == {"1"}


def job_of(run):
    """The number of a run's job, with its place in the array, as in 12_0."""
    return OmegaConf.load(run / ".hydra" / "hydra.yaml").hydra.job.id


@contextmanager
def paused(sweep, optimizer, process, log):
    """Wait until a run is some epochs further than where it was started, and hold it there in the block."""

    def status():
        found = list(sweep.glob(f"{optimizer}_*/status.json"))
        return read_status(found[0].parent) if found else None

    end = time.monotonic() + PATIENCE_SECONDS
    while (now := status()) is None or now["epochs_done"] < 2:
        assert process.poll() is None, f"the sweep has ended before {optimizer} got anywhere: {log.read_text()}"
        assert time.monotonic() < end, f"{optimizer} got nowhere: {now}"
        time.sleep(0.02)
    process_id = now["starts"][-1]["pid"]
    os.kill(process_id, signal.SIGSTOP)
    try:
        now = status()
        assert now["state"] == "running"
        assert now["epochs_done"] < EPOCHS
        assert b"submitit" in Path(f"/proc/{process_id}/cmdline").read_bytes()
        yield process_id
    finally:
        with suppress(ProcessLookupError):
            os.kill(process_id, signal.SIGCONT)


@pytest.fixture(scope="module")
def broken(tmp_path_factory, slurm):
    """A sweep of which one run was put back into the queue, one was told that its time is over, and one was killed."""
    folder = tmp_path_factory.mktemp("broken")
    sweep, log = folder / "multirun" / "test", folder / "log"
    environment = {**os.environ, **slurm}
    with (
        log.open("w") as output,
        subprocess.Popen(
            command(*GRID, *SLURM), cwd=folder, env=environment, stdout=output, stderr=subprocess.STDOUT
        ) as process,
    ):
        try:
            with paused(sweep, "sgd", process, log):
                job = job_of(run_folder(sweep, "sgd"))
                subprocess.run(["scontrol", "requeue", job], env=environment, check=True)
            with paused(sweep, "rmsprop", process, log):
                job = job_of(run_folder(sweep, "rmsprop"))
                subprocess.run(["scancel", "--signal=USR2", job], env=environment, check=True)
            with paused(sweep, "adam", process, log) as process_id:
                os.kill(process_id, signal.SIGKILL)
            process.wait(PATIENCE_SECONDS)
        finally:
            process.kill()
    return folder, sweep, process.returncode, log.read_text()


def starts(sweep, optimizer):
    """After how many epochs a run was begun, each time."""
    return [start["epoch"] for start in read_status(run_folder(sweep, optimizer))["starts"]]


@pytest.mark.parametrize("optimizer", ["sgd", "rmsprop"])
def test_a_run_that_goes_back_into_the_queue_ends_as_an_unbroken_one(broken, unbroken, optimizer):
    """As one that is preempted, and as one that reaches its time limit, of which Slurm tells it with a signal."""
    _, sweep, _, log = broken
    begun = starts(sweep, optimizer)
    assert len(begun) == 2, log
    assert begun[0] == 0
    assert 2 <= begun[1] < EPOCHS
    assert differences(content(sweep)[optimizer], unbroken[optimizer]) == []


def test_a_run_that_is_killed_fails_the_sweep_and_the_same_command_goes_on_with_it(broken, unbroken, slurm):
    folder, sweep, code, log = broken
    assert code == 1, log
    states = {optimizer: read_status(run_folder(sweep, optimizer))["state"] for optimizer in OPTIMIZERS}
    assert states == {"sgd": "done", "rmsprop": "done", "adam": "interrupted"}
    before = {optimizer: starts(sweep, optimizer) for optimizer in OPTIMIZERS}
    again = call_train(*GRID, *SLURM, cwd=folder, **slurm)
    assert again.returncode == 0, again.stderr
    after = {optimizer: starts(sweep, optimizer) for optimizer in OPTIMIZERS}
    assert {optimizer: after[optimizer] for optimizer in ("sgd", "rmsprop")} == {
        optimizer: before[optimizer] for optimizer in ("sgd", "rmsprop")
    }
    assert after["adam"][:-1] == before["adam"] == [0]
    assert 2 <= after["adam"][-1] < EPOCHS
    assert differences(content(sweep), unbroken) == []
