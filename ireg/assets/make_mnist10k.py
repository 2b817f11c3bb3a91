"""Cut the embedded MNIST subset from the four original files.

The command is `python -m ireg.assets.make_mnist10k FOLDER`.

The first 10,000 training and the 10,000 test examples, in the original order and in the original (IDX) format, so that
they are read like the full set. Running it again writes the same bytes.
"""

import gzip
import hashlib
import sys
import zlib
from pathlib import Path

from ireg.errors import UserError
from ireg.files import replacing

RAW = Path(__file__).parent / "MNIST" / "raw"
NUM_EXAMPLES = 10_000
# The md5 of the originals, unpacked.
ORIGINAL_MD5 = {
    "train-images-idx3-ubyte": "6bbc9ace898e44ae57da46a324031adb",
    "train-labels-idx1-ubyte": "a25bea736e30d166cdddb491f175f624",
    "t10k-images-idx3-ubyte": "2646ac647ad5339dbf082846283269ea",
    "t10k-labels-idx1-ubyte": "27ae3e4e09519cfbb04c329615203637",
}


def make(originals: Path, out: Path) -> dict[str, str]:
    """Write the subset; return the md5 of each file.

    The four original files are in `originals`; the subset goes to `out`.

    Raises:
        UserError: An original is missing, cannot be unpacked or has another md5; nothing is written then.
    """
    subset = {name: cut(read_original(originals, name, md5)) for name, md5 in ORIGINAL_MD5.items()}
    for name, content in subset.items():
        with replacing(out / name) as temporary:
            temporary.write_bytes(content)
    return {name: hashlib.md5(content, usedforsecurity=False).hexdigest() for name, content in subset.items()}


def read_original(folder: Path, name: str, md5: str) -> bytes:
    """Return the content of a raw file, after comparing its md5.

    It is read from `name`, or from `name`.gz.
    """
    path, gz = folder / name, folder / f"{name}.gz"
    try:
        content = path.read_bytes() if path.is_file() else gzip.decompress(gz.read_bytes())
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise UserError(f"{gz} is truncated or damaged ({error}): get the original again") from error
    except OSError as error:
        raise UserError(f"{folder} gives neither {name} nor {name}.gz ({error}): put one of them there") from error
    found = hashlib.md5(content, usedforsecurity=False).hexdigest()
    if found != md5:
        raise UserError(f"{name} in {folder} has md5 {found}, expected {md5}: get the original again")
    return content


def cut(content: bytes) -> bytes:
    """Keep the first NUM_EXAMPLES items of an IDX file of unsigned bytes.

    Its header: two zero bytes, the type, the number of dimensions, then each size in four bytes, the most significant
    one first; the first size is the number of items (http://yann.lecun.com/exdb/mnist).
    """
    data_start = 4 + 4 * content[3]
    num_items = int.from_bytes(content[4:8], "big")
    item_bytes = (len(content) - data_start) // num_items
    keep = min(NUM_EXAMPLES, num_items)
    return content[:4] + keep.to_bytes(4, "big") + content[8 : data_start + keep * item_bytes]


def main(arguments: list[str]) -> None:
    """Run `make` on the folder, and print the md5s.

    They are printed as conf/data/mnist10k.yaml has them.
    """
    if len(arguments) != 1:
        sys.exit("usage: python -m ireg.assets.make_mnist10k FOLDER_WITH_THE_ORIGINAL_FILES")
    try:
        written = make(Path(arguments[0]), RAW)
    except UserError as error:
        sys.exit(str(error))
    for name, md5 in written.items():
        print(f"{name}: {md5}")


if __name__ == "__main__":
    main(sys.argv[1:])
