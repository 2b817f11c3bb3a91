"""What several test files need: configurations composed as on the command line, and small runs."""

import json
import os
import subprocess
import sys
import tempfile
from contextlib import chdir, contextmanager
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from omegaconf import OmegaConf, open_dict

from ireg.experiment.run import run
from ireg.sweeps import callback as _registers_schema_and_resolvers  # noqa: F401
from tests.run_folders import make_run  # noqa: F401 — a fixture

ROOT = Path(__file__).parents[1]
SMALL = ("epochs=2", "data.train_size=200", "data.test_size=100", "model.hidden=[16]", "batch_size=32")
NOBODY = 65534
TOLD = "told"
"""The property under which a test records what is to be read at the end, whichever process it ran in."""


FIRST = (
    "tests/test_language.py",
    "tests/test_imports.py",
    "tests/test_catalogue.py",
    "tests/test_config.py",
    "tests/test_package.py",
    "tests/test_docs.py",
)
"""The files that fail most often come first: they are short, and show within a minute what a change forgot."""

LONGEST = (
    "tests/slurm/test_slurm.py",
    "tests/test_train.py",
    "tests/test_fault_injection.py",
    "tests/test_second_device.py",
    "tests/sweeps/test_main.py",
    "tests/system/test_termination.py",
    "tests/test_pseudo_terminal.py",
    "tests/runs/test_damage.py",
    "tests/drift/test_leading_flow_adaptive.py",
    "tests/study/test_tuning.py",
    "tests/test_bad_surroundings.py",
    "tests/system/test_terminal.py",
)
"""The files that take longest follow, in this order: where several processes share the work, none ends alone."""

ORDER = (*FIRST, *LONGEST)


def pytest_collection_modifyitems(items):
    def place(item):
        path = item.path.relative_to(ROOT).as_posix()
        return ORDER.index(path) if path in ORDER else len(ORDER)

    items.sort(key=place)  # a stable sort: files and tests keep their order otherwise
    if not os.environ.get("IREG_SLOW"):
        for item in items:
            if item.get_closest_marker("slow"):
                item.add_marker(pytest.mark.skip(reason="SLOW TESTS ARE NOT RUN: make test-all runs them, too"))


def pytest_terminal_summary(terminalreporter):
    for report in terminalreporter.getreports("passed"):
        for name, value in report.user_properties:
            if name == TOLD:
                terminalreporter.write_line(f"{report.nodeid}: {value}")


@pytest.fixture(autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


STARTING = ("PYTHON", "MPL", "MATPLOTLIB", "HYDRA", "IREG", "PATH")
"""How the variables begin that decide how a process of ours starts; libraries set others when they are imported."""


@pytest.fixture(autouse=True)
def environment_is_kept():
    """No test leaves its environment to the next one, which may start a process."""
    before = {name: value for name, value in os.environ.items() if name.startswith(STARTING)}
    yield
    assert {name: value for name, value in os.environ.items() if name.startswith(STARTING)} == before


@pytest.fixture
def composed():
    """Compose a configuration from overrides, as `train.py` does."""

    def make(*overrides, hydra=False):
        with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
            return compose("config", list(overrides), return_hydra_config=hydra)

    return make


@pytest.fixture
def small_run(composed):
    """Do a small run in a folder and return what it returns."""

    def do(folder, *overrides):
        folder.mkdir(parents=True, exist_ok=True)
        config = composed(*SMALL, *overrides, hydra=True)
        with open_dict(config):
            config.hydra.runtime.output_dir = str(folder)
        HydraConfig.instance().set_config(config)
        with open_dict(config):
            del config["hydra"]
        try:
            return run(OmegaConf.create(OmegaConf.to_container(config, resolve=True)))
        finally:
            HydraConfig.instance().cfg = None

    return do


@contextmanager
def read_only(folder):
    """Let nobody write below a folder, root neither, who then reads it as another user.

    Paths are relative to it, and modules are imported before: that user may not enter the folders above.
    """
    paths = [folder, *folder.rglob("*")]
    modes = [path.stat().st_mode for path in paths]
    for path, mode in zip(paths, modes, strict=True):
        path.chmod(0o555 if path.is_dir() else mode & 0o444)
    root = os.geteuid() == 0  # to whom modes mean nothing
    with chdir(folder):
        if root:
            os.seteuid(NOBODY)
        try:
            yield
        finally:
            if root:
                os.seteuid(0)
            for path, mode in zip(paths, modes, strict=True):
                path.chmod(mode)


def is_alive(process):
    """Whether a process with this id is there and has not ended."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def command(*arguments):
    """The command line of `train.py` with arguments."""
    return [sys.executable, str(ROOT / "train.py"), *arguments]


def call_train(*arguments, cwd, **environment):
    """Call `train.py` with arguments in a process of its own, and wait for it."""
    clean = {key: value for key, value in os.environ.items() if key != "HYDRA_FULL_ERROR"}
    return subprocess.run(
        command(*arguments), cwd=cwd, env=clean | environment, capture_output=True, text=True, timeout=300
    )


class ForkedTrain:
    """Starts `train.py` within a fraction of a second, one process at a time; see tests/forked_train.py."""

    def __init__(self):
        self.server = subprocess.Popen(
            [sys.executable, "-m", "tests.forked_train"],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self.server.stdout.readline() == "ready\n"

    def start(self, *arguments, cwd, killed_at=0):
        """Start the command; its process id. Its output goes to `log` in the folder."""
        cwd.mkdir(exist_ok=True)
        return self._start(arguments, cwd, [cwd / "log"] * 2, killed_at)

    def call(self, *arguments, cwd):
        """Call the command, and wait for it; as `call_train` returns it."""
        with tempfile.TemporaryDirectory() as folder:
            outputs = [Path(folder) / name for name in ("stdout", "stderr")]
            self._start(arguments, cwd, outputs, 0)
            return subprocess.CompletedProcess(arguments, self.wait(), *(path.read_text() for path in outputs))

    def _start(self, arguments, cwd, outputs, killed_at):
        order = {"arguments": arguments, "cwd": str(cwd), "outputs": list(map(str, outputs)), "killed_at": killed_at}
        self.server.stdin.write(json.dumps(order) + "\n")
        self.server.stdin.flush()
        return int(self.server.stdout.readline())

    def wait(self):
        """Wait for the command's end; its exit code, or the negative number of the signal that ended it."""
        return int(self.server.stdout.readline())


@pytest.fixture(scope="session")
def forked_train():
    """The one `ForkedTrain` of all tests."""
    server = ForkedTrain()
    yield server
    server.server.stdin.close()
    server.server.wait(timeout=60)


@pytest.fixture
def train(forked_train):
    """Call `train.py` by fork, which is fast; as `call_train` in an environment of its own."""

    def call(*arguments, cwd, **environment):
        return (call_train if environment else forked_train.call)(*arguments, cwd=cwd, **environment)

    return call
