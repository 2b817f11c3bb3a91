"""What is measured is the loss that is descended: BatchNorm by its minibatch's statistics, dropout off."""

import copy

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy
from torch.testing import assert_close

from ireg.core.functional import (
    batch_statistics,
    couples_examples,
    detached_parameters,
    evaluating,
    functional_loss,
    measuring,
)
from ireg.core.hessian_sums import Point, hessian_sums
from ireg.core.moments import gradient_moments
from ireg.core.optimizers import view
from tests.cases import EXACT

GENERATOR = torch.Generator().manual_seed(5)
BATCHES = [
    (torch.randn(4, 3, 6, generator=GENERATOR, dtype=torch.float64) + k, torch.tensor([0, 1, 2, 1])) for k in range(3)
]
LAYERS = {
    "batch": lambda: nn.BatchNorm1d(3),
    "batch, cumulative": lambda: nn.BatchNorm1d(3, momentum=None),
    "batch, untracked": lambda: nn.BatchNorm1d(3, track_running_stats=False),
    "instance, tracked": lambda: nn.InstanceNorm1d(3, affine=True, track_running_stats=True),
    "instance, untracked": lambda: nn.InstanceNorm1d(3, affine=True),
}


def network(layer, *, dropout=0.0):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        module = nn.Sequential(LAYERS[layer](), nn.Flatten(), nn.Linear(18, 3), nn.Dropout(dropout)).double()
    for inputs, _ in BATCHES[:2]:  # so that running statistics are those of something else
        module(3 * inputs + 1)
    return module


def trained_gradients(module):
    """Of each minibatch, by a backward pass of a copy in training mode."""
    gradients = []
    for inputs, targets in BATCHES:
        twin = copy.deepcopy(module)
        cross_entropy(twin(inputs), targets).backward()
        gradients.append({name: parameter.grad for name, parameter in twin.named_parameters()})
    return gradients


def state(module):
    return {name: value.clone() for name, value in module.state_dict().items()}


@pytest.mark.parametrize("method", ["loop", "vmap"])
@pytest.mark.parametrize("layer", LAYERS)
def test_gradients_are_those_of_training_and_nothing_is_changed(layer, method):
    module = network(layer)
    before, expected = state(module), trained_gradients(module)
    loss, params = functional_loss(module, cross_entropy), detached_parameters(module)
    with measuring(module):
        moments = gradient_moments(loss, params, BATCHES, method=method)
    for name, mean in moments.mean.items():
        assert_close(mean, sum(gradient[name] for gradient in expected) / len(expected), **EXACT)
    after = state(module)
    assert before.keys() == after.keys()
    assert all(torch.equal(value, after[name]) for name, value in before.items())
    assert all(part.training for part in module.modules())
    assert module[0].track_running_stats == ("untracked" not in layer)


@pytest.mark.parametrize("layer", ["batch", "instance, tracked"])
def test_eval_mode_would_measure_another_loss(layer):
    module = network(layer)
    loss, params = functional_loss(module, cross_entropy), detached_parameters(module)
    with measuring(module):
        measured = gradient_moments(loss, params, BATCHES).sq_norm_mean
    with evaluating(module):
        evaluated = gradient_moments(loss, params, BATCHES).sq_norm_mean
    assert abs(float(evaluated / measured) - 1) > 0.1


def test_dropout_is_off_and_a_frozen_normalization_stays_frozen():
    module = network("batch", dropout=0.5)
    module[0].eval()
    with measuring(module):
        assert batch_statistics(module) == []
        assert [name for name, part in module.named_modules() if not part.training] == ["0", "3"]
        measured = functional_loss(module, cross_entropy)(detached_parameters(module), BATCHES[0])
    twin = copy.deepcopy(module).eval()
    assert_close(measured, cross_entropy(twin(BATCHES[0][0]), BATCHES[0][1]).detach(), **EXACT)
    assert [part.training for part in module] == [False, True, True, True]


def test_all_is_restored_after_an_error():
    module = network("batch")
    before = state(module)
    with pytest.raises(RuntimeError, match="in the block"), measuring(module):
        raise RuntimeError("in the block")
    assert module[0].training
    assert module[0].track_running_stats
    assert all(torch.equal(value, module.state_dict()[name]) for name, value in before.items())


@pytest.mark.parametrize(
    ("layer", "training", "couples", "statistics"),
    [
        ("batch", True, True, True),
        ("batch", False, False, False),
        ("batch, untracked", False, True, True),
        ("instance, tracked", True, False, True),
        ("instance, tracked", False, False, False),
    ],
)
def test_which_layers_take_the_minibatchs_statistics(layer, training, couples, statistics):
    module = network(layer).train(training)
    assert couples_examples(module) == couples
    assert bool(batch_statistics(module)) == statistics


def test_hessian_products_are_of_the_loss_that_is_trained():
    module = network("batch")
    loss, params = functional_loss(module, cross_entropy), detached_parameters(module)
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
    seen = view(optimizer, dict(module.named_parameters()))
    with measuring(module):
        moments = gradient_moments(loss, params, BATCHES)
        found = hessian_sums(loss, params, BATCHES, Point(params, moments, None, seen)).along_gradients
    step = 1e-6
    for name in params:
        change = 0
        for k, gradient in enumerate(trained_gradients(module)):
            ends = []
            for sign in (1, -1):
                twin = copy.deepcopy(module)
                with torch.no_grad():
                    for other, parameter in twin.named_parameters():
                        parameter += sign * step * gradient[other]
                ends.append(trained_gradients(twin)[k][name])
            change = change + (ends[0] - ends[1]) / (2 * step) / len(BATCHES)
        assert_close(found[name], change, rtol=1e-5, atol=1e-8)
