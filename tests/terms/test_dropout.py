"""Dropout by two draws: the term is that of the mean over the masks, confirmed over all orders and all masks."""

import copy
from itertools import permutations, product

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp
from torch import nn
from torch.nn.functional import mse_loss

import ireg
from ireg.core.moments import drawn_moments
from ireg.measurement import measure_epoch
from ireg.options import Epoch, Options
from tests import reference

# The losses of two weights under a mask: Σ log cosh(A (w ⊙ e) − b), e_i 0 or 2 with equal chance.
MASKS = [torch.tensor(mask, dtype=torch.float64) for mask in product((0.0, 2.0), repeat=2)]
RANDOM = torch.Generator().manual_seed(3)
BATCHES = [
    tuple(torch.randn(*shape, generator=RANDOM, dtype=torch.float64) for shape in ((2, 2), (2,))) for _ in range(2)
]
START = torch.tensor([0.7, -0.4], dtype=torch.float64)
RATES = [2.0**-k for k in range(6, 11)]


def masked_loss(weights, batch, mask):
    matrix, shift = batch
    return torch.log(torch.cosh(matrix @ (weights * mask) - shift)).sum()


def gradient(point, batch, mask):
    weights = torch.tensor(point, dtype=torch.float64, requires_grad=True)
    return torch.autograd.grad(masked_loss(weights, batch, mask), weights)[0].numpy()


def estimate(one, other):
    """The two terms' quantities with these masks of the two minibatches, in each of the two draws."""
    masks = iter([mask for pair in zip(one, other, strict=True) for mask in pair])
    moments = drawn_moments(lambda params, batch: masked_loss(params["w"], batch, next(masks)), {"w": START}, BATCHES)
    return float(moments.mean_square(None)), float(moments.square_of_mean(None))


def test_the_mean_over_all_masks_has_no_bias():
    pairs = list(product(MASKS, repeat=2))
    found = np.mean([estimate(one, other) for one, other in product(pairs, repeat=2)], axis=0)
    means = np.array([np.mean([gradient(START.numpy(), batch, mask) for mask in MASKS], axis=0) for batch in BATCHES])
    expected = [np.mean(np.sum(means**2, axis=1)), np.sum(means.mean(0) ** 2)]
    assert found == pytest.approx(expected, rel=1e-12)
    squares = np.mean([np.sum(gradient(START.numpy(), batch, mask) ** 2) for batch in BATCHES for mask in MASKS])
    assert squares > 1.2 * expected[0]  # the mean of the squares is another number


def epoch_mean(rate):
    """The mean of the weights after an epoch, over both orders and all masks of its two steps."""
    ends = []
    for order in permutations(BATCHES):
        for masks in product(MASKS, repeat=2):
            point = START.numpy().copy()
            for batch, mask in zip(order, masks, strict=True):
                point = point - rate * gradient(point, batch, mask)
            ends.append(point)
    return np.mean(ends, axis=0)


def modified(weights, rate):
    """C = E C, and the term of the gradients' means over the masks."""
    values = torch.stack(
        [torch.stack([masked_loss(weights, batch, mask) for mask in MASKS]).mean() for batch in BATCHES]
    )
    slopes = torch.stack([torch.autograd.grad(value, weights, create_graph=True)[0] for value in values])
    return values.mean() + rate / 4 * slopes.square().sum(1).mean()


def squares_of_draws(weights, rate):
    """The same with the mean of the squares in place of the square of the mean."""
    values = [masked_loss(weights, batch, mask) for batch in BATCHES for mask in MASKS]
    slopes = torch.stack([torch.autograd.grad(value, weights, create_graph=True)[0] for value in values])
    return torch.stack(values).mean() + rate / 4 * slopes.square().sum(1).mean()


def in_eval_mode(weights, rate):
    """C = E C with the term of the network without masks."""
    values = torch.stack([masked_loss(weights, batch, mask) for batch in BATCHES for mask in MASKS])
    plain = [masked_loss(weights, batch, torch.ones(2, dtype=torch.float64)) for batch in BATCHES]
    slopes = torch.stack([torch.autograd.grad(value, weights, create_graph=True)[0] for value in plain])
    return values.mean() + rate / 4 * slopes.square().sum(1).mean()


@pytest.mark.parametrize(("potential", "slope"), [(modified, 3), (squares_of_draws, 2), (in_eval_mode, 2)])
def test_the_mean_path_follows_the_term_of_the_means(potential, slope):
    errors = []
    for rate in RATES:

        def velocity(_, point, rate=rate):
            weights = torch.tensor(point, dtype=torch.float64, requires_grad=True)
            return -torch.autograd.grad(potential(weights, rate), weights)[0].numpy()

        end = solve_ivp(velocity, (0, 2 * rate), START.numpy(), method="DOP853", rtol=1e-12, atol=1e-14).y[:, -1]
        errors.append(np.linalg.norm(epoch_mean(rate) - end))
    assert np.polyfit(np.log(RATES), np.log(errors), 1)[0] == pytest.approx(slope, abs=0.15)


# Through the door.


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Dropout(0.5), nn.Linear(8, 2)).double()


DATA = [tuple(torch.randn(4, width, generator=RANDOM, dtype=torch.float64) for width in (3, 2)) for _ in range(3)]
TAGS = ["ireg/sgd", "ireg/full_batch", "ireg/minibatch_variance", "ireg/own", "ireg/rmsprop"]


def measured(model, optimizer, **arguments):
    return ireg.measure(
        model, DATA, optimizer=optimizer, criterion=mse_loss, **{"terms": TAGS, "mode": "two_draws", **arguments}
    )


def test_the_mean_over_many_measurements_is_that_of_the_mean_gradient():
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, weight_decay=0.1)
    draws = [
        measure_epoch(
            model,
            Options(criterion=mse_loss, terms=["ireg/sgd", "ireg/own"], mode="two_draws"),
            Epoch(batches=DATA, generator=torch.Generator().manual_seed(seed)),
            optimizer=optimizer,
        )
        for seed in range(400)
    ]
    torch.manual_seed(1)
    means = []
    for batch in DATA:  # the mean gradient by many masks
        twin = copy.deepcopy(model)
        many = (batch[0].repeat(4000, 1), batch[1].repeat(4000, 1))
        mse_loss(twin(many[0]), many[1]).backward()
        means.append({name: parameter.grad for name, parameter in twin.named_parameters()})
    values = [draw["ireg/sgd"] for draw in draws]
    expected, error = reference.sgd(means, 0.1), np.std(values) / len(values) ** 0.5
    assert np.mean(values) == pytest.approx(expected, abs=4 * error)
    without = measured(model, optimizer, mode="as_trained", terms=["ireg/sgd"])["ireg/sgd"]
    assert abs(without - expected) > 5 * error  # without the masks it is another number


def test_nothing_is_changed_and_a_seed_repeats_it():
    model = network()
    model.insert(1, nn.BatchNorm1d(8).double())
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    mse_loss(model(DATA[0][0]), DATA[0][1]).backward()
    optimizer.step()
    model[2].eval()  # a mode of one's own
    before, stream = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    modes = [layer.training for layer in model.modules()]
    values = measured(model, optimizer)
    assert measured(model, optimizer) == values
    options = Options(criterion=mse_loss, terms=TAGS, mode="two_draws")
    other = Epoch(batches=DATA, generator=torch.Generator().manual_seed(5))
    assert measure_epoch(model, options, other, optimizer=optimizer) != values
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), stream)
    assert [layer.training for layer in model.modules()] == modes
    assert set(values) == set(TAGS)


@pytest.mark.parametrize("make", [torch.optim.SGD, torch.optim.RMSprop, torch.optim.AdamW])
def test_without_dropout_two_draws_are_the_exact_values(make):
    model = network()
    model[2] = nn.Identity()
    optimizer = make(model.parameters(), lr=0.01, weight_decay=0.1)
    mse_loss(model(DATA[0][0]), DATA[0][1]).backward()
    optimizer.step()
    assert measured(model, optimizer) == pytest.approx(measured(model, optimizer, mode="as_trained"), rel=1e-10, abs=0)


def test_what_cannot_be_estimated_is_refused():
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with pytest.raises(ValueError, match="mode='two_draws' takes all minibatches; leave num_batches and population"):
        measured(model, optimizer, population=9)
    with pytest.raises(ValueError, match="ireg/strength has no estimate from drawn masks; leave it out .*as_trained'"):
        measured(model, optimizer, terms="theory")
    with pytest.raises(ValueError, match="mode='two_draws' takes all minibatches"):
        ireg.Monitor(model, optimizer, criterion=mse_loss, mode="two_draws", num_batches=4)


@pytest.mark.filterwarnings("error")
def test_monitor_and_callback_take_the_mode():
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    monitor = ireg.Monitor(model, optimizer, criterion=mse_loss, terms=TAGS, mode="two_draws")
    for batch in DATA:
        monitor.update(batch)
    assert set(monitor.compute()) == set(TAGS) - {"ireg/rmsprop"}  # and no warning of dropout
    assert ireg.ImplicitRegularizationMonitor(mode="two_draws").options.mode == "two_draws"
