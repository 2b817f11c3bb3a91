"""The noise of the preconditioner at rate 0 against torch's own optimizers, over all orders of a few minibatches."""

from itertools import permutations, product

import pytest
import torch
from torch.testing import assert_close

from ireg.core.frozen_gradients import FrozenGradients
from ireg.core.mean_flow import mean_flow
from ireg.core.moments import gradient_moments
from ireg.core.optimizers import view
from ireg.core.preconditioner_noise import (
    PreconditionerNoise,
    State,
    follow,
    linear_part,
    mean_state,
    preconditioner_noise,
    settled_states,
    velocity,
)
from tests.cases import EXACT

SEED = 11
OPTIMIZERS = {
    "rmsprop": (torch.optim.RMSprop, {"alpha": 0.5, "eps": 1e-2}),
    "rmsprop with momentum": (torch.optim.RMSprop, {"alpha": 0.5, "eps": 1e-2, "momentum": 0.3}),
    "centered": (torch.optim.RMSprop, {"alpha": 0.5, "eps": 1e-1, "centered": True}),
    "adam": (torch.optim.Adam, {"betas": (0.4, 0.5), "eps": 1e-3}),
    "adamw": (torch.optim.AdamW, {"betas": (0.4, 0.5), "eps": 1e-3, "weight_decay": 0.0}),
    "nadam": (torch.optim.NAdam, {"betas": (0.4, 0.5), "eps": 1e-3, "momentum_decay": 1e9}),
}
SIZE, EPOCHS = 3, 5


def loss(params, batch):
    return (params["w"] * batch[0]).sum()


def frozen(size=SIZE, **arguments):
    """Gradients that are what is given: 4 weights, the last of which no minibatch moves."""
    generator = torch.Generator().manual_seed(SEED)
    rows = torch.randn(size, 4, generator=generator, dtype=torch.float64) + 0.5
    rows[:, 3] = 0
    params = {"w": torch.zeros(4, dtype=torch.float64)}
    return FrozenGradients(loss, params, [(row, None) for row in rows], **arguments)


def rule(name):
    kind, arguments = OPTIMIZERS[name]
    weight = torch.nn.Parameter(torch.ones(4, dtype=torch.float64))
    optimizer = kind([weight], lr=1.0, **arguments)
    weight.grad = torch.ones_like(weight)
    optimizer.step()  # NAdam's μ
    return view(optimizer, {"w": weight})


def stepped_by_torch(name, gradients, orders, counted):
    """The mean direction of torch's own steps over each of many orders at once: everything is elementwise.

    The state begins where all gradients are the mean and all squares the mean square, and past bias correction.
    """
    kind, arguments = OPTIMIZERS[name]
    rows = torch.stack([gradients.of(k) for k in range(gradients.num_batches)])
    weight = torch.nn.Parameter(torch.zeros(len(orders), rows.shape[1], dtype=torch.float64))
    optimizer = kind([weight], lr=1.0, **arguments)
    mean, square = rows.mean(0).expand_as(weight).clone(), rows.square().mean(0).expand_as(weight).clone()
    centre = rows.mean(0).expand_as(weight).clone()
    momentum = arguments.get("momentum", 0.0)
    below = (square - centre**2 if name == "centered" else square).sqrt() + arguments["eps"]
    optimizer.state[weight].update(
        step=torch.tensor(1e6), square_avg=square, grad_avg=centre, momentum_buffer=mean / below / (1 - momentum),
        exp_avg=mean, exp_avg_sq=square, mu_product=torch.tensor(0.0, dtype=torch.float64),
    )  # fmt: skip
    for step in range(orders.shape[1]):
        if step == orders.shape[1] - counted:
            before = weight.detach().clone()
        weight.grad = rows[orders[:, step]]
        optimizer.step()
    return (before - weight.detach()) / counted * (1 - momentum)


def all_orders(epochs=EPOCHS, size=SIZE):
    whole = list(permutations(range(size)))
    return torch.tensor([sum(orders, ()) for orders in product(whole, repeat=epochs)])


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_it_is_the_mean_over_all_orders_of_torchs_own_steps(name):
    gradients, dividing = frozen(), rule(name).filtered_by
    # 7,776 orders of five epochs; what the first state leaves is 2⁻²⁴ of F.
    expected = stepped_by_torch(name, gradients, all_orders(), SIZE).mean(0) - velocity(gradients, dividing)
    found = preconditioner_noise(gradients, dividing, torch.Generator().manual_seed(1), orders=1000)
    error = found.variance.sqrt()
    assert float(expected.norm()) > 15 * float(error.norm())  # F is there, and it is sharp
    assert bool(((found.mean - expected).abs()[:3] < 4 * error[:3]).all())
    assert float(found.mean[3]) == float(expected[3]) == float(found.variance[3]) == 0.0
    assert found.square == pytest.approx(float(expected.square().sum()), rel=0.1)


def test_the_standard_error_is_that_of_the_orders():
    gradients, dividing = frozen(), rule("rmsprop").filtered_by
    found = [preconditioner_noise(gradients, dividing, torch.Generator().manual_seed(i), orders=4) for i in range(400)]
    spread = torch.stack([each.mean for each in found]).var(0)[:3]
    assert_close(torch.stack([each.variance for each in found]).mean(0)[:3], spread, rtol=0.25, atol=0)


def test_the_square_is_freed_of_noise():
    mean, variance = torch.tensor([3.0, 4.0]), torch.tensor([1.0, 2.0])
    assert PreconditionerNoise(leading=mean, mean=mean, variance=variance, orders=2).square == 25 - 3
    assert PreconditionerNoise(leading=mean, mean=mean, variance=10 * variance, orders=2).square == 0


@pytest.mark.parametrize("name", [name for name in OPTIMIZERS if name != "rmsprop with momentum"])
def test_an_order_is_stepped_as_torch_does(name):
    gradients, dividing = frozen(), rule(name).filtered_by
    order = torch.tensor([0, 2, 1, 1, 0, 2])
    expected = stepped_by_torch(name, gradients, order[None], 2)[0]
    assert_close(follow(gradients, dividing, order, mean_state(gradients), counted=2).direction, expected, **EXACT)


@pytest.mark.parametrize("name", ["rmsprop", "centered", "adam", "nadam"])
def test_the_linear_part_has_no_expectation(name):
    gradients, dividing = frozen(), rule(name).filtered_by
    parts = torch.stack(
        [
            linear_part(gradients, dividing, follow(gradients, dividing, order, mean_state(gradients), counted=SIZE))
            for order in all_orders(2)
        ]
    )
    scale = velocity(gradients, dividing)[:3].abs()
    assert bool((parts.mean(0)[:3].abs() < 1e-13 * scale).all())
    assert bool((parts.std(0)[:3] > 1e-3 * scale).all())


@pytest.mark.parametrize("name", ["centered", "adam"])
def test_a_settled_state_is_that_of_a_long_past(name):
    gradients, dividing = frozen(), rule(name).filtered_by
    drawn = []

    def draw(epochs):
        drawn.append(torch.stack([torch.randperm(SIZE, generator=generator) for _ in range(epochs)]))
        return drawn[-1]

    generator = torch.Generator().manual_seed(4)
    (state,) = settled_states(gradients, dividing, draw, 1)
    second, first, centre = (torch.zeros(4, dtype=torch.float64) for _ in range(3))
    for number in drawn[0].flatten().tolist():
        g, rho, beta = gradients.of(number), dividing.decay, dividing.numerator_decay
        second, first, centre = (
            rho * second + (1 - rho) * g * g,
            beta * first + (1 - beta) * g,
            rho * centre + (1 - rho) * g,
        )
    assert_close(state.second, second, rtol=1e-13, atol=0)
    assert_close(*((state.first, first) if name == "adam" else (state.centre, centre)), rtol=1e-13, atol=0)


def test_with_replacement_it_is_the_mean_over_all_draws():
    gradients, dividing = frozen(), rule("rmsprop").filtered_by
    draws = torch.tensor(list(product(range(SIZE), repeat=9)))  # the mean over positions is that at the last step
    rows = stepped_by_torch("rmsprop", gradients, draws, 1).mean(0)
    expected = SIZE / (SIZE - 1) * (rows - velocity(gradients, dividing))
    generator = torch.Generator().manual_seed(2)
    found = preconditioner_noise(gradients, dividing, generator, orders=2000, sampling="independent")
    assert bool(((found.mean - expected).abs()[:3] < 4 * found.variance.sqrt()[:3]).all())
    assert float(expected.norm()) > 10 * float(found.variance.sqrt().norm())


def test_the_mean_flows_is_its_first_order():
    """Of nearly equal gradients the two agree; of unequal ones the series is off."""
    off = []
    for size in (0.02, 3.0):
        generator = torch.Generator().manual_seed(SEED)
        rows = 1 + size * torch.randn(6, 3, generator=generator, dtype=torch.float64)
        batches = [(row, None) for row in rows]
        params = {"w": torch.zeros(3, dtype=torch.float64)}
        seen = rule("rmsprop")
        moments = gradient_moments(loss, params, batches, method="loop")
        taylor = mean_flow(loss, params, batches, seen, moments).fluctuation["w"]
        gradients = FrozenGradients(loss, params, batches)
        found = preconditioner_noise(gradients, seen.filtered_by, torch.Generator().manual_seed(3), orders=600)
        off.append(float((found.mean - taylor).norm() / taylor.norm()))
    assert off[0] < 0.05
    assert off[1] > 0.2


def test_a_single_minibatch_does_not_fluctuate():
    gradients = frozen(1)
    found = preconditioner_noise(gradients, rule("adam").filtered_by, torch.Generator().manual_seed(1))
    assert float(found.mean.abs().max()) < 1e-14
    assert found.square < 1e-28


def test_gradients_that_do_not_fit_are_computed_again():
    kept, again = frozen(stored=4 * 8 * SIZE), frozen(stored=4 * 8 * SIZE - 1)
    assert kept.are_stored
    assert not again.are_stored
    dividing = rule("adam").filtered_by
    one, other = (preconditioner_noise(g, dividing, torch.Generator().manual_seed(1), orders=2) for g in (kept, again))
    assert torch.equal(one.mean, other.mean)


def test_what_is_added_to_every_gradient_is_in_all_of_them():
    shift = {"w": torch.tensor([0.0, 1.0, 2.0, 3.0])}
    plain, shifted = frozen(), frozen(shift=shift)
    assert torch.equal(shifted.of(1), plain.of(1) + shift["w"])
    assert_close(shifted.mean, plain.mean + shift["w"], **EXACT)
    assert_close(shifted.square, torch.stack([shifted.of(k).square() for k in range(SIZE)]).mean(0), **EXACT)


def test_single_precision_is_squared_in_double():
    rows = torch.full((2, 1), 1e-30)
    gradients = FrozenGradients(loss, {"w": torch.zeros(1)}, [(row, None) for row in rows])
    assert float(gradients.square) == pytest.approx(1e-60, rel=1e-6, abs=0)


def test_what_is_refused():
    gradients, dividing = frozen(), rule("rmsprop").filtered_by
    generator = torch.Generator()
    with pytest.raises(ValueError, match="orders=1: must be at least 2"):
        preconditioner_noise(gradients, dividing, generator, orders=1)
    with pytest.raises(ValueError, match="sampling='all': must be one of epoch, independent"):
        preconditioner_noise(gradients, dividing, generator, sampling="all")
    with pytest.raises(ValueError, match="with 1 minibatch"):
        preconditioner_noise(frozen(1), dividing, generator, sampling="independent")
    with pytest.raises(ValueError, match="at least one minibatch"):
        FrozenGradients(loss, {"w": torch.zeros(1)}, [])
    state = State(second=gradients.square, first=gradients.mean, centre=gradients.mean)
    for counted in (0, 3):
        with pytest.raises(ValueError, match=f"counted={counted}: must be from 1 to the number of steps, 2"):
            follow(gradients, dividing, torch.tensor([0, 1]), state, counted=counted)


def test_optimizers_whose_second_moment_never_settles_are_refused():
    weight = torch.nn.Parameter(torch.ones(1))
    for optimizer in (torch.optim.Adam([weight], amsgrad=True), torch.optim.Adagrad([weight])):
        with pytest.raises(ValueError, match="fading mean"):
            _ = view(optimizer, {"w": weight}).filtered_by
    assert view(torch.optim.SGD([weight], lr=1.0), {"w": weight}).filtered_by is None
