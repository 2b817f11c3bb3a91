"""How curved C is where a drift is measured, and whether its Hessian tells how its slope changes.

- `steepest`: λ₁, the largest eigenvalue of H = ∇²C, by Lanczos' method. First order in η holds while
  η_e(1 + 2L)λ₁/2 ≪ 1 and, for the variance's part, mη_eλ₁ ≪ 1.
- `smoothness`: the cosine of ∇C(ω + s∇C) − ∇C(ω) and H∇C, s = η_e(½ + L): of what the mean's part of the correction is
  in truth, and in the theorem, which takes H for it. 1 where C is smooth over that way; double backward does not see
  that units with kinks, as ReLU has them, switch on and off along it.

C is the mean over the examples, weight decay included.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity

from ireg.core.random import named_generator
from ireg.drift.flow import CHUNK, velocity
from ireg.drift.problem import Problem, in_double

PRODUCTS = 12
"""Products with H that λ₁ takes."""
CURVATURE_COST = 60.0
"""Epochs of training that all of it costs, about."""


def curvature(problem: Problem) -> dict[str, float]:
    """The numbers `steepest` and `smoothness` at the start of optimizers without second moment, in double precision."""
    problem = in_double(problem)
    remembered = problem.optimizer.memory
    uphill = velocity(problem, problem.weights)
    way = remembered.effective_rate * (0.5 + remembered.lag)
    change = velocity(problem, problem.weights + way * uphill) - uphill
    return {
        "steepest": steepest(problem, PRODUCTS),
        "smoothness": float(cosine_similarity(change, hessian_product(problem, uphill), dim=0)),
    }


def steepest(problem: Problem, products: int) -> float:
    """The largest eigenvalue λ₁ of ∇²C at the start, from below, by Lanczos' method with a random first vector.

    Args:
        problem: whose C.
        products: with the Hessian, at most; fewer where the space they span is exhausted.
    """
    generator = named_generator("drift: curvature", problem.seed)
    vector = torch.randn(len(problem.weights), generator=generator, dtype=torch.float64)
    basis = [vector / vector.norm()]
    images: list[Tensor] = []
    while True:
        images.append(hessian_product(problem, basis[-1]))
        left = images[-1]
        for _ in range(2):  # twice: once leaves rounding errors that grow
            left = left - torch.stack(basis).T @ (torch.stack(basis) @ left)
        if len(images) == min(products, len(vector)) or float(left.norm()) <= 1e-9 * float(images[-1].norm()):
            break
        basis.append(left / left.norm())
    projected = torch.stack(basis) @ torch.stack(images).T
    return float(torch.linalg.eigvalsh((projected + projected.T) / 2)[-1])


def hessian_product(problem: Problem, direction: Tensor) -> Tensor:
    """∇²C times this direction at the start, by double backward."""
    leaves = {name: value.requires_grad_() for name, value in problem.params(problem.weights.clone()).items()}
    along = list(problem.params(direction).values())
    total = problem.optimizer.loss_decay * direction
    for inputs, targets in zip(problem.inputs.split(CHUNK), problem.targets.split(CHUNK), strict=True):
        with problem.measuring(), torch.enable_grad():
            loss = problem.loss(leaves, (inputs, targets))
            slopes = torch.autograd.grad(
                loss, list(leaves.values()), create_graph=True, allow_unused=True, materialize_grads=True
            )
            slope = torch.stack([(one * other).sum() for one, other in zip(slopes, along, strict=True)]).sum()
        bends = torch.autograd.grad(slope, list(leaves.values()), allow_unused=True, materialize_grads=True)
        total += len(targets) / len(problem.targets) * torch.cat([bend.flatten() for bend in bends]).double()
    return total
