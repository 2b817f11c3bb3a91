"""Small files of MNIST's format that are made here, and functions that put them into a folder."""

import gzip
import hashlib
from pathlib import Path

import torch

NAMES = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")
SHAPES = ((6, 28, 28), (6,), (3, 28, 28), (3,))


def md5_of(content: bytes) -> str:
    return hashlib.md5(content).hexdigest()


def _made(shape, seed: int) -> bytes:
    values = torch.randint(0, 10, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))
    header = bytes([0, 0, 8, len(shape)]) + b"".join(size.to_bytes(4, "big") for size in shape)
    return header + values.numpy().tobytes()


CONTENT = {name: _made(shape, seed) for seed, (name, shape) in enumerate(zip(NAMES, SHAPES, strict=True))}
PACKED = {name: gzip.compress(content, mtime=0) for name, content in CONTENT.items()}
MD5 = {name: md5_of(content) for name, content in CONTENT.items()}


def fill(root: Path, dataset: str, *, raw=(), gz=()) -> Path:
    """Put the files there and return their folder."""
    folder = root / dataset / "raw"
    folder.mkdir(parents=True, exist_ok=True)
    for name in raw:
        (folder / name).write_bytes(CONTENT[name])
    for name in gz:
        (folder / f"{name}.gz").write_bytes(PACKED[name])
    return folder
