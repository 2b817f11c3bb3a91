"""Steepest descent in a norm with memory: ½ + L, in closed form and by slopes."""

import pytest
import torch
from torch.func import jvp

from ireg.certify import steepest
from ireg.certify.any_optimizer import PLAIN, network
from ireg.certify.exchange import Order
from ireg.certify.steepest import NORMS, Norm, all_norms, certify_norm, wrong_constants
from ireg.core.norms import norm
from ireg.core.ramp import respond

PROBLEM = network()
GRADIENT = PROBLEM.gradient(PROBLEM.start)
MATRIX = GRADIENT["first"]


@pytest.mark.parametrize("name", NORMS)
def test_the_ramp_has_the_closed_form(name):
    """ηc = η² (½ + L) DT(g)[H T(g)], the derivative of T by forward differentiation."""
    of, rate = NORMS[name], 1e-3
    found = respond(of.made(rate), PROBLEM.start, GRADIENT, lambda v: PROBLEM.product(PROBLEM.start, v))
    taken = {key: of.step_map(value) for key, value in GRADIENT.items()}
    uphill = PROBLEM.product(PROBLEM.start, taken)
    turned = {key: jvp(of.step_map, (GRADIENT[key],), (uphill[key],))[1] for key in GRADIENT}
    expected = {key: rate**2 * (0.5 + of.lag) * value for key, value in turned.items()}
    assert float(norm({key: value - found.correction[key] for key, value in expected.items()})) <= 1e-5 * float(
        norm(expected)
    )


@pytest.mark.parametrize(
    ("step_map", "potential"),
    [
        (steepest.identity, lambda m: m.square().sum() / 2),
        (steepest.sign, lambda m: (m.square() + 0.01).sqrt().sum()),
        (steepest.normalized, lambda m: (m.square().sum() + 0.01).sqrt()),
        (steepest.polar, lambda m: (torch.linalg.svdvals(m).square() + 0.01).sqrt().sum()),
        (steepest.clipped, lambda m: 0.05 * m.norm()),
    ],
)
def test_a_step_is_the_gradient_of_its_norm(step_map, potential):
    """T = ∇φ*: of the smoothed ℓ₁, Euclidean and nuclear norms."""
    matrix = MATRIX.clone().requires_grad_()
    (expected,) = torch.autograd.grad(potential(matrix), matrix)
    torch.testing.assert_close(step_map(MATRIX), expected, rtol=1e-10, atol=1e-12)


def test_newton_and_schulz_come_near_the_polar_factor():
    values = torch.linalg.svdvals(steepest.newton_schulz(MATRIX))
    assert ((values > 0.6) & (values < 1.3)).all()


def test_a_small_gradient_is_not_clipped():
    torch.testing.assert_close(steepest.clipped(1e-3 * MATRIX), 1e-3 * MATRIX)
    assert float(steepest.clipped(MATRIX).norm()) == pytest.approx(0.05)


@pytest.mark.parametrize(
    ("of", "expected"),
    [
        (Norm(step_map=steepest.sign, betas=(0.0, 0.8)), 0.8 / 0.2),
        (Norm(step_map=steepest.polar, betas=(0.8, 0.8), nesterov=True), 0.8**2 / 0.2),
        (Norm(step_map=steepest.sign, betas=(0.9, 0.99), ahead=False), 0.9 / 0.01),
    ],
)
def test_the_mean_age_is_that_of_the_weights_of_past_gradients(of, expected):
    """Measured by one gradient of 1 among zeros: Σ j a_j, with Σ a_j = 1."""
    parameter = torch.nn.Parameter(torch.zeros(1, 1).double())
    optimizer = Norm(step_map=steepest.identity, betas=of.betas, ahead=of.ahead, nesterov=of.nesterov).made(1.0)(
        [parameter]
    )
    ages = []
    for step in range(3000):
        before = parameter.detach().clone()
        parameter.grad = torch.full_like(parameter, float(step == 0))
        optimizer.step()
        ages.append(float(before - parameter.detach()))
    assert sum(ages) == pytest.approx(1, rel=1e-10)
    assert sum(age * weight for age, weight in enumerate(ages)) == pytest.approx(expected, rel=1e-9)
    assert of.lag == pytest.approx(expected, rel=1e-12)


def test_the_constant_is_certified_and_others_are_rejected():
    found = certify_norm("lion, smoothed")
    assert found.holds
    assert found.controls.keys() == {PLAIN, "½", "L", "1 + 2L"}
    assert wrong_constants(2.0) == {"½": 0.2, "L": 0.8, "1 + 2L": 2.0}


def test_what_has_no_flow_is_no_certificate(monkeypatch):
    monkeypatch.setitem(NORMS, "rounded", Norm(step_map=lambda value: (value * 1e8).round() / 1e8, betas=(0.0, 0.5)))
    with pytest.raises(ArithmeticError, match="rounded: a step of Steepest is no smooth function of the gradient"):
        certify_norm("rounded")


def test_all_are_certified(monkeypatch):
    monkeypatch.setattr(steepest, "certify_norm", lambda name: Order(order=2, slope=2.0, controls={}))
    assert all_norms().keys() == NORMS.keys()
