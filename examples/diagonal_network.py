"""A problem on which Adam is known to find the better solution: sparse regression by a diagonal linear network.

The network's outputs are x · (u⊙u − v⊙v). There are fewer equations than weights, and the truth is sparse. The labels
of each step have fresh noise. So training does not end at the first fit. It wanders along the fits, SGD to where tr H
is small, Adam to where tr (diag H)^½ is small. The latter asks for more sparsity, so that Adam needs fewer equations.

    python examples/diagonal_network.py

Source: Li, Wen & Lyu 2025, arXiv:2511.02773, section 5. The other answer, where adaptive methods are worse, is
`python train.py experiment=separable`.
"""

import torch
from torch import Tensor, nn

import ireg

WEIGHTS, NONZERO, EQUATIONS, PROBLEMS = 60, 3, 11, 20
RATES = {"sgd": 0.02, "adam": 0.02}  # the best of four: 0.01 to 0.05, and 0.003 to 0.03
OPTIMIZERS = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam}


class DiagonalNetwork(nn.Module):
    """Several problems at once, each with weights of its own: outputs x · (u⊙u − v⊙v)."""

    def __init__(self, start: float = 0.3) -> None:
        super().__init__()
        self.u = nn.Parameter(torch.full((PROBLEMS, WEIGHTS), start))
        self.v = nn.Parameter(torch.full((PROBLEMS, WEIGHTS), start))

    def weights(self) -> Tensor:
        """Return what the inputs are multiplied by, (problems, weights)."""
        return self.u.square() - self.v.square()

    def forward(self, inputs: Tensor) -> Tensor:
        """Map inputs (N, problems, weights) to outputs (N, problems)."""
        return (inputs * self.weights()).sum(-1)


def loss(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    """Return the sum of the problems' mean squared errors."""
    inputs, targets = batch
    return (model(inputs) - targets).square().mean(0).sum()


def train(name: str, steps: int = 40_000, noise: float = 0.5, batch_size: int = 5) -> tuple[Tensor, ireg.Monitor]:
    """Train, and return each problem's relative error (problems,) and what was measured."""
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(EQUATIONS, PROBLEMS, WEIGHTS, generator=generator)
    truth = torch.zeros(WEIGHTS)
    truth[:NONZERO] = 1.0
    targets = inputs @ truth
    model = DiagonalNetwork()
    optimizer = OPTIMIZERS[name](model.parameters(), lr=RATES[name])
    # The noise calms down at the end, so that the solution is seen and not the wandering around it.
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min(1.0, 5 * (1 - step / steps)))
    # From a sample of each tenth of the steps.
    monitor = ireg.Monitor(model, optimizer, loss=loss, terms=["ireg/own", "norm/l2"], num_batches=16)
    for step in range(steps):
        chosen = torch.randint(EQUATIONS, (batch_size,), generator=generator)
        batch = inputs[chosen], targets[chosen] + noise * torch.randn(batch_size, PROBLEMS, generator=generator)
        optimizer.zero_grad()
        loss(model, batch).backward()
        optimizer.step()
        monitor.update(batch)
        scheduler.step()
        if (step + 1) % (steps // 10) == 0:
            monitor.compute()
            monitor.reset()
    return ((model.weights().detach() - truth).norm(dim=1) / truth.norm()), monitor


if __name__ == "__main__":
    for name in OPTIMIZERS:
        errors, monitor = train(name)
        print(f"{name}: {int((errors < 0.2).sum())} of {PROBLEMS} recovered, median error {errors.median():.3f}")
        print(monitor.rows.to_string(index=False, float_format="%.3g"))
