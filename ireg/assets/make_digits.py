"""Pack the embedded digits: `python -m ireg.assets.make_digits digits.csv.gz`."""

import gzip
import hashlib
import sys
from collections.abc import Sequence
from pathlib import Path

from ireg.data.digests import require
from ireg.data.packed import unpacked
from ireg.system.errors import UserError
from ireg.system.files import replacing

RAW = Path(__file__).parent / "Digits" / "raw"
ORIGINAL_MD5 = "a0339c30a8a5312a1b6f9e5c719dcce5"
"""Of scikit-learn's file, unpacked: a line an image, 64 numbers from 0 to 16 and the label."""
REMEDY = "give scikit-learn's digits.csv.gz"
NUM_TRAIN = 1437
"""The first so many lines; the others are the test examples."""


def make(original: Path, out: Path, md5: str) -> dict[str, str]:
    """Write the digits as IDX files.

    Args:
        original: scikit-learn's `digits.csv.gz`.
        out: where the files go.
        md5: of the original's content.

    Returns:
        The md5 of each file's content, unpacked, by its name.

    Raises:
        UserError: the original is missing, cannot be unpacked or has another md5; nothing is written then.
    """
    try:
        content = unpacked(original, original.read_bytes(), REMEDY)
    except OSError as error:
        raise UserError(f"{original} cannot be read ({error}): {REMEDY}") from error
    require(f"the content of {original}", content, md5, REMEDY)
    rows = [[int(float(number)) for number in line.split(",")] for line in content.decode().splitlines()]
    written = {}
    for split, part in (("train", rows[:NUM_TRAIN]), ("t10k", rows[NUM_TRAIN:])):
        # 16 becomes 255, so that a pixel's range is that of other images.
        pixels = bytes((number * 255 + 8) // 16 for row in part for number in row[:-1])
        for name, sizes, values in (
            (f"{split}-images-idx3-ubyte", (len(part), 8, 8), pixels),
            (f"{split}-labels-idx1-ubyte", (len(part),), bytes(row[-1] for row in part)),
        ):
            header = bytes([0, 0, 8, len(sizes)]) + b"".join(size.to_bytes(4, "big") for size in sizes)
            with replacing(out / f"{name}.gz") as temporary:
                temporary.write_bytes(gzip.compress(header + values, mtime=0))  # without the time: the same bytes again
            written[name] = hashlib.md5(header + values, usedforsecurity=False).hexdigest()
    return written


def main(arguments: Sequence[str]) -> None:
    """Pack the file, and print the md5s as the data set's YAML has them."""
    if len(arguments) != 1:
        sys.exit("usage: python -m ireg.assets.make_digits digits.csv.gz")
    try:
        written = make(Path(arguments[0]), RAW, ORIGINAL_MD5)
    except UserError as error:
        sys.exit(str(error))
    for name, md5 in written.items():
        print(f"{name}: {md5}")


if __name__ == "__main__":
    main(sys.argv[1:])
