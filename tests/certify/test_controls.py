"""Each control is the right flow but for the one thing that is wrong."""

from dataclasses import replace

import numpy as np
import pytest
from torch.optim import SGD, Adam, AdamW, NAdam, RMSprop

from ireg.certify import controls
from ireg.certify.controls import EpsInside
from ireg.certify.flows import MeanFlowParts, logged_loss
from ireg.certify.optimizers import Recipe, start
from ireg.certify.problems import log_cosh, quadratics
from tests.reference import overlap

RATE, BETA, M = 0.01, 0.9, 4
LONG = 1 - 2**-53
SQUARES = (0.5, 2.0)
ADAM = {"betas": (BETA, LONG), "eps": 0.1}


def begun(make, problem=None, held=None, **arguments):
    recipe = Recipe(make=make, arguments=lambda rate: {"lr": rate, **arguments}, held=held or {})
    return start(recipe, quadratics(seed=3) if problem is None else problem, RATE)


def flow_of(make, held=None, **arguments):
    return logged_loss(quadratics(seed=3), begun(make, held=held, **arguments).torch)


def factors(flow):
    return flow.of_mean, flow.of_variance


def same_but(wrong, right, *different):
    """Every field of both flows but those that are named is one and the same, or equal."""
    for name in ("problem", "scale", "of_mean", "of_variance", "clock", "optimizer"):
        one, other = getattr(wrong, name), getattr(right, name)
        equal = one is other or (isinstance(one, float | np.ndarray) and np.allclose(one, other, rtol=1e-12, atol=0))
        assert equal == (name not in different), name


# η_e/4 (1 + 2L) and η_e/4 (1 − τ) of momentum.
QUARTER = RATE / (1 - BETA) / 4
RIGHT = QUARTER * (1 + BETA) / (1 - BETA), QUARTER * (1 - overlap(BETA, M))


@pytest.mark.parametrize(
    ("control", "expected"),
    [
        (controls.twice, (2 * RIGHT[0], 2 * RIGHT[1])),
        (controls.no_lag, (QUARTER, RIGHT[1])),
        (controls.no_overlap, (RIGHT[0], QUARTER)),
        (controls.one_factor, (RIGHT[0], RIGHT[0])),
        (controls.mean_part_alone, (RIGHT[0], 0.0)),
    ],
)
def test_factors_of_momentum(control, expected):
    right = flow_of(SGD, momentum=BETA)
    assert factors(right) == pytest.approx(RIGHT, rel=1e-9)
    wrong = control(right)
    assert factors(wrong) == pytest.approx(expected, rel=1e-9, abs=0)
    changed = [
        name for name, one, other in zip(("of_mean", "of_variance"), expected, RIGHT, strict=True) if one != other
    ]
    same_but(wrong, right, *changed)


def test_memories_of_other_rules():
    undampened = controls.no_dampening(flow_of(SGD, momentum=BETA, dampening=0.5))
    assert factors(undampened) == pytest.approx(RIGHT, rel=1e-9)
    same_but(undampened, flow_of(SGD, momentum=BETA), "optimizer", "problem")
    heavy = controls.heavy_ball(flow_of(SGD, momentum=BETA, nesterov=True))
    assert factors(heavy) == pytest.approx(RIGHT, rel=1e-9)
    nadam = flow_of(NAdam, held={"exp_avg_sq": SQUARES}, momentum_decay=0.0, **ADAM)
    adams = controls.without_look_ahead(nadam)
    expected = RATE / 4 * (1 + BETA) / (1 - BETA), RATE / 4 * (1 - overlap(BETA, M))
    assert factors(adams) == pytest.approx(expected, rel=1e-9)
    same_but(adams, nadam, "of_mean", "of_variance", "optimizer")


def test_kinds_of_decay():
    right = flow_of(AdamW, held={"exp_avg_sq": SQUARES}, weight_decay=0.5, **ADAM)
    assert right.clock == pytest.approx(1 - RATE * 9 * 0.5)
    clock = controls.same_clock(right)
    assert clock.clock == 1.0
    same_but(clock, right, "clock")
    other = controls.decay_in_gradient(right)
    assert not other.optimizer.decoupled
    assert other.clock == 1.0
    same_but(other, right, "clock", "optimizer")


def test_places_of_eps_and_second_moments():
    right = flow_of(RMSprop, held={"square_avg": SQUARES}, alpha=1.0, eps=0.1)
    inside = controls.eps_inside(right)
    assert inside.scale == pytest.approx(1 / np.sqrt(np.array(SQUARES) + 0.1), rel=1e-12)
    same_but(inside, right, "scale", "optimizer")
    held = {"square_avg": SQUARES, "grad_avg": (0.4, -1.0)}
    centered = flow_of(RMSprop, held=held, alpha=1.0, eps=0.1, centered=True)
    bare = controls.uncorrected_squares(centered)
    assert bare.scale == pytest.approx(1 / (np.sqrt(np.array(SQUARES)) + 0.1), rel=1e-12)
    same_but(bare, centered, "scale", "optimizer")


def parts_of(make, problem, **arguments):
    view = begun(make, problem, **arguments).optimizer
    return MeanFlowParts(problem=problem, optimizer=view, parts=np.ones((1, 3)))


@pytest.mark.parametrize(
    ("control", "make", "arguments", "field", "value"),
    [
        (controls.swapped, Adam, {"betas": (0.5, 0.9), "eps": 0.1}, "betas", (0.9, 0.5)),
        (controls.heavy_ball_parts, SGD, {"momentum": 0.9, "nesterov": True}, "nesterov", False),
        (controls.without_look_ahead_parts, NAdam, {"betas": (0.5, 0.9), "eps": 0.1}, "share", 1.0),
    ],
)
def test_rules_of_mean_flows(control, make, arguments, field, value):
    right = parts_of(make, quadratics(seed=3), **arguments)
    wrong = control(right)
    assert wrong.optimizer == replace(right.optimizer, rule=replace(right.optimizer.rule, **{field: value}))
    assert wrong.optimizer != right.optimizer
    assert (wrong.problem, wrong.squares_of_mean) == (right.problem, False)
    assert wrong.parts is right.parts


def test_leading_flow_of_the_square_of_the_mean():
    right = parts_of(RMSprop, quadratics(seed=3), alpha=0.9, eps=0.1)
    wrong = controls.squares_of_mean(right)
    point = right.problem.start.numpy()
    mean = right.problem.gradients(point).mean(0)
    assert wrong.velocity(point) == pytest.approx(-mean / (np.abs(mean) + 0.1), rel=1e-12)
    assert right.optimizer is wrong.optimizer


def test_eps_inside_of_the_mean_flow_is_that_of_its_printed_form():
    right = parts_of(RMSprop, log_cosh(seed=3), alpha=0.9, eps=0.1)
    wrong = controls.eps_inside_of_mean_flow(right)
    assert isinstance(wrong, EpsInside)
    point = right.problem.start.numpy()
    gradient, hessian = right.problem.gradients(point)[0], right.problem.hessians(point)[0]
    squares = gradient**2 + 0.1
    bracket = -9 * gradient**2 / squares + 0.05 / squares  # L = 0, ρ/(1 − ρ) = 9
    expected = -(gradient + RATE * hessian @ (gradient / np.sqrt(squares)) * bracket) / np.sqrt(squares)
    assert wrong.velocity(point) == pytest.approx(expected, rel=1e-12)
