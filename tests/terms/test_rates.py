"""Rates that differ between weights or between steps: the terms' constants, by the mean over all orders of an epoch."""

from itertools import permutations

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp
from torch import nn
from torch.nn.functional import mse_loss

import ireg
from ireg.core.functional import functional_loss
from ireg.core.optimizers import view
from ireg.core.random import named_generator
from ireg.core.snapshot import Snapshot
from ireg.terms import implicit, own
from tests.terms.test_order_of_accuracy import BATCHES, START, gradient, loss

RATES = [2.0**-k for k in range(6, 11)]
SHARES = np.array([1.0, 0.3])
SCHEDULE = np.array([1.0, 0.4, 0.1])


def snapshot(rates, shares=None):
    """At the start, of SGD with a group for each of the two weights, or with one for both."""
    weights = nn.Parameter(START.clone())
    if shares is None:
        seen = view(torch.optim.SGD([weights], lr=rates[0]), {"w": weights}, [(rate,) for rate in rates])
        return make(seen, {"w": START}, loss)
    parts = {"a": nn.Parameter(START[:1].clone()), "b": nn.Parameter(START[1:].clone())}
    groups = [{"params": [part], "lr": rates[0] * share} for part, share in zip(parts.values(), shares, strict=True)]
    seen = view(torch.optim.SGD(groups, lr=1.0), parts)
    params = {name: part.detach() for name, part in parts.items()}
    return make(seen, params, lambda params, batch: loss({"w": torch.cat([params["a"], params["b"]])}, batch))


def make(seen, params, function):
    return Snapshot(
        params=params, initial=params, loss=function, batches=BATCHES, optimizer=seen, generator=named_generator("t")
    )


def constants(rates, shares=None):
    """The factors of ‖ḡ‖² and of the variance, read off the values of SGD's two terms and of its own."""
    point, weight = snapshot(rates, shares), np.ones(2) if shares is None else np.array(shares)
    slopes = np.stack([gradient(START.numpy(), batch) for batch in BATCHES])
    mean = slopes.mean(0)
    quantities = (np.sum(weight * mean**2), np.mean(np.sum(weight * (slopes - mean) ** 2, axis=1)))
    found = [
        [float(term(point)) / quantity for term, quantity in zip(pair, quantities, strict=True)]
        for pair in ((implicit.full_batch, implicit.minibatch_variance), (own.own_full_batch, own.own_variance))
    ]
    assert found[0] == pytest.approx(found[1], rel=1e-10)
    total = float(implicit.full_batch(point)) + float(implicit.minibatch_variance(point))
    assert float(implicit.sgd(point)) == pytest.approx(total, rel=1e-10)
    return found[0]


def flow(of_mean, of_variance, duration, weight):
    """End of ω̇ = −D ∇(C + of_mean ‖ḡ‖²_D + of_variance (1/m) Σ ‖g_k − ḡ‖²_D), D = diag(weight)."""
    scale = torch.tensor(weight)

    def velocity(_, point):
        weights = torch.tensor(point, dtype=torch.float64, requires_grad=True)
        values = torch.stack([loss({"w": weights}, batch) for batch in BATCHES])
        slopes = torch.stack([torch.autograd.grad(value, weights, create_graph=True)[0] for value in values])
        mean = slopes.mean(0)
        variance = (scale * (slopes - mean).square()).sum(1).mean()
        total = values.mean() + of_mean * (scale * mean.square()).sum() + of_variance * variance
        return -(scale * torch.autograd.grad(total, weights)[0]).numpy()

    return solve_ivp(velocity, (0, duration), START.numpy(), method="DOP853", rtol=1e-12, atol=1e-14).y[:, -1]


def epoch_mean(rates, weight):
    """Mean over all orders of the weights after an epoch whose t-th step has rate η_t."""
    ends = []
    for order in permutations(BATCHES):
        point = START.numpy().copy()
        for rate, batch in zip(rates, order, strict=True):
            point = point - rate * weight * gradient(point, batch)
        ends.append(point)
    return np.mean(ends, axis=0)


def slope(schedule, weight, factors):
    """Order of the error against the flow with these factors of the two parts."""
    errors = []
    for rate in RATES:
        rates = rate * schedule
        end = flow(*factors(rates), float(rates.sum()), weight)
        errors.append(np.linalg.norm(epoch_mean(rates, weight) - end))
    return np.polyfit(np.log(RATES), np.log(errors), 1)[0]


@pytest.mark.parametrize(
    ("factors", "expected"),
    [
        (lambda rates: constants(list(rates)), 3),
        (lambda rates: 2 * [rates.mean() / 4], 2),
        (lambda rates: 2 * [np.sum(rates**2) / (4 * rates.sum())], 2),
        (lambda rates: 2 * [rates[-1] / 4], 2),
    ],
    ids=["modified loss", "the mean rate for both", "S/T for both", "the last rate"],
)
def test_rates_that_change_within_the_epoch(factors, expected):
    assert slope(SCHEDULE, np.ones(2), factors) == pytest.approx(expected, abs=0.15)


@pytest.mark.parametrize(
    ("factors", "expected"),
    [
        (lambda rates: constants(list(rates), list(SHARES)), 3),
        (lambda rates: [0.0, 0.0], 2),
        (lambda rates: 2 * [rates[0] / 2], 2),
    ],
    ids=["modified loss", "plain loss", "twice the constant"],
)
def test_groups_with_rates_of_their_own(factors, expected):
    assert slope(np.ones(3), SHARES, factors) == pytest.approx(expected, abs=0.15)


def test_one_largest_rate_for_all_groups_is_rejected():
    """The flow whose penalty is not weighed by the shares, though its velocity is."""

    def end(rates):
        weight = torch.tensor(SHARES)

        def velocity(_, point):
            weights = torch.tensor(point, dtype=torch.float64, requires_grad=True)
            values = torch.stack([loss({"w": weights}, batch) for batch in BATCHES])
            slopes = torch.stack([torch.autograd.grad(value, weights, create_graph=True)[0] for value in values])
            total = values.mean() + rates[0] / 4 * slopes.square().sum(1).mean()
            return -(weight * torch.autograd.grad(total, weights)[0]).numpy()

        duration = float(rates.sum())
        return solve_ivp(velocity, (0, duration), START.numpy(), method="DOP853", rtol=1e-12, atol=1e-14).y[:, -1]

    errors = [np.linalg.norm(epoch_mean(rate * np.ones(3), SHARES) - end(rate * np.ones(3))) for rate in RATES]
    assert np.polyfit(np.log(RATES), np.log(errors), 1)[0] == pytest.approx(2, abs=0.15)


@pytest.mark.parametrize("decoupled", [False, True])
def test_groups_of_adam_against_a_loop(decoupled):
    """Own terms of AdamW with two groups, from torch's state by hand."""
    torch.manual_seed(0)
    module = nn.Linear(3, 2).double()
    batches = [(torch.randn(4, 3).double(), torch.randn(4, 2).double()) for _ in range(3)]
    cls = torch.optim.AdamW if decoupled else torch.optim.Adam
    groups = [{"params": [module.weight], "weight_decay": 0.1}, {"params": [module.bias], "lr": 0.05}]
    optimizer = cls(groups, lr=0.02, betas=(0.8, 0.9), weight_decay=0.0)
    for inputs, targets in batches:
        optimizer.zero_grad()
        mse_loss(module(inputs), targets).backward()
        optimizer.step()
    names = dict(module.named_parameters())
    function = functional_loss(module, mse_loss)
    params = {name: value.detach() for name, value in names.items()}
    point = Snapshot(
        params=params, initial=params, loss=function, batches=batches, optimizer=view(optimizer, names),
        generator=named_generator("t"),
    )  # fmt: skip
    gradients = [torch.autograd.grad(mse_loss(module(x), y), list(names.values())) for x, y in batches]
    full, rate, decay = 0.0, {"weight": 0.02, "bias": 0.05}, {"weight": 0.1, "bias": 0.0}
    variance = 0.0
    for place, (name, parameter) in enumerate(names.items()):
        scale = 1 / ((optimizer.state[parameter]["exp_avg_sq"] / (1 - 0.9**3)).sqrt() + 1e-8)
        each = torch.stack([gradient[place] for gradient in gradients])
        mean = each.mean(0)
        shift = decay[name] * parameter.detach()
        full += float((rate[name] * scale * (mean + (shift / scale if decoupled else shift)) ** 2).sum())
        variance += float((rate[name] * scale * (each - mean) ** 2).sum()) / 3
    tau = 2 / (3 * 2) * (2 * 0.8 + 0.8**2)
    assert float(own.own_full_batch(point)) == pytest.approx(full / 4 * (1 + 2 * 0.8 / 0.2), rel=1e-10)
    assert float(own.own_variance(point)) == pytest.approx(variance / 4 * (1 - tau), rel=1e-10)


def test_a_group_with_rate_zero_adds_nothing():
    module = nn.Linear(2, 1)
    groups = [{"params": [module.weight]}, {"params": [module.bias], "lr": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=0.1, weight_decay=0.5)
    module(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    seen = view(optimizer, dict(module.named_parameters()))
    params = {name: parameter.detach() for name, parameter in module.named_parameters()}
    decayed = seen.decayed(seen.first_moment, params, seen.preconditioner)
    assert torch.isfinite(decayed["bias"]).all()
    assert float(seen.preconditioner["bias"]) == 0.0


def test_memory_at_rates_and_momenta_that_change_in_a_loop():
    """Steps on one full batch: the variance is 0, and the mean's part that of c_t and of what the buffer holds."""
    model = nn.Linear(1, 1, bias=False).double()
    nn.init.constant_(model.weight, 2.0)
    batch = torch.ones(1, 1).double(), torch.zeros(1, 1).double()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-9, momentum=0.5)
    monitor = ireg.Monitor(model, optimizer, criterion=mse_loss, terms=["ireg/own", "ireg/own_variance"])
    for rate, momentum in ((1e-9, 0.5), (3e-9, 0.6)):
        optimizer.param_groups[0].update(lr=rate, momentum=momentum)
        optimizer.zero_grad()
        mse_loss(model(batch[0]), batch[1]).backward()
        optimizer.step()
        monitor.update(batch)
    with pytest.warns(UserWarning, match="changes within the epoch") as said:
        row = monitor.compute()
    # K = 3/0.4 = 7.5 and 1 + 0.6 · 7.5 = 5.5, N = 2 and 2 before the steps, ‖∇w²‖² = 16.
    squares, held = 5.5**2 + 7.5**2, 5.5 * 0.5 * 5.5 * 2 + 7.5 * 0.6 * 7.5 * 2
    assert row["ireg/own"] == pytest.approx(1e-9 * (squares + 2 * held) / (4 * 13) * 16, rel=1e-6)
    assert row["ireg/own_variance"] == pytest.approx(0, abs=1e-20)
    assert "those of an optimizer with memory are for a last rate that stays" in str(said[0].message)
    assert "ireg/own… has the momentum of each step" in str(said[1].message)


def test_theory_at_rates_that_change_is_that_of_what_does_not_divide():
    model = nn.Linear(2, 1).double()
    batches = [(torch.full((1, 2), x).double(), torch.zeros(1, 1).double()) for x in (1.0, 2.0)]
    ask = {"criterion": mse_loss, "terms": ["ireg/strength"], "rates": [(0.1,), (0.3,)]}
    momentum = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.5)
    assert ireg.measure(model, batches, optimizer=momentum, **ask)["ireg/strength"] > 0
    adam = torch.optim.Adam(model.parameters(), betas=(0.5, 0.6))  # whose memory is soon gone
    with pytest.warns(UserWarning, match="the mean flow is known for one rate and one weight decay"):
        found = ireg.measure(model, batches, optimizer=adam, **ask)
    assert "ireg/strength" not in found
