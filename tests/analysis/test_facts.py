"""What stands at the head of a report."""

import json

import pytest

from ireg.analysis import load, runs
from ireg.analysis.facts import facts
from ireg.analysis.summary import summarize


def facts_of(sweep):
    statuses = [json.loads(path.read_text()) for path in sorted(sweep.glob("*/status.json"))]
    return facts(summarize(runs(sweep), load(sweep)), statuses)


def test_one_run(make_run):
    assert facts_of(make_run("a", {"test/error": [0.9, 0.5]})) == [
        "1 run: 1 done",
        "data: toy, label noise: 30 % of the training labels redrawn as another class (seed 0)",
        "epochs: 2",
        "batch size: 64",
        "lr: 0.1",
        "seed: 0",
    ]


def test_several_runs(make_run):
    make_run("a", {"test/error": [0.9, 0.5]}, {"lr": 0.01, "seed": 1, "epochs": 3})
    make_run("b", {"test/error": [0.9, 0.5]}, {"lr": 0.01, "batch_size": 16}, state="failed")
    found = facts_of(make_run("c", {"test/error": [0.9, 0.5]}, {"lr": 1.0}))
    assert found[0] == "3 runs: 2 done, 1 failed"
    assert found[2:] == ["epochs: 2 to 3", "batch size: 16, 64", "lr: 0.01, 1", "seed: 0, 1"]


@pytest.mark.parametrize(
    ("kind", "rate", "text"),
    [
        ("none", 0.3, "no label noise"),
        ("symmetric", 0, "no label noise"),
        ("uniform", 0.25, "label noise: 25 % of the training labels redrawn as any class (seed 0)"),
        ("pairflip", 1, "label noise: 100 % of the training labels redrawn as the next class (seed 0)"),
    ],
)
def test_label_noise(make_run, kind, rate, text):
    config = {"data.noise.kind": kind, "data.noise.rate": rate}
    assert facts_of(make_run("a", {"test/error": [0.9, 0.5]}, config))[1] == f"data: toy, {text}"


def test_no_run_has_begun(make_run):
    summary = summarize(runs(sweep := make_run("a", {"test/error": [0.9, 0.5]})), load(sweep))
    assert facts(summary, [])[:2] == ["1 run: 1 done", "epochs: 2"]
