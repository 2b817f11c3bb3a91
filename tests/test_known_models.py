"""The table of networks against what it is about: the constructors, and what the weights are."""

import inspect
import subprocess
import sys

import pytest
import torch
from torch import nn

from ireg import models
from ireg.config.arguments import WITH_MATRICES_ALONE
from ireg.experiment.build import REMEDIES
from ireg.known_models import ACTIVATIONS, MODELS
from ireg.known_optimizers import OPTIMIZERS
from ireg.models.layers import activation
from tests.conftest import ROOT

SMALL = {
    "MLP": [{"hidden": hidden, "bias": bias} for hidden in ([], [3]) for bias in (False, True)],
    "CNN": [{"groups": 0}, {"groups": 4}],
    "ResNet": [{"groups": 0}, {"groups": 8}],
    "ViT": [{"width": 8, "heads": 2}],
    "GPT": [{"width": 8, "heads": 2, "blocks": 1}],
}


def made(name, **arguments):
    shape = (16,) if MODELS[f"ireg.models.{name}"].characters else (1, 14, 14)
    return getattr(models, name)(input_shape=shape, num_classes=3, **arguments)


def test_every_entry_is_of_a_network():
    """One without an entry is checked by its constructor alone."""
    assert set(MODELS) <= {f"ireg.models.{name}" for name in models.__all__}
    assert {f"ireg.models.{name}" for name in SMALL} == set(MODELS)


@pytest.mark.parametrize(("name", "arguments"), [(name, one) for name, several in SMALL.items() for one in several])
def test_what_an_entry_says_of_the_weights(name, arguments):
    cls, entry = getattr(models, name), MODELS[f"ireg.models.{name}"]
    taken = inspect.signature(cls).parameters
    assert set(entry.arguments) <= set(taken)
    full = {key: one.default for key, one in taken.items()} | arguments
    matrices = all(parameter.ndim == 2 for parameter in made(name, **arguments).parameters())
    assert entry.matrices_alone(full) == matrices


WRONG = {
    "MLP": [{"hidden": [3], "init_scale": 0.0}, {"hidden": [3], "activation": "step"}],
    "CNN": [{"channels": []}, {"groups": 3}, {"groups": -1}, {"activation": "step"}],
    "ResNet": [{"channels": [0]}, {"groups": 3}, {"activation": "step"}],
    "ViT": [{"heads": 3}, {"heads": 0}],
    "GPT": [{"heads": 3}, {"blocks": 0}, {"dropout": 1.0}, {"dropout": -0.1}],
}


@pytest.mark.parametrize(("name", "arguments"), [(name, one) for name, several in WRONG.items() for one in several])
def test_the_constructor_raises_what_the_check_raises(name, arguments):
    entry = MODELS[f"ireg.models.{name}"]
    defaults = {key: one.default for key, one in inspect.signature(getattr(models, name)).parameters.items()}
    given = {key: value for key, value in (defaults | arguments).items() if key in entry.arguments}
    with pytest.raises(ValueError) as early:
        entry.check(**given)
    with pytest.raises(ValueError) as late:
        made(name, **arguments)
    assert str(early.value) == str(late.value)


def test_every_activation_is_made():
    assert {type(activation(name)) for name in ACTIVATIONS} == {nn.ReLU, nn.Tanh, nn.GELU, nn.SiLU, nn.Softplus}


@pytest.mark.parametrize("name", [name for name, entry in OPTIMIZERS.items() if entry.target.startswith("torch.")])
def test_which_optimizers_refuse_what_is_no_matrix(name):
    entry = OPTIMIZERS[name]
    for shape, refused in (((2, 2), False), ((2,), entry.matrices_alone), ((2, 2, 2), entry.matrices_alone)):
        weight = nn.Parameter(torch.zeros(shape))
        if refused:
            with pytest.raises(ValueError, match=next(iter(REMEDIES))):
                entry.load()([weight], lr=0.1)
        else:
            entry.load()([weight], lr=0.1)
    assert list(REMEDIES.values()) == [WITH_MATRICES_ALONE]


def test_the_table_needs_no_torch():
    code = "import sys, ireg.known_models, ireg.config.arguments; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, timeout=60).returncode == 0
