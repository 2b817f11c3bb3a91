"""Blocks of characters in memory, as Lightning's data module."""

from typing import Any

import torch
from torch import Tensor

from ireg.data.labels import NoisyLabels
from ireg.data.source import Source
from ireg.data.text import read_blocks
from ireg.lit.data import NoisyImages


class TextBlocks(NoisyImages):
    """Blocks of a text as examples, with the character after each of their characters as labels.

    Inputs and labels are int64 (N, context), and no label is wrong. The last blocks of the training part are
    held out: random ones would lie between blocks that are trained on.

    Args:
        source: reads blocks and the characters that follow, see `ireg.data.text.text`.
        context: characters in a block.
        arguments: as those of `NoisyImages`, which has its noise, mean and scale for images.

    Raises:
        ValueError: an unknown sampling.
    """

    example = "block"
    has_noisy_labels = False

    def __init__(self, source: Source, *, context: int, **arguments: Any) -> None:
        super().__init__(source, **arguments)
        self.context = context

    def _held_out(self, count: int) -> Tensor:
        return torch.arange(count) >= count - self.holdout

    def _split(self, split: str) -> tuple[Tensor, NoisyLabels, Tensor]:
        blocks, following = read_blocks(
            self.source,
            split,
            num_examples=self.num_examples[split],
            context=self.context,
            num_classes=self.num_classes,
        )
        indices = self._chosen(split, len(blocks))
        labels = following[indices]
        return blocks[indices], NoisyLabels(labels, labels, torch.zeros_like(labels, dtype=torch.bool)), indices
