"""The measured drift is the theorem's where that holds, and left out where it does not."""

from functools import partial

import pytest
import torch

from ireg.drift.leading_flow import LeftOut, predicted
from ireg.drift.slow_manifold import follow_slowly
from ireg.drift.study import mean_drift
from tests.drift.small import OPTIMIZERS, SGD, alone, quadratic


def measured(optimizer, orders=200, **arguments):
    problem = quadratic(optimizer, **arguments)
    momentum = problem.optimizer.rule.momentum
    plain = [follow_slowly(problem, order, None) for order in range(orders)] if not momentum else []
    strength, alignment = predicted(problem)
    return mean_drift(alone(problem), orders, strength, plain or None), strength, alignment


def test_the_coefficients_of_sgd():
    found, strength, alignment = measured(partial(SGD, lr=2.5e-4))
    assert found.theory == {"full_batch": 2.5e-4 / 4, "variance": 2.5e-4 / 4}
    assert alignment == pytest.approx(1, abs=1e-12)
    for name in ("k", "k_full_batch", "k_variance"):
        value, error = found.estimates[name]
        assert error < 0.03
        assert value == pytest.approx(1, abs=3 * error + 10 * strength)
    assert found.estimates["alignment"].value == pytest.approx(1, abs=1e-4)
    assert found.estimates["residual"].value < 1e-4
    assert found.estimates["halving"].value < 1e-4
    assert abs(found.estimates["halving k_variance"].value) < 1e-3
    assert found.estimates["strength"].value == pytest.approx(found.estimates["strength predicted"].value, rel=0.02)


@pytest.mark.parametrize("name", ["momentum", "nesterov"])
def test_the_coefficients_of_momentum_and_nesterov(name):
    optimizer = partial(OPTIMIZERS[name], lr=5e-4, momentum=0.5)
    found, strength, _ = measured(optimizer, orders=160)
    for part in ("k_full_batch", "k_variance"):
        value, error = found.estimates[part]
        assert error < 0.25
        assert value == pytest.approx(1, abs=3 * error + 10 * strength)
    assert found.theory["full_batch"] > 1.9 * found.theory["variance"]
    assert found.estimates["residual of theory"].value < 1e-2


def test_what_is_missed_vanishes_with_the_rate():
    missed = [abs(measured(partial(SGD, lr=rate), orders=40)[0].estimates["k"].value - 1) for rate in (4e-3, 5e-4)]
    assert missed[1] < missed[0] / 3


def test_a_single_minibatch_has_the_mean_part_alone():
    found, _, _ = measured(partial(SGD, lr=1e-3), orders=6, batch_size=24)
    assert "k_variance" not in found.estimates
    assert found.estimates["k_full_batch"].value == pytest.approx(1, abs=0.01)


def test_sgd_without_ends_takes_its_own():
    problem = quadratic(partial(SGD, lr=1e-3))
    plain = [follow_slowly(problem, order, None) for order in range(6)]
    assert mean_drift(alone(problem), 6, 0.01) == mean_drift(alone(problem), 6, 0.01, plain)


@pytest.mark.parametrize("more", [{"momentum": 0.5}, {"weight_decay": 0.1}])
def test_a_slow_manifold_that_is_not_known_is_left_out_with_its_prediction(more):
    problem = quadratic(partial(torch.optim.RMSprop, lr=1e-6, alpha=0.9, eps=1.0, **more))
    strength, alignment = predicted(problem)
    assert 0 < strength < 0.3
    assert -1 <= alignment <= 1
    with pytest.raises(LeftOut, match="with momentum after the division, or weight decay, its slow manifold is not"):
        mean_drift(alone(problem), 6, strength)


@pytest.mark.parametrize("name", ["adagrad", "rmsprop", "adam"])
def test_an_unknown_mean_flow_is_left_out(name):
    # The sum, the centered one, and AMSGrad.
    with pytest.raises(LeftOut, match=f"^{name}: its mean flow is known only where it divides by the root of a fading"):
        predicted(quadratic(OPTIMIZERS[name], steps=1))


@pytest.mark.parametrize("strength", [0.3, 5.0, float("nan")])
def test_a_strong_correction_is_left_out(strength):
    with pytest.raises(LeftOut, match="from 0.3 on the expansion does not hold"):
        mean_drift(alone(quadratic(OPTIMIZERS["sgd"])), 6, strength)


def test_a_flow_that_is_too_stiff_is_left_out():
    with pytest.raises(
        LeftOut, match="the leading flow is too stiff or too rough: 64 steps do not tell the drift from it"
    ):
        mean_drift(alone(quadratic(partial(SGD, lr=100.0))), 6, 0.1)
