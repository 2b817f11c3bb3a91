"""The head of a report: what the records of runs say, and what older ones leave out."""

import json

import pytest

from ireg.analysis import load, runs, write
from ireg.analysis.head import head, questions
from ireg.analysis.summary import summarize
from ireg.runs.find import run_folders
from ireg.runs.readable import read_records

COMMAND = "python train.py -m optimizer=sgd,adam"
START = {
    "at": "2025-01-01T10:00:00+00:00", "command": COMMAND, "machine": {"processor": "Fast 1000", "cores": 8},
    "versions": {"python": "3.11.7", "torch": "2.5"}, "git": {"commit": "0123456789abcdef", "dirty": False},
}  # fmt: skip
RECORD = {
    "started": "2025-01-01T10:00:00+00:00", "ended": "2025-01-01T10:30:00+00:00", "epoch_seconds": 2.0,
    "question": "Does a large rate help?", "parameters": 1234567, "device": "cuda:0", "accelerator": "Big GPU",
    "threads": 1, "starts": [START],
}  # fmt: skip


@pytest.fixture
def recorded(make_run):
    """Write a run whose record says more, and return the sweep's folder."""

    def make(name, more=(), config=None):
        sweep = make_run(name, {"test/error": [0.9, 0.5]}, config)
        path = sweep / name / "status.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | dict(more)))
        return sweep

    return make


def head_of(sweep):
    return dict(head(summarize(runs(sweep), load(sweep)), read_records(run_folders(sweep)).statuses))


def test_a_run_says_what_it_was(recorded):
    found = head_of(recorded("a", RECORD, {"model": {"_target_": "ireg.models.MLP", "hidden": [64, 32]}}))
    assert list(found.items()) == [
        ("1 run", "1 done"),
        ("network", "MLP, hidden 64–32, 1,234,567 weights"),
        ("data", "toy, label noise: 30 % of the training labels redrawn as another class (seed 0)"),
        ("epochs", "2"),
        ("batch size", "64"),
        ("lr", "0.1"),
        ("seed", "0"),
        ("command", COMMAND),
        ("date", "2025-01-01 10:00 to 10:30 UTC"),
        ("duration", "30 min from the first start to the last end, 2 s for the epochs of all runs"),
        ("machine", "Fast 1000, 8 cores, trained on Big GPU, 1 thread a run"),
        ("software", "python 3.11.7; torch 2.5; commit 0123456789"),
    ]


def test_older_runs_leave_out_what_they_did_not_record(recorded):
    """And what was set for them stands in place of the command."""
    for name, rate in (("a", "0.1"), ("b", "0.2")):
        sweep = recorded(name, {"started": None}, {"lr": float(rate)})
        (sweep / name / ".hydra").mkdir()
        (sweep / name / ".hydra" / "overrides.yaml").write_text(f"- optimizer=sgd\n- lr={rate}\n")
    found = head_of(sweep)
    assert found["set"] == "optimizer=sgd lr=0.1,0.2"
    assert found["network"] == "hidden 2 × 8"
    assert not {"command", "date", "duration", "machine", "software"} & set(found)
    assert questions(read_records(run_folders(sweep)).statuses.values()) == []
    write(sweep)
    assert "class=question" not in (sweep / "report.html").read_text()


def test_settings_that_cannot_be_read_are_left_out(recorded, caplog):
    """Without a second word about them, as the tables of TensorBoard have one."""
    sweep = recorded("a")
    (sweep / "a" / ".hydra").mkdir()
    (sweep / "a" / ".hydra" / "overrides.yaml").write_text("{")
    assert "set" not in head_of(sweep)
    assert caplog.records == []


def test_several_runs_say_each_thing_once(recorded):
    later = START | {"at": "2025-01-02T09:00:00+00:00", "git": {"commit": "f" * 40, "dirty": True}}
    recorded(
        "a", RECORD | {"starts": [later | {"command": "ireg train -m lr=1"}], "ended": "2025-01-02T11:00:00+00:00"}
    )
    recorded("b", RECORD, {"data.name": "other", "data.noise.kind": "none"})
    sweep = recorded("c", RECORD | {"device": "cpu", "accelerator": None, "threads": 2}, {"seed": 1})
    found = head_of(sweep)
    assert found["commands"] == f"{COMMAND}\nireg train -m lr=1"  # by their times
    assert found["data"].split("; ")[1] == "other, no label noise"
    assert found["date"] == "2025-01-01 10:00 to 2025-01-02 11:00 UTC"
    assert found["duration"].startswith("25.0 h from the first start to the last end, 6 s for")
    assert found["machine"].split("; ")[1] == "Fast 1000, 8 cores, trained on the CPU, 2 threads a run"
    assert found["software"].endswith("; commit 0123456789; commit ffffffffff and changes")
    assert questions(read_records(run_folders(sweep)).statuses.values()) == ["Does a large rate help?"]


def test_a_run_at_work_has_begun(recorded):
    found = head_of(recorded("a", {"started": "2025-01-01T10:00:00", "ended": None, "epoch_seconds": 300.0}))
    assert found["date"] == "2025-01-01 10:00 UTC"
    assert found["duration"] == "5 min for the epochs of all runs"


def test_question_and_command_are_text_in_the_report(recorded):
    sweep = recorded("a", RECORD | {"question": "Is a <b>?", "starts": [START | {"command": "ireg train 'a<b>'"}]})
    write(sweep)
    text = (sweep / "report.html").read_text()
    assert "<p class=question>Is a &lt;b&gt;?</p>" in text
    assert "<dt>command</dt><dd><code>ireg train &#x27;a&lt;b&gt;&#x27;</code></dd>" in text
