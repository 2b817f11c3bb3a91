"""Columns are independent optimizers, held state is held, and the start has no transient."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.optim import SGD, Adadelta, Adam, AdamW, NAdam, RMSprop

from ireg.certify import CERTIFICATES
from ireg.certify.optimizers import Recipe, build, points_of, start, step
from ireg.certify.problems import quadratics

PROBLEM = quadratics(seed=1)
RECIPES = {
    "momentum": Recipe(make=SGD, arguments=lambda rate: {"lr": rate, "momentum": 0.8, "weight_decay": 0.1}),
    "nesterov": Recipe(make=SGD, arguments=lambda rate: {"lr": rate, "momentum": 0.8, "nesterov": True}),
    "rmsprop": Recipe(make=RMSprop, arguments=lambda rate: {"lr": rate, "alpha": 0.9, "eps": 0.1, "momentum": 0.5}),
    "adam": Recipe(make=Adam, arguments=lambda rate: {"lr": rate, "betas": (0.8, 0.9), "eps": 0.1}),
    "adamw": Recipe(
        make=AdamW, arguments=lambda rate: {"lr": rate, "betas": (0.8, 0.9), "eps": 0.1, "weight_decay": 0.1}
    ),
    "nadam": Recipe(make=NAdam, arguments=lambda rate: {"lr": rate, "betas": (0.8, 0.9), "eps": 0.1}),
}


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES)
def test_columns_are_torch_optimizers_each_for_itself(recipe):
    generator = torch.Generator().manual_seed(0)
    points = torch.randn(2, 5, generator=generator, dtype=torch.float64)
    orders = torch.randint(4, (20, 5), generator=generator)
    begin = start(recipe, PROBLEM, 0.01)
    stacked = build(recipe, points, 0.01, first=begin.first, second=begin.second)
    for which in orders:
        step(PROBLEM, stacked, which)
    for column in range(5):
        alone = build(recipe, points[:, [column]], 0.01, first=begin.first, second=begin.second)
        weights = alone.param_groups[0]["params"][0]
        for which in orders[:, column]:
            alone.zero_grad()
            PROBLEM.loss({"w": weights}, PROBLEM.batches[which]).backward()
            alone.step()
        torch.testing.assert_close(points_of(stacked)[:, [column]], weights.detach(), atol=1e-13, rtol=0)


HOLDING = [certificate for certificate in CERTIFICATES if certificate.experiment.recipe.held]


@pytest.mark.parametrize("certificate", HOLDING, ids=lambda certificate: certificate.name)
def test_held_state_stays(certificate):
    experiment = certificate.experiment
    optimizer = build(experiment.recipe, experiment.problem.start[:, None], 0.001, first=None, second=None)
    for _ in range(1000):
        step(experiment.problem, optimizer, torch.zeros(1, dtype=torch.long))
    (state,) = optimizer.state.values()
    for slot, values in experiment.recipe.held.items():
        np.testing.assert_allclose(state[slot][:, 0].numpy(), values, rtol=1e-11)
    assert not torch.equal(points_of(optimizer)[:, 0], experiment.problem.start)


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES)
def test_the_start_is_where_a_run_along_the_flow_would_be(recipe):
    """Run on one minibatch from further up: what the buffers hold then is what `start` says, to first order."""
    problem, differences = quadratics(seed=1, num_batches=1), []
    for rate in (0.002, 0.001):
        begin = start(recipe, problem, rate)
        optimizer = build(recipe, problem.start[:, None], rate, first=begin.first, second=begin.second)
        for _ in range(round(0.4 / rate)):
            step(problem, optimizer, torch.zeros(1, dtype=torch.long))
        there = start(recipe, replace(problem, start=points_of(optimizer)[:, 0].clone()), rate)
        (state,) = optimizer.state.values()
        said = {"exp_avg": there.first, "momentum_buffer": there.first}
        said |= {"exp_avg_sq": there.second, "square_avg": there.second}
        present = [(state[slot][:, 0], value) for slot, value in said.items() if slot in state]
        differences.append(max(float((held - value).abs().max()) for held, value in present))
    rmsprop = recipe.make is RMSprop  # its buffer lags behind P too, which is left to the first steps
    assert differences[1] < (0.6 if rmsprop else 0.3) * differences[0]


def test_an_optimizer_that_is_not_known():
    recipe = Recipe(make=Adadelta, arguments=lambda rate: {"lr": rate})
    with pytest.raises(ValueError, match="Adadelta: unknown optimizer"):
        build(recipe, PROBLEM.start[:, None], 0.1, first=None, second=None)
