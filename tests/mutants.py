"""What the tests notice: plant errors by chance in a copy of `ireg/`, one at a time, and run the nearest tests of each.

    python -m tests.mutants --sample 150 --seed 1

prints how many of them were killed, by room, and each that survived. An error is killed when a test fails that passes
without it, or takes three times as long. Why not mutmut or cosmic-ray: neither draws a sample by files, and runs the
nearest tests first, in processes that have PyTorch imported. `tests/equivalents.toml` has what no test can notice.
"""

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import tomllib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import SimpleQueue

from tests.mutations import drawn, mutants

HERE = Path(__file__).parent
PASSED = (0, 5)
"""pytest's exit codes: all pass, and there are none."""
SLOW = (
    "torch",
    "torchmetrics",
    "lightning.pytorch",
    "hydra",
    "pandas",
    "scipy.stats",
    "matplotlib.pyplot",
    "hypothesis",
)
"""What takes seconds to import, and is not under test."""

FURTHER = {
    "commands": ("tests/test_train.py", "tests/test_package.py", "tests/test_config.py"),
    "config": ("tests/test_config.py", "tests/test_train.py", "tests/sweeps"),
    "experiment": ("tests/test_run.py", "tests/test_resume.py", "tests/drift/test_from_run.py"),
    "analysis": ("tests/sweeps/test_main.py", "tests/test_train.py"),
    "core": ("tests/terms", "tests/test_measurement.py", "tests/drift", "tests/certify", "tests/test_regularizers.py"),
    "flow": ("tests/core/test_ramp.py", "tests/core/test_clipping.py"),
    "joint": ("tests/test_several_optimizers.py",),
    "lit": ("tests/test_run.py", "tests/test_resume.py", "tests/test_objective.py", "tests/optim"),
    "runs": ("tests/test_run.py", "tests/test_resume.py", "tests/analysis/test_load.py", "tests/sweeps"),
    "sweeps": ("tests/test_config.py", "tests/test_run.py", "tests/test_train.py", "tests/system/test_terminal.py"),
    "terms": ("tests/test_measurement.py", "tests/core", "tests/certify", "tests/lit"),
}
"""Where else a room's errors may be noticed; of other rooms in `USUALLY`."""
USUALLY = ("tests/lit/test_module.py", "tests/test_measurement.py", "tests/test_run.py", "tests/test_config.py")


def room(file):
    """The folder within `ireg/`, or at its top the file."""
    inner = Path(file).relative_to("ireg")
    return inner.stem if inner.parent == Path() else inner.parent.as_posix()


def naming(file, paths):
    """Those of some files that name the module of a file."""
    module = ".".join(Path(file).with_suffix("").parts).removesuffix(".__init__")
    package, _, name = module.rpartition(".")
    named = re.compile(rf"\b{re.escape(module)}\b|from {re.escape(package)} import [^\n]*\b{name}\b")
    return [path for path in paths if named.search(path.read_text(encoding="utf-8"))]


def tests_of(root, file):
    """The nearest tests, and further ones.

    Nearest are the file's doctests, the test file of its name, and those that name its module. Further are those that
    name a module of its room that imports it, all of the room, and those of `FURTHER`; the shortest of each first.
    """
    inner = Path(file).relative_to("ireg")
    paths = sorted((root / "tests").rglob("test_*.py"), key=lambda path: (path.stat().st_size, path))
    near = [root / file, root / "tests" / inner.parent / f"test_{inner.stem.strip('_')}.py", *naming(file, paths)]
    importers = [] if inner.parent == Path() else naming(file, sorted((root / file).parent.glob("*.py")))
    far = [path for importer in importers for path in naming(importer.relative_to(root), paths)]
    top = inner.parts[0].removesuffix(".py")
    for place in (f"tests/{top}", *FURTHER.get(top, USUALLY)):
        far += [path for path in paths if path.is_relative_to(root / place)]
    there = [path.relative_to(root).as_posix() for path in dict.fromkeys(near + far) if path.exists()]
    count = sum(path.exists() for path in dict.fromkeys(near))
    return there[:count], there[count:]


class Tree:
    """A copy of the tree to plant errors in, and the process that runs its tests."""

    def __init__(self, root, folder, slow):
        self.root, self.output = folder / "tree", folder / "output"
        left_out = shutil.ignore_patterns(".git", ".venv*", "__pycache__", ".*_cache", "outputs", "_build", "*.jsonl")
        shutil.copytree(root, self.root, ignore=left_out, symlinks=True)
        (folder / "tmp").mkdir()
        environment = {
            "PYTHONPATH": str(self.root),
            "TMPDIR": str(folder / "tmp"),
            "OMP_NUM_THREADS": "1",
            "PYTHONDONTWRITEBYTECODE": "1",
            "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",  # to look for plugins takes two seconds a start
        }
        # Checked by content: a file that changes within a second, and keeps its size, is compiled again.
        compiled = [sys.executable, "-m", "compileall", "-q", "--invalidation-mode", "checked-hash", "ireg"]
        subprocess.run(compiled, cwd=self.root, check=True)
        self.server = subprocess.Popen(
            [sys.executable, "-P", str(HERE / "forked_pytest.py"), *slow],
            cwd=self.root,
            env=os.environ | environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def run(self, tests, seconds):
        """pytest's exit code, or None if it takes longer."""
        arguments = ["-x", "-q", "-p", "no:cacheprovider", tests]
        if tests.startswith("ireg/"):  # doctests alone: a function may be called test_error
            arguments += ["-o", "python_functions=", "-o", "python_classes="]
        order = {"arguments": arguments, "output": str(self.output)}
        self.server.stdin.write(json.dumps({**order, "seconds": seconds}) + "\n")
        self.server.stdin.flush()
        return json.loads(self.server.stdout.readline())

    def close(self):
        self.server.stdin.close()
        self.server.wait()


class Records:
    """What has been found, appended to a file at once, so that another start need not find it again."""

    def __init__(self, path):
        self.path, self.lock = path, threading.Lock()
        self.sound, self.outcomes = {}, {}
        text = path.read_text(encoding="utf-8") if path.exists() else ""
        lines = text[: text.rfind("\n") + 1]  # the last one may have been interrupted
        if lines != text:
            path.write_text(lines, encoding="utf-8")
        for line in lines.splitlines():
            self.note(**json.loads(line))

    def note(self, *, tests=None, seconds, passes=None, mutant=None, outcome=None):
        if mutant is None:
            self.sound[tests] = seconds if passes else None
        else:
            self.outcomes[tuple(mutant)] = (outcome, tests, seconds)

    def add(self, **record):
        with self.lock:
            self.note(**record)
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(record, ensure_ascii=False) + "\n")


def usual_seconds(tree, tests, records, seconds):
    """How long these tests take without an error; None if they do not pass, or take too long."""
    if tests not in records.sound:
        start = time.monotonic()
        code = tree.run(tests, 3 * seconds)
        records.add(tests=tests, seconds=time.monotonic() - start, passes=code in PASSED)
        if code not in PASSED:
            print(f"left out, since without an error they fail or take too long: {tests}", flush=True)
    return records.sound[tests]


def with_error(tree, path, planted, tests, limit):
    """pytest's exit code with an error planted, or None if the tests take three times as long as without it.

    The machine may be slower than when they were timed: what takes too long is compared with what they take now.
    """
    source = path.read_bytes()

    def run(content, seconds):
        try:
            path.write_bytes(content)
            return tree.run(tests, seconds)
        finally:
            path.write_bytes(source)

    code = run(planted, limit)
    if code is not None:
        return code
    start = time.monotonic()
    run(source, 10 * limit)
    now = 3 * (time.monotonic() - start)
    return run(planted, now) if now > limit else None


def judge(tree, mutant, records, seconds, further):
    """Run the tests of one error, until one notices it."""
    path, start = tree.root / mutant.file, time.monotonic()
    source, (near, far) = path.read_bytes(), tests_of(tree.root, mutant.file)
    outcome, by = "survived", None
    for tests in near + far:
        if tests in far and further <= 0:
            break
        usually = usual_seconds(tree, tests, records, seconds)
        if usually is None or (tests in far and usually > further):
            continue
        further -= usually if tests in far else 0
        code = with_error(tree, path, mutant.planted(source), tests, max(seconds, 3 * usually))
        if code not in PASSED:
            outcome, by = ("killed" if code is not None else "timeout"), tests
            break
    records.add(mutant=mutant.key, outcome=outcome, tests=by, seconds=time.monotonic() - start)
    print(f"{outcome}: {mutant.file}:{mutant.line} ({mutant.kind})", flush=True)


def judge_all(root, chosen, records, *, jobs, seconds, further, slow=SLOW):
    """Judge those that are not in the records, each worker in a tree of its own."""
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(jobs) as pool:
        os.chmod(folder, 0o755)  # some tests are another user, who may enter it
        trees = SimpleQueue()
        for number in range(jobs):
            (Path(folder) / str(number)).mkdir()
            trees.put(Tree(root, Path(folder) / str(number), slow))

        def work(mutant):
            tree = trees.get()
            try:
                judge(tree, mutant, records, seconds, further)
            finally:
                trees.put(tree)

        list(pool.map(work, [mutant for mutant in chosen if mutant.key not in records.outcomes]))
        for _ in range(jobs):
            trees.get().close()


def table(chosen, outcomes, equivalents):
    """The rates by room, and the survivors: lines of text."""
    rows = {}
    for mutant in chosen:
        outcome = "equivalent" if mutant.key in equivalents else outcomes[mutant.key][0]
        for name in (room(mutant.file), "all"):
            rows.setdefault(name, []).append(outcome)
    rows["all"] = rows.pop("all", [])
    yield "room | planted | equivalent | killed | survived | rate"
    yield "---|---|---|---|---|---"
    for name, found in sorted(rows.items(), key=lambda row: (row[0] == "all", row[0])):
        equivalent, survived = found.count("equivalent"), found.count("survived")
        killed = len(found) - equivalent - survived
        rate = f"{killed / (killed + survived):.0%}" if killed + survived else ""
        yield f"{name} | {len(found)} | {equivalent} | {killed} | {survived} | {rate}"
    for mutant in chosen:
        if mutant.key not in equivalents and outcomes[mutant.key][0] == "survived":
            yield f"\n{mutant.file}:{mutant.line} ({mutant.kind})\n  - {mutant.before}\n  + {mutant.after}"


def read_equivalents(path):
    """The errors that no test can notice, by key, each with its reason."""
    entries = tomllib.loads(path.read_text(encoding="utf-8")).get("equivalent", []) if path.exists() else []
    return {(entry["file"], entry["before"], entry["after"]): entry["reason"] for entry in entries}


def main(arguments=None, *, root=HERE.parent, slow=SLOW):
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--sample", type=int, default=150, help="errors to plant")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--room", action="append", help="folder or file in ireg/, like core/moments; may be repeated")
    parser.add_argument("--jobs", type=int, default=1, help="processes, each in a copy of its own")
    parser.add_argument("--seconds", type=float, default=60, help="limit of a test file, or three times its usual time")
    parser.add_argument("--further", type=float, default=120, help="seconds of tests other than the nearest")
    parser.add_argument("--output", type=Path, help="resumed if it exists; by default outputs/mutants-SEED.jsonl")
    given = parser.parse_args(arguments)
    places = [root / "ireg" / name for name in given.room or ["."]]
    files = sorted(
        path for path in (root / "ireg").rglob("*.py") if any(path.is_relative_to(place) for place in places)
    )
    if not files:
        parser.error(f"--room {', '.join(given.room)}: no such folder or file in ireg/, like core/moments")
    sources = {path.relative_to(root).as_posix(): path.read_bytes() for path in files}
    chosen = drawn([mutant for file in sources for mutant in mutants(file, sources[file])], given.sample, given.seed)
    equivalents = read_equivalents(root / "tests" / "equivalents.toml")
    records = Records(given.output or root / "outputs" / f"mutants-{given.seed}.jsonl")
    run = [mutant for mutant in chosen if mutant.key not in equivalents]
    judge_all(root, run, records, jobs=given.jobs, seconds=given.seconds, further=given.further, slow=slow)
    print("\n".join(table(chosen, records.outcomes, equivalents)))


if __name__ == "__main__":
    main()
