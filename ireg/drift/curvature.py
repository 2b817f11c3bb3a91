"""How curved C is where a drift is measured, and whether ∇²C predicts how the gradient changes.

- `steepest`: λ₁, the largest eigenvalue of H = ∇²C, by Lanczos' method. First order in η holds while
  η_e(1 + 2L)λ₁/2 ≪ 1 and, for the variance's part, mη_eλ₁ ≪ 1.
- `smoothness`: the cosine of ∇C(ω + s∇C) − ∇C(ω) and H∇C, s = η_e(½ + L). The first is the mean's part of the
  correction as it is, the second the theorem's, which takes H for it. It is 1 where C is smooth over that distance.
  Double backward does not see that units with kinks, as ReLU has them, switch on and off along it.

C is the mean over the examples, weight decay included.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity

from ireg.core.hessian import hessian_product
from ireg.core.lanczos import largest_eigenpair
from ireg.core.random import named_generator
from ireg.drift.problem import Problem, flattened, in_double
from ireg.drift.runge_kutta import CHUNK, velocity

PRODUCTS = 12
"""Products with H that λ₁ takes."""
CURVATURE_COST = 60.0
"""Epochs of training that all of it costs, about."""


def curvature(problem: Problem) -> dict[str, float]:
    """Compute `steepest` and `smoothness` at the start, for optimizers without second moment.

    Returns:
        λ₁, a loss over squared weights, and the cosine, by name; both are computed in double precision.
    """
    problem = in_double(problem)
    remembered = problem.optimizer.memory
    uphill = velocity(problem, problem.weights)
    way = remembered.effective_rate * (0.5 + remembered.lag)
    change = velocity(problem, problem.weights + way * uphill) - uphill
    return {
        "steepest": steepest(problem, PRODUCTS),
        "smoothness": float(cosine_similarity(change, product(problem, uphill), dim=0)),
    }


def steepest(problem: Problem, products: int) -> float:
    """Estimate the largest eigenvalue λ₁ of ∇²C at the start, from below.

    The first vector is random.

    Args:
        problem: whose C.
        products: with the Hessian, at most.
    """
    generator = named_generator("drift: curvature", problem.seed)
    start = torch.randn(len(problem.weights), generator=generator, dtype=torch.float64)
    return largest_eigenpair(lambda vector: product(problem, vector), start, tolerance=0.0, products=products).value


def product(problem: Problem, direction: Tensor) -> Tensor:
    """Compute ∇²C times this direction at the start, (p,)."""
    chunks = [
        (len(batch[1]) / len(problem.targets), batch)
        for batch in zip(problem.inputs.split(CHUNK), problem.targets.split(CHUNK), strict=True)
    ]
    with problem.measuring():
        products = hessian_product(problem.loss, problem.params(problem.weights), chunks, problem.params(direction))
    return flattened(products) + problem.optimizer.loss_decay * direction
