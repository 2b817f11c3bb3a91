"""A small language model."""

from collections.abc import Sequence

from torch import Tensor, nn

from ireg.known_models import require_gpt
from ireg.models.layers import LayerNorm, Shift
from ireg.models.transformer import Block

SCALE = 0.02
"""Standard deviation of the initial weights."""


class GPT(nn.Module):
    """Decoder-only transformer over blocks of characters: at each position, logits of the next one.

    Positions are learned. A normalization stands before the attention and before the network of each block, whose
    hidden layer is four times as wide, with GELU. First and last layer share no weights. Attention and normalization
    are written out: torch's fused attention has no double backward on a CPU, and the third derivative of its
    normalization is wrong there.

    Initial weights are normal with standard deviation 0.02, divided by √(2 · blocks) where a layer's output is added to
    the hidden vectors. Biases are 0.

    Args:
        input_shape: (context,), the number of characters in a block.
        num_classes: size of the alphabet.
        width: of the hidden vectors.
        blocks: number of blocks.
        heads: of the attention; they divide the width.
        dropout: probability with which a number is left out in training.

    Raises:
        ValueError: inputs that are no blocks of characters, heads that do not divide the width, no block, or a
            probability out of its range.

    Source: Radford et al. 2019, "Language models are unsupervised multitask learners", section 2.3.

    Example:
        >>> sum(p.numel() for p in GPT(input_shape=(64,), num_classes=76).parameters())
        821068
    """

    def __init__(
        self,
        *,
        input_shape: Sequence[int],
        num_classes: int,
        width: int = 128,
        blocks: int = 4,
        heads: int = 4,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        if len(input_shape) != 1:
            raise ValueError(f"input_shape={tuple(input_shape)}: GPT takes blocks of characters; use data=shakespeare")
        require_gpt(width=width, blocks=blocks, heads=heads, dropout=dropout)
        self.embed, self.places = nn.Embedding(num_classes, width), Shift(input_shape[0], width, scale=SCALE)
        self.dropout = nn.Dropout(dropout) if dropout else nn.Identity()
        self.blocks = nn.Sequential(
            *(Block(width, heads, expansion=4, causal=True, dropout=dropout) for _ in range(blocks))
        )
        self.norm, self.last = LayerNorm(width), nn.Linear(width, num_classes)
        for name, parameter in self.named_parameters():
            if name.endswith("bias"):
                nn.init.zeros_(parameter)
            elif parameter.ndim > 1:
                added = name.endswith(("out.weight", "network.2.weight"))
                nn.init.normal_(parameter, std=SCALE / (2 * blocks) ** 0.5 if added else SCALE)

    def forward(self, characters: Tensor) -> Tensor:
        """Map characters (N, context) to logits of the next ones (N, context, characters)."""
        hidden = self.dropout(self.places(self.embed(characters)))
        logits: Tensor = self.last(self.norm(self.blocks(hidden)))
        return logits
