"""CIFAR-10, by torchvision's reader."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import torch
from torch import Tensor
from torchvision.datasets import CIFAR10

from ireg.errors import UserError
from ireg.locks import NoLocksError, held


def cifar10(*, root: str | Path | None, train: bool, download: bool = True) -> tuple[Tensor, Tensor]:
    """Read one split of CIFAR-10.

    Images are uint8 (N, 3, 32, 32), labels int64 (N,).

    torchvision compares the md5 of every file before it reads any.

    Args:
        root: the files are in ``root/cifar-10-batches-py``; they are downloaded when missing.
        train: the training split, else the test split.
        download: whether missing files are.

    Raises:
        UserError: the files are missing and cannot be, or shall not be, downloaded, are not what they should be, or
            cannot be read.

    Source: Krizhevsky 2009, Learning Multiple Layers of Features from Tiny Images.
    """
    if root is None:
        raise UserError("data.root=null: CIFAR-10 does not come with the package; name a folder")
    home = Path(root).expanduser().absolute()
    folder = home / CIFAR10.base_folder
    try:
        if not folder.exists() and not download:
            raise UserError(f"{folder} is not there; ireg data fetch brings it")
        if not folder.exists():
            home.mkdir(parents=True, exist_ok=True)
            with held(home / "CIFAR10.lock"):
                if not folder.exists():  # another process may just have brought it
                    _download(home, folder)
        source = CIFAR10(home, train=train, download=False)
    except NoLocksError as error:
        raise UserError(f"{home}: {error} with data.root=…") from error
    except RuntimeError as error:  # torchvision's, of an md5
        raise UserError(
            f"{folder} lacks a file, or holds one with another md5 than CIFAR-10's: delete the folder and run again"
        ) from error
    except OSError as error:
        raise UserError(f"{home} cannot be used ({error}): repair it or set another data.root") from error
    return torch.from_numpy(source.data).permute(0, 3, 1, 2).contiguous(), torch.tensor(source.targets)


def _download(home: Path, folder: Path) -> None:
    """Let torchvision download and unpack in a folder of its own.

    What is whole is moved to its place.
    """
    with tempfile.TemporaryDirectory(dir=home, prefix="CIFAR10-download-") as scratch:
        try:
            CIFAR10(scratch, download=True)
        except (RuntimeError, OSError) as error:  # torchvision's, and (URLError is an OSError) the network's
            reason = " ".join(str(error).split())
            raise UserError(
                f"CIFAR-10 could not be downloaded: unpack {CIFAR10.filename} into {home}, or use data=fashion10k, "
                f"which needs no download (reason: {reason})"
            ) from error
        os.replace(Path(scratch) / CIFAR10.base_folder, folder)
