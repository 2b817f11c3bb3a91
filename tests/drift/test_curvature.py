"""λ₁ and smoothness, on a quadratic whose Hessian is known, and on a network with kinks."""

from functools import partial

import pytest
import torch
from torch import nn

from ireg.drift.curvature import curvature, product, steepest
from ireg.drift.problem import Problem
from tests.drift.small import OPTIMIZERS, SGD, half_square, hessian_and_gradient, quadratic


@pytest.mark.parametrize("decay", [0.0, 0.3])
def test_of_a_quadratic(decay):
    problem = quadratic(partial(SGD, lr=0.01, momentum=0.5, weight_decay=decay))
    hessian = hessian_and_gradient(problem)[0] + decay * torch.eye(3).double()
    direction = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)
    torch.testing.assert_close(product(problem, direction), hessian @ direction, rtol=1e-12, atol=0)
    found = curvature(problem)
    assert found["steepest"] == pytest.approx(float(torch.linalg.eigvalsh(hessian)[-1]), rel=1e-10)
    assert found["smoothness"] == pytest.approx(1, abs=1e-10)


def test_lanczos_comes_from_below_and_stops_where_the_space_ends():
    problem = quadratic(OPTIMIZERS["sgd"])
    largest = float(torch.linalg.eigvalsh(hessian_and_gradient(problem)[0])[-1])
    values = [steepest(problem, products) for products in (1, 2, 3, 9)]
    assert values[0] < values[1] < values[2] == pytest.approx(largest, rel=1e-10)
    assert values[3] == pytest.approx(largest, rel=1e-10)


def missed(unit, rate):
    """What the smoothness of a network with these units lacks to 1."""
    generator = torch.Generator().manual_seed(0)
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(4, 200), unit, nn.Linear(200, 1)).double()
    optimizer = partial(SGD, lr=rate)
    problem = Problem(
        module=module,
        criterion=half_square,
        inputs=torch.randn(2000, 4, generator=generator, dtype=torch.float64),
        targets=5 * torch.randn(2000, 1, generator=generator, dtype=torch.float64),
        batch_size=200,
        make_optimizer=optimizer,
        optimizer_state=optimizer(module.parameters()).state_dict(),
        seed=0,
    )
    return 1 - curvature(problem)["smoothness"]


def test_kinks_on_the_way_are_seen():
    smooth = [missed(nn.Tanh(), rate) for rate in (0.05, 0.005)]
    assert smooth[0] == pytest.approx(100 * smooth[1], rel=0.01)  # an angle as large as the way is long
    assert missed(nn.ReLU(), 0.005) > 100 * smooth[1]
