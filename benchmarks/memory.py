"""Peak memory of the terms' pass in a new process, see `python -m benchmarks.memory --help`.

Two measures, each over one call of the pass, above what was in use when it began:

- *tensors*: bytes that torch's own allocator holds, from its log of every allocation (`torch.profiler`). It is
  exact and the same each time, and sees what a pass asks torch for.
- *resident*: the high-water mark of the process's resident set, reset before the call (Linux). It sees everything, the
  libraries' own buffers too, to within some MB.

A first call of the pass comes before both: libraries set themselves up then.
"""

import argparse
import ctypes
import gc
import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torch.profiler import ProfilerActivity, profile

from benchmarks.case import ROOT, Case
from benchmarks.sides import by_project, quietly, watching
from ireg.lit.module import Classifier

STATUS, RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")


@dataclass(frozen=True, kw_only=True)
class Memory:
    """Peak bytes of a terms' pass above what was in use before it; None where the system does not say."""

    num_batches: int
    tensors: int
    resident: int | None


def in_fresh_process(case: Case) -> Memory:
    """Measure in a process that has done nothing else.

    Raises:
        RuntimeError: it failed; the message ends with what it wrote.
    """
    command = [sys.executable, "-m", "benchmarks.memory", json.dumps(asdict(case))]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(command)} failed: {done.stderr.strip()[-2000:]}")
    return Memory(**json.loads(done.stdout.splitlines()[-1]))


class MemoryWatch:
    """Wrapper of `measure` that watches memory: its second call's resident set, its third's tensors."""

    def __init__(self) -> None:
        self.num_batches = 0
        self.tensors: int | None = None
        self.resident: int | None = None

    def attach(self, classifier: Classifier) -> None:
        """Watch `classifier`."""
        calls, measure = iter((_plainly, self._resident, self._tensors)), classifier.measurement.measure

        def watched(epoch: int, minibatches: Any, *args: Any, **kwargs: Any) -> Any:
            self.num_batches = len(minibatches)
            return next(calls)(lambda: measure(epoch, minibatches, *args, **kwargs))

        classifier.measurement.measure = watched  # type: ignore[method-assign]

    def _resident(self, call: Callable[[], Any]) -> Any:
        before = _settled()
        value = call()
        after = _status("VmHWM")
        self.resident = None if before is None or after is None else after - before
        return value

    def _tensors(self, call: Callable[[], Any]) -> Any:
        values: list[Any] = []
        self.tensors = peak_tensors(lambda: values.append(call()))
        return values[0]


def peak_tensors(call: Callable[[], object]) -> int:
    """Return the peak bytes of tensors during a call, above what is in use before it."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as log:
        call()
    events = log.profiler.kineto_results.events()
    held = peak = 0  # bytes above what was held before the call
    changes = [event for event in events if event.name() == "[memory]"]
    for change in sorted(changes, key=lambda event: event.start_ns()):
        held += change.nbytes()
        peak = max(peak, held)
    return peak


def _plainly(call: Callable[[], Any]) -> Any:
    return call()


def _settled() -> int | None:
    """Return resident bytes after free memory is given back to the system and the mark is reset.

    Returns:
        The bytes; None where that cannot be.
    """
    gc.collect()
    try:
        ctypes.CDLL(None).malloc_trim(0)  # glibc; memory it keeps would hide what the pass takes
        RESET.write_text("5")
    except (OSError, AttributeError):
        return None
    return _status("VmRSS")


def _status(name: str) -> int | None:
    if not STATUS.exists():
        return None
    lines = (line.split() for line in STATUS.read_text().splitlines())
    return next((int(line[1]) * 1024 for line in lines if line[0] == f"{name}:"), None)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("case", help='fields of a case as JSON, like {"optimizer": "sgd", "num_examples": 5000}')
    fields = json.loads(parser.parse_args().case)
    case = Case(**fields | {"extra": tuple(fields.get("extra", ()))})
    quietly()
    watch = MemoryWatch()
    with watching(watch.attach):
        by_project(case, epochs=2)
    assert watch.tensors is not None, "the terms were not measured three times: before training and after two epochs"
    print(json.dumps(asdict(Memory(num_batches=watch.num_batches, tensors=watch.tensors, resident=watch.resident))))


if __name__ == "__main__":
    main()
