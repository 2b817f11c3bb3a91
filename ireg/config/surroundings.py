"""What a run needs of the machine: a device, libraries that are no dependencies, a place for data."""

import ctypes
import os
import sys
from importlib.util import find_spec
from pathlib import Path

import ireg
from ireg.config.schema import Config
from ireg.system.errors import UserError

_LIBRARIES = {"WandbLogger": "wandb", "MLFlowLogger": "mlflow"}
"""What a logger of Lightning's needs, an extra of ours of the same name."""

_EXTRAS = {"pytorch_optimizer": "optimizers"}
"""The extra of ours that installs a library of optimizers."""

_CUDA = {"linux": "libcuda.so.1", "win32": "nvcuda.dll"}
"""The library of NVIDIA's driver, by system."""

_ROCM = Path("/dev/kfd")
"""AMD's driver; torch's builds for it call its devices cuda, too."""


def installing(extra: str) -> str:
    """Return the command that installs one of the package's extras."""
    in_clone = (Path(ireg.__file__).parents[1] / "pyproject.toml").is_file()
    return f"pip install -e '.[{extra}]' in the clone" if in_clone else f"pip install 'ireg[{extra}]'"


def require_surroundings(settings: Config) -> None:
    """Check that libraries of a run's logger and optimizer are installed, and where its data can lie.

    Raises:
        UserError: it is not, or they cannot.
    """
    root = settings.data.root
    if root is not None and Path(root).exists() and not Path(root).is_dir():
        raise UserError(f"data.root={root}: is no folder; choose another place")
    logger = _LIBRARIES.get(str(settings.logger.further.get("_target_")).rpartition(".")[2])
    if logger is not None:
        _require_installed(f"logger={logger}", logger, logger)
    library = str(settings.optimizer["_target_"]).partition(".")[0]
    if library in _EXTRAS:
        _require_installed(f"optimizer={settings.optimizer['name']}", library, _EXTRAS[library])


def _require_installed(what: str, library: str, extra: str) -> None:
    if find_spec(library) is None:
        raise UserError(f"{what}: the library {library} is not installed; {installing(extra)}")


def require_device(settings: Config) -> None:
    """Check that this machine has the device that a run asks for.

    torch is imported only where there may be one.

    Raises:
        UserError: it has none.
    """
    accelerator = settings.trainer.get("accelerator")
    reason = None
    if accelerator == "cuda" or (accelerator == "gpu" and sys.platform != "darwin"):
        reason = _without_cuda()
    elif accelerator in ("gpu", "mps") and sys.platform != "darwin":
        reason = "Apple's GPUs are on a Mac alone"
    elif accelerator == "tpu" and find_spec("torch_xla") is None:
        reason = "the library torch_xla is not installed"
    if reason is not None:
        raise UserError(f"trainer.accelerator={accelerator}: not here, {reason}; use trainer.accelerator=cpu or auto")


def _without_cuda() -> str | None:
    """Say why torch finds no GPU; None where it finds one."""
    if os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1"):
        return "CUDA_VISIBLE_DEVICES hides every GPU"
    if not _has_driver():
        return "no driver of a GPU is installed"
    import torch

    return None if torch.cuda.is_available() else f"torch {torch.__version__} finds no GPU"


def _has_driver() -> bool:
    """Say whether there is a driver of a GPU, which need not find one."""
    if _ROCM.exists():
        return True
    try:
        ctypes.CDLL(_CUDA[sys.platform])
    except (KeyError, OSError):
        return False
    return True
