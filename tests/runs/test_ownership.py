"""What lies in a run's folder and is not the run's stays, or the folder is refused before anything is written."""

import re
from dataclasses import asdict
from pathlib import Path

import pytest

from ireg.config.read import read
from ireg.experiment import run as run_module
from ireg.lit.module import Classifier
from ireg.runs.ownership import event_files, files_of_others, finished
from ireg.runs.status import note_killed, read_status
from ireg.sweeps.plan import add_to_plan, read_plan
from ireg.system.errors import UserError
from tests.test_resume import ARGUMENTS, break_at, break_off

EVENTS = "events.out.tfevents.1700000000.elsewhere.1.0"
LEFTOVER = ".metrics.tmp-abcd1_34.csv"
OTHERS = {
    "metrics.csv": "step,loss\n1,2\n",
    "labels.npz": "x",
    EVENTS: "x",
    "checkpoints/best.ckpt": "x",
    "checkpoints/last.ckpt": "x",
    "status.json": '{"state": "running"}',
    "train.log": "epoch 1",
    ".hydra/config.yaml": "db: mysql\n",
    ".hydra/hydra.yaml": "x: 1\n",
    ".lock": "4711",
}


def tree(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def put(folder, names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(OTHERS[name])


@pytest.mark.parametrize("name", OTHERS)
def test_a_folder_with_files_of_others_is_refused_untouched(tmp_path, small_run, name):
    put(tmp_path, [name])
    before = tree(tmp_path)
    with pytest.raises(
        UserError, match=f"would replace or be mixed with \\({name}\\); move them, or choose another"
    ) as error:
        small_run(tmp_path)
    assert "\n" not in str(error.value)
    assert tree(tmp_path) == before


def test_hydra_writes_nothing_into_a_folder_of_others(tmp_path, train):
    put(tmp_path, [".hydra/config.yaml", "train.log"])
    before = tree(tmp_path)
    result = train("hydra.run.dir=.", "epochs=1", cwd=tmp_path)
    assert (result.returncode, result.stderr.count("\n")) == (2, 1)
    assert ".hydra/config.yaml, train.log); move them, or choose another folder" in result.stderr
    assert tree(tmp_path) == before


@pytest.mark.parametrize(
    "left",
    [{}, {"train.log": ""}, {".hydra/config.yaml": "", ".lock": ""}, {".hydra/config.yaml": None, "train.log": "x"}],
)
def test_what_a_run_leaves_before_it_has_a_status_is_its_own(tmp_path, composed, left):
    from omegaconf import OmegaConf

    for name, text in left.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(OmegaConf.to_yaml(composed()) if text is None else text)
    assert files_of_others(tmp_path) == []
    assert finished(tmp_path, asdict(read(composed()))) is None


@pytest.mark.parametrize(("call", "resumed"), [(24, True), (3, False)])
def test_files_of_others_beside_a_run_stay(tmp_path, small_run, monkeypatch, call, resumed):
    with monkeypatch.context() as patch:
        break_at(patch, Classifier, "training_step", call)
        break_off(tmp_path, small_run, *ARGUMENTS)
    put(tmp_path, [EVENTS, "checkpoints/best.ckpt"])
    (tmp_path / ".notes.tmp-abcd1_34.csv").write_text("mine")
    (tmp_path / LEFTOVER).write_text("half")
    own = [path for path in tmp_path.glob("events.*") if path.name != EVENTS]
    assert (len(own), (tmp_path / "checkpoints" / "last.ckpt").exists()) == (1, resumed)
    small_run(tmp_path, *ARGUMENTS)
    kept = tree(tmp_path)
    assert {name: kept[name].decode() for name in (EVENTS, "checkpoints/best.ckpt", ".notes.tmp-abcd1_34.csv")} == {
        EVENTS: "x",
        "checkpoints/best.ckpt": "x",
        ".notes.tmp-abcd1_34.csv": "mine",
    }
    assert LEFTOVER not in kept
    assert own[0].name not in kept
    assert len(list(tmp_path.glob("events.*"))) == 2


def test_a_status_of_another_program_is_left_alone(tmp_path):
    put(tmp_path, ["status.json"])  # it says "running", and no process holds the folder
    before = tree(tmp_path)
    note_killed(tmp_path)
    assert read_status(tmp_path) is None
    assert tree(tmp_path) == before


def test_event_files_are_known_by_host_and_process(tmp_path):
    for name in ("1.a.b-1.7.0", "2.a.b-1.77.0", "3.c.7.0", "4.a.b-1.7.0.v2", "5.a.b-1.8.12"):
        (tmp_path / f"events.out.tfevents.{name}").touch()
    found = event_files(tmp_path, [{"host": "a.b-1", "pid": 7}, {"host": "a.b-1", "pid": 8}])
    assert [path.name[20:] for path in found] == ["1.a.b-1.7.0", "5.a.b-1.8.12"]
    assert event_files(tmp_path, []) == []


def test_a_run_again_elsewhere_is_refused_untouched(tmp_path, small_run, capsys):
    small_run(tmp_path / "run", "epochs=1")
    put(tmp_path / "other", ["metrics.csv"])
    before = tree(tmp_path / "other")
    assert run_module.main([str(tmp_path / "run"), "--into", str(tmp_path / "other"), "--quiet"]) == 2
    assert re.search(r"other has no status .*\(metrics.csv\)", capsys.readouterr().err)
    assert tree(tmp_path / "other") == before


@pytest.mark.parametrize(
    ("name", "text", "match"),
    [
        ("summary.csv", "name,score\n", "ireg did not write summary.csv there"),
        ("summary_best.csv", "x", "ireg did not write summary_best.csv there"),
        ("multirun.yaml", "hydra: {}\n", "multirun.yaml is of another program's sweep"),
        ("sweep.json", '{"runs": [], "method": "grid"}', "sweep.json: not a list of runs"),
        ("sweep.json", '{"runs": []}', "sweep.json: not a list of runs"),
    ],
)
def test_a_sweep_begins_in_no_folder_of_others(tmp_path, name, text, match):
    (tmp_path / name).write_text(text)
    with pytest.raises(UserError, match=match):
        add_to_plan(tmp_path, {"a": []})
    assert tree(tmp_path) == {name: text.encode()}


def test_a_sweep_of_an_earlier_version_is_its_own(tmp_path):
    (tmp_path / "summary.csv").write_text("run,state,epochs_done\n")
    (tmp_path / "multirun.yaml").write_text("hydra:\n  _target_: ireg.sweeps.callback.RunsCallback\n")
    add_to_plan(tmp_path, {"a": ["lr=1"]})
    assert read_plan(Path(tmp_path)) == {"a": ["lr=1"]}


def test_a_run_that_has_lost_its_status_is_known_by_its_checkpoint(tmp_path, small_run, composed):
    small_run(tmp_path, *ARGUMENTS)
    (tmp_path / "status.json").unlink()
    names = files_of_others(tmp_path)
    assert names
    assert finished(tmp_path, asdict(read(composed(*ARGUMENTS)))) is None
    for path in (tmp_path / "checkpoints").iterdir():
        path.unlink()
    with pytest.raises(UserError, match="has no status of a run, and holds files that a run would replace"):
        finished(tmp_path, asdict(read(composed(*ARGUMENTS))))


def test_a_name_that_is_not_utf8_is_refused_before_anything_is_looked_at(tmp_path):
    folder = tmp_path / "caf\udce9"
    with pytest.raises(UserError, match="the name is not UTF-8, .* hydra.run.dir=…"):
        finished(folder, {})
