"""The losses that a run may descend."""

import pytest
import torch
from torch.nn.functional import cross_entropy, mse_loss, one_hot
from torch.testing import assert_close

import ireg
from ireg.core.diagonal import exact_diagonal
from ireg.core.functional import detached_parameters, functional_loss
from ireg.objective import CRITERIA, squared_error
from ireg.system.errors import UserError
from tests import reference

OUTPUTS = torch.randn(5, 4, generator=torch.Generator().manual_seed(0)).double()
LABELS = torch.tensor([0, 3, 1, 1, 2])


def test_the_squared_error_is_half_of_torchs_sum():
    sums = mse_loss(OUTPUTS, one_hot(LABELS, 4).double(), reduction="none").sum(1)
    assert_close(squared_error(OUTPUTS, LABELS), sums.mean() / 2)
    assert_close(squared_error(OUTPUTS, LABELS, reduction="sum"), sums.sum() / 2)
    assert_close(squared_error(OUTPUTS, LABELS, reduction="none"), sums / 2)
    assert_close(torch.vmap(squared_error)(OUTPUTS[None], LABELS[None]), sums.mean()[None] / 2)
    with pytest.raises(ValueError, match="reduction='max': must be one of mean, sum, none"):
        squared_error(OUTPUTS, LABELS, reduction="max")


def test_its_diagonal_is_exact():
    torch.manual_seed(0)
    module = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.ReLU(), torch.nn.Linear(3, 4)).double()
    batches = [(OUTPUTS[:3], LABELS[:3]), (OUTPUTS[3:], LABELS[3:])]
    params = detached_parameters(module)
    _, _, hessians = reference.dense(module, squared_error, batches, 0.0, list(params))
    found = exact_diagonal(functional_loss(module, squared_error), params, batches)
    assert_close(torch.cat([value.flatten() for value in found.values()]), hessians.mean(0).diagonal())


def test_a_run_descends_it(tmp_path, small_run, composed):
    """And its first row is that of the same network with cross-entropy, in errors and not in losses."""
    assert list(CRITERIA) == ["cross_entropy", "squared_error"]
    assert CRITERIA["cross_entropy"] is cross_entropy
    for loss in CRITERIA:
        small_run(tmp_path / loss, f"loss={loss}", "lr=0.1", "epochs=3")
    entropy, squared = (ireg.load(tmp_path / loss).set_index("epoch") for loss in CRITERIA)
    assert squared.loc[0, "test/error"] == entropy.loc[0, "test/error"]
    assert 0.3 < squared.loc[0, "train/loss"] < 0.8  # ½ and what the first outputs add; ln 10 with cross-entropy
    assert squared.loc[3, "train/loss"] < squared.loc[0, "train/loss"]
    assert squared.loc[3, "ireg/sgd"] != entropy.loc[3, "ireg/sgd"]
    with pytest.raises(UserError, match="loss=hinge: choose one of cross_entropy, squared_error"):
        small_run(tmp_path / "other", "loss=hinge")
