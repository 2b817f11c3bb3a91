"""The constants, pinned by what they are for: the discrete steps follow the flow of the modified loss one order better.

The flow's constant is read off the term's own value, so a wrong factor in the term shows as a lost order.
"""

from itertools import permutations

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp

from ireg.core.optimizer_view import OptimizerView
from ireg.core.random import named_generator
from ireg.core.snapshot import Snapshot
from ireg.terms import implicit

RATES = [2.0**-k for k in range(4, 9)]
GENERATOR = torch.Generator().manual_seed(3)
MATRICES = [torch.randn(2, 2, generator=GENERATOR, dtype=torch.float64) for _ in range(3)]
SHIFTS = [torch.randn(2, generator=GENERATOR, dtype=torch.float64) for _ in range(3)]
START = torch.tensor([0.7, -0.4], dtype=torch.float64)
BATCHES = [(matrix, shift) for matrix, shift in zip(MATRICES, SHIFTS, strict=True)]


def loss(params, batch):
    """Smooth and not quadratic: Σ log cosh(A ω − b)."""
    matrix, shift = batch
    return torch.log(torch.cosh(matrix @ params["w"] - shift)).sum()


def gradient(point, batch):
    weights = torch.tensor(point, dtype=torch.float64, requires_grad=True)
    return torch.autograd.grad(loss({"w": weights}, batch), weights)[0].numpy()


def constant(term, batches, rate):
    """The factor of (1/m) Σ ‖g_k‖² in the term, read off its value."""
    optimizer = OptimizerView(kind="sgd", lr=rate, step=0, weight_decay=0.0)
    params = {"w": START}
    snapshot = Snapshot(
        params=params, initial=params, loss=loss, batches=batches, optimizer=optimizer, generator=named_generator("t")
    )
    squares = np.mean([np.sum(gradient(START.numpy(), batch) ** 2) for batch in batches])
    return float(term(snapshot)) / squares


def flow(batches, factor, duration):
    """End of ω̇ = −∇(C + factor · (1/m) Σ ‖g_k‖²), C = (1/m) Σ C_k, after a time, to rounding."""

    def velocity(_, point):
        weights = torch.tensor(point, dtype=torch.float64, requires_grad=True)
        total = 0.0
        for batch in batches:
            value = loss({"w": weights}, batch)
            (slope,) = torch.autograd.grad(value, weights, create_graph=True)
            total = total + (value + factor * slope.square().sum()) / len(batches)
        return -torch.autograd.grad(total, weights)[0].numpy()

    return solve_ivp(velocity, (0, duration), START.numpy(), method="DOP853", rtol=1e-12, atol=1e-14).y[:, -1]


def epoch_mean(rate):
    """Mean of ω over all orders of the minibatches after one epoch of SGD."""
    ends = []
    for order in permutations(BATCHES):
        point = START.numpy().copy()
        for batch in order:
            point = point - rate * gradient(point, batch)
        ends.append(point)
    return np.mean(ends, axis=0)


def slope(errors):
    return np.polyfit(np.log(RATES), np.log(errors), 1)[0]


def descent_slope(factor_of_rate):
    errors = []
    for rate in RATES:
        step = START.numpy() - rate * gradient(START.numpy(), BATCHES[0])
        errors.append(np.linalg.norm(step - flow(BATCHES[:1], factor_of_rate(rate), rate)))
    return slope(errors)


def epoch_slope(factor_of_rate):
    return slope([np.linalg.norm(epoch_mean(rate) - flow(BATCHES, factor_of_rate(rate), 3 * rate)) for rate in RATES])


@pytest.mark.parametrize(
    ("factor", "expected"),
    [
        (lambda rate: constant(implicit.full_batch, BATCHES[:1], rate), 3),
        (lambda rate: 0.0, 2),
        (lambda rate: 2 * constant(implicit.full_batch, BATCHES[:1], rate), 2),
        (lambda rate: -constant(implicit.full_batch, BATCHES[:1], rate), 2),
    ],
    ids=["modified loss", "plain loss", "twice the constant", "wrong sign"],
)
def test_gradient_descent(factor, expected):
    assert descent_slope(factor) == pytest.approx(expected, abs=0.15)


@pytest.mark.parametrize(
    ("factor", "expected"),
    [
        (lambda rate: constant(implicit.sgd, BATCHES, rate), 3),
        (lambda rate: 0.0, 2),
        (lambda rate: 2 * constant(implicit.sgd, BATCHES, rate), 2),
    ],
    ids=["modified loss", "plain loss", "twice the constant"],
)
def test_mean_of_sgd_over_all_orders(factor, expected):
    assert epoch_slope(factor) == pytest.approx(expected, abs=0.15)
