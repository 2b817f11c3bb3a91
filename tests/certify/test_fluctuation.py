"""The certificate of F at rate 0 of steepest descent."""

import pytest

from ireg.certify import fluctuation
from ireg.certify.exchange import Order
from ireg.certify.fluctuation import all_fluctuations, certify_fluctuation
from ireg.certify.steepest import NORMS


@pytest.mark.parametrize("name", [name for name in NORMS if name != "momentum"])
def test_the_second_order_of_the_noise_is_certified(name):
    found = certify_fluctuation(name)
    assert found.holds, found
    assert found.controls.keys() == {"without τ", "twice", "without F"}


def test_all_are_certified(monkeypatch):
    monkeypatch.setattr(fluctuation, "certify_fluctuation", lambda name: Order(order=3, slope=3.0, controls={}))
    assert all_fluctuations().keys() == NORMS.keys() - {"momentum"}
