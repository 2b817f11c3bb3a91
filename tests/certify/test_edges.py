"""The edges of stability by torch's own steps, and that a wrong one is seen."""

from dataclasses import replace

import pytest
from rich.console import Console

from ireg.certify import edges
from ireg.certify.command import show_edges
from ireg.core.optimizers import OptimizerState


@pytest.mark.parametrize("name", edges.CASES)
def test_the_edge_is_where_torchs_steps_begin_to_grow(name):
    (found,) = edges.of_optimizers({name: edges.CASES[name]}).values()
    assert found.error < 5e-5
    assert found.holds


def test_a_wrong_edge_is_seen(monkeypatch, capsys):
    monkeypatch.setattr(OptimizerState, "edge", property(lambda self: 2.02 / self.lr))
    found = edges.of_optimizers({"sgd": edges.CASES["sgd"]})
    assert not found["sgd"].holds
    assert found["sgd"].measured == pytest.approx(2, rel=5e-5)
    assert not show_edges(found, Console(width=100))
    assert "FAILS" in capsys.readouterr().out


def test_a_control_that_is_right_is_not_rejected(capsys):
    case = replace(edges.CASES["momentum"], controls={"the same": 3.8})
    found = edges.of_optimizers({"momentum": case})
    assert found["momentum"].accepted == ("the same",)
    assert not show_edges(found, Console(width=100))
    out = capsys.readouterr().out
    assert "momentum: not rejected: the same" in out
    assert "0 of 1 edges hold" in out
