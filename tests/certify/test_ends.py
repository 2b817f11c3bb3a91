"""Means over orders: the affine map against every order in turn, the sample against the exact mean."""

from itertools import permutations, product

import numpy as np
import pytest
import torch
from torch.optim import SGD, Adam

from ireg.certify.ends import GROUPS, _orders, over_all_orders, over_sampled_orders
from ireg.certify.optimizers import Recipe, build, points_of, start, step
from ireg.certify.problems import quadratics

FROZEN = {"betas": (0.7, 1 - 2**-53), "eps": 0.1}
RECIPES = {
    "sgd": Recipe(make=SGD, arguments=lambda rate: {"lr": rate}),
    "momentum": Recipe(make=SGD, arguments=lambda rate: {"lr": rate, "momentum": 0.7}),
    "adam": Recipe(make=Adam, arguments=lambda rate: {"lr": rate, **FROZEN}, held={"exp_avg_sq": (0.5, 2.0)}),
}


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES)
def test_the_iterated_mean_map_is_the_mean_over_all_orders_of_all_epochs(recipe):
    problem = quadratics(seed=2, num_batches=3)
    begin = start(recipe, problem, 0.1)
    ends = []
    for epochs in product(permutations(range(3)), repeat=2):
        optimizer = build(recipe, problem.start[:, None], 0.1, first=begin.first, second=None)
        for k in (k for order in epochs for k in order):
            step(problem, optimizer, torch.tensor([k]))
        ends.append(points_of(optimizer)[:, 0].numpy())
    found = over_all_orders(recipe, problem, begin, 0.1, 2)
    np.testing.assert_allclose(found, np.mean(ends, axis=0), rtol=0, atol=1e-13)
    assert np.std(ends, axis=0).min() > 1e-3


@pytest.mark.parametrize(("num_batches", "columns"), [(4, 8 * 24), (5, 8 * 30)])
def test_sampled_means_are_those_over_all_orders(num_batches, columns):
    problem, recipe = quadratics(seed=2, num_batches=num_batches), RECIPES["momentum"]
    begin = start(recipe, problem, 0.05)
    exact = over_all_orders(recipe, problem, begin, 0.05, 10)
    sampled = over_sampled_orders(recipe, problem, begin, 0.05, 10, columns, 0)
    assert 0 < sampled.standard_error < 0.01
    assert np.linalg.norm(sampled.mean - exact) < 4 * sampled.standard_error


@pytest.mark.parametrize("num_batches", [3, 6])
def test_orders_are_permutations_in_opposite_pairs_and_columns_take_both_of_a_pair(num_batches):
    generator = torch.Generator().manual_seed(0)
    drawn = [_orders(num_batches, 96, generator) for _ in range(40)]
    for orders in drawn:
        assert torch.equal(orders.sort(0).values, torch.arange(num_batches)[:, None].expand(-1, 96))
        halves = orders.view(num_batches, GROUPS, 2, -1)
        assert torch.equal(halves[:, :, 0], halves[:, :, 1].flip(0))
    # A column that only ever took one of an order and its reverse would make its epochs depend on each other.
    rising = torch.stack([orders[0] < orders[-1] for orders in drawn]).double().mean(0)
    assert 0.1 < rising.min()
    assert rising.max() < 0.9


def test_few_orders_are_taken_equally_often():
    orders = _orders(3, 8 * 12, torch.Generator().manual_seed(0)).view(3, GROUPS, -1)
    for group in range(GROUPS):
        _, counts = orders[:, group].unique(dim=1, return_counts=True)
        assert counts.tolist() == [2] * 6


def test_columns_that_do_not_divide_into_all_orders():
    with pytest.raises(ValueError, match="100 columns: must be a multiple of 192"):
        _orders(4, 100, torch.Generator())
