"""Cut the embedded Fashion-MNIST subset: `python -m ireg.assets.make_fashion10k FOLDER`."""

import sys
from collections.abc import Sequence
from pathlib import Path

from ireg.assets.subset import command

RAW = Path(__file__).parent / "FashionMNIST" / "raw"
# The md5 of the originals, unpacked.
ORIGINAL_MD5 = {
    "train-images-idx3-ubyte": "f4a8712d7a061bf5bd6d2ca38dc4d50a",
    "train-labels-idx1-ubyte": "9018921c3c673c538a1fc5bad174d6f9",
    "t10k-images-idx3-ubyte": "8181f5470baa50b63fa0f6fddb340f0a",
    "t10k-labels-idx1-ubyte": "15d484375f8d13e6eb1aabb0c3f46965",
}


def main(arguments: Sequence[str]) -> None:
    """Cut the originals in the folder, and print the md5s."""
    command(arguments, "make_fashion10k", RAW, ORIGINAL_MD5, packed=True)


if __name__ == "__main__":
    main(sys.argv[1:])
