"""The identities hold, and what is wrong in one place is seen."""

from pathlib import Path

import pytest
from rich.console import Console

from ireg.certify import curvature, growth
from ireg.certify.command import show_identities
from ireg.certify.identities import IDENTITIES
from ireg.certify.identity import Identity
from ireg.core import diagonal
from ireg.core.path import Growth, PathRecorder


@pytest.mark.parametrize("name", IDENTITIES)
def test_the_identity_holds_and_its_controls_do_not(name):
    found = IDENTITIES[name]()
    assert found.holds
    assert found.error < (1e-9 if name != "largest eigenvalue" else 1e-3)
    assert found.controls


def test_every_piecewise_linear_network_has_one():
    networks = {path.stem for path in (Path(__file__).parents[2] / "conf" / "model").glob("*.yaml")}
    assert networks - {"vit", "gpt"} == set(curvature.PIECEWISE_LINEAR)  # transformers are not


def test_wrong_settled_weights_are_seen(monkeypatch):
    path = PathRecorder.path

    def wrong(self):
        found = path(self)
        object.__setattr__(found, "settled", Growth(found.settled.radial, 1.01 * found.settled.diffusive, 0.0))
        return found

    monkeypatch.setattr(PathRecorder, "path", wrong)
    assert growth.growth_of(growth.OPTIMIZERS["adam"]).error == pytest.approx(0.01, rel=1e-6)
    assert not growth.diffusion().holds


def test_a_diagonal_that_should_be_refused_is_seen(monkeypatch, capsys):
    curvature._error_of_refused.cache_clear()
    monkeypatch.setattr(diagonal, "is_affine_in_each_weight", lambda module: True)
    found = {"linear": curvature.diagonal_of(curvature.PIECEWISE_LINEAR["linear"])}
    curvature._error_of_refused.cache_clear()
    assert found["linear"].accepted == ("tanh", "layer normalization", "tied weights")
    assert not show_identities(found, Console(width=100))
    out = capsys.readouterr().out
    assert "linear: not rejected: tanh, layer normalization, tied weights" in out
    assert "0 of 1 identities hold" in out


def test_a_missing_diagonal_fails():
    assert not curvature.diagonal_of(curvature.REFUSED["tanh"]).holds


def test_what_holds_is_shown(capsys):
    assert show_identities({"a": Identity(1e-12, {"wrong": 0.5})}, Console(width=100))
    assert "1 of 1 identities hold" in capsys.readouterr().out
