"""The table of optimizers against what it is about: the configuration, torch's classes, and the rules."""

import subprocess
import sys

import pytest
import torch
from matplotlib.colors import to_rgb
from omegaconf import OmegaConf

from ireg.core.optimizers import RULES, rule_of, view
from ireg.known_optimizers import OPTIMIZERS, WITH_RULE
from tests.conftest import ROOT


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_an_entry_is_of_the_class_in_the_configuration(name):
    written = OmegaConf.load(ROOT / "conf" / "optimizer" / f"{name}.yaml")
    entry = OPTIMIZERS[name]
    assert (written["name"], written["_target_"]) == (name, entry.target)
    assert {key: written[key] for key in entry.arguments} == entry.arguments


def test_colours_differ():
    assert len({to_rgb(entry.colour) for entry in OPTIMIZERS.values()}) == len(OPTIMIZERS)


def test_every_rule_has_an_entry_with_what_its_certificates_take():
    certified = {entry.load() for entry in WITH_RULE.values() if entry.example is not None and entry.edges}
    assert certified == set(RULES) == {entry.load() for entry in WITH_RULE.values()}


@pytest.mark.parametrize("name", WITH_RULE)
def test_what_an_entry_says_of_a_rule(name):
    entry, weight = OPTIMIZERS[name], torch.nn.Parameter(torch.ones(1))
    made = entry.load()([weight], lr=0.1, **entry.arguments)
    assert rule_of(type(made)).__module__ == f"ireg.core.optimizers.{entry.rule}"
    assert entry.divides == (view(made, {"w": weight}).second_moment is not None)


def test_the_table_needs_no_torch():
    code = "import sys, ireg.known_optimizers, ireg.analysis.looks; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, timeout=60).returncode == 0
