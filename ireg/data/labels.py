"""Label noise, made from the clean labels."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor


class NoisyLabels(NamedTuple):
    """Labels with noise and what became of them, each of shape (N,).

    Attributes:
        observed: the labels to train on.
        clean: the true labels.
        corrupted: where the observed label is wrong (a redrawn label may be right again under `uniform` noise).
    """

    observed: Tensor
    clean: Tensor
    corrupted: Tensor


def corrupt(labels: Tensor, *, rate: float, num_classes: int, kind: str, generator: torch.Generator) -> NoisyLabels:
    """Redraw the labels of exactly round(rate · N) examples, chosen at random without replacement.

    The kinds differ in what a chosen label c becomes, and so in the share of labels that end up wrong:

    - `symmetric`: one of the other C − 1 classes, each with probability 1/(C − 1). Never the true class: a share
      `rate` is wrong.
    - `uniform`: any of the C classes, each with probability 1/C. The true class can be drawn again: a share
      `rate` · (C − 1)/C is wrong on average.
    - `pairflip`: the next class, (c + 1) mod C. Never the true class: a share `rate` is wrong.
    - `none`: nothing is redrawn, whatever the rate.

    Args:
        labels: the clean labels, integers in [0, num_classes), shape (N,); left as they are.
        rate: share of labels to redraw, in [0, 1].
        num_classes: C, at least 2.
        kind: one of the above.
        generator: the only source of random numbers.

    Raises:
        ValueError: a rate, number of classes or kind out of range, or labels out of [0, num_classes).
    """
    if not 0.0 <= rate <= 1.0:
        raise ValueError(f"rate={rate}: must be in [0, 1]")
    if num_classes < 2:
        raise ValueError(f"num_classes={num_classes}: must be at least 2")
    if kind not in NOISE_KINDS:
        raise ValueError(f"kind={kind!r}: unknown; choose one of {', '.join(NOISE_KINDS)}")
    if labels.numel() and not (int(labels.min()) >= 0 and int(labels.max()) < num_classes):
        raise ValueError(f"labels from {int(labels.min())} to {int(labels.max())}: must be in [0, {num_classes})")
    chosen = torch.randperm(len(labels), generator=generator)[: round(rate * len(labels))]
    observed = labels.clone()
    observed[chosen] = NOISE_KINDS[kind](labels[chosen], num_classes, generator)
    return NoisyLabels(observed=observed, clean=labels.clone(), corrupted=observed != labels)


def _symmetric(labels: Tensor, num_classes: int, generator: torch.Generator) -> Tensor:
    offsets = torch.randint(1, num_classes, labels.shape, generator=generator)
    return (labels + offsets) % num_classes


def _uniform(labels: Tensor, num_classes: int, generator: torch.Generator) -> Tensor:
    return torch.randint(0, num_classes, labels.shape, generator=generator)


def _pairflip(labels: Tensor, num_classes: int, generator: torch.Generator) -> Tensor:
    return (labels + 1) % num_classes


def _none(labels: Tensor, num_classes: int, generator: torch.Generator) -> Tensor:
    return labels


NOISE_KINDS: dict[str, Callable[[Tensor, int, torch.Generator], Tensor]] = {
    "symmetric": _symmetric,
    "uniform": _uniform,
    "pairflip": _pairflip,
    "none": _none,
}
