"""What is refused before anything starts: one line, and nothing is left behind."""

import json
import re
import runpy
import sys

import pytest

from tests.conftest import ROOT


def refusal(monkeypatch, capfd, *arguments):
    """What `train.py` ends with for these arguments, in this process."""
    monkeypatch.setattr(sys, "argv", ["train.py", *arguments])
    with pytest.raises(SystemExit) as ending:
        runpy.run_path(str(ROOT / "train.py"), run_name="__main__")
    assert ending.value.code == 2
    return capfd.readouterr().err


BRACES = "; in ${…}, name a key (python train.py --help lists them) or oc.env:VARIABLE,DEFAULT"
EXPERIMENTS = "give one experiment a command, as it is a sweep with a folder of its own, or compare single runs"


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        # What cannot be resolved.
        ("name=${oc.env:NOPE}", f"name: Environment variable 'NOPE' not found{BRACES}"),
        ("hydra.run.dir=D/${oc.env:NOPE}", f"hydra.run.dir: Environment variable 'NOPE' not found{BRACES}"),
        ("-m hydra.sweep.dir=D/${oc.env:NOPE}", f"hydra.sweep.dir: Environment variable 'NOPE' not found{BRACES}"),
        ("-m hydra.sweep.subdir=${oc.env:NOPE}", f"hydra.sweep.subdir: Environment variable 'NOPE' not found{BRACES}"),
        ("-m lr=${nothing}", f"lr: Interpolation key 'nothing' not found{BRACES}"),
        (
            "lr='${ireg_of_optimizer:{adam:1},${optimizer.name}}'",
            "optimizer=sgd: there is a rate for adam alone; give lr",
        ),
        (
            "-m optimizer=adam,gd lr='${ireg_of_optimizer:{adam:1},${optimizer.name}}'",
            "optimizer=gd: there is a rate for adam alone; give lr=…, too\n",
        ),
        (
            "-m lr='${ireg_of_optimizer:1,${optimizer.name}}'",
            "ireg_of_optimizer:1: must be values by optimizer, like {",
        ),
        (
            "lr=${ireg_of_optimizer:{sgd:1},${optimizer.name}}",
            "cannot be read; what refers to others needs two pairs of quotes, "
            "'lr=\"${ireg_of_optimizer:{sgd:1},${optimizer.name}}\"'\n",
        ),
        ("hydra.run.dir=???", "Missing mandatory value: hydra.run.dir; give it a value"),
        ("hydra.job.chdir=${nothing}", f"hydra.job.chdir: Interpolation key 'nothing' not found{BRACES}"),
        (
            "-m hydra/launcher=joblib hydra.launcher.n_jobs=${nothing}",
            f"hydra.launcher.n_jobs: Interpolation key 'nothing' not found{BRACES}",
        ),
        # Folders of a sweep.
        (
            "-m hydra.sweep.subdir=/a/${seed}",
            "hydra.sweep.subdir=/a/0: must lie within the sweep's folder; choose that",
        ),
        ("-m hydra.sweep.subdir=a/../../b", "hydra.sweep.subdir=../b: must lie within the sweep's folder"),
        ("-m hydra.sweep.dir=${seed} seed=0,1", "hydra.sweep.dir=1: must be one folder for all runs, as "),
        ("-m experiment=demo,paper", f"hydra.sweep.dir=multirun/demo: must be one folder .*; {EXPERIMENTS}"),
        (
            "-m experiment=demo,paper hydra.sweep.dir=a",
            rf"share it \(experiment=demo, experiment=paper\); {EXPERIMENTS}",
        ),
        ("-m seed=0,0", "share it: the same values are given twice; leave one of them out"),
        ("-m name=n seed=0,1 hydra.sweep.subdir=a", r"share it \(seed=0, seed=1\); hydra.sweep.subdir must hold what"),
        # Sweeps without a run, or that no launcher can do.
        (
            "-m optimizer=glob(zzz*)",
            "optimizer=glob(zzz*): no value, so that the sweep has no run; choose from adafactor, adagrad,",
        ),
        (
            "-m seed=range(0)",
            "seed=range(0): no value, so that the sweep has no run; give it one at least, as in seed=1",
        ),
        (
            "-m hydra.sweeper.max_batch_size=0",
            "hydra.sweeper.max_batch_size=0: must be an integer of at least 1, or null",
        ),
        (
            "-m hydra/launcher=joblib hydra.launcher.n_jobs=0",
            "hydra.launcher.n_jobs=0: must be an integer of at least 1",
        ),
        ("-m seed=0,1 hydra/launcher=slurm", "no srun here, so this machine is not of a Slurm cluster; start from one"),
    ],
)
def test_a_refused_command_is_one_line_and_leaves_nothing(monkeypatch, capfd, tmp_path, arguments, line):
    monkeypatch.chdir(tmp_path)
    told = refusal(monkeypatch, capfd, *arguments.split())
    assert told.startswith("error: ")
    assert line in told or re.search(line, told)
    assert told.endswith("\n")
    assert told.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_a_value_that_refers_to_another_is_that_of_each_run(tmp_path, forked_train):
    """And Hydra's own `${hydra:…}` is known to the checks, too."""
    small = ["data.train_size=40", "data.test_size=20", "model.hidden=[4]", "batch_size=20", "terms=[]"]
    arguments = ["data.noise.rate=0.1,0.2", "lr=${data.noise.rate}", "hydra.sweep.subdir=r${hydra:job.num}_${lr}"]
    forked_train.start("epochs=1", "-m", *small, *arguments, cwd=tmp_path)
    assert forked_train.wait() == 0
    sweep = tmp_path / "multirun" / "runs"
    status = {name: json.loads((sweep / name / "status.json").read_text()) for name in ("r0_0.1", "r1_0.2")}
    assert [run["config"]["lr"] for run in status.values()] == [0.1, 0.2]
    assert list(json.loads((sweep / "sweep.json").read_text())["runs"]) == list(status)


def test_a_sweep_with_a_rate_for_each_optimizer_is_named_by_the_rates(tmp_path, forked_train):
    """And the same command finds its runs, also those of folders that are named as before."""
    small = ["data.train_size=40", "data.test_size=20", "model.hidden=[]", "batch_size=20", "terms=[]", "epochs=1"]
    rates = "lr='${ireg_of_optimizer:{sgd:0.32,adam:3e-3},${optimizer.name}}'"
    common = "_batch_size=20_data.test_size=20_data.train_size=40_model.hidden=_epochs=1_terms="
    names = [f"{first}{common}" for first in ("adam_lr=0.003", "sgd_lr=0.32")]
    sweep = tmp_path / "multirun" / "runs"
    assert forked_train.call("-m", "optimizer=sgd,adam", rates, *small, cwd=tmp_path).returncode == 0
    assert sorted(path.parent.name for path in sweep.glob("*/status.json")) == names
    again = forked_train.call("-m", "optimizer=sgd,adam", rates, *small, cwd=tmp_path)
    assert "2 of 2 done already" in again.stderr
    single = forked_train.call("optimizer=adam", rates, *small, cwd=tmp_path)
    assert single.returncode == 0
    assert sorted(path.parent.name for path in sweep.glob("*/status.json")) == names
