"""Explicit penalties are worth what theory says, and a wrong constant is seen."""

import pytest

from ireg.certify import exchange
from ireg.certify.exchange import EXCHANGES, Order
from ireg.regularizers import Minibatch, MomentumLike


@pytest.mark.parametrize("name", EXCHANGES)
def test_the_order_is_right_and_those_of_the_controls_are_not(name):
    found = EXCHANGES[name]()
    assert found.holds
    assert found.slope == pytest.approx(found.order, abs=0.05)
    assert found.controls
    assert max(found.controls.values()) < found.order - 0.9


def test_a_wrong_constant_is_seen(monkeypatch):
    monkeypatch.setattr(exchange, "Minibatch", lambda strength: Minibatch(strength=1.1 * strength))
    assert exchange.exchange_rate(2).slope < 2.5

    class Wrong(MomentumLike):
        def coefficients(self, num_batches):
            of_minibatches, of_mean = super().coefficients(num_batches)
            return of_minibatches, 0.9 * of_mean

    monkeypatch.setattr(exchange, "MomentumLike", Wrong)
    assert not exchange.momentum_imitated().holds


def test_a_control_that_passes_is_named():
    found = Order(order=2, slope=2.01, controls={"twice": 1.98, "half": 1.0})
    assert not found.holds
    assert found.accepted == ("twice",)
    assert not Order(order=2, slope=1.5, controls={}).holds
    assert not Order(order=2, slope=2.0, controls={"nan": float("nan")}).holds
