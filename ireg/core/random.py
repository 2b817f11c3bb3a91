"""Independent streams of random numbers, each named by what it is for."""

import hashlib

import torch


def named_seed(purpose: str, *numbers: int) -> int:
    """Return a 63-bit seed made of `purpose` and `numbers` alone.

    Hashing keeps the streams apart: neighbouring seeds or epochs share nothing, and the same seed serves the order
    of batches and the label noise without coupling them.

    Args:
        purpose: what the stream is for.
        numbers: of the run, the epoch and so on.

    Example:
        >>> seed = named_seed("order", 0, 1)
        >>> seed == named_seed("order", 0, 1), seed == named_seed("order", 0, 2), seed == named_seed("labels", 0, 1)
        (True, False, False)
    """
    key = "/".join([purpose, *(str(number) for number in numbers)])
    return int.from_bytes(hashlib.blake2b(key.encode(), digest_size=8).digest(), "big") >> 1


def named_generator(purpose: str, *numbers: int) -> torch.Generator:
    """Return a CPU generator seeded by `named_seed`.

    The global random stream is neither read nor moved.
    """
    return torch.Generator().manual_seed(named_seed(purpose, *numbers))
