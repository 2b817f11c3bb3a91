"""r small steps take the time of one: bit-equal for r = 1, and equal in what they do to a constant gradient.

Of a shrinking memory the limit is known: where a gradient turns round, and on a quadratic.
"""

from functools import partial

import pytest
import torch
from torch.optim import Adagrad, Adam, AdamW, RMSprop

from ireg.drift.orders import follow
from ireg.drift.small_steps import MEMORIES, can_shrink, refine
from tests.drift.small import OPTIMIZERS, SGD, hessian_and_gradient, quadratic

NEVER_FADING = ("adagrad", "adam")  # the latter as AMSGrad


def stepped(make, refinement, *, gradient, before, after, memory="kept"):
    """A weight's way in `after` steps' time, under a gradient that was constant for `before` steps already."""
    weight = torch.nn.Parameter(torch.zeros(2, dtype=torch.float64))
    optimizer = make([weight])
    weight.grad = gradient.clone()
    for _ in range(before):
        optimizer.step()
    start = weight.detach().clone()
    refine(optimizer, refinement, memory)
    for _ in range(after * refinement):
        optimizer.step()
    return weight.detach() - start, optimizer


@pytest.mark.parametrize(
    ("name", "memory"),
    [(name, memory) for name in OPTIMIZERS for memory in MEMORIES if memory == "kept" or name not in NEVER_FADING],
)
def test_one_is_the_optimizer_itself_to_the_last_bit(name, memory):
    problem = quadratic(OPTIMIZERS[name], steps=3)
    _, plain = problem.begin()
    _, refined = problem.begin()
    refine(refined, 1, memory)
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
    with pytest.raises(ValueError, match="ASGD: unknown optimizer; known are Adagrad, Adam"):
        refine(torch.optim.ASGD([weight]), 2)
    with pytest.raises(ValueError, match="refinement=0: must be at least 1"):
        refine(SGD([weight]), 0)
    with pytest.raises(ValueError, match="memory='lost': must be one of kept, shrinking"):
        refine(SGD([weight]), 2, "lost")
    for never in (Adagrad([weight]), AdamW([weight], amsgrad=True)):
        with pytest.raises(ValueError, match="its memory never fades, so that it cannot shrink"):
            refine(never, 2, "shrinking")


def test_what_has_a_memory_that_shrinks():
    assert [name for name in OPTIMIZERS if can_shrink(quadratic(OPTIMIZERS[name]).begin()[1])] == [
        "momentum", "nesterov", "rmsprop", "adamw", "nadam",
    ]  # fmt: skip


@pytest.mark.parametrize("refinement", [2, 8])
@pytest.mark.parametrize(
    "make",
    [
        partial(SGD, lr=0.1, momentum=0.5, dampening=0.25),
        partial(SGD, lr=0.1, momentum=0.5, nesterov=True),
        partial(RMSprop, lr=0.1, alpha=0.5, momentum=0.5),
        partial(Adam, lr=0.1, betas=(0.8, 0.9)),
    ],
)
def test_a_shrinking_memory_forgets_in_as_many_steps_and_drifts_as_far(make, refinement):
    gradient = torch.tensor([0.3, -2.0], dtype=torch.float64)
    plain, _ = stepped(make, 1, gradient=gradient, before=200, after=4)
    shrunk, optimizer = stepped(make, refinement, gradient=gradient, before=200, after=4, memory="shrinking")
    torch.testing.assert_close(shrunk, plain, rtol=1e-8, atol=0)
    (state,) = optimizer.state.values()
    name = next(key for key in ("exp_avg", "momentum_buffer") if key in state)
    (weight,) = optimizer.param_groups[0]["params"]
    before = state[name].clone()
    weight.grad.zero_()
    optimizer.step()
    decay = optimizer.param_groups[0].get("momentum", 0.8)
    torch.testing.assert_close(state[name], decay * before, rtol=1e-12, atol=0)


def ends(make, refinements, memory, **problem):
    """The weights after an epoch's time, the problem's full batch being its only minibatch."""
    case = quadratic(make, batch_size=24, **problem)
    return case, {r: follow(case, r, 0, memory)[-1].weights for r in refinements}


def test_with_its_memory_shrinking_heavy_ball_becomes_the_gradient_flow_and_with_it_kept_it_does_not():
    # On a quadratic, whose flow is known. The memory of ten steps is as long as ten epochs of one step.
    make = partial(SGD, lr=0.1, momentum=0.9)
    case, found = ends(make, (64, 128, 256), "shrinking")
    _, kept = ends(make, (256,), "kept")
    hessian, gradient = hessian_and_gradient(case)
    way = torch.linalg.solve(hessian, gradient)
    flow = case.weights + (torch.linalg.matrix_exp(-hessian) - torch.eye(3).double()) @ way  # for the time η/(1−β)
    size = float((flow - case.weights).norm())
    coarse, middle, fine = (float((found[r] - flow).norm()) / size for r in (64, 128, 256))
    assert fine < 0.65 * middle < 0.65**2 * coarse
    assert float((2 * found[256] - found[128] - flow).norm()) / size < 0.3 * fine  # the extrapolation takes most off
    assert float((kept[256] - flow).norm()) / size > 0.5


def test_with_its_memory_shrinking_adam_becomes_the_flow_of_its_instant_moments():
    # One minibatch: nothing fluctuates, and the limit is ω̇ = −g/(|g| + ε), which for large ε is gradient flow at η/ε.
    make = partial(Adam, lr=100.0, eps=1000.0, betas=(0.5, 0.9))
    case, found = ends(make, (16, 64), "shrinking", steps=1)
    hessian, gradient = hessian_and_gradient(case)
    rate = 100.0 / 1000.0
    way = torch.linalg.solve(hessian, gradient)
    flow = case.weights + (torch.linalg.matrix_exp(-rate * hessian) - torch.eye(3).double()) @ way
    error = {r: float((found[r] - flow).norm() / (flow - case.weights).norm()) for r in (16, 64)}
    assert error[64] < 0.02
    assert error[64] < 0.5 * error[16]
