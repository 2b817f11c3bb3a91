"""A damaged file of one run is named in one line, and harms no other run: every reader, every kind of damage."""

import io
import json
import logging
import math
import shutil
import warnings
from functools import partial

import pytest
from rich.console import Console

import ireg
from ireg import analysis
from ireg.analysis.dashboard import link
from ireg.analysis.load import find
from ireg.runs.damage import DamagedRecordError, damage
from ireg.runs.readable import read_records
from ireg.runs.status import note_killed, read_status
from ireg.sweeps import __main__ as sweep_command
from ireg.sweeps.callback import _is_finished
from ireg.sweeps.plan import add_to_plan, read_plan
from ireg.sweeps.progress import ProgressDisplay
from ireg.sweeps.report import report, report_again
from ireg.sweeps.table import look
from ireg.system.errors import UserError

TAGS = {"train/error": [0.9, 0.25], "test/error": [0.9, 0.5], "time/epoch": [1, 2]}


@pytest.fixture
def sweep(make_run):
    """A sweep of three finished runs, the second of which is to be damaged."""
    for seed, name in enumerate("abc"):
        folder = make_run(name, TAGS, {"seed": seed}, final={"train/error": 0.25, "test/error": 0.5})
        (folder / name / ".hydra").mkdir()
        (folder / name / ".hydra" / "overrides.yaml").write_text(f"- seed={seed}\n")
        (folder / name / ".hydra" / "config.yaml").write_text("lr: 0.1\n")
        (folder / name / "labels.npz").write_bytes(b"PK")
        (folder / name / "events.out.tfevents.1.host.1.0").write_bytes(b"\x00" * 12)
    add_to_plan(folder, {name: [f"seed={seed}"] for seed, name in enumerate("abc")})
    return folder


def edited(**values):
    return lambda content: json.dumps(json.loads(content) | values).encode()


def configured(**values):
    return lambda content: edited(config=json.loads(content)["config"] | values)(content)


STATUS = {
    "empty": lambda content: b"",
    "cut": lambda content: content[: len(content) // 2],
    "not UTF-8": lambda content: b"\xff" + content[1:],
    "zeros": lambda content: bytes(len(content)),
    "a list": lambda content: b"[]",
    "null": lambda content: b"null",
    "nothing in it": lambda content: b"{}",
    "too deep": lambda content: b"[" * 100_000,
    "no such state": edited(state="walking"),
    "state null": edited(state=None),
    "state a list": edited(state=[]),
    "config null": edited(config=None),
    "config a text": edited(config="lr"),
    "epochs a text": edited(epochs="many"),
    "epochs below 0": edited(epochs_done=-1),
    "seconds nan": edited(epoch_seconds=math.nan),
    "final a list": edited(final=[1]),
    "final words": edited(final={"test/error": "small"}),
    "starts a text": edited(starts="at noon"),
    "a start a text": edited(starts=["at noon"]),
    "versions a list": edited(starts=[{"versions": []}]),
    "no time": edited(ended="at noon"),
    "data a text": configured(data="mnist"),
    "noise a text": configured(data={"name": "toy", "noise": "some"}),
    "a rate of noise": configured(data={"name": "toy", "noise": {"rate": "some"}}),
    "no number": configured(lr="fast"),
    "optimizer a list": configured(optimizer=["sgd"]),
    "optimizer without a word": configured(optimizer={"name": 1}),
}
METRICS = {
    "empty": lambda content: b"",
    "cut": lambda content: content[: len(content) // 2],
    "not UTF-8": lambda content: content.replace(b"0.25", b"0.\xff5"),
    "zeros": lambda content: bytes(len(content)),
    "no number": lambda content: content.replace(b"0.25", b"0.x5"),
    "no epoch": lambda content: content.replace(b"epoch", b"epxch", 1),
    "a tag that is none": lambda content: content.replace(b"train/error", b"train.error"),
    "a tag of a setting's name": lambda content: content.replace(b"train/error", b"seed"),
    "a tag twice": lambda content: content.replace(b"train/error", b"test/error"),
    "a quote": lambda content: content.replace(b"0.25", b'"0.2'),
}
OVERRIDES = {
    "not UTF-8": lambda content: b"- \xff\n",
    "zeros": lambda content: bytes(20),
    "no YAML": lambda content: b"- [seed=1\n",
    "a mapping": lambda content: b"seed: 1\n",
    "a text": lambda content: b"seed=1\n",
    "a tab": lambda content: b"-\tseed: [\n",
}
OTHERS = {"empty": lambda content: b"", "zeros": lambda content: bytes(30), "cut": lambda content: content[:1]}
PLAN = {**OTHERS, "not UTF-8": lambda content: b"\xff"}

DAMAGES = {
    **{("b/status.json", kind): change for kind, change in STATUS.items()},
    **{("b/metrics.csv", kind): change for kind, change in METRICS.items()},
    **{("b/.hydra/overrides.yaml", kind): change for kind, change in OVERRIDES.items()},
    **{(f"b/{name}", kind): change for name in ("labels.npz", "events.out.tfevents.1.host.1.0", ".hydra/config.yaml")
       for kind, change in OTHERS.items()},
    **{("sweep.json", kind): change for kind, change in PLAN.items()},
}  # fmt: skip


def tables(folder):
    """`load` and `runs`: their warnings are what they say."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        rows = ireg.load(folder)
        of_runs = analysis.runs(folder)
    assert sorted(set(rows["run"])) == of_runs["run"].tolist()
    lines = [str(one.message) for one in caught]
    assert len(set(lines)) * 2 == len(lines)
    return of_runs["run"].tolist(), "\n".join(dict.fromkeys(lines))


def shown(folder):
    output = io.StringIO()
    sweep_command.show(folder, once=True, console=Console(file=output))
    done = [run.folder.name for run in look(folder) if run.state == "done"]
    return sorted(done), output.getvalue()


def watched(folder):
    display = ProgressDisplay([folder / name for name in "abc"])
    assert "runs ended" in display.line()
    return sorted(path.name for path in display._read()), ""


def noted(folder):
    for name in "abc":
        note_killed(folder / name)
    return [name for name in "abc" if _is_finished(folder / name)], ""


def printing(function):
    def read(folder):
        function(folder)
        return find(folder) and [run.name for run in find(folder).runs], ""

    return read


READERS = {"load": tables, "sweep status": shown, "progress": watched, "note_killed": noted,
           "link": printing(partial(link, port=6006)), "show": printing(analysis.show)}  # fmt: skip
NAMES = {"load": ("status.json", "metrics.csv"), "sweep status": ("status.json", "sweep.json"),
         "show": ("status.json", "metrics.csv")}  # fmt: skip
"""Which damage a reader is to name; it does not look at the other files, or says of others what it knows."""
COUNTED = {"sweep status": ("status.json",), "progress": ("status.json",), "note_killed": ("status.json",)}
"""For which files of the second run it is not among the others; else for both that tables are made of."""


FILES = ("status.json", "metrics.csv", "overrides.yaml", "others", "sweep.json")
LIKE_LOAD = ("link", "show")
"""Readers that take what `load` takes, slower: they see the two files that tables are made of."""


@pytest.mark.parametrize(
    ("reader", "file"),
    [(reader, file) for reader in READERS for file in (FILES[:2] if reader in LIKE_LOAD else FILES)],
)
def test_one_damaged_file_harms_no_other_run(sweep, capsys, caplog, reader, file):
    for (path, _), change in DAMAGES.items():
        name = path.rpartition("/")[2]
        if name != file and (
            file != "others" or name in ("status.json", "metrics.csv", "overrides.yaml", "sweep.json")
        ):
            continue
        content = (sweep / path).read_bytes()
        (sweep / path).write_bytes(change(content))
        capsys.readouterr()
        runs, said = READERS[reader](sweep)
        printed = capsys.readouterr()
        lines = [line for line in (said + "\n" + printed.err).splitlines() if name in line]
        left_out = name in COUNTED.get(reader, ("status.json", "metrics.csv"))
        assert runs == (["a", "c"] if left_out else ["a", "b", "c"])
        if name in NAMES.get(reader, ()):
            assert lines, (path, said, printed)
            assert len({line.partition(name)[2] for line in lines}) == 1
        (sweep / path).write_bytes(content)


@pytest.mark.parametrize("reader", [reader for reader in READERS if reader not in LIKE_LOAD])
def test_a_status_may_lack_anything_but_state_and_configuration(sweep, reader):
    path = sweep / "b" / "status.json"
    content = path.read_bytes()
    whole = json.loads(content) | {"epoch_seconds": 1.0, "starts": [{}], "ended": "2025-01-01T00:00:01"}
    fewer = [{key: value for key, value in whole.items() if key != left_out} for left_out in whole
             if left_out not in ("state", "config")]  # fmt: skip
    fewer.append(whole | {"config": {}})
    fewer.append(whole | {"final": {"train/error": None, "test/error": None}})
    fewer += [whole | {"config": {key: value for key, value in whole["config"].items() if key != left_out}}
              for left_out in whole["config"]]  # fmt: skip
    for status in fewer:
        path.write_text(json.dumps(status))
        assert READERS[reader](sweep)[0] == ["a", "b", "c"]


@pytest.mark.parametrize(
    "damaged",
    [("b/status.json", "empty"), ("b/status.json", "no such state"), ("b/metrics.csv", "cut"),
     ("b/.hydra/overrides.yaml", "no YAML"), ("sweep.json", "empty"), ("b/labels.npz", "empty"),
     ("b/events.out.tfevents.1.host.1.0", "cut"), ("b/status.json", "no configuration")],
)  # fmt: skip
def test_the_report_is_there_for_the_others(sweep, capsys, caplog, monkeypatch, damaged):
    """With figures left out, which take long and see the tables alone."""
    monkeypatch.setattr("ireg.analysis.figures.FIGURES", {})
    path, name = sweep / damaged[0], damaged[0].rpartition("/")[2]
    path.write_bytes((DAMAGES | {("b/status.json", "no configuration"): edited(config={})})[damaged](path.read_bytes()))
    with caplog.at_level(logging.WARNING):
        report(sweep)
    printed = capsys.readouterr()
    said = [line for line in printed.err.splitlines() if line.startswith("left out: ")]
    said += [record.getMessage() for record in caplog.records if record.name.startswith("ireg.")]
    summary = (sweep / "summary.csv").read_text()
    lost = name in ("status.json", "metrics.csv") and damaged[1] != "no configuration"
    expected = ["a", "c"] if lost else ["a", "b", "c"]
    assert [line.split(",")[0] for line in summary.splitlines()[1:]] == expected
    assert f"{len(expected)} runs ({len(expected)} done)" in printed.out
    assert (sweep / "report.html").exists()
    says = lost or name == "overrides.yaml"
    assert sum(str(path) in line for line in said) == says
    report_again(sweep)
    assert f"{len(expected)} runs ({len(expected)} done)" in capsys.readouterr().out


def test_a_table_for_a_text_names_it_too(sweep, capsys):
    (sweep / "b" / "status.json").write_text("")
    assert "| sgd |" in analysis.table(sweep, "markdown")
    assert capsys.readouterr().err.startswith(f"left out: {sweep / 'b' / 'status.json'}: not readable as JSON")
    analysis.write(sweep)
    assert f"left out: {sweep / 'b' / 'status.json'}" in capsys.readouterr().err


def test_where_no_run_can_be_read_that_is_said(sweep):
    for name in "abc":
        (sweep / name / "status.json").write_text("")
    with pytest.raises(UserError, match=r"a/status.json: not readable .* \(and 2 more\)$"):
        ireg.load(sweep)


def test_a_file_that_may_not_be_read_is_damage_of_its_run(sweep, monkeypatch):
    path = sweep / "b" / "metrics.csv"
    path.unlink()
    path.mkdir()
    with pytest.warns(UserWarning, match="b/metrics.csv: Is a directory"):
        assert set(ireg.load(sweep)["run"]) == {"a", "c"}
    shutil.rmtree(path)
    (sweep / "b" / "status.json").unlink()
    (sweep / "b" / "status.json").mkdir()
    (run,) = [run for run in look(sweep) if run.state == "damaged"]
    assert run.message.endswith("b/status.json: Is a directory; choose another place, or repair this one")


@pytest.mark.parametrize("kind", STATUS)
def test_what_is_wrong_with_a_status_is_said(sweep, kind):
    path = sweep / "b" / "status.json"
    path.write_bytes(STATUS[kind](path.read_bytes()))
    records = read_records([sweep / name for name in "abc"])
    assert [folder.name for folder in records.statuses] == ["a", "c"]
    (line,) = records.damaged.values()
    assert line.startswith(str(path))
    assert "delete" in line
    assert "\n" not in line
    if kind not in ("a list", "null", "nothing in it"):  # which may be another program's
        with pytest.raises(DamagedRecordError):
            read_status(sweep / "b")


def test_a_whole_status_has_no_damage():
    config = {"lr": 1, "batch_size": 8, "data": {"name": "x", "noise": {"rate": 0.3}}, "optimizer": {"name": "sgd"}}
    whole = {"state": "done", "config": config, "final": {"a/b": "nan", "c/d": None}, "epoch_seconds": None}
    assert damage(whole) == ""
    assert damage(whole | {"epoch_seconds": True, "ended": "2025-01-01T00:00:00+00:00", "starts": [{}]}) == ""
    assert damage(whole | {"error": ["x" * 99]}) == "error is ['" + "x" * 38 + "…"


def test_a_damaged_plan_is_kept_and_begun_again(sweep, capsys):
    (sweep / "sweep.json").write_text('{"runs"')
    add_to_plan(sweep, {"d": ["seed=3"]})
    assert read_plan(sweep) == {"d": ["seed=3"]}
    assert (sweep / "sweep.json.unusable-1").read_text() == '{"runs"'
    assert "sweep.json: not readable as JSON" in (text := capsys.readouterr().err)
    assert text.endswith("it is kept as sweep.json.unusable-1, and begun again\n")


def test_a_sweep_is_done_beside_a_damaged_run(tmp_path, train):
    arguments = ("data.train_size=60", "data.test_size=20", "model.hidden=[4]", "epochs=1", "batch_size=32",
                 "hydra.sweep.dir=x", "hydra.sweep.subdir=${seed}", "terms=[]")  # fmt: skip
    assert train("-m", "seed=0,1", *arguments, cwd=tmp_path).returncode == 0
    (tmp_path / "x" / "0" / "status.json").write_text("")
    rows = (tmp_path / "x" / "1" / "metrics.csv").read_bytes()
    (tmp_path / "x" / "1" / "status.json").unlink()
    (tmp_path / "x" / "report.html").unlink()
    result = train("-m", "seed=0,1,2", *arguments, cwd=tmp_path)
    assert result.returncode == 1
    assert read_status(tmp_path / "x" / "2")["state"] == "done"
    assert "2 runs (2 done)" in result.stdout
    assert (tmp_path / "x" / "1" / "metrics.csv").read_bytes() == rows  # taken up from its checkpoint
    assert "0/status.json: not readable as JSON" in result.stderr
    assert (tmp_path / "x" / "report.html").exists()
    (tmp_path / "x" / "sweep.json").write_text("")
    single = train("seed=0", *arguments[:5], "hydra.run.dir=x/0", "terms=[]", cwd=tmp_path)
    assert (single.returncode, single.stderr.count("\n")) == (2, 1)
    assert "0/status.json: not readable as JSON" in single.stderr
    assert "delete this file alone, and the command that began the run resumes it" in single.stderr
    (tmp_path / "x" / "0" / "status.json").unlink()
    rows = (tmp_path / "x" / "0" / "metrics.csv").read_bytes()
    assert train("seed=0", *arguments[:5], "hydra.run.dir=x/0", "terms=[]", cwd=tmp_path).returncode == 0
    assert (tmp_path / "x" / "0" / "metrics.csv").read_bytes() == rows
