"""Cut the embedded subset of a data set from its originals.

The first 10,000 training and the 10,000 test examples are kept, in the original order and format (IDX). So they are
read like the full set. Running it again writes the same bytes.
"""

import gzip
import hashlib
import sys
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path

from ireg.data.digests import require
from ireg.system.errors import UserError
from ireg.system.files import replacing

NUM_EXAMPLES = 10_000


def command(arguments: Sequence[str], script: str, out: Path, md5: Mapping[str, str], *, packed: bool) -> None:
    """Run `make` on the command line's folder, and print the md5s as the data set's YAML has them.

    Args:
        arguments: the folder with the originals.
        script: the name of the module that is run.
        out: see `make`.
        md5: see `make`.
        packed: see `make`.
    """
    if len(arguments) != 1:
        sys.exit(f"usage: python -m ireg.assets.{script} FOLDER_WITH_THE_ORIGINAL_FILES")
    try:
        written = make(Path(arguments[0]), out, md5, packed=packed)
    except UserError as error:
        sys.exit(str(error))
    for name, digest in written.items():
        print(f"{name}: {digest}")


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
        content = path.read_bytes() if path.is_file() else gzip.decompress(gz.read_bytes())
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise UserError(f"{gz} is truncated or damaged ({error}): get the original again") from error
    except OSError as error:
        raise UserError(f"{folder} gives neither {name} nor {name}.gz ({error}): put one of them there") from error
    require(f"{name} in {folder}", content, md5, "get the original again")
    return content


def cut(content: bytes) -> bytes:
    """Keep the first `NUM_EXAMPLES` items of an IDX file of unsigned bytes.

    Its header: two zero bytes, the type, the number of dimensions, then each size in four bytes, the most significant
    one first; the first size is the number of items (http://yann.lecun.com/exdb/mnist).
    """
    data_start = 4 + 4 * content[3]
    num_items = int.from_bytes(content[4:8], "big")
    item_bytes = (len(content) - data_start) // num_items
    keep = min(NUM_EXAMPLES, num_items)
    return content[:4] + keep.to_bytes(4, "big") + content[8 : data_start + keep * item_bytes]
