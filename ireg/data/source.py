"""What a data source returns, checked in one place before anything is made of it."""

from collections.abc import Iterator
from typing import Any, Protocol

import torch
from torch import Tensor

from ireg.system.errors import UserError


class Source(Protocol):
    """Reads one split of a data set.

    Returns a pair of CPU tensors: images (N, H, W) or (N, C, H, W), labels int64 (N,) in [0, num_classes). Images are
    uint8 from 0 to 255, which become numbers in [0, 1], or float32, which are taken as they are.
    """

    def __call__(self, *, train: bool) -> tuple[Tensor, Tensor]:
        """Read the training or the test examples."""


def read_split(source: Source, split: str, *, num_examples: int, num_classes: int) -> tuple[Tensor, Tensor]:
    """Call a source for one split and check what it returns.

    Args:
        source: the source.
        split: `train` or `test`.
        num_examples: the number of examples it is to have.
        num_classes: labels are below.

    Raises:
        UserError: the source raises an error, or returns anything else than `Source` says.
    """
    call, returned = called(source, split)
    for fault in _faults(returned):
        raise UserError(f"{call}: {fault}")
    images, labels = returned
    if len(images) != num_examples:
        raise UserError(
            f"data.num_{split}={num_examples}: the source holds {len(images)} {split} examples; "
            "set this key of the data set's configuration to that number"
        )
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= num_classes:
        raise UserError(f"{call}: labels from {low} to {high}; must be in [0, {num_classes}) for data.num_classes")
    return images, labels


def called(source: Source, split: str) -> tuple[str, Any]:
    """Call a source for one split.

    Args:
        source: the source.
        split: `train` or `test`.

    Returns:
        How a message names the call, and what it returned.

    Raises:
        UserError: it is no function, or raises an error.
    """
    call = f"data.source ({_name(source)}) with train={split == 'train'}"
    if not callable(source):
        raise UserError(f"data.source: must be a function, got {_what(source)}; beside _target_ add _partial_: true")
    try:
        returned: Any = source(train=split == "train")
    except UserError:
        raise
    except Exception as error:  # of a function of the user's, which may raise anything
        raise UserError(f"{call}: raised {type(error).__name__}: {' '.join(str(error).split())}") from error
    return call, returned


def as_numbers(images: Tensor) -> Tensor:
    """Make numbers in [0, 1] of bytes; numbers stay as they are."""
    return images if images.is_floating_point() else images.to(torch.float32).div_(255)


def require_one_shape(train: Tensor, test: Tensor) -> None:
    """Refuse splits whose images have different shapes.

    Raises:
        UserError: the shapes differ.
    """
    if train.shape[1:] != test.shape[1:]:
        raise UserError(
            f"data.source: images of shape {tuple(train.shape[1:])} for training and {tuple(test.shape[1:])} for the "
            "test; must be of one shape"
        )


def _faults(returned: Any) -> Iterator[str]:
    """List what is wrong with a source's return value, the first fault first.

    A later fault presumes that there is none before.
    """
    if not isinstance(returned, tuple | list) or len(returned) != 2:
        yield f"returned {_what(returned)}; must be a pair (images, labels)"
    allowed = ((torch.uint8, torch.float32), (torch.int64,))
    for name, values, dtypes in zip(("images", "labels"), returned, allowed, strict=True):
        if not isinstance(values, Tensor):
            yield f"{name} are {_what(values)}; must be a tensor, as from torch.from_numpy or torch.tensor"
        if values.device.type != "cpu":
            yield f"{name} are on {values.device}; must be on the CPU: {name}.cpu()"
        if values.dtype not in dtypes:
            scale = " from 0 to 255, or float32" if name == "images" else f": {name}.to({dtypes[0]})"
            yield f"{name} are {_plain(values.dtype)}; must be {_plain(dtypes[0])}{scale}"
    images, labels = returned
    if images.is_floating_point() and not images.isfinite().all():
        yield f"{int((~images.isfinite()).sum())} numbers of the images are not finite; must be finite"
    if images.ndim not in (3, 4) or not images.numel():
        yield f"images of shape {tuple(images.shape)}; must be (N, H, W) or (N, C, H, W), none of them 0"
    if labels.ndim != 1:
        how = "labels.argmax(1) of one-hot labels" if labels.ndim == 2 and labels.shape[1] > 1 else "labels.flatten()"
        yield f"labels of shape {tuple(labels.shape)}; must be (N,): {how}"
    if len(labels) != len(images):
        yield f"{len(images)} images and {len(labels)} labels; must be as many"


def _what(value: Any) -> str:
    """Describe a value by its type, and a sequence by its length, too."""
    kind = "None" if value is None else f"{type(value).__module__}.{type(value).__qualname__}".removeprefix("builtins.")
    return f"{kind} of {len(value)}" if isinstance(value, tuple | list) else kind


def _plain(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _name(source: Any) -> str:
    function = getattr(source, "func", source)  # of a functools.partial
    return f"{getattr(function, '__module__', '')}.{getattr(function, '__qualname__', type(function).__qualname__)}"
