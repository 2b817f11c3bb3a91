"""Small problems in float64 whose drift is known or quickly measured."""

from functools import partial

import torch
from torch import nn

from ireg.drift.problem import Problem
from ireg.system.parallel import LinesOfProgress, Workers

SGD = torch.optim.SGD


class Linear(nn.Module):
    """ω ↦ ⟨x, ω⟩: with half of the mean square as its loss C is quadratic."""

    def __init__(self, num_features):
        super().__init__()
        self.weight = nn.Parameter(torch.linspace(1, -0.5, num_features, dtype=torch.float64))

    def forward(self, inputs):
        return inputs @ self.weight


def half_square(outputs, targets):
    return ((outputs - targets) ** 2).mean() / 2


def quadratic(optimizer, *, num_examples=24, batch_size=1, num_features=3, steps=0, seed=0):
    """Linear regression, its optimizer made by `optimizer(parameters)` and after that many full-batch steps."""
    generator = torch.Generator().manual_seed(3)
    scales = torch.tensor([1.5, 1.0, 0.5], dtype=torch.float64)[:num_features]
    inputs = torch.randn(num_examples, num_features, generator=generator, dtype=torch.float64) * scales
    targets = torch.randn(num_examples, generator=generator, dtype=torch.float64)
    module = Linear(num_features)
    made = optimizer(module.parameters())
    for _ in range(steps):
        made.zero_grad()
        half_square(module(inputs), targets).backward()
        made.step()
    module.zero_grad()
    return Problem(
        module=module,
        criterion=half_square,
        inputs=inputs,
        targets=targets,
        batch_size=batch_size,
        make_optimizer=optimizer,
        optimizer_state=made.state_dict(),
        seed=seed,
    )


def hessian_and_gradient(problem):
    """H and g of the quadratic, in closed form."""
    inputs, count = problem.inputs, len(problem.targets)
    return inputs.T @ inputs / count, inputs.T @ (inputs @ problem.weights - problem.targets) / count


def alone(problem):
    """Workers in this process."""
    return Workers(problem, None, LinesOfProgress(1))


OPTIMIZERS = {
    "sgd": partial(SGD, lr=0.01),
    "momentum": partial(SGD, lr=0.01, momentum=0.9, dampening=0.2, weight_decay=0.1),
    "nesterov": partial(SGD, lr=0.01, momentum=0.9, nesterov=True),
    "rmsprop": partial(torch.optim.RMSprop, lr=0.01, alpha=0.9, momentum=0.5, centered=True),
    "adagrad": partial(torch.optim.Adagrad, lr=0.01, lr_decay=0.1),
    "adam": partial(torch.optim.Adam, lr=0.01, betas=(0.8, 0.95), amsgrad=True),
    "adamw": partial(torch.optim.AdamW, lr=0.01, weight_decay=0.1),
    "nadam": partial(torch.optim.NAdam, lr=0.01),
}
