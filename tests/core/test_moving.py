"""Only what the optimizer moves is measured: toy truths, and who moves."""

import pytest
import torch
from torch import nn
from torch.nn.functional import mse_loss

from ireg.core.functional import functional_loss
from ireg.core.moments import METHODS, gradient_moments
from ireg.core.moving import moving_parameters
from ireg.core.random import named_generator
from ireg.measurement import evaluate, take_snapshot
from ireg.options import Epoch, Options
from ireg.terms import implicit, norm, own, theory

BATCH = torch.ones(1, 1), torch.zeros(1, 1)
TERMS = {
    "sgd": implicit.sgd,
    "full_batch": implicit.full_batch,
    "own": own.own,
    "l2": norm.l2,
    "strength": theory.strength,
    "alignment": theory.alignment,
}


class WithUnused(nn.Linear):
    """A linear layer with a parameter that its output does not depend on."""

    def __init__(self):
        super().__init__(1, 1)
        self.unused = nn.Parameter(torch.tensor([3.0]))


def toy(kind=nn.Linear):
    """w x + b with w = 2, b = 0: at x = 1, y = 0 the gradient of the squared error is (4, 4)."""
    module = kind() if kind is WithUnused else kind(1, 1)
    module.weight.data.fill_(2.0)
    module.bias.data.fill_(0.0)
    return module


def measured(module, optimizer, *, method="auto", batches=(BATCH,)):
    snapshot = take_snapshot(
        module,
        Epoch(batches=list(batches), generator=named_generator("test")),
        Options(terms=TERMS, method=method),
        loss=functional_loss(module, mse_loss),
        optimizer=optimizer,
    )
    return evaluate(TERMS, snapshot)


def close(value):
    return pytest.approx(value, rel=1e-5, abs=0)


@pytest.mark.parametrize("method", [*METHODS, "auto"])
def test_a_frozen_parameter_has_no_part_in_the_terms(method):
    module = nn.Sequential(toy())
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
    assert measured(module, optimizer, method=method)["sgd"] == close(0.8)
    module[0].bias.requires_grad_(False)
    values = measured(module, optimizer, method=method)
    assert (values["sgd"], values["full_batch"], values["own"]) == (close(0.4), close(0.4), close(0.4))
    assert values["l2"] == close(2.0)
    module[0].bias.requires_grad_(True)
    module[0].weight.requires_grad_(False)
    assert measured(module, optimizer, method=method)["sgd"] == close(0.4)


def test_a_parameter_in_no_group_has_no_part_in_the_terms():
    module = toy()
    assert measured(module, torch.optim.SGD([module.weight], lr=0.1))["sgd"] == close(0.4)


def test_a_parameter_that_joins_adam_later_is_corrected_by_its_own_steps():
    module = toy()
    module.bias.requires_grad_(False)
    optimizer = torch.optim.Adam(module.parameters(), lr=0.1)
    for step in range(100):
        module.bias.requires_grad_(step == 99)
        for parameter in module.parameters():
            parameter.grad = torch.full_like(parameter, 4.0) if parameter.requires_grad else None
        optimizer.step()
    with torch.no_grad():
        module.weight.fill_(2.0)
        module.bias.fill_(0.0)
    # 19 (0.1/4) 4² (1/4 + 1/4): the bias correction of the bias is that of its first step.
    assert measured(module, optimizer)["own"] == close(3.8)


def test_an_unused_parameter_is_not_decayed():
    module = toy(WithUnused)
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1, weight_decay=0.5)
    # (0.1/4) ((4 + 0.5 · 2)² + 4²)
    assert measured(module, optimizer)["own"] == close(1.025)
    assert measured(module, optimizer)["l2"] == close(13**0.5)
    mse_loss(module(BATCH[0]), BATCH[1]).backward()
    optimizer.step()
    assert module.unused.item() == 3.0  # torch agrees


@pytest.mark.parametrize("arguments", [{}, {"momentum": 0.5, "weight_decay": 0.1}])
def test_what_does_not_move_leaves_the_mean_flow_as_without_it(arguments):
    generator = torch.Generator().manual_seed(0)
    batches = [(torch.randn(3, 1, generator=generator), torch.randn(3, 1, generator=generator)) for _ in range(2)]
    alone, beside = toy(), toy(WithUnused)
    beside.register_parameter("frozen", nn.Parameter(torch.ones(7), requires_grad=False))
    values = [
        measured(module, torch.optim.SGD(module.parameters(), lr=0.1, **arguments), batches=batches)
        for module in (alone, beside)
    ]
    assert values[0].pop("l2") != values[1].pop("l2")
    assert values[0] == pytest.approx(values[1], rel=1e-6, abs=0)  # one is a stack of layers, the other is not


class Routed(nn.Module):
    """One parameter for positive inputs and another for the rest."""

    def __init__(self):
        super().__init__()
        self.positive, self.rest = nn.Parameter(torch.ones(1)), nn.Parameter(torch.ones(1))

    def forward(self, inputs):
        return (self.positive if inputs.sum() > 0 else self.rest) * inputs


def test_what_any_minibatch_uses_moves():
    module = Routed()
    optimizer, loss = torch.optim.SGD(module.parameters(), lr=0.1), functional_loss(module, mse_loss)
    named = dict(module.named_parameters())
    other = -BATCH[0], BATCH[1]
    assert list(moving_parameters(optimizer, named, loss, [BATCH, BATCH])) == ["positive"]
    assert list(moving_parameters(optimizer, named, loss, [BATCH, other])) == ["positive", "rest"]


def test_looking_changes_nothing():
    module = toy(WithUnused)
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
    moving = moving_parameters(optimizer, dict(module.named_parameters()), functional_loss(module, mse_loss), [BATCH])
    assert list(moving) == ["weight", "bias"]
    assert moving["weight"] is module.weight
    assert all(parameter.grad is None and parameter.requires_grad for parameter in module.parameters())


def test_parameters_of_another_module_are_refused():
    module, other = toy(), toy()
    optimizer = torch.optim.SGD([*module.parameters(), *other.parameters()], lr=0.1)
    with pytest.raises(ValueError, match="SGD holds 2 parameters that are not among the 2 of the module"):
        measured(module, optimizer)


def test_an_optimizer_that_moves_nothing_is_refused():
    module = toy().requires_grad_(False)
    with pytest.raises(ValueError, match="SGD moves no parameter: of 2 it holds 2, of which 0 require a gradient"):
        measured(module, torch.optim.SGD(module.parameters(), lr=0.1))


def test_frozen_values_are_those_of_the_module():
    module = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1)).double()
    module[0].requires_grad_(False)
    batches = [(torch.randn(4, 2).double(), torch.randn(4, 1).double()) for _ in range(3)]
    params = {name: value.detach() for name, value in module[2].named_parameters(prefix="2")}
    loss = functional_loss(module, mse_loss)
    found = [gradient_moments(loss, params, batches, method=method) for method in METHODS]
    for moments in found:
        assert set(moments.mean) == {"2.weight", "2.bias"} == set(moments.square)
        torch.testing.assert_close(moments.sq_norms, found[0].sq_norms, rtol=1e-10, atol=0)
