"""Measure the terms in a training loop in plain PyTorch: `python examples/plain_torch.py`.

A small convolutional network learns to tell whether a bright blob lies left or right of the centre.
"""

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

import ireg


def make_data(size: int = 512) -> tuple[Tensor, Tensor]:
    """Return images (N, 1, 12, 12) and labels (N,), one in ten of them wrong."""
    generator = torch.Generator().manual_seed(0)
    places = 2 + 8 * torch.rand(size, 2, generator=generator)
    grid = torch.arange(12.0)
    rows = torch.exp(-(((grid - places[:, :1]) / 2) ** 2))
    columns = torch.exp(-(((grid - places[:, 1:]) / 2) ** 2))
    images = rows[:, :, None] * columns[:, None, :] + 0.3 * torch.randn(size, 12, 12, generator=generator)
    labels = (places[:, 1] > 6).long()
    wrong = torch.rand(size, generator=generator) < 0.1
    return images[:, None], torch.where(wrong, 1 - labels, labels)


def make_model() -> nn.Module:
    """Return a network with GroupNorm."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 8, 3), nn.GroupNorm(2, 8), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(200, 2)
    )


def train(model: nn.Module, epochs: int = 5) -> ireg.Monitor:
    """Train, and measure after each epoch."""
    images, labels = make_data()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    monitor = ireg.Monitor(model, optimizer, criterion=cross_entropy)
    for epoch in range(epochs):
        order = torch.randperm(len(images), generator=torch.Generator().manual_seed(epoch))
        for index in order.split(32):
            optimizer.zero_grad()
            loss = cross_entropy(model(images[index]), labels[index])
            loss.backward()
            optimizer.step()
            monitor.update((images[index], labels[index]))  # after the step
        values = monitor.compute()  # over the epoch's minibatches, at the present weights
        monitor.reset()
        print(f"epoch {epoch + 1}: loss {loss:.3f}, ireg/sgd {values['ireg/sgd']:.2e}, own {values['ireg/own']:.2e}")
    return monitor


if __name__ == "__main__":
    print(train(make_model()).rows.to_string(float_format="%.3g"))
