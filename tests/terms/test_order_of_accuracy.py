"""The constants, pinned by what they are for: the discrete steps follow the flow of the modified loss one order better.

The flow's constant is read off the term's own value, so a wrong factor in the term shows as a lost order.
"""

from itertools import permutations

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp

from ireg.core.optimizers import OptimizerState
from ireg.core.optimizers.sgd import SGDRule
from ireg.core.random import named_generator
from ireg.core.snapshot import Snapshot
from ireg.terms import implicit

RATES = [2.0**-k for k in range(6, 11)]  # small enough for slopes within 0.04 of a whole number
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
    """The term's factor before its quantity (‖ḡ‖² and the variance add up to the mean ‖g_k‖²), read off its value."""
    optimizer = OptimizerState(lr=rate, moving=("w",), weight_decay=0.0, rule=SGDRule())
    params = {"w": START}
    snapshot = Snapshot(
        params=params, initial=params, loss=loss, batches=batches, optimizer=optimizer, generator=named_generator("t")
    )
    slopes = np.stack([gradient(START.numpy(), batch) for batch in batches])
    quantities = {
        implicit.sgd: np.mean(np.sum(slopes**2, axis=1)),
        implicit.full_batch: np.sum(slopes.mean(0) ** 2),
        implicit.minibatch_variance: np.mean(np.sum((slopes - slopes.mean(0)) ** 2, axis=1)),
    }
    return float(term(snapshot)) / quantities[term]


def flow(batches, of_mean, of_variance, duration):
    """End of ω̇ = −∇(C + of_mean · ‖ḡ‖² + of_variance · (1/m) Σ ‖g_k − ḡ‖²), C = (1/m) Σ C_k, to rounding."""

    def velocity(_, point):
        weights = torch.tensor(point, dtype=torch.float64, requires_grad=True)
        values = torch.stack([loss({"w": weights}, batch) for batch in batches])
        slopes = torch.stack([torch.autograd.grad(value, weights, create_graph=True)[0] for value in values])
        mean = slopes.mean(0)
        variance = (slopes - mean).square().sum(1).mean()
        total = values.mean() + of_mean * mean.square().sum() + of_variance * variance
        return -torch.autograd.grad(total, weights)[0].numpy()

    return solve_ivp(velocity, (0, duration), START.numpy(), method="DOP853", rtol=1e-12, atol=1e-14).y[:, -1]


def epoch(rate, order):
    """ω after the minibatches in this order."""
    point = START.numpy().copy()
    for batch in order:
        point = point - rate * gradient(point, batch)
    return point


def epoch_mean(rate):
    """Mean of ω over all orders of the minibatches after one epoch of SGD."""
    return np.mean([epoch(rate, order) for order in permutations(BATCHES)], axis=0)


def descent(rate):
    """One step of gradient descent on the mean of the minibatches' losses."""
    point = START.numpy()
    return point - rate * np.mean([gradient(point, batch) for batch in BATCHES], axis=0)


def slope(end, steps, factors):
    """Order of the error at the end against the flow over the time of so many steps."""
    errors = [np.linalg.norm(end(rate) - flow(BATCHES, *factors(rate), steps * rate)) for rate in RATES]
    return np.polyfit(np.log(RATES), np.log(errors), 1)[0]


def of(term, times=1.0):
    return lambda rate: times * constant(term, BATCHES, rate)


def none(rate):
    return 0.0


GD, SGD, VARIANCE = implicit.full_batch, implicit.sgd, implicit.minibatch_variance


@pytest.mark.parametrize(
    ("of_mean", "of_variance", "expected"),
    [
        (of(GD), none, 3),
        (none, none, 2),
        (of(GD, 2.0), none, 2),
        (of(GD, -1.0), none, 2),
        (of(GD), of(VARIANCE), 2),
    ],
    ids=["modified loss", "plain loss", "twice the constant", "wrong sign", "the loss of SGD"],
)
def test_gradient_descent(of_mean, of_variance, expected):
    assert slope(descent, 1, lambda rate: (of_mean(rate), of_variance(rate))) == pytest.approx(expected, abs=0.15)


@pytest.mark.parametrize(
    ("of_mean", "of_variance", "expected"),
    [
        (of(SGD), of(SGD), 3),
        (of(GD), of(VARIANCE), 3),
        (none, none, 2),
        (of(SGD, 2.0), of(SGD, 2.0), 2),
        (of(SGD, -1.0), of(SGD, -1.0), 2),
        (of(GD), none, 2),
        (of(GD), of(VARIANCE, 2.0), 2),
    ],
    ids=[
        "modified loss",
        "modified loss by its parts",
        "plain loss",
        "twice the constant",
        "wrong sign",
        "the loss of gradient descent",
        "twice the constant of the variance",
    ],
)
def test_mean_of_sgd_over_all_orders(of_mean, of_variance, expected):
    assert slope(epoch_mean, 3, lambda rate: (of_mean(rate), of_variance(rate))) == pytest.approx(expected, abs=0.15)


def test_one_order_alone_does_not_follow_the_modified_loss():
    factors = of(SGD)
    assert slope(lambda rate: epoch(rate, BATCHES), 3, lambda rate: 2 * [factors(rate)]) == pytest.approx(2, abs=0.15)
