"""What run folders hold, in a form that two of them can be compared by: everything but times, hosts and process ids."""

import csv
import json
from pathlib import Path

import numpy as np
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

OF_THIS_PROCESS = {"started", "ended", "epoch_seconds", "host", "starts"}


def run_content(folder):
    """The content of every file of a run folder by a name, checkpoints and events read."""
    content = {}
    for path in sorted(Path(folder).rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_dir() or name in (".lock", "train.log") or name.startswith("events.out.tfevents"):
            continue
        content[name] = _file(path)
    content["events"] = _events(folder)
    return content


def sweep_content(folder):
    """The same of every run of a sweep, and the names of the files beside them."""
    folder = Path(folder)
    runs = {path.parent for path in folder.rglob("status.json")}
    content = {run.relative_to(folder).as_posix(): run_content(run) for run in runs}
    beside = [path for path in folder.rglob("*") if path.is_file() and not any(run in path.parents for run in runs)]
    content["beside"] = sorted(path.relative_to(folder).as_posix() for path in beside)
    return content


def plain(value):
    """Tensors and arrays as bytes with their shape, so that == compares to the last bit, NaN included."""
    if isinstance(value, torch.Tensor | np.ndarray):
        array = np.asarray(value)
        return str(array.dtype), array.shape, array.tobytes()
    if isinstance(value, dict):
        return {key: plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [plain(inner) for inner in value]
    return value


def _file(path):
    if path.suffix == ".ckpt":
        return plain(torch.load(path, weights_only=True))
    if path.suffix == ".npz":
        return plain(dict(np.load(path)))
    if path.name == "metrics.csv":
        with path.open(newline="") as file:
            return [
                {tag: text for tag, text in row.items() if not tag.startswith("time/")} for row in csv.DictReader(file)
            ]
    if path.name == "status.json":
        status = json.loads(path.read_text())
        status["final"] = {tag: value for tag, value in status["final"].items() if not tag.startswith("time/")}
        return {key: value for key, value in status.items() if key not in OF_THIS_PROCESS}
    return path.read_bytes()


def _events(folder):
    events = EventAccumulator(str(folder), size_guidance={"scalars": 0}).Reload()
    tags = [tag for tag in events.Tags()["scalars"] if not tag.startswith("time/")]
    return {tag: [(event.step, repr(event.value)) for event in events.Scalars(tag)] for tag in tags}
