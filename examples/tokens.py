"""Measure the terms on a language model: `python examples/tokens.py`.

A small transformer learns sums of digits. A minibatch is a dictionary, with texts in it, and the loss masks padding:
`loss(model, batch)` takes any minibatch.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, softmax

import ireg

ALPHABET = "0123456789+= "
PADDING = ALPHABET.index(" ")


class Block(nn.Module):
    """Attention and a small network. Written out, attention has second derivatives on every device."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.before, self.between = nn.LayerNorm(width), nn.LayerNorm(width)
        self.mix, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.think = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))

    def forward(self, hidden: Tensor) -> Tensor:
        """Map (N, T, width) to the same."""
        query, key, value = self.mix(self.before(hidden)).chunk(3, dim=-1)
        scores = query @ key.transpose(1, 2) / query.shape[-1] ** 0.5
        later = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).triu(1)
        hidden = hidden + self.out(softmax(scores.masked_fill(later, -torch.inf), dim=-1) @ value)
        return hidden + self.think(self.between(hidden))


class Transformer(nn.Module):
    """Two blocks; the embedding is the output layer, too."""

    def __init__(self, width: int = 16, length: int = 12) -> None:
        super().__init__()
        self.embed, self.place = nn.Embedding(len(ALPHABET), width), nn.Embedding(length, width)
        self.blocks = nn.Sequential(Block(width), Block(width))

    def forward(self, tokens: Tensor) -> Tensor:
        """Map tokens (N, T) to logits (N, T, alphabet)."""
        places = torch.arange(tokens.shape[1], device=tokens.device)
        return self.blocks(self.embed(tokens) + self.place(places)) @ self.embed.weight.T


def make_batches(epoch: int, count: int = 8, size: int = 16) -> list[dict[str, Any]]:
    """Return minibatches of sums, padded to the longest of each."""
    generator = torch.Generator().manual_seed(epoch)
    batches = []
    for _ in range(count):
        numbers = torch.randint(0, 60, (size, 2), generator=generator).tolist()
        texts = [f"{a}+{b}={a + b}" for a, b in numbers]
        longest = max(map(len, texts))
        tokens = torch.tensor([[ALPHABET.index(sign) for sign in text.ljust(longest)] for text in texts])
        batches.append({"tokens": tokens, "texts": texts})
    return batches


def loss(model: nn.Module, batch: dict[str, Any]) -> Tensor:
    """Return the mean loss of the next token, without padding."""
    logits, targets = model(batch["tokens"][:, :-1]), batch["tokens"][:, 1:]
    return cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=PADDING)


def train(model: nn.Module, epochs: int = 5) -> ireg.Monitor:
    """Train with AdamW and a warm-up within the epochs."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 0.1, total_iters=20)
    monitor = ireg.Monitor(model, optimizer, loss=loss)
    for epoch in range(epochs):
        for batch in make_batches(epoch):
            optimizer.zero_grad()
            loss(model, batch).backward()
            optimizer.step()
            monitor.update(batch)  # before the schedule changes the rate
            schedule.step()
        monitor.compute()
        monitor.reset()
    return monitor


if __name__ == "__main__":
    torch.manual_seed(0)
    print(train(Transformer()).rows.to_string(float_format="%.3g"))
