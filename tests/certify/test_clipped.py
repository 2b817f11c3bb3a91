"""Certificates of clipping, and Muon's two readings."""

import pytest
import torch

from ireg.certify import clipped
from ireg.certify.any_optimizer import PLAIN
from ireg.certify.clipped import CASES, LEFT_OUT, Clipped, all_clipped, certify_clipped
from ireg.certify.exchange import Order
from ireg.certify.polar import at_one_point, readings


def test_the_constant_is_certified_and_others_are_rejected():
    found = certify_clipped("momentum, clipped by value, smoothed")
    assert found.holds
    assert found.controls.keys() == {PLAIN, "½", "L", "1 + 2L"}
    assert CASES["SGD, clipped by norm"].factors.keys() == {"1 + 2L"}  # ½ is right, and L is 0


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_each_is_certified(name):
    assert certify_clipped(name).holds


def test_the_clip_within_adam_is_certified_and_cannot_be_left_out():
    found = certify_clipped("Adam, clipped by value, smoothed, from own steps")
    assert found.holds
    assert found.controls.keys() == {PLAIN, LEFT_OUT}


def test_what_has_no_flow_is_no_certificate(monkeypatch):
    made = Clipped(make=lambda rate: lambda p: torch.optim.Adagrad(p, lr=rate), through=clipped.BY_NORM.made)
    monkeypatch.setitem(CASES, "sum", made)
    with pytest.raises(ArithmeticError, match="sum: the memory of Adagrad has not faded"):
        certify_clipped("sum")


def test_all_are_certified(monkeypatch):
    monkeypatch.setattr(clipped, "certify_clipped", lambda name: Order(order=2, slope=2.0, controls={}))
    assert all_clipped().keys() == CASES.keys()


def test_muons_readings_by_differences():
    """Both derivatives by differences along HT, of a matrix whose factors are known by its eigenvectors."""
    matrix = torch.randn(4, 3, generator=torch.Generator().manual_seed(2)).double()

    def product(direction):
        return {"w": direction["w"].roll(1, 0)}

    def root(value):
        values, vectors = torch.linalg.eigh(value.T @ value)
        return value @ (vectors / values.sqrt()) @ vectors.T

    def steps(value):
        found = value / value.norm()
        for _ in range(5):
            gram = found @ found.T
            found = 3.4445 * found + (-4.7750 * gram + 2.0315 * gram @ gram) @ found
        return found

    def along(step_map):
        way = product({"w": step_map(matrix)})["w"]
        return (step_map(matrix + 1e-6 * way) - step_map(matrix - 1e-6 * way)) / 2e-6

    found = readings({"w": matrix}, product)
    values = torch.linalg.eigvalsh(matrix.T @ matrix).sqrt()
    assert found.potential == pytest.approx(float(values.sum()), rel=1e-10)
    assert found.of_steps == pytest.approx(float((matrix * steps(matrix)).sum()), rel=1e-10)
    assert found.velocity == pytest.approx(float((steps(matrix) - root(matrix)).norm() / 3**0.5), rel=1e-8)
    assert found.size == pytest.approx(float(steps(matrix).norm() / 3**0.5), rel=1e-8)
    one, other = along(steps), along(root)
    assert found.correction == pytest.approx(float((one - other).norm() / other.norm()), rel=1e-6)
    assert found.correction_size == pytest.approx(float(one.norm() / other.norm()), rel=1e-6)
    assert found.correction_alignment == pytest.approx(float((one * other).sum() / one.norm() / other.norm()), rel=1e-6)


def test_newton_and_schulz_are_near_in_velocity_and_not_in_what_finite_steps_add():
    found = at_one_point()
    assert found.velocity < 0.3
    assert found.velocity_alignment > 0.97
    assert found.correction > 1
