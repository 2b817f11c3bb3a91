"""Finite steps against small steps: the arithmetic, and problems whose answer is known."""

import math
from functools import partial

import pytest
import torch

from ireg.drift.effects import cost, effects, follow_all, orders_of, samples, small_steps
from ireg.drift.orders import Stop
from ireg.system.errors import UserError
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


def measured(team, refinements, orders, memory="kept"):
    found = follow_all(team, [1], orders) | follow_all(team, refinements, orders, memory)
    return small_steps(samples(team, found))


def test_orders_and_cost():
    assert [orders_of(r, 16) for r in (1, 2, 8, 16)] == [16, 8, 8, 4]
    assert [orders_of(r, 6) for r in (1, 2)] == [6, 4]
    assert orders_of(2, 10) == 6
    # 16 plain orders and their ends, 8 of 2 epochs and two stops each, the means: 9 and 2 · 5.
    assert cost([1, 2], 16) == pytest.approx(16 * 1.6 + 9 * 0.6 + 8 * (2 + 1.2) + 10 * 0.6)


def test_effects_at_equal_time_and_at_equal_loss():
    # References: ln Q falls by 2 for each 1 of ln C in the first half, by 1 in the second; r = 4 has a stop before.
    two = record((-1.0, -2.0, -2.0), (-2.0, -3.0, -3.0))
    four = record((0.0, 0.0, 0.0), (-1.0, -2.0, -2.0), (-2.5, -3.5, -3.5))
    found = effects({1: record((-1.5, -2.0, -2.75)), 4: four, 2: two})
    assert found["mean/plain/squares"] == -2.75
    assert found["ends/r=4/squares"] == -3.5
    assert found["mean/time/loss"] == pytest.approx(-1.5 + 3.0)  # the limit is -3: the line of -2 at 1/2, -2.5 at 1/4
    assert found["mean/time moved/loss"] == pytest.approx(-2.0 + 3.0)
    assert found["mean/time/squares"] == pytest.approx(-2.75 + 4.0)
    assert found["mean/r=2 at equal C/squares"] == pytest.approx(-2.5)
    assert found["mean/equal C/squares"] == pytest.approx(-2.75 + 2.5)
    assert found["mean/equal C moved/squares"] == pytest.approx(0)
    assert found["ends/equal C/full_batch"] == pytest.approx(0.5)
    assert found["mean/position/loss"] == pytest.approx(0.5 + 0.5 / 3)


def test_the_finest_references_move_is_against_the_limit_without_it():
    def ends(value):
        return record(*[(-1.0 - stop, 0.0, value) for stop in range(4)])

    found = effects({1: record((-3.0, 0.0, 0.0)), 2: ends(1.0), 4: ends(2.0), 8: ends(2.2)})
    assert found["mean/time/squares"] == pytest.approx(-2.4)
    assert found["mean/time moved/squares"] == pytest.approx(3.0 - 2.4)
    assert found["ends/equal C moved/squares"] == pytest.approx(3.0 - 2.4)


@pytest.mark.parametrize(
    ("loss", "squares", "position"),
    [(0.5, 1.0, 0.125), (-0.5, -1.0, 0.375), (-1.0, -2.0, 0.5), (-1.5, -2.5, 0.75), (-3.0, -4.0, 1.5)],
)
def test_equal_loss_between_and_outside_of_the_stops(loss, squares, position):
    reference = record((0.0, 0.0, 0.0), (-1.0, -2.0, -2.0), (-2.0, -3.0, -3.0))
    found = effects({1: record((loss, 0.0, 0.0)), 4: reference})
    assert found["mean/r=4 at equal C/squares"] == pytest.approx(squares)
    assert found["mean/position/loss"] == pytest.approx(position)


def test_a_reference_whose_loss_stays_the_same_has_no_equal_loss():
    found = effects({1: record((0.5, 0.0, 0.0)), 2: record((1.0, 0.0, 0.0), (1.0, 0.0, 0.0))})
    assert math.isnan(found["mean/equal C/squares"])
    assert found["mean/time/loss"] == -0.5
    assert "mean/time moved/loss" not in found


def test_sgd_lowers_the_squares_at_equal_loss_and_small_rates_do_nothing():
    effect = {}
    for rate in (0.1, 0.001):
        effect[rate] = measured(alone(quadratic(partial(SGD, lr=rate), batch_size=4)), [2, 4], 16)[
            "mean/equal C/squares"
        ]
    assert effect[0.1].value < -3 * effect[0.1].error
    assert abs(effect[0.001].value) < 0.01 * abs(effect[0.1].value)


def test_one_minibatch_has_no_noise_at_all():
    found = measured(alone(quadratic(partial(SGD, lr=0.1, momentum=0.5), batch_size=24, steps=2)), [2], 6)
    # But for the order in which an order's examples are added up.
    assert all(estimate.error < 1e-12 for estimate in found.values())
    assert found["mean/time/loss"].value == pytest.approx(found["ends/time/loss"].value, abs=1e-12)


def test_without_memory_both_references_are_the_same():
    team = alone(quadratic(partial(SGD, lr=0.1), batch_size=4))
    kept, shrinking = (measured(team, [2, 4], 6, memory) for memory in ("kept", "shrinking"))
    assert kept == shrinking
    team = alone(quadratic(partial(SGD, lr=0.1, momentum=0.5), batch_size=4, steps=2))
    kept, shrinking = (measured(team, [2, 4], 6, memory) for memory in ("kept", "shrinking"))
    assert kept != shrinking


def test_weights_that_are_not_finite_are_the_users_to_mend():
    with pytest.raises(UserError, match="order 0 with steps 1 times smaller: its loss is not a finite number > 0"):
        follow_all(alone(quadratic(partial(SGD, lr=1e200), batch_size=4)), [1], 6)


def test_the_streams_of_refinements_are_independent():
    team = alone(quadratic(partial(SGD, lr=0.1), batch_size=4))
    few, more = (follow_all(team, refinements, 6) for refinements in ([1, 2], [3, 2, 1]))
    for refinement in (1, 2):
        for one, other in zip(few[refinement], more[refinement], strict=True):
            assert torch.equal(one[-1].weights, other[-1].weights)


class Followed:
    """Workers whose orders end with a given loss."""

    def __init__(self, value):
        self.value = value

    def map(self, function, tasks, work):
        return [[Stop(time=1.0, weights=torch.zeros(1), values=(self.value, 1.0, 1.0))] for _ in tasks]


@pytest.mark.parametrize("value", [math.nan, math.inf, 0.0, -1.0])
def test_values_without_a_logarithm_are_refused(value):
    with pytest.raises(UserError, match="order 0 with steps 1 times smaller: its loss is not a finite number > 0"):
        follow_all(Followed(value), [1], 2)
    assert len(follow_all(Followed(0.5), [1], 2)[1]) == 2
