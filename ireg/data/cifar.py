"""CIFAR-10, by torchvision's reader.

Its batches are pickles, which run code where they were forged. So each is compared with its md5 and its sha256 before
torchvision unpickles it, and the archive before it is unpacked.
"""

from __future__ import annotations

import os
import tarfile
import tempfile
import zlib
from pathlib import Path

import torch
from torch import Tensor
from torchvision.datasets import CIFAR10
from torchvision.datasets.utils import download_url

from ireg.data.digests import require
from ireg.system.errors import UserError
from ireg.system.locks import NoLocksError, held


def cifar10(*, root: str | Path | None, train: bool, download: bool = True) -> tuple[Tensor, Tensor]:
    """Read one split of CIFAR-10, and compare the md5 and sha256 of every file before any is read.

    Args:
        root: the files are in ``root/cifar-10-batches-py``; they are downloaded when missing.
        train: the training split, else the test split.
        download: whether missing files are.

    Returns:
        Images, uint8 (N, 3, 32, 32), and labels, int64 (N,).

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
        _verify(folder)
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


def _verify(folder: Path) -> None:
    """Compare every file that torchvision may unpickle; what is missing is left to torchvision's error."""
    for name, md5 in [*CIFAR10.train_list, *CIFAR10.test_list, (CIFAR10.meta["filename"], CIFAR10.meta["md5"])]:
        if (path := folder / name).is_file():
            require(str(path), path, md5, "delete the folder and run again")


def _download(home: Path, folder: Path) -> None:
    """Download and unpack the archive in a folder of its own, and move what is whole to its place."""
    archive = CIFAR10.filename
    with tempfile.TemporaryDirectory(dir=home, prefix="CIFAR10-download-") as scratch:
        try:
            download_url(CIFAR10.url, scratch, filename=archive, md5=CIFAR10.tgz_md5)
        except (RuntimeError, OSError) as error:  # torchvision's, and (URLError is an OSError) the network's
            reason = " ".join(str(error).split())
            raise UserError(
                f"CIFAR-10 could not be downloaded: unpack {archive} into {home}, or use data=fashion10k, "
                f"which needs no download (reason: {reason})"
            ) from error
        require(f"the downloaded {archive}", Path(scratch, archive), CIFAR10.tgz_md5, "try again later")
        unpacked = Path(scratch, "unpacked") / CIFAR10.base_folder
        _unpack(Path(scratch, archive), unpacked.parent)
        if not unpacked.is_dir():
            raise UserError(f"the downloaded {archive} holds no {CIFAR10.base_folder}: try again later")
        _verify(unpacked)
        os.replace(unpacked, folder)


def _unpack(archive: Path, where: Path) -> None:
    """Unpack an archive, nothing of it outside of the folder.

    Raises:
        UserError: it holds a path or a link that leads outside, a device, or it is damaged; or Python is too old to
            find such paths.
    """
    if not hasattr(tarfile, "data_filter"):
        raise UserError(f"{archive.name} is not unpacked by a Python before 3.11.4; use a newer one")
    try:
        with tarfile.open(archive, "r:gz") as content:
            content.extractall(where, filter="data")
    except (tarfile.TarError, EOFError, zlib.error) as error:
        raise UserError(f"the downloaded {archive.name} is not unpacked ({error}): try again later") from error
