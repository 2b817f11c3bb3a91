"""Finite steps against small steps: the arithmetic, and problems whose answer is known."""

import math
from functools import partial

import pytest
import torch

from ireg.drift.small_steps import cost, effects, follow_all, orders_of, small_steps
from ireg.errors import UserError
from tests.drift.small import SGD, alone, quadratic

NAMES = ("loss", "full_batch", "squares")


def record(*stops):
    """A record of both places from (ln C, ln ‖ḡ‖², ln Q) at each stop."""
    return {
        f"{place}/{stop}/{name}": value
        for place in ("mean", "ends")
        for stop, values in enumerate(stops)
        for name, value in zip(NAMES, values, strict=True)
    }


def test_orders_and_cost():
    assert [orders_of(r, 16) for r in (1, 2, 8)] == [16, 8, 8]
    assert [orders_of(r, 6) for r in (1, 2)] == [6, 4]
    assert orders_of(2, 10) == 6
    # 16 plain orders and their ends, 8 of 2 epochs and two stops each, the means: 9 and 2 · 5; and the start.
    assert cost([2], 16) == pytest.approx(16 * 1.6 + 9 * 0.6 + 8 * (2 + 1.2) + 10 * 0.6 + 0.6)


def test_effects_at_equal_time_and_at_equal_loss():
    # References: ln Q falls by 2 for each 1 of ln C in the first half, by 1 in the second.
    two = record((0.0, 0.0, 0.0), (-1.0, -2.0, -2.0), (-2.0, -3.0, -3.0))
    four = record((0.0, 0.0, 0.0), (-1.0, -2.0, -2.0), (-2.5, -3.5, -3.5))
    found = effects({1: record((0.0, 0.0, 0.0), (-1.5, -2.0, -2.75)), 2: two, 4: four})
    assert found["mean/plain/squares"] == -2.75
    assert found["ends/r=4/squares"] == -3.5
    assert found["mean/time/loss"] == pytest.approx(-1.5 + 3.0)  # the limit is -3: the line of -2 at 1/2, -2.5 at 1/4
    assert found["mean/time/squares"] == pytest.approx(-2.75 + 4.0)
    assert found["mean/r=2 at equal C/squares"] == pytest.approx(-2.5)
    assert found["mean/equal C/squares"] == pytest.approx(-2.75 + 2.5)
    assert found["ends/equal C/full_batch"] == pytest.approx(0.5)
    assert found["mean/position/loss"] == pytest.approx(0.5 + 0.5 / 3)


@pytest.mark.parametrize(
    ("loss", "squares", "position"), [(-0.5, -1.0, 0.25), (0.5, 1.0, -0.25), (-3.0, -4.0, 1.5), (-1.0, -2.0, 0.5)]
)
def test_equal_loss_before_the_half_and_outside_of_the_epoch(loss, squares, position):
    reference = record((0.0, 0.0, 0.0), (-1.0, -2.0, -2.0), (-2.0, -3.0, -3.0))
    found = effects({1: record((0.0, 0.0, 0.0), (loss, 0.0, 0.0)), 2: reference})
    assert found["mean/r=2 at equal C/squares"] == pytest.approx(squares)
    assert found["mean/position/loss"] == pytest.approx(position)


def test_the_half_of_three_steps_is_their_first():
    reference = record((0.0, 0.0, 0.0), (-1.0, -2.0, -2.0), (-2.0, -3.0, -3.0))
    found = effects({1: record((0.0, 0.0, 0.0), (-1.0, 0.0, 0.0)), 3: reference})
    assert found["mean/position/loss"] == pytest.approx(1 / 3)


def test_a_reference_whose_loss_stays_the_same_has_no_equal_loss():
    flat = record((1.0, 0.0, 0.0), (1.0, 0.0, 0.0), (1.0, 0.0, 0.0))
    found = effects({1: record((1.0, 0.0, 0.0), (0.5, 0.0, 0.0)), 2: flat})
    assert math.isnan(found["mean/equal C/squares"])
    assert found["mean/time/loss"] == -0.5


def test_sgd_lowers_the_squares_at_equal_loss_and_small_rates_do_nothing():
    effect = {}
    for rate in (0.1, 0.001):
        team = alone(quadratic(partial(SGD, lr=rate), batch_size=4))
        effect[rate] = small_steps(team, follow_all(team, [2, 4], 16))["mean/equal C/squares"]
    assert effect[0.1].value < -3 * effect[0.1].error
    assert abs(effect[0.001].value) < 0.01 * abs(effect[0.1].value)


def test_one_minibatch_has_no_noise_at_all():
    team = alone(quadratic(partial(SGD, lr=0.1, momentum=0.5), batch_size=24, steps=2))
    found = small_steps(team, follow_all(team, [2], 6))
    # But for the order in which an order's examples are added up.
    assert all(estimate.error < 1e-12 for estimate in found.values())
    assert found["mean/time/loss"].value == pytest.approx(found["ends/time/loss"].value, abs=1e-12)


def test_weights_that_are_not_finite_are_the_users_to_mend():
    with pytest.raises(UserError, match="order 0 with steps 1 times smaller: its loss is not a finite number > 0"):
        follow_all(alone(quadratic(partial(SGD, lr=1e200), batch_size=4)), [2], 6)


def test_the_streams_of_refinements_are_independent():
    team = alone(quadratic(partial(SGD, lr=0.1), batch_size=4))
    few, more = (follow_all(team, refinements, 6) for refinements in ([2], [3, 2]))
    for refinement in (1, 2):
        for one, other in zip(few[refinement], more[refinement], strict=True):
            assert torch.equal(one[-1].weights, other[-1].weights)
