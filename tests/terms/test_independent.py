"""Minibatches that are drawn independently: terms of the population, unbiased over all windows."""

from itertools import product

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import mse_loss

import ireg
from ireg.core.functional import detached_parameters, functional_loss
from ireg.core.mean_flow import mean_flow
from ireg.core.moments import gradient_moments
from ireg.core.moments.needs import Need, needs
from ireg.core.optimizers import view
from ireg.measurement import take_snapshot
from ireg.options import Epoch, Options
from ireg.regularizers import L2, FullBatch, Minibatch, MomentumLike
from tests import reference
from tests.core.test_mean_flow import OPTIMIZERS as FLOWS
from tests.core.test_mean_flow import RULES, smooth_problem
from tests.reference import flat
from tests.terms.test_sampling import BATCHES, OPTIMIZERS, TERMS, measured, stepped

POPULATION = [*BATCHES[:2], BATCHES[5]]
"""Three minibatches with equal chances: an independent window of k is one of 3ᵏ."""
INDEPENDENT = {"sampling": "independent"}


def toy(targets=(1.0, 2.0, 6.0), *, optimizer=torch.optim.SGD, **arguments):
    """One weight at 0 with Ĉ = (w − t)²/2: g = −t. Without a bias."""
    model = nn.Linear(1, 1, bias=False).double()
    nn.init.zeros_(model.weight)
    batches = [(torch.ones(1, 1, dtype=torch.float64), torch.tensor([[t]], dtype=torch.float64)) for t in targets]
    arguments = {"terms": TERMS, "sampling": "independent", **arguments}
    made = optimizer(model.parameters(), lr=0.4)
    return ireg.measure(model, batches, optimizer=made, criterion=lambda o, t: mse_loss(o, t) / 2, **arguments)


def test_by_hand():
    # ḡ = 3, mean square 41/3, s² = 7, ‖∇C‖² ≈ 9 − 7/3 = 20/3, η/4 = 0.1.
    values = toy()
    assert values["ireg/sgd"] == pytest.approx(4.1 / 3, rel=1e-12)
    assert values["ireg/full_batch"] == pytest.approx(2 / 3, rel=1e-12)
    assert values["ireg/minibatch_variance"] == pytest.approx(0.7, rel=1e-12)
    assert values["ireg/own"] == values["ireg/own_full_batch"] == pytest.approx(2 / 3, rel=1e-12)
    assert "ireg/own_variance" not in values
    epoch = toy(sampling="epoch")
    assert epoch["ireg/full_batch"] == pytest.approx(0.9, rel=1e-12)
    assert epoch["ireg/own"] == epoch["ireg/sgd"] == pytest.approx(4.1 / 3, rel=1e-12)


def test_momentum_by_hand():
    # η_e = 0.8, 1 + 2L = 3: 0.2 · 3 · 20/3.
    values = toy(optimizer=lambda weights, lr: torch.optim.SGD(weights, lr=lr, momentum=0.5))
    assert values["ireg/own"] == pytest.approx(4.0, rel=1e-12)


def test_changing_rates_by_hand():
    # Rates 0.6, 0.4, 0.2: T = 1.2, S = 0.56, S/(4T) = 7/60; the variance has η/4 = 0.1 of the mean rate.
    values = toy(rates=[(0.6,), (0.4,), (0.2,)])
    assert values["ireg/own"] == values["ireg/full_batch"] == pytest.approx(7 / 60 * 20 / 3, rel=1e-12)
    assert values["ireg/minibatch_variance"] == pytest.approx(0.7, rel=1e-12)
    # The whole is what it is for an epoch.
    assert values["ireg/sgd"] == pytest.approx(toy(rates=[(0.6,), (0.4,), (0.2,)], sampling="epoch")["ireg/sgd"])


def test_an_estimate_may_be_negative():
    # ḡ = 0, s² = 2: ‖∇C‖² ≈ −1.
    assert toy((1.0, -1.0))["ireg/full_batch"] == pytest.approx(-0.1, rel=1e-12)


@pytest.mark.parametrize("rates", [None, [[0.1, 0.1], [0.04, 0.04], [0.02, 0.02]]], ids=["one rate", "a schedule"])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_the_mean_over_all_windows_is_the_populations_value(name, rates):
    model, optimizer = stepped(OPTIMIZERS[name])
    rates = None if rates is None else [rate[: len(optimizer.param_groups)] for rate in rates]
    windows = [
        measured(model, optimizer, window, rates=rates, sampling="independent")
        for window in product(POPULATION, repeat=3)
    ]
    means = {tag: np.mean([values[tag] for values in windows]) for tag in windows[0]}
    # For equal rates an epoch of the population has its mean and its variance.
    epoch = measured(model, optimizer, POPULATION, rates=rates)
    factor = 1.0
    if rates is not None:
        variance, mean_rate = epoch["ireg/minibatch_variance"], np.mean([rate[-1] for rate in rates])
        squares = sum(rate[-1] ** 2 for rate in rates)
        factor = mean_rate / (((3 * mean_rate) ** 2 - squares) / (2 * 3 * mean_rate))
        assert variance > 0
    assert means["ireg/full_batch"] == pytest.approx(epoch["ireg/full_batch"], rel=1e-9, abs=0)
    expected = factor * epoch["ireg/minibatch_variance"]
    assert means["ireg/minibatch_variance"] == pytest.approx(expected, rel=1e-9, abs=0)
    assert means["ireg/own"] == means["ireg/own_full_batch"] == pytest.approx(epoch["ireg/own_full_batch"], rel=1e-9)
    for values in windows[:5]:
        assert values["ireg/full_batch"] + values["ireg/minibatch_variance"] == pytest.approx(values["ireg/sgd"])


def test_a_window_taken_for_an_epoch_is_biased():
    """A negative control."""
    model, optimizer = stepped(OPTIMIZERS["sgd"])
    taken = [measured(model, optimizer, window) for window in product(POPULATION, repeat=2)]
    value = measured(model, optimizer, POPULATION)["ireg/full_batch"]
    assert np.mean([values["ireg/full_batch"] for values in taken]) > 1.05 * value


@pytest.mark.parametrize("name", ["sgd", "adam and decay"])
def test_a_sample_has_the_same_values_with_standard_errors(name):
    model, optimizer = stepped(OPTIMIZERS[name])
    exact = measured(model, optimizer, BATCHES[:4], **INDEPENDENT)
    estimated = measured(model, optimizer, BATCHES[:4], population=20, **INDEPENDENT)
    # All of a window, too, are draws from the population: nothing is exact.
    whole = measured(model, optimizer, BATCHES[:4], population=4, **INDEPENDENT)
    assert whole == estimated
    for tag, value in exact.items():
        assert estimated[tag] == pytest.approx(value, rel=1e-9, abs=0)
        assert estimated[f"{tag}_se"] > 0
    finite = measured(model, optimizer, BATCHES[:4], population=20)
    assert finite["ireg/sgd_se"] == pytest.approx(estimated["ireg/sgd_se"] * (1 - 4 / 20) ** 0.5, rel=1e-9)


def test_standard_errors_are_the_spread_over_all_windows():
    model, optimizer = stepped(OPTIMIZERS["sgd"])
    windows = [
        measured(model, optimizer, window, population=4, **INDEPENDENT) for window in product(POPULATION, repeat=4)
    ]
    for tag, least, most in (("ireg/sgd", 0.999, 1.001), ("ireg/full_batch", 0.95, 3.0)):
        spread = np.var([values[tag] for values in windows])
        claimed = np.mean([values[f"{tag}_se"] ** 2 for values in windows])
        assert least < claimed / spread < most, tag


def test_masks_and_draws_at_once():
    """Without dropout two draws of the masks are one, and the estimate is that of the minibatches."""
    model, optimizer = stepped(OPTIMIZERS["sgd"])
    found = measured(model, optimizer, BATCHES, mode="two_draws", **INDEPENDENT)
    assert found == pytest.approx(measured(model, optimizer, BATCHES, **INDEPENDENT), rel=1e-9, abs=0)


def test_penalties():
    model, optimizer = stepped(OPTIMIZERS["sgd"])
    bare = measured(model, optimizer, BATCHES, **INDEPENDENT)
    for penalty in (L2(strength=0.3), Minibatch(strength=0.3)):
        values = measured(model, optimizer, BATCHES, regularizer=penalty, **INDEPENDENT)
        assert values["ireg/sgd"] == bare["ireg/sgd"]
        assert values["ireg/own"] != pytest.approx(bare["ireg/own"], rel=1e-3)
    # Ĉ_k + (λ/4) g_k² with λ = 0.4, H = 1: every gradient is 1 + λ/2 times as long.
    assert toy(regularizer=Minibatch(strength=0.4))["ireg/own"] == pytest.approx(1.44 * 2 / 3, rel=1e-12)
    for penalty in (FullBatch(strength=0.3), MomentumLike(strength=0.3)):
        with pytest.raises(ValueError, match=f"sampling='independent': {type(penalty).__name__} is a penalty of all"):
            measured(model, optimizer, BATCHES, regularizer=penalty, **INDEPENDENT)
        measured(model, optimizer, BATCHES, regularizer=penalty)


@pytest.mark.parametrize("tags", [["ireg/full_batch"], ["ireg/own_full_batch"], ["ireg/minibatch_variance"]])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_term_alone_asks_for_all_that_it_needs(name, tags):
    model, optimizer = stepped(OPTIMIZERS[name])
    alone = ireg.measure(model, BATCHES, optimizer=optimizer, criterion=mse_loss, terms=tags, **INDEPENDENT)
    assert alone == pytest.approx({tags[0]: measured(model, optimizer, BATCHES, **INDEPENDENT)[tags[0]]}, rel=1e-9)


@needs(Need.MEAN, estimable=True)
def of_ones_own(snapshot):
    return snapshot.gradients.square_of_mean(None)


def test_what_is_refused():
    model, optimizer = stepped(OPTIMIZERS["sgd"])
    with pytest.raises(ValueError, match="sampling='iid': must be one of epoch, independent"):
        measured(model, optimizer, BATCHES, sampling="iid", regularizer=FullBatch(strength=0.1))
    with pytest.raises(ValueError, match="sampling='iid': must be one of epoch, independent"):
        take_snapshot(
            model,
            Epoch(batches=BATCHES),
            Options(sampling="iid"),
            loss=functional_loss(model, mse_loss),
            optimizer=optimizer,
        )
    for tag in ("ireg/full_batch", "ireg/own", "ireg/strength"):
        with pytest.raises(ValueError, match="sampling='independent' with 1 minibatch: .* give at least 2 minibatches"):
            toy((1.0,), terms=[tag])
    assert toy((1.0,), terms=["ireg/sgd", "norm/l2"]) == pytest.approx({"ireg/sgd": 0.1, "norm/l2": 0.0})
    with pytest.raises(ValueError, match="num_batches=2: must be at least 3"):
        measured(model, optimizer, BATCHES[:2], population=2, **INDEPENDENT)
    value = ireg.measure(
        model, BATCHES, optimizer=optimizer, criterion=mse_loss, terms={"t": of_ones_own}, **INDEPENDENT
    )
    assert value["t"] == pytest.approx(measured(model, optimizer, BATCHES, **INDEPENDENT)["ireg/full_batch"] / 0.025)


def test_windows_of_any_length_agree():
    """AdamW at one point: 5 steps say on the mean what 160 say. Taken for an epoch, they say several times that."""
    stream = torch.Generator().manual_seed(1)

    def drawn(count):
        inputs = torch.randn(count, 4, 8, generator=stream, dtype=torch.float64)
        targets = inputs[..., :1] + torch.randn(count, 4, 1, generator=stream, dtype=torch.float64)
        return list(zip(inputs, targets, strict=True))

    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 6), nn.Tanh(), nn.Linear(6, 1)).double()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    for inputs, targets in drawn(20):
        optimizer.zero_grad()
        mse_loss(model(inputs), targets).backward()
        optimizer.step()
    steps = drawn(480)

    def over_windows(length, sampling):
        windows = [steps[first : first + length] for first in range(0, len(steps), length)]
        arguments = {"optimizer": optimizer, "criterion": mse_loss, "terms": ["ireg/own_full_batch"]}
        found = [
            ireg.measure(model, window, sampling=sampling, **arguments)["ireg/own_full_batch"] for window in windows
        ]
        return np.mean(found), np.std(found) / len(found) ** 0.5

    whole, _ = over_windows(480, "independent")
    for length in (5, 20, 160):
        mean, error = over_windows(length, "independent")
        assert abs(mean - whole) < 3 * error
        assert error < 0.15 * whole
    assert over_windows(5, "epoch")[0] > 2 * over_windows(160, "epoch")[0]


# The mean flow.


def flow_of(module, batches, name, sampling):
    make, arguments = FLOWS[name]
    loss, params = functional_loss(module, nn.functional.cross_entropy), detached_parameters(module)
    seen = view(make(module.parameters(), lr=0.05, **arguments), dict(module.named_parameters()))
    return mean_flow(loss, params, batches, seen, gradient_moments(loss, params, batches), sampling=sampling)


@pytest.mark.parametrize("name", ["sgd", "momentum", "nesterov", "sgd with decay"])
def test_the_mean_of_the_memory_over_all_windows_has_no_variance(name):
    """M = (η_e/2)(1 + 2L) H∇C, from dense Hessians of the population."""
    module, batches = smooth_problem()
    rule = RULES[name]
    _, gradients, hessians = reference.dense(module, nn.functional.cross_entropy, batches, rule.decay)
    expected = rule.rate / 2 * (1 + 2 * rule.lag) * hessians.mean(0) @ gradients.mean(0)
    windows = [flat(flow_of(module, w, name, "independent").memory) for w in product(batches, repeat=3)]
    torch.testing.assert_close(torch.stack(windows).mean(0), expected, rtol=1e-9, atol=1e-12)
    epoch = flat(flow_of(module, batches, name, "epoch").memory)
    assert not torch.allclose(epoch, expected, rtol=0.01)  # that of an epoch has the variance's part


@pytest.mark.parametrize("name", ["rmsprop", "rmsprop with momentum", "adam", "adam with decay", "adamw"])
def test_the_other_parts_against_the_printed_formulas(name, monkeypatch):
    """V is as it was. F has τ = 0 and the covariances of the population. M is freed of the noise, at the window's P."""
    module, batches = smooth_problem()
    rule = RULES[name]
    epoch, found = (flow_of(module, batches, name, sampling) for sampling in ("epoch", "independent"))
    monkeypatch.setattr(reference, "overlap", lambda decay, num_batches: 0.0)
    point, gradients, hessians = reference.dense(module, nn.functional.cross_entropy, batches, rule.decay)
    printed = reference.mean_flow(point, gradients, hessians, rule)
    for part, expected in ((found.leading, "u"), (found.lag, "V"), (found.squares_gradient, "∇Q")):
        torch.testing.assert_close(flat(part), printed[expected], rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(flat(found.fluctuation), 3 / 2 * printed["F"], rtol=1e-9, atol=1e-12)
    assert not torch.allclose(flat(epoch.fluctuation), 3 / 2 * printed["F"], rtol=0.01)
    scale = 1 / (gradients.square().mean(0).sqrt() + rule.eps)
    pairs = torch.einsum("kij,kj->i", hessians, scale * (gradients - gradients.mean(0))) / 3
    bent = scale * (1 + 2 * rule.lag) * (hessians.mean(0) @ printed["u"] - pairs / 2) + rule.decoupled * printed["u"]
    torch.testing.assert_close(flat(found.memory), rule.rate / 2 * bent, rtol=1e-9, atol=1e-12)
