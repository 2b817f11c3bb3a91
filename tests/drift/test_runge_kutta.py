"""The leading flow and the forces on it, on a quadratic in closed form."""

from functools import partial

import pytest
import torch
from torch.testing import assert_close

from ireg.drift.forces import coefficients, forces_at, mean_flow_at
from ireg.drift.runge_kutta import follow_flow, velocity
from tests.cases import EXACT
from tests.drift.small import OPTIMIZERS, SGD, hessian_and_gradient, quadratic


def test_velocity_is_the_gradient_with_weight_decay():
    problem = quadratic(partial(SGD, lr=0.1, weight_decay=0.5), num_examples=2500, batch_size=64)
    _, g = hessian_and_gradient(problem)
    before = problem.weights.clone()
    assert_close(velocity(problem, problem.weights), g + 0.5 * problem.weights, **EXACT)
    assert torch.equal(problem.weights, before)
    assert all(parameter.grad is None for parameter in problem.module.parameters())


def test_the_flow_of_a_quadratic_with_and_without_a_force():
    problem = quadratic(OPTIMIZERS["sgd"])
    hessian, g = hessian_and_gradient(problem)
    minimum = problem.weights - torch.linalg.solve(hessian, g)
    path = follow_flow(problem, problem.weights, 2.0, 64)
    assert len(path) == 5
    for part, weights in enumerate(path):
        decayed = torch.linalg.matrix_exp(-part / 2 * hessian)
        assert_close(weights, minimum + decayed @ (problem.weights - minimum), rtol=1e-6, atol=1e-8)
    # A force that grows along straight lines, a + bt, moves the end by −∫ e^{−(T−s)H} (a + bs) ds.
    a, b = torch.tensor([1.0, 0.0, -2.0]).double(), torch.tensor([0.0, 3.0, 1.0]).double()
    forces = [a + b * part / 2 for part in range(5)]
    pushed = follow_flow(problem, problem.weights, 2.0, 64, forces)[-1] - path[-1]
    grid = torch.linspace(0, 2, 2001, dtype=torch.float64)
    kernel = torch.stack([torch.linalg.matrix_exp(-(2 - s) * hessian) @ (a + b * s) for s in grid])
    assert_close(pushed, -torch.trapezoid(kernel, grid, dim=0), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("steps", [0, 6])
def test_steps_are_a_multiple_of_the_parts(steps):
    problem = quadratic(OPTIMIZERS["sgd"])
    with pytest.raises(ValueError, match=f"steps={steps}: must be a multiple of 4"):
        follow_flow(problem, problem.weights, 1.0, steps)


@pytest.mark.parametrize("name", ["sgd", "momentum", "nesterov"])
@pytest.mark.parametrize("batch_size", [1, 5, 24])
def test_the_forces_are_the_parts_of_the_mean_flow(name, batch_size):
    problem = quadratic(OPTIMIZERS[name], batch_size=batch_size)
    hessian, g = hessian_and_gradient(problem)
    decay = problem.optimizer.weight_decay
    if batch_size == 5:  # the last minibatch is smaller: C is the mean over minibatches there
        indices = problem.partition("forces", 7).indices
        parts = [(problem.inputs[i], problem.targets[i]) for i in indices]
        hessian = torch.stack([x.T @ x / len(x) for x, _ in parts]).mean(0)
        g = torch.stack([x.T @ (x @ problem.weights - y) / len(x) for x, y in parts]).mean(0)
    hessian, g = hessian + decay * torch.eye(3).double(), g + decay * problem.weights
    forces = forces_at(problem, problem.weights, 7)
    assert_close(forces["full_batch"], 2 * hessian @ g, **EXACT)
    whole = mean_flow_at(problem, problem.weights, 7, problem.optimizer).correction["weight"]
    assert_close(sum(value * forces[part] for part, value in coefficients(problem).items()), whole, **EXACT)
    if batch_size == 24:
        assert_close(forces["variance"], torch.zeros(3).double(), rtol=0, atol=1e-12)


def test_the_coefficients_of_heavy_ball():
    # β = 0.9, m = 2: 1 + 2L = 19 and τ = β.
    problem = quadratic(partial(SGD, lr=0.01, momentum=0.9), batch_size=12)
    assert coefficients(problem) == pytest.approx({"full_batch": 0.1 / 4 * 19, "variance": 0.1 / 4 * 0.1})
