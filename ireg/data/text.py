"""A text in a gzipped file, as blocks of characters and the characters that follow them."""

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from ireg.data.digests import require
from ireg.data.packed import REINSTALL, folder_of, unpacked
from ireg.data.source import Source, called
from ireg.system.errors import UserError


def text(
    *, dataset: str, root: str | Path | None, md5: Mapping[str, str], context: int, train: bool
) -> tuple[Tensor, Tensor]:
    """Read one split of a text as blocks of characters, from a file that is never written.

    The first nine tenths of the characters are for training, the last tenth for the test. Within a split the blocks lie
    one after the other; what is left at its end is no block. A character is its place in the sorted alphabet of the
    whole text.

    Args:
        dataset: name of the folder.
        root: the file is ``root/<dataset>/raw/<name>.gz``. None: the copy in this package.
        md5: of the one file's content by its name. It is compared before anything is made of the content.
        context: characters in a block.
        train: the training split, else the test split.

    Returns:
        The blocks, int64 (N, context), and the character after each of their characters, of the same shape.

    Raises:
        UserError: the file is missing, damaged, or another one, or no UTF-8, or a split is shorter than a block.

    Example:
        >>> md5 = {"plays.txt": "ea646106b3843ac52472a48a97de2b57"}
        >>> blocks, following = text(dataset="Shakespeare", root=None, md5=md5, context=64, train=True)
        >>> blocks.shape, bool((blocks[:, 1:] == following[:, :-1]).all())
        (torch.Size([14575, 64]), True)
    """
    characters = _read(folder_of(root, dataset), md5)
    boundary = 9 * len(characters) // 10
    part = characters[:boundary] if train else characters[boundary:]
    return blocks_of(part, context)


def blocks_of(characters: Tensor, context: int) -> tuple[Tensor, Tensor]:
    """Cut characters into blocks, and those that follow them.

    Args:
        characters: (L,).
        context: characters in a block, T.

    Returns:
        Blocks and the characters that follow, each ((L − 1) // T, T).

    Raises:
        UserError: there are fewer than T + 1 characters.

    Example:
        >>> blocks_of(torch.arange(6), 2)
        (tensor([[0, 1],
                [2, 3]]), tensor([[1, 2],
                [3, 4]]))
    """
    count = (len(characters) - 1) // context
    if count < 1:
        raise UserError(f"data.context={context}: must be below {len(characters)}, the characters of a split")
    first, following = characters[: count * context], characters[1 : count * context + 1]
    return first.view(count, context).clone(), following.view(count, context).clone()


def _read(folder: Path, md5: Mapping[str, str]) -> Tensor:
    ((name, expected),) = md5.items()
    path = folder / f"{name}.gz"
    try:
        content = unpacked(path, path.read_bytes(), REINSTALL)
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error}): {REINSTALL}") from error
    require(str(path), content, expected, REINSTALL)
    try:
        characters = content.decode()
    except UnicodeDecodeError as error:
        raise UserError(f"{path} holds no text in UTF-8 ({error}): save it as UTF-8") from error
    numbers = torch.frombuffer(bytearray(characters.encode("utf-32-le")), dtype=torch.int32)  # each by its code point
    return numbers.unique(return_inverse=True)[1]


def read_blocks(
    source: Source, split: str, *, num_examples: int, context: int, num_classes: int
) -> tuple[Tensor, Tensor]:
    """Call a source of text for one split and check what it returns.

    Args:
        source: the source.
        split: `train` or `test`.
        num_examples: the number of blocks it is to have.
        context: characters in a block.
        num_classes: characters are below.

    Raises:
        UserError: the source raises an error, or returns anything else than `text` does.
    """
    call, returned = called(source, split)
    if not isinstance(returned, tuple | list) or len(returned) != 2:
        raise UserError(
            f"{call}: returned a {type(returned).__name__}; must be a pair (blocks, characters that follow)"
        )
    blocks, following = returned
    for what, values in (("blocks", blocks), ("characters that follow", following)):
        expected = (num_examples, context)
        if not isinstance(values, Tensor) or values.dtype != torch.int64 or tuple(values.shape) != expected:
            is_tensor = isinstance(values, Tensor)
            found = f"{values.dtype} of shape {tuple(values.shape)}" if is_tensor else type(values).__name__
            raise UserError(
                f"{call}: {what} are {found}; must be int64 of shape {expected}, by data.num_{split} characters in "
                f"blocks of data.context={context}"
            )
        low, high = int(values.min()), int(values.max())
        if low < 0 or high >= num_classes:
            raise UserError(f"{call}: characters from {low} to {high}; must be in [0, {num_classes}), data.num_classes")
    return blocks, following
