"""The block of transformers, with attention written out.

torch's fused attention has no double backward on a CPU.
"""

import torch
from torch import Tensor, nn

from ireg.models.layers import LayerNorm


class Block(nn.Module):
    """Attention and a network of one hidden layer, each after a normalization and added to its inputs.

    Args:
        width: of the hidden vectors.
        heads: of the attention; they divide the width.
        expansion: width of the network's hidden layer, in multiples of `width`.
        causal: whether a position attends to itself and those before it alone.
        dropout: probability with which a number of either sum is left out in training.
    """

    def __init__(self, width: int, heads: int, *, expansion: int, causal: bool = False, dropout: float = 0.0) -> None:
        super().__init__()
        self.heads = heads
        self.causal = causal
        self.before, self.between = LayerNorm(width), LayerNorm(width)
        self.mix, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        hidden = expansion * width
        self.network = nn.Sequential(nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, width))
        self.dropout = nn.Dropout(dropout) if dropout else nn.Identity()

    def forward(self, hidden: Tensor) -> Tensor:
        """Map (N, positions, width) to the same."""
        parts = self.mix(self.before(hidden)).unflatten(2, (3, self.heads, -1))  # N, positions, 3, heads, width/heads
        query, key, value = parts.permute(2, 0, 3, 1, 4)
        scores = query @ key.transpose(-1, -2) / query.shape[-1] ** 0.5  # N, heads, positions, positions
        if self.causal:
            later = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).triu(1)
            scores = scores.masked_fill(later, -torch.inf)
        mixed = self.out((scores.softmax(-1) @ value).transpose(1, 2).flatten(2))
        hidden = hidden + self.dropout(mixed)
        outputs: Tensor = hidden + self.dropout(self.network(self.between(hidden)))
        return outputs
