"""Image data sets in MNIST's IDX format, verified before every reading.

torchvision compares a file with its md5 only when it downloads it, so later damage loads silently. Here the md5 of what
is about to be read is compared every time, and its sha256 where `ireg.data.digests` knows it. A download is compared
before it is unpacked. A file comes under its final name only when it is whole and right.
"""

from __future__ import annotations

import gzip
import os
import tempfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor
from torchvision.datasets import KMNIST, MNIST, FashionMNIST
from torchvision.datasets.utils import download_url

from ireg.data.digests import require
from ireg.data.packed import PACKAGED
from ireg.system.errors import UserError
from ireg.system.files import replacing
from ireg.system.locks import NoLocksError, held

DATASETS: dict[str, type[MNIST]] = {reader.__name__: reader for reader in (MNIST, FashionMNIST, KMNIST)}


def idx(
    *, dataset: str, root: str | Path | None, md5: Mapping[str, str] | None, train: bool, download: bool = True
) -> tuple[Tensor, Tensor]:
    """Read one split: images, uint8 (N, 28, 28), and labels, int64 (N,).

    Args:
        dataset: ``MNIST``, ``FashionMNIST`` or ``KMNIST``.
        root: The files are in ``root/<dataset>/raw``; what is missing is unpacked from ``<name>.gz`` there, else
            downloaded. None: the copy in this package, which is never written to.
        md5: The md5 of each raw (unpacked) file by its name. None: each raw file must equal the content of the ``.gz``
            beside it, and that must have the md5 that torchvision knows. The sha256 of each is compared, too, where
            `ireg.data.digests` has one: of all files that are downloaded, and of all raw files but KMNIST's.
        train: The training split, else the test split.
        download: Whether missing files are unpacked or downloaded.

    Raises:
        UserError: Unknown data set, names in ``md5`` that are not its files, a file that is missing and cannot be,
            or shall not be, downloaded, a file that is not what it should be, or a folder that cannot be read or
            written.

    Source: http://yann.lecun.com/exdb/mnist (the format).
    """
    if dataset not in DATASETS:
        raise UserError(f"dataset={dataset!r} is unknown: choose one of {', '.join(sorted(DATASETS))}")
    home = PACKAGED if root is None else Path(root).expanduser().absolute()
    files = _Files(reader=DATASETS[dataset], root=home, md5=md5)
    if md5 is not None and set(md5) != set(files.gz_md5):
        raise UserError(f"md5 names {', '.join(sorted(md5))}: give one for each of {', '.join(files.gz_md5)}, or null")
    if files.missing() and not download:
        raise UserError(f"{files.folder} lacks {', '.join(files.missing())}; ireg data fetch brings them")
    try:
        verified = _complete(files) if files.missing() else []
        for name in files.gz_md5:
            if name.startswith("train" if train else "t10k") and name not in verified:
                _verify(files, name)
        _refuse_legacy(files)
        source = files.reader(files.root, train=train, download=False)
    except NoLocksError as error:
        raise UserError(f"{files.root}: {error} with data.root=…") from error
    except OSError as error:
        raise UserError(f"{files.root} cannot be used ({error}): repair it or set another data.root") from error
    return source.data, source.targets


@dataclass(frozen=True, kw_only=True)
class _Files:
    """The four files of a data set.

    This module knows where they are, and how they are verified.
    """

    reader: type[MNIST]
    root: Path
    md5: Mapping[str, str] | None

    @property
    def folder(self) -> Path:
        return self.root / self.reader.__name__ / "raw"

    @property
    def gz_md5(self) -> dict[str, str]:
        return {Path(file).stem: md5 for file, md5 in self.reader.resources}

    @property
    def remedy(self) -> str:
        if self.root == PACKAGED:
            return "reinstall ireg, whose own copy this is"
        return "delete it and run again, or set data.root to another folder if it belongs to another data set"

    def missing(self) -> list[str]:
        # All four, because torchvision opens neither split before all are there.
        return [name for name in self.gz_md5 if not (self.folder / name).is_file()]


def _complete(files: _Files) -> list[str]:
    """Put the missing files there, once for all processes.

    Returned are the names of those that were verified meanwhile.
    """
    dataset = files.reader.__name__
    if files.root == PACKAGED:
        raise UserError(f"{files.folder} lacks {', '.join(files.missing())}: reinstall ireg, or set data.root")
    files.folder.mkdir(parents=True, exist_ok=True)
    with held(files.root / f"{dataset}.lock"):
        # What is missing is asked again under the lock: another process may just have brought it.
        brought = files.missing()
        for name in brought:
            if not (files.folder / f"{name}.gz").is_file():
                _download(files, name)
            content = _content(files, name)
            with replacing(files.folder / name) as temporary:
                temporary.write_bytes(content)
    return brought


def _download(files: _Files, name: str) -> None:
    """Download a ``.gz`` into a folder of its own, and move it to its place once it is verified."""
    dataset, packed = files.reader.__name__, f"{name}.gz"
    with tempfile.TemporaryDirectory(dir=files.root, prefix=f"{dataset}-download-") as scratch:
        reasons = []
        for mirror in files.reader.mirrors:
            try:
                download_url(f"{mirror}{packed}", scratch, filename=packed, md5=files.gz_md5[name])
                break
            except (RuntimeError, OSError) as error:  # torchvision's, and (URLError is an OSError) the network's
                reasons.append(" ".join(str(error).split()))
        else:
            form = "gzipped" if files.md5 is None else "gzipped or not"
            raise UserError(
                f"{dataset} could not be downloaded: put {', '.join(f'{name}.gz' for name in files.gz_md5)} ({form}) "
                f"into {files.folder}, or use data=mnist10k, which needs no download "
                f"(reason: {'; '.join(dict.fromkeys(reasons))})"
            )
        require(f"the downloaded {packed}", Path(scratch, packed), files.gz_md5[name], "try again later")
        os.replace(Path(scratch, packed), files.folder / packed)


def _verify(files: _Files, name: str) -> None:
    """Compare a raw file with its md5.

    Where that is not known, it is compared with its verified ``.gz``.
    """
    path, gz = files.folder / name, files.folder / f"{name}.gz"
    if files.md5 is not None:
        require(str(path), path, files.md5[name], files.remedy)
    elif not gz.is_file():
        raise UserError(f"{path} cannot be verified without {gz}: put the original .gz there")
    elif path.read_bytes() != _content(files, name):
        raise UserError(f"{path} is not the content of {gz}: {files.remedy}")


def _refuse_legacy(files: _Files) -> None:
    # torchvision prefers such a file (of its versions before 0.9) to the raw files that were just verified.
    legacy = files.folder.with_name("processed") / "training.pt"
    if legacy.exists():
        raise UserError(f"{legacy} would be read unverified in place of the raw files: delete it and run again")


def _content(files: _Files, name: str) -> bytes:
    """Unpack a ``.gz`` and return its content, verified."""
    gz = files.folder / f"{name}.gz"
    packed = gz.read_bytes()
    if files.md5 is None:
        require(str(gz), packed, files.gz_md5[name], files.remedy)
    try:
        content = gzip.decompress(packed)
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise UserError(f"{gz} is truncated or damaged ({error}): {files.remedy}") from error
    if files.md5 is not None:
        require(f"the content of {gz}", content, files.md5[name], files.remedy)
    return content
