"""Where an epoch is long against the steepest direction, the theorem's variance part is bent (docs/drift.md).

On a quadratic, with the mean over many orders: what ∇‖ḡ‖²'s exact flow leaves of the drift, against the theorem's
variance part, and against the same with what the flow forgets between two minibatches.
"""

import math
from functools import partial

import torch

from tests.drift.small import SGD, hessian_and_gradient, quadratic

PAIRS, COUNT, NODES = 20_000, 100, 40


def mean_and_error(problem, rate):
    """The mean over pairs of orders, one and the same backwards, of the weights after an epoch; its standard error."""
    generator = torch.Generator().manual_seed(1)
    order = torch.rand(PAIRS, COUNT, generator=generator).argsort(1)
    order = torch.cat([order, order.flip(1)])
    weights = problem.weights.repeat(2 * PAIRS, 1)
    for k in range(COUNT):
        x, y = problem.inputs[order[:, k]], problem.targets[order[:, k]]
        weights = weights - rate * x * ((x * weights).sum(1) - y)[:, None]
    pairs = (weights[:PAIRS] + weights[PAIRS:]) / 2
    return pairs.mean(0), pairs.std(0) / math.sqrt(PAIRS)


def drifts(rate):
    """The measured rest, its standard error, the theorem's variance part, and that with forgetting; along the axes."""
    problem = quadratic(partial(SGD, lr=rate), num_examples=COUNT)
    hessian, g = hessian_and_gradient(problem)
    eigenvalues, axes = torch.linalg.eigh(hessian)
    minimum = problem.weights - torch.linalg.solve(hessian, g)
    time, x, y = COUNT * rate, problem.inputs, problem.targets

    def decay(span, curvature=eigenvalues):
        return axes @ torch.diag(torch.exp(-span * curvature)) @ axes.T

    flow = minimum + decay(time, eigenvalues + rate / 2 * eigenvalues**2) @ (problem.weights - minimum)
    deviations = torch.einsum("ni,nj->nij", x, x) - hessian
    theorem, forgetting = torch.zeros(3).double(), torch.zeros(3).double()
    width = time / NODES
    for first in range(NODES):
        s = (first + 0.5) * width
        weights = minimum + decay(s) @ (problem.weights - minimum)
        noise = x * (x @ weights - y)[:, None]
        noise = noise - noise.mean(0)
        force = torch.einsum("nij,nj->i", deviations, noise) / COUNT
        theorem -= rate / 2 * width * decay(time - s) @ force
        for second in range(first, NODES):
            t = (second + 0.5) * width
            later = torch.einsum("nij,nj->i", deviations, noise @ decay(t - s)) / COUNT
            share = 0.5 if first == second else 1.0
            forgetting -= share * width**2 / (COUNT - 1) * decay(time - t) @ later
    mean, error = mean_and_error(problem, rate)
    return (mean - flow) @ axes, error, theorem @ axes, forgetting @ axes


def test_short_epochs_follow_the_theorem_and_long_ones_forget():
    measured, error, theorem, forgetting = drifts(0.001)  # mηλ = 0.03, 0.08, 0.20
    for predicted in (theorem, forgetting):
        assert float((measured - predicted).norm()) < 0.03 * float(measured.norm())
    measured, error, theorem, forgetting = drifts(0.012)  # mηλ = 0.32, 0.91, 2.41
    assert float(error.max()) < 0.01 * float(measured.norm())
    assert float((measured - theorem).norm()) > 0.15 * float(measured.norm())
    assert float((measured - forgetting).norm()) < 0.08 * float(measured.norm())
