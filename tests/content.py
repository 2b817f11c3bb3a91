"""What run folders hold, in a form that two of them can be compared by: everything but times, hosts and process ids."""

import csv
import json
from pathlib import Path

import numpy as np
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.util.tensor_util import make_ndarray

OF_THIS_PROCESS = {"started", "ended", "epoch_seconds", "host", "starts"}


def run_content(folder, root=None):
    """The content of every file of a run folder by its name; checkpoints and events are read.

    `train.log` is left out. Where the path of `root` stands in a text, its place is marked.
    """
    content = {"events": _events(folder)}
    for path in sorted(Path(folder).rglob("*")):
        if path.is_file() and path.name != "train.log" and not path.name.startswith("events.out.tfevents"):
            content[path.relative_to(folder).as_posix()] = _file(path, root)
    return content


def sweep_content(folder, root=None):
    """The same of every run of a sweep, and of the files beside them."""
    folder = Path(folder)
    runs = {path.parent for path in folder.rglob("status.json")}
    content = {run.relative_to(folder).as_posix(): run_content(run, root) for run in runs}
    beside = [path for path in folder.rglob("*") if path.is_file() and not any(run in path.parents for run in runs)]
    events = {path.parent for path in beside if path.name.startswith("events.out.tfevents")}  # named by the time
    content |= {place.relative_to(folder).as_posix(): _events(place) for place in events}
    files = [path for path in beside if path.parent not in events]
    return content | {path.relative_to(folder).as_posix(): _file(path, root) for path in files}


def differences(one, other, path=""):
    """Where two contents differ."""
    if isinstance(one, dict) and isinstance(other, dict):
        return [
            found
            for key in {**one, **other}
            for found in differences(one.get(key, "missing"), other.get(key, "missing"), f"{path}/{key}")
        ]
    return [] if one == other else [path]


def _plain(value):
    """Tensors and arrays as bytes with their shape, so that == compares to the last bit, NaN included."""
    if isinstance(value, torch.Tensor | np.ndarray):
        array = np.asarray(value)
        return str(array.dtype), array.shape, array.tobytes()
    if isinstance(value, dict):
        return {key: _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    return value


def _file(path, root):
    if path.suffix == ".ckpt":
        return _plain(torch.load(path, weights_only=True))
    if path.suffix == ".npz":
        return _plain(dict(np.load(path)))
    if path.suffix == ".csv":
        with path.open(newline="") as file:
            return [_without_times(row) for row in csv.DictReader(file)]
    if path.name == "status.json":
        status = json.loads(path.read_text())
        status["final"] = _without_times(status["final"])
        return {key: value for key, value in status.items() if key not in OF_THIS_PROCESS}
    content = path.read_bytes()
    return content if root is None else content.replace(str(root).encode(), b"<root>")


def _without_times(row):
    return {tag: value for tag, value in row.items() if not tag.startswith("time/") and tag != "seconds"}


def _events(folder):
    return {
        tag: [(step, repr(value)) for step, value in points]
        for tag, points in scalars(folder).items()
        if not tag.startswith("time/")
    }


def scalars(folder):
    """What the event files hold: steps and values by tag."""
    events = EventAccumulator(str(folder), size_guidance={"tensors": 0}).Reload()
    tags = events.summary_metadata.items()
    return {
        tag: [(event.step, float(make_ndarray(event.tensor_proto))) for event in events.Tensors(tag)]
        for tag, metadata in tags
        if metadata.plugin_data.plugin_name == "scalars"
    }
