"""Runs of versions that had other names for two terms: they are read, resume, and keep their hashes."""

import json

import pytest

import ireg
from ireg.analysis.load import runs
from ireg.catalogue import FORMER
from ireg.lit.module import Classifier
from ireg.runs.metrics import read_rows
from ireg.runs.status import config_hash, read_status
from tests.content import run_content

EDGE, SHARPNESS = "curvature/edge_fraction", "curvature/preconditioned_sharpness"
CONFIG = {
    "terms": {
        "every": 1,
        "curvature": {
            "lambda_max_own": {"_target_": "ireg.terms.curvature.lambda_max_own", "_partial_": True},
            "edge": {"_target_": "ireg.terms.curvature.edge", "_partial_": True},
            "every": 25,
        },
    }
}
HASH = "662e43518523dbe1"
"""Of that configuration, by the versions that wrote it."""


def aged(folder):
    """Give a run's folder the names of earlier versions; the hash stays."""
    for name in ("status.json", "metrics.csv"):
        text = (folder / name).read_text()
        for before, now in FORMER.items():
            group, _, key = before.partition("/")
            text = text.replace(now, before).replace(f"ireg.terms.{now.replace('/', '.')}", f"ireg.terms.{group}.{key}")
            text = text.replace(f'"{now.partition("/")[2]}"', f'"{key}"')
        (folder / name).write_text(text)


def test_the_hash_is_that_of_the_former_names():
    entries = CONFIG["terms"]["curvature"]
    now = {"_partial_": True, "_target_": "ireg.terms.curvature.edge_fraction"}
    renamed = {"every": 25, "edge_fraction": now, "preconditioned_sharpness": {
        "_target_": "ireg.terms.curvature.preconditioned_sharpness", "_partial_": True,
    }}  # fmt: skip
    assert config_hash(CONFIG) == config_hash({"terms": {"every": 1, "curvature": renamed}}) == HASH
    assert list(entries) == ["lambda_max_own", "edge", "every"]  # what is hashed is not changed
    assert config_hash({"terms": {"every": 1, "curvature": renamed | {"edge_fraction": None}}}) != HASH


def test_rows_and_finals_are_read_under_the_present_names(make_run):
    tags = {"train/loss": [2.0, 1.0], "curvature/edge": ["", 0.5], "curvature/lambda_max_own": [3.0, "nan"]}
    final = {"train/loss": 1.0, "curvature/edge": 0.5}
    sweep = make_run("old", tags, {"terms.curvature": CONFIG["terms"]["curvature"]}, final=final)
    present = {"edge_fraction": "curvature/edge_fraction", "preconditioned_sharpness": SHARPNESS}
    make_run("new", {present.get(tag.partition("/")[2], FORMER.get(tag, tag)): cells for tag, cells in tags.items()}, {
        "seed": 1, "terms.curvature": {
            name: {"_target_": f"ireg.terms.curvature.{name}", "_partial_": True} for name in present
        } | {"every": 25},
    })  # fmt: skip
    rows = ireg.load(sweep)
    assert not {*FORMER} & {*rows.columns}
    assert not [column for column in rows.columns if column.startswith("terms.")]  # the two measure the same
    assert rows[EDGE].tolist() == pytest.approx([float("nan"), 0.5] * 2, nan_ok=True)
    assert rows["nonfinite"].tolist() == ["", SHARPNESS] * 2
    assert runs(sweep).set_index("run")[EDGE].tolist() == [0.5, 0.5]
    assert read_rows(sweep / "old" / "metrics.csv")[1][EDGE] == 0.5
    status = read_status(sweep / "old")
    assert status["final"] == {"train/loss": 1.0, EDGE: 0.5}
    assert list(status["config"]["terms"]["curvature"]) == ["preconditioned_sharpness", "edge_fraction", "every"]


def test_a_run_of_an_earlier_version_resumes_under_the_present_names(tmp_path, small_run):
    """The same command, with the names of then, gives the rows of a run that was not interrupted."""
    chosen = ["optimizer=adam", "terms=[sgd,lambda_max_own,edge]", "objective=curvature/edge", "epochs=3"]
    small_run(tmp_path / "whole", *chosen)
    original, count = Classifier.on_train_epoch_end, []

    def interrupted(self):
        original(self)
        count.append(1)
        if len(count) == 2:
            raise KeyboardInterrupt

    parts = tmp_path / "parts"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Classifier, "on_train_epoch_end", interrupted)
        with pytest.raises(KeyboardInterrupt):
            small_run(parts, *chosen)
    aged(parts)
    before = json.loads((parts / "status.json").read_text())
    assert {"edge", "lambda_max_own"} == set(before["config"]["terms"]["curvature"])
    assert "curvature/edge," in (parts / "metrics.csv").read_text().splitlines()[0] + ","
    value = small_run(parts, *chosen)
    after = json.loads((parts / "status.json").read_text())
    assert after["config_hash"] == before["config_hash"]
    assert len(after["starts"]) == 2
    assert value == after["final"][EDGE]
    whole, resumed = (run_content(folder) for folder in (tmp_path / "whole", parts))
    assert whole["metrics.csv"] == resumed["metrics.csv"]
    assert whole["checkpoints/last.ckpt"] == resumed["checkpoints/last.ckpt"]
    assert whole["events"] == resumed["events"]
    aged(parts)  # finished: the same command gives the value, and does nothing
    assert small_run(parts, *chosen) == value
    assert len(json.loads((parts / "status.json").read_text())["starts"]) == 2
