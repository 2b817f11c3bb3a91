"""The problem of Wilson et al. 2017, and the answers that are known."""

import pytest
import torch

from ireg.data.separable import separable
from ireg.system.errors import UserError


def make(train, positive=0.6, seed=0):
    return separable(num_train=50, num_test=40, positive=positive, seed=seed, train=train)


def test_the_features_are_those_of_the_paper():
    inputs, labels = make(train=True)
    inputs, signs = inputs.flatten(1), 2 * labels - 1
    assert int(labels.sum()) == 30
    assert torch.equal(inputs[:, 0], signs.float())
    assert (inputs[:, 1:3] == 1).all()
    own = inputs[:, 3:]
    assert own.sum(0).max() == 1  # no two examples share one
    assert own.sum(1).tolist() == [1.0 if sign > 0 else 5.0 for sign in signs]
    # The lemma's condition: X sign(Xᵀy) = c y.
    direction = (inputs.mT @ signs.float()).sign()
    assert (inputs @ direction).tolist() == [4.0 * sign for sign in signs]
    # Least norm: all training and all test examples are decided rightly.
    least = torch.linalg.lstsq(inputs.double(), signs.double(), driver="gelsd").solution
    test, truth = make(train=False)
    assert ((test.flatten(1).double() @ least > 0) == truth.bool()).all()
    assert (test.flatten(1) @ direction > 0).all()  # equal weights: every example is called positive


def test_splits_and_seeds():
    test, labels = make(train=False)
    assert test.shape == (40, 1, 1, 253)
    assert (test.flatten(1)[:, 3:] == 0).all()
    assert int(labels.sum()) == 24
    assert torch.equal(make(train=True)[1], make(train=True)[1])
    assert not torch.equal(make(train=True)[1], make(train=True, seed=1)[1])


@pytest.mark.parametrize("positive", [0.5, 1.0, 0.0])
def test_shares_out_of_range(positive):
    with pytest.raises(UserError, match="must be above 0.5 and below 1"):
        make(train=True, positive=positive)


@pytest.mark.parametrize(("optimizer", "lr", "error"), [("gd", 0.5, 0.0), ("adam", 0.01, 0.4), ("rmsprop", 0.01, 0.4)])
def test_adaptive_methods_call_every_test_example_positive(tmp_path, small_run, optimizer, lr, error):
    """Full batches, from weights of 0: the known answer, by training."""
    value = small_run(
        tmp_path, "data=separable", "model=linear", "~model.hidden", "+model.hidden=[]", "+model.init_scale=0",
        "data.num_train=50", "data.num_test=40", "data.train_size=null", "data.test_size=null", "batch_size=50",
        f"optimizer={optimizer}", f"lr={lr}", "epochs=60", "terms=[l2]",
    )  # fmt: skip
    assert value == pytest.approx(error)
