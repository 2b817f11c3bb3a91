"""Several minibatches through a stack at once, against dense matrices of each."""

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy, mse_loss
from torch.testing import assert_close

from ireg.core import stack_pass
from ireg.core.functional import detached_parameters, functional_loss
from ireg.core.mean_flow import mean_flow
from ireg.core.moments import gradient_moments
from ireg.core.optimizers import view
from ireg.core.stack_pass import StackPass, stack_of
from tests import reference
from tests.cases import EXACT

FROZEN = [(), ("1.weight", "3.bias"), ("1.weight", "1.bias")]


def stack(activation, bias=True):
    torch.manual_seed(0)
    layers = [nn.Linear(6, 4, bias=bias), activation(), nn.Linear(4, 5), activation(), nn.Linear(5, 3, bias=bias)]
    return nn.Sequential(nn.Flatten(), *layers).double()


def minibatches(count=3, size=4):
    generator = torch.Generator().manual_seed(1)
    return [
        (torch.randn(size, 2, 3, generator=generator).double(), torch.randint(3, (size,), generator=generator))
        for _ in range(count)
    ]


def squared(outputs, labels):
    return mse_loss(outputs, nn.functional.one_hot(labels, 3).to(outputs))


def linear(outputs, labels):
    """Of which the outputs' second derivative is 0."""
    return outputs.gather(1, labels[:, None]).mean()


def branching(outputs, labels):
    """Which vmap does not serve."""
    return cross_entropy(outputs, labels) if outputs.isfinite().all() else outputs.sum()


def flat(params):
    return torch.cat([value.flatten(1) for value in params.values()], 1)


def split(vectors, params):
    parts = vectors.split([value.numel() for value in params.values()], 1)
    return {name: part.unflatten(1, value.shape) for (name, value), part in zip(params.items(), parts, strict=True)}


@pytest.mark.parametrize("shared", [True, False], ids=["one direction", "each its own"])
@pytest.mark.parametrize("frozen", FROZEN)
@pytest.mark.parametrize("criterion", [cross_entropy, squared, linear, branching])
@pytest.mark.parametrize("activation", [nn.ReLU, nn.Tanh])
@pytest.mark.parametrize("bias", [True, False])
def test_gradients_and_products_are_those_of_each_minibatch(bias, activation, criterion, frozen, shared):
    module, batches = stack(activation, bias), minibatches()
    params = {name: value for name, value in detached_parameters(module).items() if name not in frozen}
    _, gradients, hessians = reference.dense(module, criterion, batches, 0.0, list(params))
    loss = functional_loss(module, criterion)
    pair = torch.stack([inputs for inputs, _ in batches]), torch.stack([labels for _, labels in batches])
    passed = StackPass(loss, stack_of(loss, batches[0]), params, pair)
    assert_close(flat(passed.gradients(params)), gradients, **EXACT)
    vectors = torch.randn(1 if shared else 3, gradients.shape[1], generator=torch.Generator().manual_seed(2)).double()
    direction = {name: value[0] if shared else value for name, value in split(vectors, params).items()}
    expected = torch.einsum("kij,kj->ki", hessians, vectors.expand(3, -1))
    found = dict(passed.products(direction))
    assert_close(flat({name: found[name] for name in params}), expected, **EXACT)
    total = {name: torch.ones_like(value) for name, value in params.items()}
    passed.add_products(direction, total, 0.5)
    assert_close(flat({name: value[None] for name, value in total.items()})[0], 1 + 0.5 * expected.sum(0), **EXACT)


def test_other_losses_are_no_stacks():
    module, batch = stack(nn.ReLU), minibatches(1)[0]
    assert stack_of(lambda params, batch: params["w"].sum(), batch) is None
    assert stack_of(functional_loss(module, cross_entropy), {"x": batch[0]}) is None
    assert stack_of(functional_loss(nn.Sequential(nn.Conv1d(2, 3, 1), nn.Flatten()), cross_entropy), batch) is None


@pytest.mark.parametrize(("limit", "value"), [("MINIBATCHES_AT_ONCE", 1), ("MINIBATCHES_AT_ONCE", 2), ("MEMORY", 30)])
@pytest.mark.parametrize("optimizer", [torch.optim.SGD, torch.optim.Adam])
def test_how_many_minibatches_are_taken_at_once_changes_nothing(monkeypatch, optimizer, limit, value):
    module, batches = stack(nn.Tanh), [*minibatches(5), minibatches(1, 2)[0]]
    made = optimizer(module.parameters(), lr=0.1, weight_decay=0.2)
    for _ in range(2):
        made.zero_grad()
        cross_entropy(module(batches[0][0]), batches[0][1]).backward()
        made.step()
    loss, params = functional_loss(module, cross_entropy), detached_parameters(module)
    flow = lambda: mean_flow(  # noqa: E731
        loss, params, batches, view(made, dict(module.named_parameters())), gradient_moments(loss, params, batches)
    )
    whole = flow()
    monkeypatch.setattr(stack_pass, limit, value)
    parts = flow()
    for name in ("memory", "lag", "fluctuation", "squares_gradient"):
        assert_close(getattr(parts, name), getattr(whole, name), **EXACT)
