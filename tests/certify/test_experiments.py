"""How long an experiment is."""

import pytest

from ireg.certify.experiments import whole_epochs


@pytest.mark.parametrize(("time", "steps"), [(0.001, 4), (0.5, 4), (0.75, 8), (1.0, 8), (1.3, 12)])
def test_the_steps_are_whole_epochs_and_one_at_least(time, steps):
    assert whole_epochs(time, 0.12, 4) == steps
