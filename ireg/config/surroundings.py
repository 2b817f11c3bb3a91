"""What a run needs of the machine: a device, libraries that are no dependencies, a place for data."""

import ctypes
import os
import sys
from importlib.util import find_spec
from pathlib import Path

import ireg
from ireg.config.schema import Config
from ireg.system.errors import UserError
from ireg.system.files import is_writable

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
    if root is not None:
        require_place("data.root", root)
    logger = _LIBRARIES.get(str(settings.logger.further.get("_target_")).rpartition(".")[2])
    if logger is not None:
        _require_installed(f"logger={logger}", logger, logger)
    library = str(settings.optimizer["_target_"]).partition(".")[0]
    if library in _EXTRAS:
        _require_installed(f"optimizer={settings.optimizer['name']}", library, _EXTRAS[library])


def require_place(key: str, root: str) -> None:
    """Check that the files of a data set can lie in a folder, which need not exist yet.

    Args:
        key: what was set to it, for the message.
        root: the folder.

    Raises:
        UserError: it is a file, or it is not there and cannot be made.
    """
    place = Path(root).expanduser().absolute()
    if os.path.exists(place) and not place.is_dir():  # Path.exists raises where a folder above may not be entered
        raise UserError(f"{key}={root}: is no folder; choose another place")
    if not os.path.exists(place) and not is_writable(place):
        raise UserError(f"{key}={root}: is not there and cannot be made; choose another place")


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
