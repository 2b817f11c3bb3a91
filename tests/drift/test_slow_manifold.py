"""The slow manifold and the settled weights of momentum, and the noise of a smaller last minibatch."""

from functools import partial

import pytest
import torch
from torch.testing import assert_close

from ireg.drift.orders import order_of
from ireg.drift.runge_kutta import velocity
from ireg.drift.slow_manifold import follow_slowly, ragged_noise, settled, slow_buffer
from tests.cases import EXACT
from tests.drift.small import OPTIMIZERS, SGD, hessian_and_gradient, quadratic


def test_the_slow_buffer_is_that_of_the_theory():
    # docs/theory.md, section 7: b = (v − g)/β with v = g/(1−β) + ηβ/(1−β)³ Hg, exact to first order in η.
    eta, beta = 1e-4, 0.5
    problem = quadratic(partial(SGD, lr=eta, momentum=beta))
    hessian, g = hessian_and_gradient(problem)
    v = g / (1 - beta) + eta * beta / (1 - beta) ** 3 * hessian @ g
    assert_close(slow_buffer(problem), (v - g) / beta, rtol=1e-6, atol=0)
    dampened = quadratic(partial(SGD, lr=eta / 0.8, momentum=beta, dampening=0.2))
    assert_close(slow_buffer(dampened), 0.8 * (v - g) / beta, rtol=1e-6, atol=0)
    assert slow_buffer(quadratic(OPTIMIZERS["sgd"])) is None


@pytest.mark.parametrize("name", ["momentum", "nesterov"])
def test_settled_weights_are_where_the_buffer_leads_without_further_gradients(name):
    arguments = OPTIMIZERS[name].keywords | {"weight_decay": 0.0}
    problem = quadratic(partial(SGD, **arguments))
    weight = torch.nn.Parameter(torch.zeros(3, dtype=torch.float64))
    optimizer = SGD([weight], **arguments)
    buffer = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)
    optimizer.state[weight]["momentum_buffer"] = buffer.clone()
    weight.grad = torch.zeros(3, dtype=torch.float64)
    for _ in range(400):
        optimizer.step()
    assert_close(settled(problem, torch.zeros(3).double(), buffer), weight.detach(), **EXACT)
    assert settled(problem, buffer, None) is buffer


@pytest.mark.parametrize("name", ["sgd", "momentum", "nesterov"])
def test_settled_weights_move_by_the_effective_rate_times_the_gradients(name):
    # Of a linear loss, whose gradients are constant: y ends at y₀ − η_e Σ g_k, to the last digit.
    arguments = OPTIMIZERS[name].keywords | {"weight_decay": 0.0}
    problem = quadratic(partial(SGD, **arguments))
    object.__setattr__(problem, "criterion", lambda outputs, targets: (outputs * targets).mean())
    buffer = slow_buffer(problem)
    end = follow_slowly(problem, 0, buffer)
    total = (problem.inputs * problem.targets[:, None]).sum(0)
    start = settled(problem, problem.weights, buffer)
    assert_close(end, start - problem.optimizer.memory.effective_rate * total, **EXACT)


@pytest.mark.parametrize("name", ["sgd", "momentum"])
def test_without_the_noise_of_the_last_minibatch_ends_agree_to_first_order(name):
    rate = 1e-6
    problem = quadratic(partial(OPTIMIZERS[name], lr=rate), num_examples=23, batch_size=5)
    mean = velocity(problem, problem.weights)
    buffer = slow_buffer(problem)
    ends = [follow_slowly(problem, order, buffer) for order in range(4)]
    less = [end - ragged_noise(problem, i, problem.weights, mean) for i, end in enumerate(ends)]
    assert float((ends[0] - ends[2]).norm()) > 1e-2 * rate
    assert float((less[0] - less[2]).norm()) < 1e-3 * rate


def test_the_noise_of_the_last_minibatch_has_mean_zero():
    problem = quadratic(OPTIMIZERS["sgd"], num_examples=5, batch_size=4)
    mean = velocity(problem, problem.weights)
    by_last = {int(order_of(problem, 1, order, 0)[-1]): order for order in range(0, 200, 2)}
    assert len(by_last) == 5
    noise = torch.stack([ragged_noise(problem, order, problem.weights, mean) for order in by_last.values()])
    assert_close(noise.mean(0), torch.zeros(3).double(), rtol=0, atol=1e-14)
    assert noise.abs().max() > 1e-4
    even = quadratic(OPTIMIZERS["sgd"], batch_size=4)
    assert not ragged_noise(even, 0, even.weights, mean).any()
