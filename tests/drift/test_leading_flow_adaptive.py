"""M, V and F as they are measured at a small rate, past the transient of the second moment."""

from functools import partial

import pytest
import torch
from torch.optim import Adam, RMSprop
from torch.testing import assert_close

from ireg.drift.leading_flow import predicted
from ireg.drift.leading_flow_adaptive import at_rate, can_be_slow, drift_of_settled_weights, slow_state
from ireg.drift.study import mean_drift
from tests.drift.small import OPTIMIZERS, alone, hessian_and_gradient, quadratic


@pytest.mark.parametrize(
    "make", [partial(RMSprop, lr=1e-5, alpha=0.9, eps=0.1), partial(Adam, lr=1e-5, betas=(0.5, 0.9), eps=0.1)]
)
def test_of_a_single_minibatch_memory_and_lag_are_the_theorems(make):
    # Nothing fluctuates: what is missed is of the next order in η, and strength is about 10⁻⁴ here.
    found = drift_of_settled_weights(alone(quadratic(make, batch_size=24)), 6).estimates
    assert "k_fluctuation" not in found
    for name in ("k", "k_memory", "k_lag"):
        assert found[name].value == pytest.approx(1, abs=0.01)
    assert found["strength"].value == pytest.approx(found["strength predicted"].value, rel=0.01)
    assert found["alignment"].value == pytest.approx(found["alignment predicted"].value, abs=1e-3)
    assert found["residual of theory"].value < 1e-3


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["rmsprop", "adam"])
def test_the_fluctuation_of_the_second_moment_is_the_theorems_up_to_the_next_order(kind):
    # At this rate F is nearly all. The next order is some (1 − ρ) of it, times the gradients' high powers.
    rest = {"alpha": 0.98} if kind == "rmsprop" else {"betas": (0.5, 0.98)}
    make = partial(RMSprop if kind == "rmsprop" else Adam, lr=1e-5, eps=0.1, **rest)
    found = drift_of_settled_weights(alone(quadratic(make, num_examples=48)), 80).estimates
    value, error = found["k"]
    assert error < 0.1
    assert value == pytest.approx(1, abs=0.1 + 2 * error)
    assert found["cosine"].value > 0.95
    assert found["strength predicted"].value > 0.01


def test_the_slow_state_lies_a_mean_age_back():
    eta, beta, rho, eps = 1e-3, 0.5, 0.8, 0.1
    problem = quadratic(partial(Adam, lr=eta, betas=(beta, rho), eps=eps), batch_size=24)
    hessian, g = hessian_and_gradient(problem)
    step = eta * g / (g.abs() + eps)
    first, second = slow_state(problem)
    assert_close(first, g + hessian @ step / (1 - beta), rtol=1e-10, atol=0)
    assert_close(second, (g + hessian @ step / (1 - rho)) ** 2, rtol=1e-10, atol=0)


def test_the_study_takes_this_method_and_another_rate_is_that_rate():
    problem = at_rate(quadratic(partial(Adam, lr=1.0, eps=0.1)), 1e-6)
    assert problem.optimizer.lr == 1e-6
    strength, _ = predicted(problem)
    found = mean_drift(alone(problem), 6, strength)
    assert (found.theory, found.steps) == ({}, None)
    assert found.estimates == drift_of_settled_weights(alone(problem), 6).estimates
    assert problem.begin()[1].state_dict()["state"] == {}  # and nothing was changed by it


def test_whose_slow_manifold_is_known():
    assert can_be_slow(quadratic(partial(RMSprop, lr=1.0)))
    assert can_be_slow(quadratic(partial(Adam, lr=1.0)))
    assert not can_be_slow(quadratic(partial(RMSprop, lr=1.0, momentum=0.5)))
    assert not can_be_slow(quadratic(partial(Adam, lr=1.0, weight_decay=0.5)))
    assert not can_be_slow(quadratic(OPTIMIZERS["sgd"]))


def test_single_precision_is_measured_in_double():
    problem = quadratic(partial(Adam, lr=1e-9, eps=0.1))
    problem.module.float()
    object.__setattr__(problem, "inputs", problem.inputs.float())
    found = drift_of_settled_weights(alone(problem), 6).estimates
    assert torch.tensor(found["cosine"].value).isfinite()
    assert found["strength"].value < 0.3
