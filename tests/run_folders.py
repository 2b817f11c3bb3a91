"""Made-up run folders: small numbers, so that every expected value can be worked out by hand."""

import copy
import json

import pytest

CONFIG = {
    "name": "made-up", "lr": 0.1, "batch_size": 64, "epochs": 2, "seed": 0, "threads": 1,
    "optimizer": {"name": "sgd"},
    "data": {"name": "toy", "noise": {"kind": "symmetric", "rate": 0.3, "seed": 0}, "train_size": None},
    "model": {"hidden": [8, 8]},
    "terms": {"every": 1},
    "regularizer": {"name": "none"},
    "trainer": {"accelerator": "cpu"},
}  # fmt: skip


@pytest.fixture
def make_run(tmp_path):
    """`writes_runs` below the test's own folder."""
    return writes_runs(tmp_path)


def writes_runs(below):
    """A function that writes a run below a folder and returns the sweep's folder.

    `tags` maps a tag to its cells by epoch, as they stand in the file ("" = not measured, "nan"); None: no metrics.csv.
    Configuration values are given with dotted keys: {"optimizer.name": "adam"}.
    """

    def write(name, tags, config=None, *, state="done", final=None, error=None):
        folder = below / "sweep" / name
        folder.mkdir(parents=True)
        settings = copy.deepcopy(CONFIG)
        for key, value in (config or {}).items():
            *above, last = key.split(".")
            node = settings
            for part in above:
                node = node[part]
            node[last] = value
        num_rows = 0
        if tags is not None:
            rows = list(zip(*tags.values(), strict=True))
            num_rows = len(rows)
            lines = [",".join(["epoch", *tags])]
            lines += [",".join(map(str, [epoch, *row])) for epoch, row in enumerate(rows)]
            (folder / "metrics.csv").write_text("\n".join(lines) + "\n")
        status = {
            "state": state, "epochs_done": max(num_rows - 1, 0), "epochs": settings["epochs"], "config": settings,
            "final": final, "error": error, "started": "2025-01-01T00:00:00", "ended": None, "versions": {},
        }  # fmt: skip
        (folder / "status.json").write_text(json.dumps(status))
        return below / "sweep"

    return write
