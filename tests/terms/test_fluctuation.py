"""The exact F as a term, against torch's own steps over all orders of three minibatches."""

from itertools import permutations, product

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy, mse_loss

import ireg
from ireg.core.frozen_gradients import FrozenGradients
from ireg.core.optimizers import SecondMoment
from ireg.core.preconditioner_noise import preconditioner_noise
from ireg.core.random import named_generator
from ireg.measurement import measure_epoch
from ireg.options import Epoch, Options
from tests import reference

STRENGTH, ALIGNMENT = "ireg/strength_fluctuation_exact", "ireg/alignment_fluctuation_exact"
TAGS = [STRENGTH, ALIGNMENT]
OPTIMIZERS = {
    "rmsprop with decay": (torch.optim.RMSprop, {"alpha": 0.5, "eps": 1e-2, "weight_decay": 0.3}),
    "adam": (torch.optim.Adam, {"betas": (0.4, 0.5), "eps": 1e-2}),
    "adamw": (torch.optim.AdamW, {"betas": (0.4, 0.5), "eps": 1e-2, "weight_decay": 0.3}),
}


def problem():
    generator = torch.Generator().manual_seed(7)
    module = nn.Linear(4, 1).double()
    with torch.no_grad():
        for weight in module.parameters():
            weight.copy_(torch.randn(weight.shape, generator=generator))
    batches = [
        tuple(torch.randn(size, width, generator=generator, dtype=torch.float64) for width in (4, 1))
        for size in (3, 3, 2)
    ]
    return module, batches


def measured(name, terms=TAGS, seed=None, population=None, **options):
    kind, settings = OPTIMIZERS[name]
    module, batches = problem()
    optimizer = kind(module.parameters(), lr=0.1, **settings)
    generator = None if seed is None else named_generator("terms", seed)
    return measure_epoch(
        module,
        Options(criterion=mse_loss, terms=terms, **options),
        Epoch(batches=batches, generator=generator, population=population),
        optimizer=optimizer,
    )


def over_all_orders(name, epochs=5):
    """F, u and ∇Q: torch's own optimizer at frozen weights over all orders of some epochs, of which the last counts."""
    kind, settings = OPTIMIZERS[name]
    decay = settings.get("weight_decay", 0.0)
    module, batches = problem()
    point, gradients, hessians = reference.dense(module, mse_loss, batches, 0.0 if name == "adamw" else decay)
    mean, square = gradients.mean(0), gradients.square().mean(0)
    whole = product(permutations(range(len(batches))), repeat=epochs)
    orders = torch.tensor([sum(epoch, ()) for epoch in whole])
    weight = nn.Parameter(torch.zeros(len(orders), len(point), dtype=torch.float64))
    optimizer = kind([weight], lr=1.0, **settings | {"weight_decay": 0.0})
    optimizer.state[weight].update(
        step=torch.tensor(1e6), square_avg=square.expand_as(weight).clone(), exp_avg=mean.expand_as(weight).clone(),
        exp_avg_sq=square.expand_as(weight).clone(),
    )  # fmt: skip
    for step in range(orders.shape[1]):
        if step == orders.shape[1] - len(batches):
            before = weight.detach().clone()
        weight.grad = gradients[orders[:, step]]
        optimizer.step()
    u = mean / (square.sqrt() + settings["eps"])
    force = ((before - weight.detach()) / len(batches)).mean(0) - u
    squares = 2 * torch.einsum("kij,kj->i", hessians, gradients) / len(batches)
    return force, u + (decay * point if name == "adamw" else 0.0), squares


@pytest.mark.parametrize("name", ["rmsprop with decay", "adamw"])
def test_the_terms_are_those_of_all_orders(name):
    force, leading, squares = over_all_orders(name)
    rows = [measured(name, seed=seed) for seed in range(24)]
    # ‖F‖² and ⟨F, ∇Q⟩ have no bias, whatever the noise of eight orders.
    size = np.array([row[STRENGTH] ** 2 for row in rows]) * float(leading.square().sum())
    along = np.array([row.get(ALIGNMENT, 0.0) * row[STRENGTH] for row in rows]) * float(leading.norm() * squares.norm())
    for found, expected in ((size, float(force.square().sum())), (along, float(force @ squares))):
        error = found.std(ddof=1) / len(found) ** 0.5
        assert abs(found.mean() - expected) < 3.5 * error
        assert error < 0.2 * abs(expected)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_decay_is_in_the_gradient_or_in_the_velocity(name):
    """The same drawn orders, from gradients that `.backward()` has made by hand."""
    decay = OPTIMIZERS[name][1].get("weight_decay", 0.0)
    module, batches = problem()
    _, gradients, _ = reference.dense(module, mse_loss, batches, 0.0 if name == "adamw" else decay)
    start, rows = {"w": torch.zeros(5, dtype=torch.float64)}, [(row, None) for row in gradients]
    frozen = FrozenGradients(lambda params, batch: params["w"] @ batch[0], start, rows)
    beta = 0.4 if "adam" in name else 0.0
    generator = named_generator("fluctuation", named_generator("terms").initial_seed())
    found = preconditioner_noise(frozen, SecondMoment(decay=0.5, eps=1e-2, numerator_decay=beta), generator)
    _, leading, squares = over_all_orders(name, epochs=2)
    size = float(found.mean.square().sum() - found.variance.sum()) ** 0.5
    actual = measured(name)
    assert actual[STRENGTH] == pytest.approx(size / float(leading.norm()), rel=1e-9)
    assert actual[ALIGNMENT] == pytest.approx(float(found.mean @ squares / squares.norm()) / size, rel=1e-9)


def test_who_has_none():
    module, batches = problem()
    for optimizer in (torch.optim.SGD(module.parameters(), lr=0.1), torch.optim.SGD(module.parameters(), 0.1, 0.9)):
        assert ireg.measure(module, batches, optimizer=optimizer, criterion=mse_loss, terms=TAGS) == {}
    adam = torch.optim.Adam(module.parameters(), lr=0.1)
    assert ireg.measure(module, batches[:1], optimizer=adam, criterion=mse_loss, terms=TAGS) == {}


def test_who_is_refused():
    module, batches = problem()
    adagrad = torch.optim.Adagrad(module.parameters(), lr=0.1)
    amsgrad = torch.optim.Adam(module.parameters(), lr=0.1, amsgrad=True)
    groups = torch.optim.Adam([{"params": [module.weight], "lr": 0.3}, {"params": [module.bias]}], lr=0.1)
    for optimizer, message in (
        (adagrad, "fading mean"),
        (amsgrad, "fading mean"),
        (groups, "give all parameter groups"),
    ):
        for tag in TAGS:
            with pytest.raises(ValueError, match=message):
                ireg.measure(module, batches, optimizer=optimizer, criterion=mse_loss, terms=tag)
    with pytest.raises(ValueError, match="has no estimate from drawn minibatches"):
        measured("adam", population=10)


def test_centered_rmsprop_has_a_size_and_no_direction():
    module, batches = problem()
    centered = torch.optim.RMSprop(module.parameters(), lr=0.1, alpha=0.5, eps=0.1, centered=True)
    found = ireg.measure(module, batches, optimizer=centered, criterion=mse_loss, terms=STRENGTH)
    assert 0 < found[STRENGTH] < 1
    with pytest.raises(ValueError, match="not centered"):
        ireg.measure(module, batches, optimizer=centered, criterion=mse_loss, terms=ALIGNMENT)


def test_independent_minibatches_have_more():
    epoch, independent = (measured("adam", terms=STRENGTH, sampling=each) for each in ("epoch", "independent"))
    assert independent[STRENGTH] > 1.2 * epoch[STRENGTH]


def test_the_rate_does_not_matter_and_nothing_is_perturbed():
    module, batches = problem()
    state = torch.get_rng_state()
    found = []
    for rate in (1e-7, 1.0):
        optimizer = torch.optim.RMSprop(module.parameters(), lr=rate, alpha=0.5, eps=1e-2)
        found.append(ireg.measure(module, batches, optimizer=optimizer, criterion=mse_loss, terms=TAGS))
    assert found[0] == found[1]
    assert torch.equal(torch.get_rng_state(), state)
    assert all(weight.grad is None for weight in module.parameters())


def test_the_set_has_the_expansion_beside_it():
    found = measured("adam", terms="fluctuation")
    assert {*TAGS, "ireg/strength_fluctuation", "ireg/alignment_fluctuation"} < set(found)


@pytest.mark.parametrize("kind", [torch.optim.Adam, torch.optim.RMSprop, torch.optim.NAdam])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("copies", [4, 7])
def test_minibatches_that_are_alike_give_no_direction(kind, dtype, copies):
    generator = torch.Generator().manual_seed(0)
    inputs, labels = torch.randn(8, 5, generator=generator, dtype=dtype), torch.arange(8) % 3
    with torch.random.fork_rng():
        torch.manual_seed(0)
        module = nn.Sequential(nn.Linear(5, 16), nn.Tanh(), nn.Linear(16, 3)).to(dtype)
    optimizer = kind(module.parameters(), lr=1e-3)
    for _ in range(5):
        optimizer.zero_grad()
        cross_entropy(module(inputs), labels).backward()
        optimizer.step()
    alike, others = [(inputs, labels)] * copies, [(inputs + 0.01 * k, labels) for k in range(copies)]
    tags = ["ireg/alignment_fluctuation", ALIGNMENT]
    found = ireg.measure(module, alike, optimizer=optimizer, criterion=cross_entropy, terms=["fluctuation"])
    assert not set(tags) & found.keys()
    assert found["ireg/strength_fluctuation"] <= torch.finfo(dtype).eps
    assert found[STRENGTH] < 1e-14
    # Minibatches that differ by a hundredth have one.
    found = ireg.measure(module, others, optimizer=optimizer, criterion=cross_entropy, terms=["fluctuation"])
    assert set(tags) <= found.keys()
