"""Orders: as random as an epoch's, in pairs, and the same wherever they are made."""

import math
from functools import partial

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from ireg.drift.orders import follow, measure, order_of
from ireg.drift.problem import Problem
from tests.cases import EXACT
from tests.drift.small import OPTIMIZERS, SGD, half_square, quadratic


def test_every_order_takes_every_example_once_and_no_two_are_equal():
    problem = quadratic(OPTIMIZERS["sgd"], num_examples=23, batch_size=5)
    orders = [order_of(problem, r, order, epoch) for r in (1, 2) for order in range(4) for epoch in range(2)]
    assert all([len(indices) for indices in order] == [5, 5, 5, 5, 3] for order in orders)
    whole = [tuple(torch.cat(order).tolist()) for order in orders]
    assert all(sorted(order) == list(range(23)) for order in whole)
    assert len(set(whole)) == len(whole)
    assert [tuple(torch.cat(order_of(problem, 1, 3, 1)).tolist())] == [whole[7]]


def test_a_pair_is_an_order_and_the_same_minibatches_backwards():
    problem = quadratic(OPTIMIZERS["sgd"], num_examples=23, batch_size=5)
    first, second = ([batch.tolist() for batch in order_of(problem, 1, order, 0)] for order in (4, 5))
    assert second == [*reversed(first[:4]), first[4]]
    even = quadratic(OPTIMIZERS["sgd"], num_examples=20, batch_size=5)
    first, second = ([batch.tolist() for batch in order_of(even, 1, order, 0)] for order in (4, 5))
    assert second == first[::-1]


def test_the_seed_chooses_the_orders():
    a, b = (quadratic(OPTIMIZERS["sgd"], seed=seed) for seed in (0, 1))
    assert not all(torch.equal(x, y) for x, y in zip(order_of(a, 1, 0, 0), order_of(b, 1, 0, 0), strict=True))


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_unrefined_an_order_is_plain_training_to_the_last_bit(name):
    problem = quadratic(OPTIMIZERS[name], batch_size=5, steps=3)
    module, optimizer = problem.begin()
    for indices in order_of(problem, 1, 2, 0):
        optimizer.zero_grad()
        half_square(module(problem.inputs[indices]), problem.targets[indices]).backward()
        optimizer.step()
    (stop,) = follow(problem, 1, 2)
    assert stop.time == 1.0
    assert torch.equal(stop.weights, problem.vector(module))
    assert torch.equal(follow(problem, 1, 2)[0].weights, stop.weights)  # and nothing was changed by it


@pytest.mark.parametrize(("refinement", "times"), [(2, [0.5, 1.0]), (3, [1 / 3, 1.0]), (4, [0.25, 0.5, 1.0])])
def test_the_stops_of_a_refinement(refinement, times):
    problem = quadratic(OPTIMIZERS["sgd"])
    stops = follow(problem, refinement, 0)
    assert [stop.time for stop in stops] == times
    assert stops[-1].values == measure(problem, stops[-1].weights)


def test_the_quantities_are_those_of_the_definitions():
    problem = quadratic(OPTIMIZERS["sgd"], num_examples=23, batch_size=5)
    parts = problem.partition("measured minibatches").indices
    losses, gradients = [], []
    for indices in parts:
        x, error = problem.inputs[indices], problem.inputs[indices] @ problem.weights - problem.targets[indices]
        losses.append(float((error**2).mean() / 2))
        gradients.append(x.T @ error / len(indices))
    stacked = torch.stack(gradients)
    expected = (sum(losses) / 5, float(stacked.mean(0).square().sum()), float(stacked.square().sum(1).mean()))
    assert measure(problem, problem.weights) == pytest.approx(expected, rel=EXACT["rtol"])


def test_small_steps_come_near_the_flow():
    problem = quadratic(partial(SGD, lr=0.02), batch_size=4)
    _, g = problem.inputs, problem.weights
    ends = {r: torch.stack([follow(problem, r, order)[-1].weights for order in range(2)]).mean(0) for r in (1, 4, 16)}
    hessian = problem.inputs.T @ problem.inputs / 24
    minimum = torch.linalg.solve(hessian, problem.inputs.T @ problem.targets / 24)
    flow = minimum + torch.linalg.matrix_exp(-0.02 * 6 * hessian) @ (g - minimum)
    errors = [float((ends[r] - flow).norm()) for r in (1, 4, 16)]
    assert math.log(errors[0] / errors[2], 16) == pytest.approx(1, abs=0.25)


def test_networks_that_draw_are_repeatable_and_leave_the_global_stream():
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.5), nn.Linear(8, 3)).double()
    made = torch.optim.SGD(module.parameters(), lr=0.1)
    problem = Problem(
        module=module,
        criterion=cross_entropy,
        inputs=torch.randn(12, 4, dtype=torch.float64),
        targets=torch.randint(0, 3, (12,)),
        batch_size=4,
        make_optimizer=partial(torch.optim.SGD, lr=0.1),
        optimizer_state=made.state_dict(),
        seed=0,
    )
    state = torch.get_rng_state()
    (first,) = follow(problem, 1, 0)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(5)
    (second,) = follow(problem, 1, 0)
    assert torch.equal(first.weights, second.weights)
    assert first.values == second.values  # measured in eval mode
