"""Sweeps on a Slurm cluster of one node that is started for these tests: runs end as they do without it.

Where none can be started, the tests are skipped; IREG_NEEDS_SLURM=1 makes a failure of that.
"""

import os
import re
import signal
import subprocess
import time
from contextlib import contextmanager
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from ireg.runs.status import read_status
from tests.conftest import SMALL, call_train, command
from tests.content import differences, run_content

HERE = Path(__file__).parent
EPOCHS = 8
# The launcher waits for the runs in this order, up to the first that is lost: the one to be killed is the last.
OPTIMIZERS = ("sgd", "adam")
GRID = (
    "-m",
    f"optimizer={','.join(OPTIMIZERS)}",
    *SMALL,
    f"epochs={EPOCHS}",
    "model._target_=gate.Gated",
    "terms=sgd",
    "name=test",
)
SLURM = ("hydra/launcher=slurm", "hydra.launcher.mem_gb=1", "hydra.launcher.timeout_min=9")
EPOCHS_BEFORE_THE_GATE = 3
PATIENCE_SECONDS = 240
PATHS = {"PYTHONPATH": os.pathsep.join([str(HERE), *filter(None, [os.environ.get("PYTHONPATH")])])}


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
        yield PATHS | {name: variables[name] for name in ("SLURM_CONF", "LD_LIBRARY_PATH", "PATH")}
    finally:
        subprocess.run([HERE / "down.sh", folder], check=True, timeout=120)


def run_folder(sweep, optimizer):
    (status,) = sweep.glob(f"{optimizer}_*/status.json")
    return status.parent


def run_of(sweep, optimizer):
    """What a run holds, but for Hydra's files, in which the launcher stands."""
    files = {
        name: value
        for name, value in run_content(run_folder(sweep, optimizer)).items()
        if not name.startswith(".hydra/")
    }
    del files["status.json"]["git"]  # of no interest here, and it may change while tests are at work
    return files


def content(sweep):
    return {optimizer: run_of(sweep, optimizer) for optimizer in OPTIMIZERS}


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    """What the runs hold when they are done one after the other, in one process."""
    folder = tmp_path_factory.mktemp("unbroken")
    result = call_train(*GRID, cwd=folder, **PATHS)
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
    assert sorted(re.findall(r"ArrayTaskId=(\d+)", shown)) == ["0", "1"]
    assert set(re.findall(r"JobState=(\w+)", shown)) == {"COMPLETED"}
    assert set(re.findall(r"Requeue=(\d)", shown)) == {"1"}
    assert set(re.findall(r"TimeLimit=(\S+)", shown)) == {"00:09:00"}
    assert set(re.findall(r"CPUs/Task=(\d+)", shown)) == {"1"}


def job_of(run):
    """The number of a run's job, with its place in the array, as in 12_0."""
    return OmegaConf.load(run / ".hydra" / "hydra.yaml").hydra.job.id


class Sweep:
    """A sweep that is at work, whose runs wait at the gate."""

    def __init__(self, folder, slurm):
        self.folder, self.runs = folder, folder / "multirun" / "test"
        self.gate, self.log = folder / "gate", folder / "log"
        self.gate.mkdir()
        (self.gate / "closed").touch()
        self.environment = {**os.environ, **slurm, "GATE": str(self.gate)}
        with self.log.open("w") as output:
            self.process = subprocess.Popen(
                command(*GRID, *SLURM), cwd=folder, env=self.environment, stdout=output, stderr=subprocess.STDOUT
            )

    def until(self, condition, what):
        """Wait for a condition, and give what it gave."""
        end = time.monotonic() + PATIENCE_SECONDS
        while not (found := condition()):
            assert self.process.poll() is None, f"the sweep has ended before {what}: {self.log.read_text()}"
            assert time.monotonic() < end, f"waited in vain for {what}: {self.log.read_text()}"
            time.sleep(0.02)
        return found

    def at_the_gate(self, optimizer, epochs=EPOCHS_BEFORE_THE_GATE):
        """The number of a run's process, once it waits there."""

        def arrived():
            found = list(self.runs.glob(f"{optimizer}_*/status.json"))
            numbers = [read_status(path.parent)["starts"][-1]["pid"] for path in found]
            return next((path for number in numbers if (path := self.gate / str(number)).exists()), None)

        path = self.until(arrived, f"{optimizer} is at the gate")
        path.unlink()  # the run may come by again, in another process
        assert read_status(run_folder(self.runs, optimizer))["epochs_done"] == epochs
        assert b"submitit" in Path(f"/proc/{path.name}/cmdline").read_bytes()
        return int(path.name)

    def call(self, *arguments):
        subprocess.run(arguments, env=self.environment, check=True, timeout=60)

    def open_the_gate_and_wait(self):
        """Give the exit code of the command."""
        (self.gate / "closed").unlink()
        return self.process.wait(PATIENCE_SECONDS)


@contextmanager
def sweep_at_the_gate(folder, slurm):
    sweep = Sweep(folder, slurm)
    try:
        yield sweep
    finally:
        sweep.process.kill()
        sweep.process.wait()


@pytest.fixture(scope="module")
def broken(tmp_path_factory, slurm):
    """A sweep of which one run was put back into the queue, and then told that its time is over, and one was killed."""
    with sweep_at_the_gate(tmp_path_factory.mktemp("broken"), slurm) as sweep:
        sweep.at_the_gate("sgd")
        job = job_of(run_folder(sweep.runs, "sgd"))
        sweep.call("scontrol", "requeue", job)
        os.kill(sweep.at_the_gate("adam"), signal.SIGKILL)
        sweep.at_the_gate("sgd", 2 * EPOCHS_BEFORE_THE_GATE)
        sweep.call("scancel", "--signal=USR2", job)
        code = sweep.open_the_gate_and_wait()
    return sweep, code


def starts(sweep, optimizer):
    """After how many epochs a run was begun, each time."""
    return [start["epoch"] for start in read_status(run_folder(sweep, optimizer))["starts"]]


@pytest.mark.slow
def test_a_run_that_is_preempted_goes_on_as_long_as_slurm_lets_it(tmp_path, unbroken, slurm):
    """Slurm warns it with SIGTERM; were it to end by itself before its node is taken, it would count as failed."""
    with sweep_at_the_gate(tmp_path, slurm) as sweep:
        sweep.at_the_gate("sgd")
        log = sweep.runs / ".submitit" / job_of(run_folder(sweep.runs, "sgd"))
        sweep.call("sbatch", "--partition=high", "--exclusive", "--output=/dev/null", "--wrap=true")
        sweep.until(lambda: any("SIGTERM" in path.read_text() for path in log.glob("*_log.out")), "SIGTERM has come")
        assert sweep.open_the_gate_and_wait() == 0, sweep.log.read_text()
    assert differences(content(sweep.runs), unbroken) == []


BEGUN = {
    "sgd": [0, EPOCHS_BEFORE_THE_GATE, 2 * EPOCHS_BEFORE_THE_GATE],
    "adam": [0, EPOCHS_BEFORE_THE_GATE],
}


@pytest.mark.slow
def test_a_run_that_goes_back_into_the_queue_ends_as_an_unbroken_one(broken, unbroken):
    """As one that is preempted, and as one that reaches its time limit, of which Slurm tells it with a signal."""
    sweep, _ = broken
    assert starts(sweep.runs, "sgd") == BEGUN["sgd"], sweep.log.read_text()
    assert differences(run_of(sweep.runs, "sgd"), unbroken["sgd"]) == []


@pytest.mark.slow
def test_a_run_that_is_killed_fails_the_sweep_and_the_same_command_goes_on_with_it(broken, unbroken, slurm):
    sweep, code = broken
    assert code == 1, sweep.log.read_text()
    states = {optimizer: read_status(run_folder(sweep.runs, optimizer))["state"] for optimizer in OPTIMIZERS}
    assert states == {"sgd": "done", "adam": "interrupted"}
    again = call_train(*GRID, *SLURM, cwd=sweep.folder, **slurm)
    assert again.returncode == 0, again.stderr
    assert {optimizer: starts(sweep.runs, optimizer) for optimizer in OPTIMIZERS} == BEGUN
    assert differences(content(sweep.runs), unbroken) == []
