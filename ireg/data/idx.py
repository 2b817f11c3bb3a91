"""Image data sets in MNIST's IDX format, downloaded when missing, and verified before every reading.

torchvision knows where the files are and their md5s. It compares them at a download alone, so that later damage would
load silently. Here what is about to be read is compared every time, with the sha256, too, where `ireg.data.digests`
knows it. A download comes to its place once it is whole and right.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from torch import Tensor
from torchvision.datasets import KMNIST, MNIST, FashionMNIST
from torchvision.datasets.utils import download_url

from ireg.data.digests import require
from ireg.data.packed import PACKAGED, folder_of, numbers, unpacked
from ireg.system.errors import UserError
from ireg.system.locks import NoLocksError, held

DATASETS: dict[str, type[MNIST]] = {reader.__name__: reader for reader in (MNIST, FashionMNIST, KMNIST)}


def idx(
    *, dataset: str, root: str | Path | None, md5: Mapping[str, str] | None, train: bool, download: bool = True
) -> tuple[Tensor, Tensor]:
    """Read one split of MNIST, Fashion-MNIST or KMNIST.

    Args:
        dataset: ``MNIST``, ``FashionMNIST`` or ``KMNIST``.
        root: The files are in ``root/<dataset>/raw``, as ``<name>`` or ``<name>.gz``; what is missing is downloaded.
            None: the copy in this package, which is never written to.
        md5: The md5 of each file's content by its name. None: the ``.gz`` is read, which must have the md5 that
            torchvision knows. The sha256 is compared, too, where `ireg.data.digests` has one: of all that is
            downloaded, and of all contents but KMNIST's.
        train: The training split, else the test split.
        download: Whether missing files are downloaded.

    Returns:
        Images, uint8 (N, 28, 28), and labels, int64 (N,).

    Raises:
        UserError: Unknown data set, names in ``md5`` that are not its files, a file that is missing and cannot be,
            or shall not be, downloaded, a file that is not what it should be, or a folder that cannot be read or
            written.
    """
    if dataset not in DATASETS:
        raise UserError(f"dataset={dataset!r} is unknown: choose one of {', '.join(sorted(DATASETS))}")
    known = _md5_of_packed(dataset)
    if md5 is not None and set(md5) != set(known):
        raise UserError(f"md5 names {', '.join(sorted(md5))}: give one for each of {', '.join(known)}, or null")
    folder = folder_of(root, dataset)
    names = [name for name in known if name.startswith("train" if train else "t10k")]
    try:
        if missing := _missing(folder, names, md5):
            if root is None:
                raise UserError(f"{folder} lacks {', '.join(missing)}: reinstall ireg, or set data.root")
            if not download:
                raise UserError(f"{folder} lacks {', '.join(missing)}; ireg data fetch brings them")
            _download(folder, names, md5)
        images, labels = (numbers(_content(folder, name, md5)) for name in names)
    except NoLocksError as error:
        raise UserError(f"{folder.parents[1]}: {error} with data.root=…") from error
    except OSError as error:
        raise UserError(f"{folder.parents[1]} cannot be used ({error}): repair it or set another data.root") from error
    return images, labels.long()


def _md5_of_packed(dataset: str) -> dict[str, str]:
    """Return the md5 of each ``.gz`` by its name without that ending: images first, of training and test."""
    return {Path(file).stem: md5 for file, md5 in DATASETS[dataset].resources}


def _missing(folder: Path, names: Sequence[str], md5: Mapping[str, str] | None) -> list[str]:
    """List the files that are there in no form that can be verified."""
    forms = (".gz",) if md5 is None else ("", ".gz")
    return [name for name in names if not any((folder / f"{name}{form}").is_file() for form in forms)]


def _content(folder: Path, name: str, md5: Mapping[str, str] | None) -> bytes:
    """Return the content of a file, verified."""
    remedy = "delete it and run again, or set data.root to another folder if it belongs to another data set"
    if folder.is_relative_to(PACKAGED):
        remedy = "reinstall ireg, whose own copy this is"
    raw, gz = folder / name, folder / f"{name}.gz"
    if md5 is not None and raw.is_file():
        content = raw.read_bytes()
        require(str(raw), content, md5[name], remedy)
        return content
    content = gz.read_bytes()
    if md5 is None:
        require(str(gz), content, _md5_of_packed(folder.parent.name)[name], remedy)
    content = unpacked(gz, content, remedy)
    if md5 is not None:
        require(f"the content of {gz}", content, md5[name], remedy)
    return content


def _download(folder: Path, names: Sequence[str], md5: Mapping[str, str] | None) -> None:
    """Download the missing files, once for all processes."""
    folder.mkdir(parents=True, exist_ok=True)
    dataset, home = folder.parent.name, folder.parents[1]
    with held(home / f"{dataset}.lock"):
        # What is missing is asked again under the lock: another process may just have brought it.
        for name in _missing(folder, names, md5):
            with tempfile.TemporaryDirectory(dir=home, prefix=f"{dataset}-download-") as scratch:
                _fetch(Path(scratch, f"{name}.gz"), folder, md5)


def _fetch(path: Path, folder: Path, md5: Mapping[str, str] | None) -> None:
    """Download a ``.gz`` from the first mirror that has it, and move it to its place once it is verified."""
    dataset, reasons = folder.parent.name, []
    known = _md5_of_packed(dataset)
    for mirror in DATASETS[dataset].mirrors:
        try:
            download_url(f"{mirror}{path.name}", str(path.parent), filename=path.name, md5=known[path.stem])
            break
        except (RuntimeError, OSError) as error:  # torchvision's, and (URLError is an OSError) the network's
            reasons.append(" ".join(str(error).split()))
    else:
        form = "gzipped" if md5 is None else "gzipped or not"
        raise UserError(
            f"{dataset} could not be downloaded: put {', '.join(f'{name}.gz' for name in known)} ({form}) "
            f"into {folder}, or use data=mnist10k, which needs no download "
            f"(reason: {'; '.join(dict.fromkeys(reasons))})"
        )
    require(f"the downloaded {path.name}", path, known[path.stem], "try again later")
    os.replace(path, folder / path.name)
