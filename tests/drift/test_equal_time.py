"""r small steps take the time of one: bit-equal for r = 1, and equal in what they do to a constant gradient."""

from functools import partial

import pytest
import torch
from torch.optim import SGD, Adagrad, Adam, AdamW, RMSprop

from ireg.drift.equal_time import refine
from tests.drift.small import OPTIMIZERS, quadratic


def stepped(make, refinement, *, gradient, before, after):
    """A weight's way in `after` steps' time, under a gradient that was constant for `before` steps already."""
    weight = torch.nn.Parameter(torch.zeros(2, dtype=torch.float64))
    optimizer = make([weight])
    weight.grad = gradient.clone()
    for _ in range(before):
        optimizer.step()
    start = weight.detach().clone()
    refine(optimizer, refinement)
    for _ in range(after * refinement):
        optimizer.step()
    return weight.detach() - start, optimizer


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_one_is_the_optimizer_itself_to_the_last_bit(name):
    problem = quadratic(OPTIMIZERS[name], steps=3)
    _, plain = problem.begin()
    _, refined = problem.begin()
    refine(refined, 1)
    assert plain.state_dict()["param_groups"] == refined.state_dict()["param_groups"]
    before, after = (optimizer.state_dict()["state"].get(0, {}) for optimizer in (plain, refined))
    assert before.keys() == after.keys()
    assert bool(before) == (name != "sgd")
    assert all(torch.equal(torch.as_tensor(value), torch.as_tensor(after[key])) for key, value in before.items())


@pytest.mark.parametrize("refinement", [2, 3, 8])
@pytest.mark.parametrize(
    "make",
    [
        partial(SGD, lr=0.1),
        partial(SGD, lr=0.1, momentum=0.5),
        partial(SGD, lr=0.1, momentum=0.5, dampening=0.25),
        partial(SGD, lr=0.1, momentum=0.5, nesterov=True),
        partial(RMSprop, lr=0.1, alpha=0.5, eps=1e-3),
        partial(RMSprop, lr=0.1, alpha=0.5, momentum=0.5),
    ],
)
def test_a_constant_gradient_drifts_as_far_in_equal_time_once_memory_is_full(make, refinement):
    gradient = torch.tensor([0.3, -2.0], dtype=torch.float64)
    plain, _ = stepped(make, 1, gradient=gradient, before=100, after=4)
    refined, _ = stepped(make, refinement, gradient=gradient, before=100, after=4)
    torch.testing.assert_close(refined, plain, rtol=1e-12, atol=0)


@pytest.mark.parametrize("refinement", [2, 8])
@pytest.mark.parametrize(
    "make", [partial(Adam, lr=0.1, betas=(0.8, 0.99)), partial(AdamW, lr=0.1, weight_decay=0.0, amsgrad=True)]
)
def test_adams_bias_correction_goes_on_in_equal_time(make, refinement):
    # Both moments are those of a constant gradient times 1 − βᵗ, which only the right step count takes off again.
    gradient = torch.tensor([0.3, -2.0], dtype=torch.float64)
    refined, optimizer = stepped(make, refinement, gradient=gradient, before=3, after=2)
    torch.testing.assert_close(refined, -0.2 * gradient.sign(), rtol=1e-6, atol=0)
    assert all(int(state["step"]) == 5 * refinement for state in optimizer.state.values())


@pytest.mark.parametrize("decay", [0.0, 0.01])
def test_adagrad_sums_as_fast_in_equal_time(decay):
    gradient = torch.tensor([0.3, -2.0], dtype=torch.float64)
    make = partial(Adagrad, lr=0.1, eps=1e-2, lr_decay=decay)
    plain, _ = stepped(make, 1, gradient=gradient, before=1000, after=8)
    refined, optimizer = stepped(make, 4, gradient=gradient, before=1000, after=8)
    torch.testing.assert_close(refined, plain, rtol=1e-3, atol=0)  # of the sum, only its growth within a step differs
    (state,) = optimizer.state.values()
    torch.testing.assert_close(state["sum"], 4 * 1008 * gradient**2, rtol=1e-12, atol=0)


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (partial(SGD, lr=0.1, momentum=0.9), "momentum_buffer"),
        (partial(RMSprop, lr=0.1, alpha=0.9), "square_avg"),
        (partial(Adam, lr=0.1, betas=(0.9, 0.9)), "exp_avg"),
        (partial(Adam, lr=0.1, betas=(0.9, 0.9)), "exp_avg_sq"),
    ],
)
def test_memory_fades_as_fast_in_equal_time(make, name):
    weight = torch.nn.Parameter(torch.zeros(2, dtype=torch.float64))
    optimizer = make([weight])
    weight.grad = torch.ones(2, dtype=torch.float64)
    optimizer.step()
    refine(optimizer, 5)
    before = optimizer.state[weight][name].clone()
    weight.grad.zero_()
    for _ in range(5):
        optimizer.step()
    torch.testing.assert_close(optimizer.state[weight][name], 0.9 * before, rtol=1e-12, atol=0)


def test_what_cannot_be_refined_is_refused():
    weight = torch.nn.Parameter(torch.zeros(1))
    with pytest.raises(ValueError, match="ASGD: not known how to refine its steps; known are Adagrad, Adam"):
        refine(torch.optim.ASGD([weight]), 2)
    with pytest.raises(ValueError, match="refinement=0: must be at least 1"):
        refine(SGD([weight]), 0)
