"""Cut the embedded MNIST subset: `python -m ireg.assets.make_mnist10k FOLDER`."""

import sys
from collections.abc import Sequence
from pathlib import Path

from ireg.assets.subset import command

RAW = Path(__file__).parent / "MNIST" / "raw"
# The md5 of the originals, unpacked.
ORIGINAL_MD5 = {
    "train-images-idx3-ubyte": "6bbc9ace898e44ae57da46a324031adb",
    "train-labels-idx1-ubyte": "a25bea736e30d166cdddb491f175f624",
    "t10k-images-idx3-ubyte": "2646ac647ad5339dbf082846283269ea",
    "t10k-labels-idx1-ubyte": "27ae3e4e09519cfbb04c329615203637",
}


def main(arguments: Sequence[str]) -> None:
    """Cut the originals in the folder, and print the md5s."""
    command(arguments, "make_mnist10k", RAW, ORIGINAL_MD5, packed=False)


if __name__ == "__main__":
    main(sys.argv[1:])
