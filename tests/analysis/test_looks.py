"""Optimizers look alike in every figure."""

from pathlib import Path

import pytest
from matplotlib.colors import same_color, to_rgb

from ireg.analysis import load
from ireg.analysis.certificates import ErrorCurves, errors_against_rate
from ireg.analysis.drift import drift_figure
from ireg.analysis.looks import colour_of
from ireg.analysis.settings import settings_of
from ireg.known_optimizers import OPTIMIZERS

CONF = Path(__file__).parents[2] / "conf"


def test_an_optimizer_that_is_not_listed_has_a_colour_by_its_name():
    # "sophia" and "mystery" differ in what their names give.
    sophia, mystery = colour_of("sophia"), colour_of("mystery")
    assert not same_color(sophia, mystery)
    assert not {to_rgb(sophia), to_rgb(mystery)} & {to_rgb(entry.colour) for entry in OPTIMIZERS.values()}


@pytest.mark.parametrize("optimizer", ["adam", "sophia"])
def test_an_optimizer_has_the_same_colour_in_every_figure(make_run, optimizer):
    (setting,) = settings_of(load(make_run("a", {"norm/l2": [1.0]}, {"optimizer.name": optimizer})))
    certificates = errors_against_rate([ErrorCurves(optimizer, "η", (0.1, 0.05), (0.1, 0.05), (0.1, 0.05))])
    effect = {f"{place}/equal C/squares": [0.1, 0.01] for place in ("mean", "ends")}
    steps = {"kept": effect, "shrinking": None}
    drift = drift_figure([{"optimizer": optimizer, "lr": 0.1, "small_steps": steps, "leading_flow": None}])
    (marker, *_), *_ = drift.axes[0].containers
    for colour in (setting.colour, certificates.axes[0].lines[0].get_color(), marker.get_color()):
        assert same_color(colour, colour_of(optimizer))
