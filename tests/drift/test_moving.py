"""What the optimizer does not move has no part in a drift; nor is there a leading flow with BatchNorm."""

from dataclasses import replace
from functools import partial

import pytest
import torch
from torch import nn
from torch.nn.functional import mse_loss
from torch.utils.checkpoint import checkpoint

from ireg.drift.forces import mean_flow_at
from ireg.drift.leading_flow import LeftOut
from ireg.drift.leading_flow_adaptive import settled_way, slow_state
from ireg.drift.orders import follow
from ireg.drift.problem import Problem, flattened
from ireg.drift.runge_kutta import velocity
from ireg.drift.slow_manifold import follow_slowly, slow_buffer
from ireg.drift.study import _curvature, mean_drift
from tests.drift.small import OPTIMIZERS, SGD, Linear, alone, quadratic


class Beside(Linear):
    """The linear model with a frozen parameter before its weight, and one after it that it does not use."""

    def __init__(self, num_features):
        super().__init__(num_features)
        weight = self._parameters.pop("weight")
        self.frozen = nn.Parameter(torch.ones(4, dtype=torch.float64), requires_grad=False)
        self.weight = weight
        self.unused = nn.Parameter(torch.ones(2, dtype=torch.float64))


def both(name, **arguments):
    """The same problem without and with parameters that do not move."""
    plain = quadratic(OPTIMIZERS[name], batch_size=5, **arguments)
    module = Beside(3)
    module.load_state_dict(plain.module.state_dict(), strict=False)
    optimizer = OPTIMIZERS[name](module.parameters())
    for state in plain.optimizer_state["state"].values():
        optimizer.state[module.weight] = state
    return plain, replace(plain, module=module, optimizer_state=optimizer.state_dict())


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_epochs_are_those_without_it(name):
    plain, beside = both(name, steps=3)
    assert beside.optimizer.moving == ("weight",)
    for one, other in zip(follow(plain, 2, 1), follow(beside, 2, 1), strict=True):
        assert torch.equal(one.weights, other.weights)
        assert one.values == other.values


@pytest.mark.parametrize("name", ["momentum", "nesterov"])
def test_slow_starts_are_those_without_it(name):
    plain, beside = both(name, steps=3)
    assert torch.equal(velocity(plain, plain.weights), velocity(beside, beside.weights))
    buffers = slow_buffer(plain), slow_buffer(beside)
    assert torch.equal(*buffers)
    assert torch.equal(follow_slowly(plain, 0, buffers[0]), follow_slowly(beside, 0, buffers[1]))


def test_mean_flow_and_settled_weights_are_those_without_it(monkeypatch):
    monkeypatch.setitem(OPTIMIZERS, "plain adam", partial(torch.optim.Adam, lr=1e-3, betas=(0.8, 0.95), eps=1e-2))
    plain, beside = both("plain adam", steps=3)
    flows = [mean_flow_at(problem, problem.weights, 0, problem.optimizer) for problem in (plain, beside)]
    assert torch.equal(*(flattened(flow.correction) for flow in flows))
    for one, other in zip(*(settled_way(problem, 1, slow_state(problem)) for problem in (plain, beside)), strict=True):
        assert torch.equal(one, other)


def normalized(layer):
    module = nn.Sequential(nn.Linear(3, 3), layer, nn.Linear(3, 1)).double()
    optimizer = partial(torch.optim.SGD, lr=1e-3)
    generator = torch.Generator().manual_seed(0)
    return Problem(
        module=module,
        criterion=mse_loss,
        inputs=torch.randn(12, 3, generator=generator, dtype=torch.float64),
        targets=torch.randn(12, 1, generator=generator, dtype=torch.float64),
        batch_size=4,
        make_optimizer=optimizer,
        optimizer_state=optimizer(module.parameters()).state_dict(),
        seed=0,
    )


def test_batch_norm_has_no_leading_flow_of_examples_but_a_mean_flow():
    problem = normalized(nn.BatchNorm1d(3))
    assert not problem.has_loss_of_examples
    with pytest.raises(LeftOut, match="with BatchNorm C differs between partitions"):
        mean_drift(alone(problem), 6, 0.1)
    assert _curvature(alone(problem)) is None
    before = {name: value.clone() for name, value in problem.module.state_dict().items()}
    assert float(flattened(mean_flow_at(problem, problem.weights, 0, problem.optimizer).leading).norm()) > 0
    assert all(torch.equal(value, problem.module.state_dict()[name]) for name, value in before.items())
    assert normalized(nn.LayerNorm(3)).has_loss_of_examples


def test_a_frozen_normalization_stays_so_in_an_epoch():
    problem = normalized(nn.BatchNorm1d(3))
    problem.module[1].eval()
    module, _ = problem.begin()
    assert [part.training for part in module] == [True, False, True]


def test_activation_checkpointing_is_refused():
    problem = quadratic(partial(SGD, lr=0.1))

    class Checkpointed(Linear):
        def forward(self, inputs):
            # The square makes the gradient depend on the weights.
            return checkpoint(lambda values: torch.tanh(values @ self.weight) ** 2, inputs, use_reentrant=False)

    with pytest.raises(ValueError, match="Checkpointed has right gradients at its own weights only"):
        _ = replace(problem, module=Checkpointed(3)).optimizer
