"""How minibatches are drawn, which is part of the modified loss.

`epoch`: an epoch takes each of its m minibatches once, in a fresh random order. `independent`: each minibatch is a draw
of its own, with replacement, or comes from a stream that never repeats.

Source: docs/theory.md, section 15.
"""

import math
from collections.abc import Sequence
from typing import Any

from torch.utils.data import (
    BatchSampler,
    DataLoader,
    DistributedSampler,
    RandomSampler,
    SequentialSampler,
    SubsetRandomSampler,
    WeightedRandomSampler,
)

EPOCH, INDEPENDENT = "epoch", "independent"
SAMPLINGS = (EPOCH, INDEPENDENT)

_ONCE_EACH = (SequentialSampler, SubsetRandomSampler, DistributedSampler)
"""Samplers that take every example of an epoch once."""


def require_sampling(sampling: str) -> None:
    """Check that a drawing is one of `SAMPLINGS`.

    Raises:
        ValueError: it is not.
    """
    if sampling not in SAMPLINGS:
        raise ValueError(f"sampling={sampling!r}: must be one of {', '.join(SAMPLINGS)}")


def sampling_of(loader: Any) -> str | None:
    """Read off a loader how its minibatches are drawn.

    A loader or a sampler of one's own says it by an attribute `sampling`. Subclasses of torch's samplers may draw
    otherwise than their base, and are not known without it. A loader without shuffling counts as `epoch`, and so does
    one whose epoch is several passes.

    Args:
        loader: a `DataLoader`, one of torch's samplers, or a list of minibatches.

    Returns:
        One of `SAMPLINGS`; None where it is not known, as for a stream, whose examples may repeat or not.

    Example:
        >>> from torch.utils.data import DataLoader, WeightedRandomSampler
        >>> sampling_of(DataLoader(list(range(10)), batch_size=2, shuffle=True))
        'epoch'
        >>> sampling_of(DataLoader(list(range(10)), sampler=WeightedRandomSampler([0.1] * 10, 10)))
        'independent'
    """
    said = getattr(loader, "sampling", None)
    if said in SAMPLINGS:
        return str(said)
    if isinstance(loader, list | tuple):
        return EPOCH
    if isinstance(loader, DataLoader):
        return sampling_of(loader.sampler if loader.batch_sampler is None else loader.batch_sampler)
    return _of_sampler(loader)


def _of_sampler(sampler: Any) -> str | None:
    """Read off one of torch's samplers how it draws; None for others."""
    kind = type(sampler)
    if kind is BatchSampler:
        return sampling_of(sampler.sampler)
    if kind in _ONCE_EACH:
        return EPOCH
    if kind is WeightedRandomSampler:
        # Without replacement the examples of an epoch are some, not with equal chances.
        return INDEPENDENT if sampler.replacement else None
    if kind is RandomSampler:
        if sampler.replacement:
            return INDEPENDENT
        # Several whole passes are several epochs. Part of a pass leaves out other examples each time.
        return EPOCH if sampler.num_samples % len(sampler.data_source) == 0 else None
    return None


def population_size(sampling: str, num_batches: int) -> float:
    """Return how many minibatches those of a window are drawn from; infinite for independent draws."""
    return math.inf if sampling == INDEPENDENT else num_batches


def require_several(batches: Sequence[Any] | int) -> None:
    """Check that the noise of independent minibatches can be estimated.

    Raises:
        ValueError: there are fewer than two.
    """
    count = batches if isinstance(batches, int) else len(batches)
    if count < 2:
        raise ValueError(
            f"sampling={INDEPENDENT!r} with {count} minibatch: ‖∇C‖² has no estimate without the noise of the draw; "
            "give at least 2 minibatches, or leave ireg/full_batch, ireg/own and the mean flow out of the terms"
        )
