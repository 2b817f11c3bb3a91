"""The drift less F at rate 0, where the coefficient of M + V is known."""

from dataclasses import replace
from functools import partial
from itertools import permutations, product

import pytest
import torch
from torch.optim import Adam, RMSprop

from ireg.core import mean_flow
from ireg.core.moments import gradient_moments
from ireg.core.optimizers import view
from ireg.drift.finite_step import interval, noise_of_orders
from ireg.drift.leading_flow_adaptive import drift_of_settled_weights
from ireg.regularizers import Minibatch
from ireg.statistics import Estimate
from tests.drift.small import alone, quadratic

RMSPROP = partial(RMSprop, lr=1e-5, alpha=0.9, eps=0.1)
ADAM = partial(Adam, lr=1e-5, betas=(0.5, 0.9), eps=0.1)


def measured(make, orders=8):
    """Minibatches of 40 examples: F is first order in their spread, and what it makes of M and V is small."""
    return drift_of_settled_weights(alone(quadratic(make, num_examples=960, batch_size=40)), orders)


@pytest.mark.parametrize("make", [RMSPROP, ADAM])
def test_less_f_the_coefficient_of_a_finite_step_is_1(make):
    found = measured(make)
    # F is a hundred times the finite step, and eight orders do not even have it to 10 %.
    assert found.estimates["strength"].value > 80 * found.finite["strength"].value
    assert found.estimates["k"].error > 0.1
    assert found.finite["k"].value == pytest.approx(1, abs=0.03)
    low, high = interval(found.finite["k"], 4)
    assert low < 1 < high
    assert high - low < 0.1
    assert found.finite["residual"].value < 1e-3
    assert found.finite["alignment"].value == pytest.approx(found.finite["alignment predicted"].value, abs=0.01)
    assert found.finite["alignment"].value < -0.5


def test_a_planted_coefficient_is_rejected(monkeypatch):
    right = mean_flow._lag
    monkeypatch.setattr(mean_flow, "_lag", lambda *given: {name: value / 0.8 for name, value in right(*given).items()})
    low, high = interval(measured(RMSPROP).finite["k"], 4)
    assert high < 1
    assert (low + high) / 2 == pytest.approx(0.8, abs=0.03)


def test_f_alone_has_no_finite_step():
    """At a rate at which F is all there is, D is F at rate 0 of the same orders, order by order."""
    found = measured(partial(RMSprop, lr=1e-9, alpha=0.9, eps=0.1))
    assert found.noise["k"].value == pytest.approx(found.estimates["k"].value, rel=1e-4)
    assert found.noise["strength"].value == pytest.approx(found.estimates["strength"].value, rel=1e-4)


def test_of_a_single_minibatch_nothing_fluctuates():
    found = drift_of_settled_weights(alone(quadratic(RMSPROP, batch_size=24)), 6)
    assert found.noise is None
    assert found.finite["k"].value == pytest.approx(1, abs=0.01)


def over_all_orders(optimizer, curvature, targets, start, second, rate):
    """Mean displacement by torch's own RMSProp in the last of four epochs of all orders, and the middle of the path."""
    whole = list(permutations(range(len(targets))))
    orders = torch.tensor([sum(epochs, ()) for epochs in product(whole, repeat=4)])
    weight = torch.nn.Parameter(start.expand(len(orders), -1).clone())
    made = optimizer([weight])
    made.param_groups[0]["lr"] = rate
    made.state[weight].update(step=torch.tensor(1e6), square_avg=second.expand_as(weight).clone())
    for step in range(orders.shape[1]):
        if step == orders.shape[1] - len(targets):
            before = weight.detach().clone()
        at = weight.detach() if rate < 1 else start
        weight.grad = at @ curvature - targets[orders[:, step]]
        made.step()
    return (weight.detach() - before).mean(0), (weight.detach() + before).mean(0) / 2


def test_over_all_orders_the_coefficient_is_1():
    """All 1,296 orders of four epochs of three minibatches, and F at rate 0 by torch's steps at frozen weights."""
    generator = torch.Generator().manual_seed(1)
    curvature = torch.diag(torch.tensor([1.0, 2.0, 0.5], dtype=torch.float64)) + 0.2
    targets = torch.tensor([1.0, -0.5, 0.8]) + 0.1 * torch.randn(3, 3, generator=generator, dtype=torch.float64)
    start, rate = torch.tensor([2.0, 1.0, -1.0], dtype=torch.float64), 1e-5
    make = partial(RMSprop, lr=rate, alpha=0.5, eps=0.1)

    def flow(point):
        def loss(params, batch):
            return params["w"] @ curvature @ params["w"] / 2 - batch[0] @ params["w"]

        params, batches = {"w": point}, [(target, None) for target in targets]
        weight = torch.nn.Parameter(point)
        seen = view(make([weight]), {"w": weight})
        moments = gradient_moments(loss, params, batches, method="loop")
        found = mean_flow.mean_flow(loss, params, batches, seen, moments)
        return found, moments.square["w"]

    first, square = flow(start)
    _, back = flow(start + first.leading["w"] * rate / (1 - 0.5))
    moved, middle = over_all_orders(make, curvature, targets, start, back, rate)
    there, square = flow(middle)
    frozen, _ = over_all_orders(make, curvature, targets, middle, square, 1.0)
    finite = -(moved / (3 * rate) - frozen / 3)  # what is left of the velocity: M + V
    noise = -frozen / 3 - there.leading["w"]
    expected = there.memory["w"] + there.lag["w"]
    assert float(noise.norm()) > 20 * float(expected.norm())
    assert float(finite @ expected / expected.square().sum()) == pytest.approx(1, abs=0.02)
    assert float((finite - expected).norm() / expected.norm()) < 0.03


def test_noise_is_that_of_the_given_orders():
    problem = quadratic(ADAM, num_examples=6)
    indices = problem.partition("forces", 0).indices
    orders = [torch.tensor([0, 1, 2, 3, 4, 5, 5, 4, 3, 2, 1, 0]), torch.tensor([3, 1, 2, 5, 4, 0])]
    found = noise_of_orders(problem, problem.weights, indices, orders)
    rows = torch.stack([inputs[0] * (inputs[0] @ problem.weights - target[0]) for inputs, target in (
        (problem.inputs[index], problem.targets[index]) for index in indices
    )])  # fmt: skip
    for value, order in zip(found, orders, strict=True):
        torch.testing.assert_close(value, noise_of_adam(rows, order), rtol=1e-10, atol=1e-12)


def noise_of_adam(rows, order):
    """F of the last epoch of an order by torch's Adam at frozen gradients, of the settled weights."""
    mean, square = rows.mean(0), rows.square().mean(0)
    weight = torch.nn.Parameter(torch.zeros(3, dtype=torch.float64))
    adam = Adam([weight], lr=1.0, betas=(0.5, 0.9), eps=0.1)
    adam.state[weight].update(step=torch.tensor(1e6), exp_avg=mean.clone(), exp_avg_sq=square.clone())
    settled = []
    for step in range(len(order) + 1):
        state = adam.state[weight]
        if step in (len(order) - 6, len(order)):  # y = ω − β/(1−β) m/(√v + ε)
            settled.append(weight.detach() - state["exp_avg"] / (state["exp_avg_sq"].sqrt() + 0.1))
        if step < len(order):
            weight.grad = rows[order[step]]
            adam.step()
    return (settled[0] - settled[1]) / 6 - mean / (square.sqrt() + 0.1)


def test_an_interval_is_students():
    assert interval(Estimate(2.0, 0.5), 2) == pytest.approx((2 - 12.7062 * 0.5, 2 + 12.7062 * 0.5), rel=1e-5)


def test_noise_is_of_the_objective_where_each_minibatch_has_a_penalty():
    """Of C + (λ/4) mean ‖g_k‖², whose gradient of a minibatch of a quadratic is g + (λ/2) H g."""
    strength = 0.4
    problem = replace(quadratic(ADAM, num_examples=6), regularizer=Minibatch(strength=strength))
    indices = problem.partition("forces", 0).indices
    order = torch.tensor([3, 1, 2, 5, 4, 0])
    (found,) = noise_of_orders(problem, problem.weights, indices, [order])
    rows = []
    for index in indices:
        inputs, target = problem.inputs[index][0], problem.targets[index][0]
        gradient = inputs * (inputs @ problem.weights - target)
        rows.append(gradient + strength / 2 * inputs * (inputs @ gradient))
    expected = noise_of_adam(torch.stack(rows), order)
    torch.testing.assert_close(found, expected, rtol=1e-8, atol=1e-12)
