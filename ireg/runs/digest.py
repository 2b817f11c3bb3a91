"""A digest of a checkpoint's content, by which damage is found."""

import hashlib
import zlib
from collections.abc import Callable, Mapping
from typing import Any


def digest(content: Any) -> str:
    """Compute a digest of nested mappings, sequences, tensors and plain values.

    It changes with any bit of a tensor, and depends on neither its device nor the file's format. It is against
    damage, not against forgery: of a tensor it has the 32 bits of a CRC.

    Example:
        >>> import torch
        >>> digest({"a": torch.zeros(2)}) == digest({"a": torch.zeros(2)})
        True
        >>> digest({"a": torch.zeros(2)}) == digest({"a": -torch.zeros(2)})
        False
    """
    total = hashlib.blake2b(digest_size=16)
    _add(content, total.update)
    return total.hexdigest()


def _add(value: Any, update: Callable[[Any], None]) -> None:
    """Add a value to the digest, with its kind and size to keep it apart from others."""
    import torch

    if isinstance(value, torch.Tensor):
        update(f"tensor {value.dtype} {tuple(value.shape)};".encode())
        strided = value.cpu().to_dense().resolve_conj().resolve_neg().contiguous()
        # Its CRC, as a zip file has: a cryptographic hash of the weights would take six times as long.
        update(f"{zlib.crc32(strided.reshape(-1).view(torch.uint8).numpy().data)};".encode())
    elif isinstance(value, Mapping):
        update(f"mapping {len(value)};".encode())
        for key, inner in value.items():
            _add(key, update)
            _add(inner, update)
    elif isinstance(value, list | tuple):
        update(f"sequence {len(value)};".encode())
        for inner in value:
            _add(inner, update)
    else:
        update(f"{type(value).__name__} {value!r};".encode())
