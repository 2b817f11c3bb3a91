"""Image data sets in gzipped files of the IDX format, read without unpacking them to the disk."""

import gzip
import zlib
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from ireg.data.digests import require
from ireg.system.errors import UserError

PACKAGED = Path(__file__).parents[1] / "assets"
REINSTALL = "reinstall ireg, or set data.root=…"


def packed(*, dataset: str, root: str | Path | None, md5: Mapping[str, str], train: bool) -> tuple[Tensor, Tensor]:
    """Read one split from files that are never written.

    Args:
        dataset: name of the folder.
        root: the files are ``root/<dataset>/raw/<name>.gz``. None: the copy in this package.
        md5: of each file's content by its name. It is compared before anything is made of the content, as is its
            sha256, which `ireg.data.digests` has for the package's own files.
        train: the training split, else the test split.

    Returns:
        Images, uint8 (N, H, W), and labels, int64 (N,).

    Raises:
        UserError: a file is missing, damaged, or another one, or ``md5`` does not name it.
    """
    split = "train" if train else "t10k"
    images, labels = (_read(folder_of(root, dataset), f"{split}-{kind}-ubyte", md5) for kind in KINDS)
    return images, labels.long()


KINDS = ("images-idx3", "labels-idx1")


def folder_of(root: str | Path | None, dataset: str) -> Path:
    """Return the folder of a data set's files; that in this package where `root` is None."""
    return (PACKAGED if root is None else Path(root).expanduser().absolute()) / dataset / "raw"


def _read(folder: Path, name: str, md5: Mapping[str, str]) -> Tensor:
    if name not in md5:
        raise UserError(f"md5 names {', '.join(sorted(md5))}: give one for {name}, too")
    path = folder / f"{name}.gz"
    try:
        content = unpacked(path, path.read_bytes(), REINSTALL)
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error}): {REINSTALL}") from error
    require(str(path), content, md5[name], REINSTALL)
    return numbers(content)


def unpacked(path: Path, content: bytes, remedy: str) -> bytes:
    """Unpack the content of a file.

    Raises:
        UserError: it is truncated or damaged; the line ends with the remedy.
    """
    try:
        return gzip.decompress(content)
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise UserError(f"{path} is truncated or damaged ({error}): {remedy}") from error


def numbers(content: bytes) -> Tensor:
    """Return the numbers of an IDX file of unsigned bytes, as uint8.

    Its header: two zero bytes, the type (8), the number of dimensions, then each size in four bytes, the most
    significant one first.

    Source: http://yann.lecun.com/exdb/mnist (the format).
    """
    sizes = [int.from_bytes(content[4 + 4 * axis : 8 + 4 * axis], "big") for axis in range(content[3])]
    return torch.frombuffer(bytearray(content), dtype=torch.uint8, offset=4 + 4 * len(sizes)).reshape(sizes)
