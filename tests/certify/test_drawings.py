"""Each drawing of the minibatches has its own modified loss, and that of another drawing is seen."""

from dataclasses import replace

import pytest
import torch

from ireg.certify import drawings
from ireg.certify.drawings import DRAWINGS, sequences
from ireg.core.moments import IndependentMoments
from ireg.core.optimizers.state import OptimizerState


@pytest.mark.parametrize("name", DRAWINGS)
def test_the_order_is_right_and_those_of_the_controls_are_not(name):
    found = DRAWINGS[name]()
    assert found.holds
    assert found.slope == pytest.approx(found.order, abs=0.1)
    assert found.controls
    assert max(found.controls.values()) < found.order - 0.9


def test_every_sequence_comes_once():
    assert len(torch.unique(sequences(independent=True), dim=0)) == 4**4
    assert len(torch.unique(sequences(independent=False), dim=0)) == 24
    assert sequences(2, independent=False).shape == (12, 2)
    assert bool((sequences(3, independent=False).sort(1).values.diff(dim=1) > 0).all())


def test_wrong_constants_are_seen(monkeypatch):
    # (k − 1)/k of what the noise of the window is: the biased variance.
    whole = IndependentMoments.square_of_mean
    with monkeypatch.context() as patch:
        patch.setattr(
            IndependentMoments, "square_of_mean", lambda self, *given: whole(replace(self, size=self.size + 1), *given)
        )
        assert not drawings.with_replacement().holds
    with monkeypatch.context() as patch:
        patch.setattr(drawings, "own_variance", lambda snapshot: torch.tensor(1.0))
        assert not drawings.with_replacement().holds
    with monkeypatch.context() as patch:
        patch.setattr(OptimizerState, "own_coefficients", lambda self, *given, **named: (self.lr / 4, self.lr / 4))
        assert not drawings.with_replacement_and_schedule().holds
    right = drawings.own_full_batch
    monkeypatch.setattr(drawings, "own_full_batch", lambda snapshot: 1.1 * right(snapshot))
    assert not drawings.with_replacement(0.5).holds
