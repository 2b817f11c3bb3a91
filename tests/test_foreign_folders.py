"""Somebody else's folder is read, never obeyed: nothing of it runs, and nothing outside it is touched."""

import copy
import csv
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import threading
from dataclasses import asdict
from pathlib import Path

import pytest
import yaml

import ireg
from ireg.analysis.__main__ import main as analysis
from ireg.basins.__main__ import main as basins
from ireg.catalogue import NAMES
from ireg.catalogue import composed as composed_of
from ireg.config.errors import overrides_first
from ireg.config.read import read
from ireg.config.schema import CHOICES
from ireg.drift.__main__ import main as drift
from ireg.experiment.run import main as run
from ireg.runs.hyperparameters import hyperparameters
from ireg.runs.trust import PLACES, Trust, as_arguments, is_listed, leaves, require_trusted
from ireg.sweeps.__main__ import main as sweep_command
from ireg.sweeps.plan import add_to_plan, read_plan
from ireg.sweeps.report import report
from ireg.system.command import environment_of_children, module_as_command
from ireg.system.errors import UserError
from ireg.system.files import below, open_regular, replacing, write_table
from ireg.system.reading import NotReadError, read_bytes
from ireg.system.terminal import printable
from tests.run_folders import CONFIG

ROOT = Path(ireg.__file__).parents[1]
TAGS = {"train/error": [0.9, 0.25], "test/error": [0.9, 0.5], "time/epoch": [1, 2]}
SECRET = "a-secret-of-the-environment"


def seen(folder):
    """Everything below a folder: kind, rights, place of links, content, time of the last change."""
    found = {}
    for path in sorted(folder.rglob("*")):
        status = path.lstat()
        content = hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() and not path.is_symlink() else ""
        link = os.readlink(path) if path.is_symlink() else ""
        found[str(path.relative_to(folder))] = (status.st_mode, link, content, status.st_mtime_ns)
    return found


def surroundings():
    """The environment, the current folder, and where modules are found."""
    environment = {key: value for key, value in os.environ.items() if key != "PYTEST_CURRENT_TEST"}
    return environment | {"the current folder": os.getcwd(), "the path": tuple(sys.path)}


@pytest.fixture
def victim(tmp_path, monkeypatch):
    """A folder of the user's outside: it, the environment and the processes must be as before at the end."""
    folder = tmp_path / "victim"
    (folder / "empty").mkdir(parents=True)
    (folder / "full").mkdir()
    for name in ("mine.ireg", "full/other.ireg", "last.ckpt", "previous.ckpt", "training_error.png", "config.yaml"):
        (folder / name).write_text(f"the user's {name}")
    (folder / "bashrc").write_text("alias ll='ls -l'\n")
    monkeypatch.setenv("SECRET_TOKEN", SECRET)
    monkeypatch.chdir(tmp_path)
    import ireg.experiment.build  # noqa: F401 — lightning sets variables of its own

    before = seen(folder), surroundings()
    yield folder
    assert seen(folder) == before[0]
    assert [key for key, value in surroundings().items() if before[1].get(key) != value] == []
    assert not [path for path in tmp_path.rglob("*") if path.name.startswith("ran")]
    children = Path(f"/proc/self/task/{threading.get_native_id()}/children").read_text().split()
    lines = [Path(f"/proc/{child}/cmdline").read_text() for child in children]
    assert [line for line in lines if re.search(r"\bran\b", line)] == []  # a word: a folder may be called stranger


PLAIN = {}
"""A run's configuration, composed once."""


@pytest.fixture
def foreign(composed, tmp_path):
    """Make a run's folder with a stored configuration that was changed; return the folder."""
    if not PLAIN:
        PLAIN.update(asdict(read(composed("data=digits", "model.hidden=[4]", "epochs=1", "optimizer=adam"))))

    def make(change, state="failed"):
        config = copy.deepcopy(PLAIN)
        change(config)
        folder = tmp_path / "foreign"
        folder.mkdir()
        status = {"state": state, "config": config, "epochs_done": 1, "ended": "2025-01-01T00:00:00", "error": "x"}
        (folder / "status.json").write_text(json.dumps(status))
        (folder / "checkpoints").mkdir()
        (folder / "checkpoints" / "last.ckpt").write_bytes(b"")
        return folder

    return make


def put(key, value):
    """A change of a configuration: a value at a dotted key."""

    def change(config):
        *parents, last = key.split(".")
        for parent in parents:
            config = config[parent]
        config[last] = value

    return change


def shell(where="ran"):
    return {"_target_": "os.system", "command": f"touch {where}"}


PICKLE = {
    "_target_": "pandas.read_pickle",
    "filepath_or_buffer": {"_target_": "io.BytesIO", "_args_": [{"_target_": "base64.b64decode", "s": "Y29z"}]},
}
ATTACKS = {
    "a pickle": (put("data.source", PICKLE), "pandas.read_pickle"),
    "a copy": (put("data.source", {"_target_": "shutil.copyfile", "src": "a", "dst": "ran"}), "shutil.copyfile"),
    "a network that is none": (put("model._target_", "subprocess.getoutput"), "subprocess.getoutput"),
    "an optimizer's argument": (put("optimizer.betas", [shell(), 0.9]), "os.system"),
    "a part of a switch": (put("optimizer.from", {"_target_": "os.mkdir", "path": "ran"}), "os.mkdir"),
    "within a network": (put("model.hidden", [{"deep": [shell()]}]), "os.system"),
    "a regularizer": (put("regularizer._target_", "ireg.system.files.write_text"), "ireg.system.files.write_text"),
    "a term": (put("terms.mine", {"norm": {"_target_": "pathlib.Path.touch"}}), "pathlib.Path.touch"),
    "a term's module": (put("terms.mine", {"_target_": "ireg.terms.norm.torch.load"}), "ireg.terms.norm.torch.load"),
    "what is listed elsewhere": (put("model._target_", "torch.optim.SGD"), "torch.optim.SGD"),
    "what is listed, elsewhere": (put("model.inner", {"_target_": "ireg.models.MLP"}), "model.inner would run"),
    "a name with a space": (put("model._target_", "ireg.models.MLP "), "ireg.models.MLP "),
    "anywhere": (put("checkpoint.later", shell()), "os.system"),
    "a secret": (put("data.root", "${oc.env:SECRET_TOKEN}"), "refers to another value"),
    "a secret in a list": (put("model.hidden", ["${oc.decode:${oc.env:SECRET_TOKEN}}"]), "refers to another value"),
    "a secret in a key": (
        lambda config: config["model"].update({"${oc.env:SECRET_TOKEN}": 1}),
        "refers to another value",
    ),
    "an address": (
        put("logger.further", {"_target_": "lightning.pytorch.loggers.MLFlowLogger", "tracking_uri": "http://x"}),
        "MLFlowLogger",
    ),
    "an address without a class": (put("logger.further", {"url": "http://x"}), "an address of its own"),
    "a folder for data": (put("data.source.root", "ran"), "would make the folder ran"),
}


@pytest.mark.parametrize("name", ATTACKS)
def test_a_stored_configuration_runs_nothing(foreign, victim, capsys, name):
    change, reason = ATTACKS[name]
    folder = foreign(change)
    for command in (run, drift, basins):
        if command is drift:  # of finished runs only
            status = json.loads((folder / "status.json").read_text()) | {"state": "done"}
            (folder / "status.json").write_text(json.dumps(status))
            (folder / "checkpoints" / "last.ckpt").write_bytes(checkpoint())
        before = seen(folder)
        assert command([str(folder)]) == 2
        line = capsys.readouterr().err
        assert line.startswith(f"error: {folder / 'status.json'}: ")
        assert line.count("\n") == 1
        assert reason in line
        assert "nothing was run" in line
        assert "--trust" in line
        assert SECRET not in line
        assert seen(folder) == before


def checkpoint():
    """A checkpoint that can be read, of no run."""
    import io

    import torch

    content = io.BytesIO()
    torch.save({"state_dict": {}}, content)
    return content.getvalue()


def test_retry_runs_nothing_either(foreign, victim, tmp_path):
    folder = foreign(ATTACKS["a pickle"][0])
    (folder / "train.log").touch()
    command = [*module_as_command("ireg"), "sweep", "retry", str(folder.parent / "foreign")]
    ended = subprocess.run(command, cwd=victim, env=environment_of_children(), capture_output=True, text=True)
    assert ended.returncode == 1
    assert "data.source would run pandas.read_pickle" in ended.stderr
    assert json.loads((folder / "status.json").read_text())["state"] == "failed"


def test_what_the_user_names_is_allowed_and_no_more(foreign, tmp_path):
    folder = foreign(put("model._target_", "my_network.MyNetwork"))
    config = json.loads((folder / "status.json").read_text())["config"]
    with pytest.raises(UserError, match=r"model would run my_network\.MyNetwork; .*--allow my_network\.MyNetwork"):
        require_trusted(folder, config)
    require_trusted(folder, config, Trust(targets=frozenset(["my_network.MyNetwork"])))
    source = {"source": {"_target_": "my_data.read", "root": "nowhere"}}
    require_trusted(
        folder, config | {"data": source}, Trust(targets=frozenset(["my_network.MyNetwork", "my_data.read"]))
    )
    require_trusted(folder, config | {"logger": {"further": shell()}}, Trust(everything=True))
    with pytest.raises(UserError, match=r"os\.system"):
        require_trusted(folder, config | {"regularizer": shell()}, Trust(targets=frozenset(["my_network.MyNetwork"])))
    assert as_arguments(Trust(True, frozenset("ba"))) == ["--trust", "--allow", "a", "--allow", "b"]


def test_a_network_of_the_users_is_run_again_when_it_is_named(foreign, tmp_path, monkeypatch, capsys):
    (tmp_path / "my_network.py").write_text(
        "from torch import nn\n\n\nclass MyNetwork(nn.Sequential):\n"
        "    def __init__(self, input_shape, num_classes):\n"
        "        super().__init__(nn.Flatten(), nn.Linear(64, num_classes))\n"
    )
    folder = foreign(lambda config: config.update(model={"_target_": "my_network.MyNetwork"}))
    monkeypatch.syspath_prepend(tmp_path)
    assert run([str(folder), "--quiet"]) == 2
    assert run([str(folder), "--quiet", "--allow", "my_network.MyNetwork"]) == 0
    assert json.loads((folder / "status.json").read_text())["state"] == "done"
    again = tmp_path / "again"
    assert run([str(folder), "--quiet", "--into", str(again), "--trust"]) == 0
    assert json.loads((again / "status.json").read_text())["state"] == "done"


def test_everything_that_is_configured_is_listed(composed):
    """The list is the package's configuration, but for loggers: their addresses are the user's to give."""
    files = [path for path in (ROOT / "conf").rglob("*.yaml") if path.parts[-2] not in ("hydra", "logger")]
    named = [
        (f"{path.parent.name}.{key}", value)
        for path in files
        for key, value in leaves(yaml.safe_load(path.read_text()) or {})
        if key.endswith("_target_") and "hydra" not in str(path.relative_to(ROOT)) and not key.startswith("hydra")
    ]
    named += [
        (f"terms.{key}", value) for name in NAMES for key, value in leaves(composed_of(name)) if "_target_" in key
    ]
    assert len(named) > 60
    assert [pair for pair in named if not is_listed(*pair)] == []
    known = {target for targets in PLACES.values() for target in targets}
    others = {target for target in known if not target.startswith(("ireg.", "torch.optim."))}
    assert others == {
        "pytorch_optimizer.Lion",
        "pytorch_optimizer.SignSGD",
    }  # of an extra, and they do nothing but step
    assert set(CHOICES) <= {"data", "model", "optimizer", "trainer"}


def test_processes_are_started_without_looking_in_the_current_folder(tmp_path, victim):
    """Modules of the standard library, of packages and of our own lie there."""
    here = tmp_path / "here"
    (here / "tensorboard").mkdir(parents=True)
    (here / "ireg").mkdir()
    planted = "import pathlib; pathlib.Path(__file__).with_name('ran').touch()"
    names = ("argparse", "tensorboard/__init__", "tensorboard/main", "ireg/__init__", "ireg/__main__", "torch", "json")
    for name in (*names, "sitecustomize", "multiprocessing"):
        (here / f"{name}.py").write_text(planted)
    for module, arguments in (("tensorboard.main", ["--version"]), ("ireg", ["sweep", "status", "."])):
        command = [*module_as_command(module), *arguments]
        ended = subprocess.run(command, cwd=here, env=environment_of_children(), capture_output=True, text=True)
        assert ended.returncode in (0, 2), ended.stderr
    assert not list(here.rglob("ran"))
    control = [part for part in module_as_command("ireg") if part != "-P"]
    subprocess.run([*control, "--version"], cwd=here, env={"PATH": os.environ["PATH"]}, capture_output=True)
    assert list(here.rglob("ran"))
    for path in here.rglob("ran"):
        path.unlink()


LINKS = {
    "summary": "",
    "figures": "",
    "drift": "",
    "checkpoints": "",
    ".hydra": "",
    ".hydra/config.yaml": "config.yaml",
    "train.log": "bashrc",
    ".lock": "bashrc",
    "multirun.yaml": "config.yaml",
    ".submitit": "",
}


def link(place, target):
    place.parent.mkdir(exist_ok=True)
    shutil.rmtree(place, ignore_errors=True)
    place.unlink(missing_ok=True)
    place.symlink_to(target)


@pytest.mark.parametrize("place", ["summary", "figures", "summary/adam"])
def test_a_report_writes_nothing_through_links(make_run, victim, capsys, place):
    for seed in (0, 1):
        sweep = make_run(f"{seed}", TAGS, {"seed": seed})
        make_run(f"adam{seed}", TAGS, {"seed": seed, "optimizer.name": "adam"})
    assert analysis([str(sweep)]) == 0
    (sweep / "summary.csv").write_text("run,state,\n")
    capsys.readouterr()
    link(sweep / place, victim)
    before = seen(sweep)
    assert analysis([str(sweep)]) == 2
    assert f"{sweep / place} is a link to {victim}" in capsys.readouterr().err
    assert place == "summary/adam" or seen(sweep) == before  # said before anything is written


def test_a_report_removes_only_what_reports_wrote(make_run, capsys):
    sweep = make_run("0", TAGS)
    mine = sweep / "summary"
    for name in ("empty", "of others", "old setting"):
        (mine / name).mkdir(parents=True)
    kept = ("notes.ireg", "of others/events.out.tfevents.1.host.ireg", "events.out.tfevents.12.ireg.bak")
    for name in (*kept, "events.out.tfevents.12.ireg", "old setting/events.out.tfevents.3.ireg"):
        (mine / name).write_text("x")
    (mine / "events.out.tfevents.9.ireg").mkdir()
    assert analysis([str(sweep)]) == 0
    assert all((mine / name).read_text() == "x" for name in kept)
    assert (mine / "empty").is_dir()
    assert (mine / "events.out.tfevents.9.ireg").is_dir()
    assert not (mine / "events.out.tfevents.12.ireg").exists()
    assert not (mine / "old setting").exists()


@pytest.mark.parametrize("place", ["checkpoints", ".hydra", ".hydra/config.yaml", "train.log", ".lock"])
def test_a_run_writes_nothing_through_links(foreign, victim, capsys, place):
    folder = foreign(lambda config: None)
    link(folder / place, victim / LINKS[place])
    before = seen(folder)
    assert run([str(folder), "--quiet"]) == 2
    assert f"{folder / place} is a link to {victim / LINKS[place]}" in capsys.readouterr().err
    assert seen(folder) == before


@pytest.mark.parametrize("command", [drift, basins])
def test_instruments_write_nothing_through_links(make_run, victim, capsys, command):
    folder = make_run("0", TAGS) / "0"
    name = command.__module__.split(".")[1]
    link(folder / name, victim)
    assert command([str(folder)]) == 2
    assert f"{folder / name} is a link to {victim}" in capsys.readouterr().err


@pytest.mark.parametrize("place", ["multirun.yaml", ".submitit", ".lock"])
def test_a_sweep_writes_nothing_through_links(tmp_path, victim, place):
    sweep = tmp_path / "sweep"
    sweep.mkdir()
    link(sweep / place, victim / LINKS[place])
    with pytest.raises(UserError, match="is a link to"):
        add_to_plan(sweep, {"a": []})
    assert os.listdir(sweep) == [place]


@pytest.mark.parametrize(
    "name", ["../../other/run", "/absolute/run", "..", ".", "", "a/../../b", "a//b", "a\nb", "a\x1b[2Jb"]
)
def test_a_sweep_has_no_runs_elsewhere(make_run, tmp_path, capsys, name):
    sweep = make_run("0", TAGS)
    (sweep / "sweep.json").write_text(json.dumps({"runs": {name: ["seed=1"], "0": []}}))
    with pytest.raises(UserError, match="is no folder within the sweep's"):
        read_plan(sweep)
    assert sweep_command(["status", str(sweep)]) == 0
    shown = capsys.readouterr()
    assert "1 done" in shown.out
    assert "waiting" not in shown.out
    assert "\x1b" not in shown.out + shown.err
    assert read_plan_of(sweep, {"a/b": ["x=1"]}) == {"a/b": ["x=1"]}


def read_plan_of(sweep, runs):
    (sweep / "sweep.json").write_text(json.dumps({"runs": runs}))
    return read_plan(sweep)


def pipe(path):
    path.unlink(missing_ok=True)
    os.mkfifo(path)


def zeros(path):
    link(path, "/dev/zero")


def huge(path):
    with path.open("wb") as file:
        file.truncate(2**40)  # of which nothing is on the disk


def aliases(path):
    lines = ["a0: &a0 [x]", *(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 9))]
    path.write_text("\n".join(lines))


BAD = {
    "metrics, a pipe": ("metrics.csv", pipe),
    "metrics, zeros without end": ("metrics.csv", zeros),
    "metrics, huge": ("metrics.csv", huge),
    "metrics, a socket's kind": ("metrics.csv", lambda path: link(path, "/dev/null")),
    "status, a pipe": ("status.json", pipe),
    "status, zeros without end": ("status.json", zeros),
    "status, huge": ("status.json", huge),
    "status, deep": ("status.json", lambda path: path.write_text("[" * 200_000)),
    "status, deep within": ("status.json", lambda path: path.write_text(
        '{"state": "done", "config": ' + '{"a":' * 300 + "1" + "}" * 301)),
    "status, a number like none": ("status.json", lambda path: path.write_text(
        json.dumps({"state": "done", "config": CONFIG | {"lr": 10**400}}))),
    "status, starts somewhere": ("status.json", lambda path: path.write_text(
        json.dumps({"state": "done", "config": CONFIG, "starts": [{"directory": 5}]}))),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_one_bad_run_is_one_line_and_the_others_are_shown(make_run, victim, capsys, name):
    for seed, folder in enumerate("abc"):
        sweep = make_run(folder, TAGS, {"seed": seed}, final={"train/error": 0.25, "test/error": 0.5})
    file, damage = BAD[name]
    damage(sweep / "b" / file)
    assert sweep_command(["status", str(sweep)]) == 0
    assert "done" in capsys.readouterr().out
    assert analysis([str(sweep)]) == 0
    shown = capsys.readouterr()
    assert "2 runs (2 done)" in shown.out
    lines = [line for line in shown.err.splitlines() if line.startswith("left out: ")]
    assert len(lines) == 1
    assert str(sweep / "b" / file) in lines[0]
    assert len(lines[0]) < 400


def test_runs_behind_links_are_read_and_not_written(make_run, victim, tmp_path, capsys):
    sweep = make_run("0", TAGS)
    outside = make_run("1", TAGS, {"seed": 1}, state="failed", error="x") / "1"
    killed = make_run("2", TAGS, {"seed": 2}, state="running") / "2"
    for run_folder in (outside, killed):
        run_folder.rename(victim / run_folder.name)
        run_folder.symlink_to(victim / run_folder.name)
    before = seen(victim)
    assert sweep_command(["retry", str(sweep)]) == 1
    assert f"ireg run {victim / '1'}" in capsys.readouterr().out
    report(sweep)
    assert "1 failed" in capsys.readouterr().out
    assert seen(victim) == before
    for name in "12":
        shutil.rmtree(victim / name)
    os.utime(victim, ns=(0, 0))


@pytest.mark.parametrize("damage", [pipe, zeros])
def test_a_table_that_is_no_file_is_not_replaced(make_run, capsys, damage):
    sweep = make_run("0", TAGS)
    damage(sweep / "summary.csv")
    assert analysis([str(sweep)]) == 2
    assert "ireg did not write summary.csv there" in capsys.readouterr().err


@pytest.mark.parametrize("damage", [pipe, zeros, huge, aliases, lambda path: path.write_text("a: [")])
def test_what_was_set_is_read_as_lines(make_run, caplog, damage):
    folder = make_run("0", TAGS) / "0"
    (folder / ".hydra").mkdir()
    (folder / ".hydra" / "overrides.yaml").write_text("- lr='1e-3'\n- 'a=b: c'\n- model.hidden=[4,4]\n")
    status = json.loads((folder / "status.json").read_text())
    assert hyperparameters(folder, status)["model.hidden"] == "[4,4]"
    assert hyperparameters(folder, status)["a"] == "b: c"
    damage(folder / ".hydra" / "overrides.yaml")
    assert "model.hidden" not in hyperparameters(folder, status)
    assert "what was set is not shown for this run" in caplog.text


def test_a_pipe_in_place_of_a_lock_holds_nobody(make_run, capsys):
    sweep = make_run("0", TAGS, state="running")
    pipe(sweep / "0" / ".lock")
    assert sweep_command(["status", str(sweep)]) == 0
    assert "interrupted" in capsys.readouterr().out


def test_links_that_lead_up_are_not_followed(make_run, capsys):
    sweep = make_run("0", TAGS)
    (sweep / "root").symlink_to("/")
    (sweep / "above").symlink_to(sweep.parent)
    assert sweep_command(["status", str(sweep)]) == 0
    assert "1 done" in capsys.readouterr().out


ESCAPES = "\x1b[2J\x1b]52;c;ZXZpbA==\x07\x9b31m\r\x08"


def test_no_control_character_reaches_the_terminal(make_run, capsys, monkeypatch):
    sweep = make_run("\x1b]0;owned\x07", None, state="failed", error=f"first{ESCAPES}last")
    make_run("1", TAGS, {"optimizer.name": "sgd\x1b[2J", "seed": 1})
    make_run("2", {"train/error\x1b[2J": [1, 2]}, {"seed": 2})
    (make_run("3", TAGS) / "3" / "metrics.csv").write_text("epoch,\x1b[2J\n")
    for command, arguments in ((sweep_command, ["status"]), (analysis, []), (analysis, ["--full"])):
        try:
            assert command([*arguments, str(sweep)]) == 0
        except SystemExit as ending:
            pytest.skip(f"no such option: {ending}")
        shown = capsys.readouterr()
        for text in (shown.out, shown.err):
            assert not [character for character in text if character in "\x1b\x07\x9b\r\x08"]
        assert "first?[2J?]52;c;ZXZpbA==?" in shown.out + shown.err
    with pytest.warns(UserWarning, match="left out") as warned:
        ireg.load(sweep)
    assert not [warning for warning in warned if "\x1b" in str(warning.message)]


def test_colours_stay_and_other_sequences_do_not():
    assert printable("\x1b[1;31mred\x1b[0m\tdone\n") == "\x1b[1;31mred\x1b[0m\tdone\n"
    assert printable("\x1b[2J\x1b[31;5H\x1b") == "?[2J?[31;5H?"
    assert str(UserError("a\nb\x1b[31mc")) == "a?b?[31mc"


def test_no_cell_is_a_formula(make_run, tmp_path):
    make_run("=HYPERLINK(1)", TAGS)
    make_run("-1+1", TAGS | {"=x/y": [1, 2]}, {"seed": 1, "optimizer.name": "@sum"})
    sweep = make_run("sgd", {"train/error": [0.9, -0.25], "test/error": [1, 1], "time/epoch": [1, 1]}, {"seed": 2})
    assert analysis([str(sweep)]) == 0
    with (sweep / "summary.csv").open(newline="") as file:
        cells = [cell for row in csv.reader(file) for cell in row]
    assert {"'=HYPERLINK(1)", "'-1+1", "'@sum", "-0.25"} <= set(cells)
    assert [cell for cell in cells if cell[:1] in "=+@" and cell] == []
    write_table(tmp_path / "a.csv", ("=a", "b"), [("+b", -2.5), ("\tc", 1)])
    assert (tmp_path / "a.csv").read_text() == "=a,b\n'+b,-2.5\n'\tc,1\n"


def test_a_pickled_command_is_not_repeated(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="can run any code; ireg run FOLDER does the run of a folder again"):
        overrides_first(["--experimental-rerun", "config.pickle"])


def test_files_are_opened_as_they_are(tmp_path):
    (tmp_path / "file").write_text("text")
    (tmp_path / "link").symlink_to(tmp_path / "file")
    pipe(tmp_path / "pipe")
    assert read_bytes(tmp_path / "link", largest=4) == b"text"
    with pytest.raises(NotReadError, match="more than the 3 bytes"):
        read_bytes(tmp_path / "file", largest=3)
    with pytest.raises(NotReadError, match="is not a regular file"):
        read_bytes(tmp_path / "pipe", largest=3)
    with pytest.raises(IsADirectoryError):
        read_bytes(tmp_path, largest=3)
    with pytest.raises(FileNotFoundError):
        read_bytes(tmp_path / "none", largest=3)
    with pytest.raises(UserError, match="is a link to"):
        open_regular(tmp_path / "link", os.O_RDONLY)
    with pytest.raises(UserError, match="is not a regular file"):
        open_regular(tmp_path / "pipe", os.O_RDONLY)
    with pytest.raises(UserError, match="is a link to"):
        below(tmp_path, "link", "deeper")
    assert below(tmp_path, "new", "deeper") == tmp_path / "new" / "deeper"


def test_what_killed_processes_left_is_removed_by_the_next_write(tmp_path):
    mine = [tmp_path / f".a.tmp-{'x' * 8}.txt", tmp_path / ".a.tmp-abcd1234.txt"]
    others = [tmp_path / name for name in (".a.tmp-abc.txt", ".b.tmp-abcd1234.txt", ".a.tmp-abcd1234.png")]
    for path in (*mine, *others):
        path.touch()
    (tmp_path / ".a.tmp-linklink.txt").symlink_to(others[0])
    with replacing(tmp_path / "a.txt") as outer:
        assert not any(path.exists() for path in mine)
        with replacing(tmp_path / "a.txt") as inner:
            inner.write_text("inner")
        assert outer.exists()  # it is being written
        outer.write_text("outer")
    assert (tmp_path / "a.txt").read_text() == "outer"
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(
        ["a.txt", ".a.tmp-linklink.txt", *(path.name for path in others)]
    )
