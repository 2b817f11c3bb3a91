"""Cut the embedded Fashion-MNIST subset from the four original files.

The command is `python -m ireg.assets.make_fashion10k FOLDER`.

The first 10,000 training and the 10,000 test examples, in the original order and format (IDX), packed by gzip.
Running it again writes the same bytes.
"""

import gzip
import hashlib
import sys
from pathlib import Path

from ireg.assets.make_mnist10k import cut, read_original
from ireg.errors import UserError
from ireg.files import replacing

RAW = Path(__file__).parent / "FashionMNIST" / "raw"
# The md5 of the originals, unpacked.
ORIGINAL_MD5 = {
    "train-images-idx3-ubyte": "f4a8712d7a061bf5bd6d2ca38dc4d50a",
    "train-labels-idx1-ubyte": "9018921c3c673c538a1fc5bad174d6f9",
    "t10k-images-idx3-ubyte": "8181f5470baa50b63fa0f6fddb340f0a",
    "t10k-labels-idx1-ubyte": "15d484375f8d13e6eb1aabb0c3f46965",
}


def make(originals: Path, out: Path) -> dict[str, str]:
    """Write the packed subset; return the md5 of each file's content.

    Raises:
        UserError: an original is missing, cannot be unpacked or has another md5; nothing is written then.
    """
    subset = {name: cut(read_original(originals, name, md5)) for name, md5 in ORIGINAL_MD5.items()}
    for name, content in subset.items():
        with replacing(out / f"{name}.gz") as temporary:
            temporary.write_bytes(gzip.compress(content, mtime=0))  # without the time: the same bytes again
    return {name: hashlib.md5(content, usedforsecurity=False).hexdigest() for name, content in subset.items()}


def main(arguments: list[str]) -> None:
    """Run `make` on the folder, and print the md5s.

    They are printed as conf/data/fashion10k.yaml has them.
    """
    if len(arguments) != 1:
        sys.exit("usage: python -m ireg.assets.make_fashion10k FOLDER_WITH_THE_ORIGINAL_FILES")
    try:
        written = make(Path(arguments[0]), RAW)
    except UserError as error:
        sys.exit(str(error))
    for name, md5 in written.items():
        print(f"{name}: {md5}")


if __name__ == "__main__":
    main(sys.argv[1:])
