"""What a machine lacks is one line, before torch is imported where that is possible."""

import ctypes
import sys
from types import SimpleNamespace

import pytest
import torch
from hydra.types import RunMode
from omegaconf import OmegaConf

import ireg
from ireg.config import surroundings
from ireg.config.surroundings import installing, require_device, require_surroundings
from ireg.experiment.run import main as run_again
from ireg.sweeps import checks
from ireg.system.errors import UserError
from tests.conftest import call_train, read_only


def asking(accelerator=None, logger=None, root=None, optimizer="torch.optim.SGD"):
    further = {} if logger is None else {"_target_": f"lightning.pytorch.loggers.{logger}"}
    return SimpleNamespace(
        trainer={"accelerator": accelerator},
        logger=SimpleNamespace(further=further),
        data=SimpleNamespace(root=root),
        optimizer={"name": "mine", "_target_": optimizer},
    )


def machine(monkeypatch, *, platform="linux", driver=False, torch_finds=False, libraries=(), environment=None):
    """A machine with these parts."""

    def load(name):
        if not driver:
            raise OSError(name)

    monkeypatch.setattr(sys, "platform", platform)
    monkeypatch.setattr(ctypes, "CDLL", load)
    monkeypatch.setattr(surroundings, "_ROCM", SimpleNamespace(exists=lambda: driver == "rocm"))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: torch_finds)
    monkeypatch.setattr(surroundings, "find_spec", lambda name: name if name in libraries else None)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    for name, value in (environment or {}).items():
        monkeypatch.setenv(name, value)


@pytest.mark.parametrize(
    ("accelerator", "parts", "reason"),
    [
        ("gpu", {}, "no driver of a GPU is installed"),
        ("cuda", {}, "no driver of a GPU is installed"),
        ("cuda", {"platform": "darwin"}, "no driver of a GPU is installed"),
        ("gpu", {"driver": True}, f"torch {torch.__version__} finds no GPU"),
        ("gpu", {"driver": "rocm"}, f"torch {torch.__version__} finds no GPU"),
        ("gpu", {"driver": True, "torch_finds": True, "environment": {"CUDA_VISIBLE_DEVICES": ""}}, "CUDA_VISIBLE_DEV"),
        ("mps", {}, "Apple's GPUs are on a Mac alone"),
        ("tpu", {}, "the library torch_xla is not installed"),
    ],
)
def test_a_device_that_is_not_here(monkeypatch, accelerator, parts, reason):
    machine(monkeypatch, **parts)
    with pytest.raises(UserError) as refused:
        require_device(asking(accelerator))
    line = str(refused.value)
    assert line.startswith(f"trainer.accelerator={accelerator}: not here, {reason}")
    assert line.endswith("; use trainer.accelerator=cpu or auto")


@pytest.mark.parametrize(
    ("accelerator", "parts"),
    [
        ("auto", {}),
        ("cpu", {}),
        (None, {}),
        ("gpu", {"driver": True, "torch_finds": True}),
        ("gpu", {"driver": "rocm", "torch_finds": True}),
        ("cuda", {"driver": True, "torch_finds": True, "environment": {"CUDA_VISIBLE_DEVICES": "1"}}),
        ("gpu", {"platform": "darwin"}),
        ("mps", {"platform": "darwin"}),
        ("tpu", {"libraries": ["torch_xla"]}),
    ],
)
def test_a_device_that_may_be_here(monkeypatch, accelerator, parts):
    machine(monkeypatch, **parts)
    require_device(asking(accelerator))


@pytest.mark.parametrize(("logger", "library"), [("WandbLogger", "wandb"), ("MLFlowLogger", "mlflow")])
def test_a_logger_whose_library_is_missing(monkeypatch, logger, library):
    machine(monkeypatch)
    with pytest.raises(UserError) as refused:
        require_surroundings(asking(logger=logger))
    assert str(refused.value) == (
        f"logger={library}: the library {library} is not installed; pip install -e '.[{library}]' in the clone"
    )
    machine(monkeypatch, libraries=[library])
    require_surroundings(asking(logger=logger))


def test_an_optimizer_whose_library_is_missing(monkeypatch):
    machine(monkeypatch, libraries=["torch"])
    with pytest.raises(UserError) as refused:
        require_surroundings(asking(optimizer="pytorch_optimizer.Lion"))
    missing = "optimizer=mine: the library pytorch_optimizer is not installed"
    assert str(refused.value) == f"{missing}; {installing('optimizers')}"
    machine(monkeypatch, libraries=["pytorch_optimizer"])
    require_surroundings(asking(optimizer="pytorch_optimizer.Lion"))


@pytest.mark.parametrize("logger", [None, "CSVLogger"])
def test_other_loggers_need_no_library(monkeypatch, logger):
    machine(monkeypatch)
    require_surroundings(asking(logger=logger))


def test_data_need_a_folder_or_a_place_for_one(monkeypatch, tmp_path):
    machine(monkeypatch)
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=f"^data.root={tmp_path}/file: is no folder; choose another place$"):
        require_surroundings(asking(root=str(tmp_path / "file")))
    for root in (tmp_path, tmp_path / "not yet"):
        require_surroundings(asking(root=str(root)))
    with pytest.raises(UserError, match=f"^data.root={tmp_path}/file/below: is not there and cannot be made; choose "):
        require_surroundings(asking(root=str(tmp_path / "file" / "below")))
    with read_only(tmp_path), pytest.raises(UserError, match=r"^data.root=new: is not there and cannot be made; "):
        require_surroundings(asking(root="new"))
    require_surroundings(asking(root=str(tmp_path / "new" / "below")))
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_an_extra_is_installed_beside_an_installed_package(monkeypatch, tmp_path):
    monkeypatch.setattr(ireg, "__file__", str(tmp_path / "ireg" / "__init__.py"))
    assert installing("wandb") == "pip install 'ireg[wandb]'"


def test_it_is_asked_before_torch_is_imported_and_nothing_is_left(tmp_path):
    hidden = {"CUDA_VISIBLE_DEVICES": "", "PYTHONPROFILEIMPORTTIME": "1"}
    done = call_train("trainer.accelerator=gpu", "epochs=1", cwd=tmp_path, **hidden)
    assert done.returncode == 2
    *imported, line = done.stderr.splitlines()
    assert line.startswith("error: trainer.accelerator=gpu: not here, CUDA_VISIBLE_DEVICES hides every GPU")
    assert len(imported) > 100
    assert not any(name.endswith((" torch", " lightning")) for name in imported)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("mode", "launcher", "here"),
    [
        (RunMode.RUN, "a.SlurmLauncher", True),
        (RunMode.MULTIRUN, "hydra._internal.core_plugins.basic_launcher.BasicLauncher", True),
        (RunMode.MULTIRUN, "hydra_plugins.hydra_joblib_launcher.joblib_launcher.JoblibLauncher", True),
        (RunMode.MULTIRUN, "hydra_plugins.hydra_submitit_launcher.submitit_launcher.SlurmLauncher", False),
    ],
)
def test_a_cluster_may_have_other_devices(mode, launcher, here):
    config = OmegaConf.create({"hydra": {"mode": mode, "launcher": {"_target_": launcher}}})
    assert checks._is_done_here(config) is here


def test_doing_a_run_again_asks_first(tmp_path, small_run, monkeypatch, capsys):
    with pytest.raises(UserError):
        small_run(tmp_path / "run", "trainer.accelerator=tpu")
    assert run_again([str(tmp_path / "run"), "--into", str(tmp_path / "again")]) == 2
    assert capsys.readouterr().err.startswith("error: trainer.accelerator=tpu: not here, the library torch_xla")
    assert not (tmp_path / "again").exists()
