"""Memory and preconditioner against torch's own optimizers: what a unit gradient leaves in the steps after it."""

import itertools
from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from ireg.core.optimizers import Memory, OptimizerState, overlap, view
from ireg.core.optimizers.sgd import SGDRule
from tests import reference
from tests.cases import EXACT

LR = 0.25
FILTERS = {
    "sgd": (torch.optim.SGD, {}),
    "momentum": (torch.optim.SGD, {"momentum": 0.8}),
    "dampened": (torch.optim.SGD, {"momentum": 0.8, "dampening": 0.3}),
    "dampened without momentum": (torch.optim.SGD, {"dampening": 0.3}),
    "nesterov": (torch.optim.SGD, {"momentum": 0.8, "nesterov": True}),
    "rmsprop": (torch.optim.RMSprop, {"alpha": 1.0, "eps": 1.0}),  # α = 1 keeps v = 0
    "rmsprop with momentum": (torch.optim.RMSprop, {"alpha": 1.0, "eps": 1.0, "momentum": 0.7}),
    "adam": (torch.optim.Adam, {"betas": (0.8, 0.999), "eps": 1.0}),
    "adamw": (torch.optim.AdamW, {"betas": (0.8, 0.999), "eps": 1.0, "weight_decay": 0.0}),
    "nadam": (torch.optim.NAdam, {"betas": (0.8, 0.999), "eps": 1.0}),
    "nadam with half of the mean": (torch.optim.NAdam, {"betas": (0.8, 0.999), "eps": 1.0, "momentum_decay": 0.0}),
}
LONG = 250  # 0.8²⁵⁰ is far below rounding


def made(optimizer_class, **arguments):
    module = nn.Linear(1, 1, bias=False).double()
    module.weight.data.zero_()
    optimizer = optimizer_class(module.parameters(), lr=LR, **arguments)
    return optimizer, module.weight, dict(module.named_parameters())


def seen_of(optimizer_class, **arguments):
    optimizer, _, names = made(optimizer_class, **arguments)
    return view(optimizer, names)


def weights_of_the_past(optimizer_class, arguments):
    """η a_n: what a gradient of 1, long after the start, takes off the weight n steps later; and the view of then."""
    optimizer, weight, names = made(optimizer_class, **arguments)
    adam = "betas" in arguments
    weight.grad = torch.zeros_like(weight)
    optimizer.step()
    if adam:  # far from the start, where the bias corrections are over
        optimizer.state[weight]["step"].fill_(1e12)
        if "mu_product" in optimizer.state[weight]:
            optimizer.state[weight]["mu_product"].fill_(0.0)
    seen = view(optimizer, names)
    before, taken = weight.item(), []
    for step in range(LONG):
        weight.grad = torch.full_like(weight, 1e-9 if step == 0 else 0.0)
        optimizer.step()
        taken.append((before - weight.item()) / 1e-9)
        before = weight.item()
    return torch.tensor(taken, dtype=torch.float64), seen


@pytest.mark.parametrize("name", FILTERS)
def test_against_torchs_own_steps(name):
    optimizer_class, arguments = FILTERS[name]
    past, seen = weights_of_the_past(optimizer_class, arguments)
    ages = torch.arange(LONG, dtype=torch.float64)
    remembered = seen.memory
    assert remembered.effective_rate == pytest.approx(float(past.sum()), rel=1e-6)
    assert remembered.lag == pytest.approx(float((ages * past).sum() / past.sum()), rel=1e-6, abs=1e-12)
    signs = torch.ones(LONG, dtype=torch.float64)
    signs[1::2] = -1
    assert remembered.alternating_rate == pytest.approx(float((signs * past).sum()), rel=1e-6)
    for distance in (1, 2, 5):
        expected = float(past[distance:].sum() / past.sum())
        assert remembered.tail_share(distance) == pytest.approx(expected, rel=1e-6, abs=1e-12)


@pytest.mark.parametrize(("decay", "num_batches"), list(itertools.product([0.0, 0.5, 0.9, 0.999], [2, 3, 157])))
def test_overlap_by_its_closed_form(decay, num_batches):
    closed = reference.overlap(decay, num_batches)
    assert overlap(decay, num_batches) == pytest.approx(closed, rel=1e-8)
    scaled = Memory(effective_rate=1.0, lag=0.0, decay=decay, tail_scale=0.5)
    assert scaled.overlap(num_batches) == pytest.approx(closed / 2, rel=1e-8)


def test_overlap_of_a_single_minibatch_is_nothing_and_of_endless_memory_everything():
    assert overlap(0.9, 1) == 0.0
    assert overlap(1.0, 10) == pytest.approx(1.0)


def test_the_figures_of_momentum_on_157_minibatches():
    remembered = seen_of(torch.optim.SGD, momentum=0.9).memory
    assert 1 + 2 * remembered.lag == pytest.approx(19)
    assert 1 - remembered.overlap(157) == pytest.approx(0.892, abs=5e-4)


def test_endless_memory_is_refused():
    endless = OptimizerState(lr=0.1, moving=("w",), weight_decay=0.0, rule=SGDRule(momentum=1.0))
    with pytest.raises(ValueError, match=r"sgd with momentum 1: its memory must fade; choose a value in \[0, 1\)"):
        _ = endless.memory


@pytest.mark.parametrize(
    ("optimizer_class", "arguments"),
    [
        (torch.optim.RMSprop, {"alpha": 0.7, "eps": 1e-2}),
        (torch.optim.RMSprop, {"alpha": 0.7, "eps": 1e-2, "centered": True}),
        (torch.optim.Adagrad, {"eps": 1e-2}),
        (torch.optim.Adagrad, {"eps": 1e-2, "lr_decay": 0.5, "initial_accumulator_value": 0.3}),
        (torch.optim.Adam, {"betas": (0.0, 0.7), "eps": 1e-2}),
        (torch.optim.Adam, {"betas": (0.0, 0.7), "eps": 1e-2, "amsgrad": True}),
        (torch.optim.AdamW, {"betas": (0.0, 0.7), "eps": 1e-2, "weight_decay": 0.0}),
    ],
)
def test_the_preconditioner_is_what_torchs_last_step_multiplied_by(optimizer_class, arguments):
    optimizer, weight, names = made(optimizer_class, **arguments)
    for gradient in (0.3, -2.0, 0.1, 0.5):
        before = weight.item()
        weight.grad = torch.full_like(weight, gradient)
        optimizer.step()
    seen = view(optimizer, names)
    assert_close(seen.lr * seen.preconditioner["weight"].item() * 0.5, before - weight.item(), **EXACT)


def test_no_preconditioner_for_sgd_and_before_the_first_step():
    assert seen_of(torch.optim.SGD, momentum=0.9).preconditioner is None
    for optimizer_class in (torch.optim.RMSprop, torch.optim.Adagrad, torch.optim.Adam, torch.optim.AdamW):
        assert seen_of(optimizer_class).preconditioner is None


def test_weight_decay_is_in_the_gradient_or_in_the_norm_of_the_preconditioner():
    gradient, params = {"w": torch.tensor([1.0, 2.0])}, {"w": torch.tensor([10.0, -10.0])}
    scale = {"w": torch.tensor([0.5, 4.0])}
    coupled = OptimizerState(lr=0.1, moving=("w",), weight_decay=0.1, rule=None)
    decoupled = replace(coupled, decoupled=True)
    none = replace(coupled, weight_decay=0.0)
    assert_close(coupled.decayed(gradient, params, scale)["w"], torch.tensor([2.0, 1.0]))
    assert_close(decoupled.decayed(gradient, params, scale)["w"], torch.tensor([3.0, 1.75]))
    assert none.decayed(gradient, params, scale) is gradient


def test_states_are_compared_without_what_makes_an_optimizer():
    state = OptimizerState(lr=0.1, moving=("w",), weight_decay=0.0, rule=SGDRule())
    assert state == replace(state, make=torch.optim.SGD)
    assert state != replace(state, lr=0.2)
