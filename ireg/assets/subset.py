"""Cut an embedded subset from its originals: `python -m ireg.assets.subset MNIST FOLDER`.

The first 10,000 training and the 10,000 test examples are kept, in the original order and format (IDX). So they are
read like the full set. Running it again writes the same bytes.
"""

import gzip
import hashlib
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from ireg.data.digests import require
from ireg.data.packed import folder_of, unpacked
from ireg.system.errors import UserError
from ireg.system.files import replacing

NUM_EXAMPLES = 10_000
ORIGINAL_MD5 = {
    "MNIST": {
        "train-images-idx3-ubyte": "6bbc9ace898e44ae57da46a324031adb",
        "train-labels-idx1-ubyte": "a25bea736e30d166cdddb491f175f624",
        "t10k-images-idx3-ubyte": "2646ac647ad5339dbf082846283269ea",
        "t10k-labels-idx1-ubyte": "27ae3e4e09519cfbb04c329615203637",
    },
    "FashionMNIST": {
        "train-images-idx3-ubyte": "f4a8712d7a061bf5bd6d2ca38dc4d50a",
        "train-labels-idx1-ubyte": "9018921c3c673c538a1fc5bad174d6f9",
        "t10k-images-idx3-ubyte": "8181f5470baa50b63fa0f6fddb340f0a",
        "t10k-labels-idx1-ubyte": "15d484375f8d13e6eb1aabb0c3f46965",
    },
}
"""Of the originals' contents, unpacked."""


def main(arguments: Sequence[str]) -> None:
    """Cut the originals in a folder, and print the md5s as the data set's YAML has them."""
    if len(arguments) != 2 or arguments[0] not in ORIGINAL_MD5:
        sys.exit(f"usage: python -m ireg.assets.subset {'|'.join(ORIGINAL_MD5)} FOLDER_WITH_THE_ORIGINAL_FILES")
    dataset, originals = arguments
    try:
        out, packed = folder_of(None, dataset), dataset != "MNIST"
        written = make(Path(originals), out, ORIGINAL_MD5[dataset], packed=packed)
    except UserError as error:
        sys.exit(str(error))
    for name, md5 in written.items():
        print(f"{name}: {md5}")


def make(originals: Path, out: Path, md5: Mapping[str, str], *, packed: bool) -> dict[str, str]:
    """Write the subset.

    Args:
        originals: the folder with the four original files, packed or not.
        out: where the subset goes.
        md5: of each original's content, by its name.
        packed: whether the files are packed by gzip, with names that end in `.gz`.

    Returns:
        The md5 of each written file's content, unpacked, by the original's name.

    Raises:
        UserError: an original is missing, cannot be unpacked or has another md5; nothing is written then.
    """
    subset = {name: cut(read_original(originals, name, expected)) for name, expected in md5.items()}
    for name, content in subset.items():
        with replacing(out / (f"{name}.gz" if packed else name)) as temporary:
            # Without the time, so that the bytes are the same again.
            temporary.write_bytes(gzip.compress(content, mtime=0) if packed else content)
    return {name: hashlib.md5(content, usedforsecurity=False).hexdigest() for name, content in subset.items()}


def read_original(folder: Path, name: str, md5: str) -> bytes:
    """Return the content of a raw file, after comparing its md5 and sha256.

    Args:
        folder: with the file, or the file packed by gzip.
        name: of the file, without `.gz`.
        md5: of its content.

    Raises:
        UserError: it is missing, cannot be unpacked or has another digest.
    """
    path, gz = folder / name, folder / f"{name}.gz"
    try:
        content = path.read_bytes() if path.is_file() else unpacked(gz, gz.read_bytes(), "get the original again")
    except OSError as error:
        raise UserError(f"{folder} gives neither {name} nor {name}.gz ({error}): put one of them there") from error
    require(f"{name} in {folder}", content, md5, "get the original again")
    return content


def cut(content: bytes) -> bytes:
    """Keep the first `NUM_EXAMPLES` items of an IDX file, see `ireg.data.packed.numbers`."""
    data_start = 4 + 4 * content[3]
    num_items = int.from_bytes(content[4:8], "big")
    item_bytes = (len(content) - data_start) // num_items
    keep = min(NUM_EXAMPLES, num_items)
    return content[:4] + keep.to_bytes(4, "big") + content[8 : data_start + keep * item_bytes]


if __name__ == "__main__":
    main(sys.argv[1:])
