"""A run on a text: its loss and its error are per character, and its terms those of the loop."""

import csv

import pytest
import torch
from torch.nn.functional import cross_entropy

from ireg.config.read import read
from ireg.core.functional import detached_parameters
from ireg.experiment.build import make_classifier, make_data, make_model
from ireg.experiment.run import run_in
from ireg.system.errors import UserError

TEXT = (
    "data=shakespeare",
    "model=gpt",
    "data.context=8",
    "data.train_size=90",
    "data.test_size=30",
    "model.width=8",
    "model.blocks=1",
    "model.heads=2",
    "batch_size=32",
)


def built(composed, *overrides):
    settings = read(composed("data=shakespeare", "model=gpt", "data.context=8", "batch_size=32", *overrides))
    return settings, make_data(settings)


@pytest.fixture
def text_run(composed):
    def do(folder, *overrides):
        return run_in(folder, read(composed(*TEXT, *overrides)))

    return do


def rows(folder):
    with (folder / "metrics.csv").open() as file:
        return [{tag: float(value) for tag, value in row.items() if value} for row in csv.DictReader(file)]


def test_the_last_blocks_are_held_out(composed):
    _, data = built(composed, "data.holdout=10")
    assert data.input_shape == (8,)
    assert data.holdout_indices.tolist() == list(range(116_605 - 10, 116_605))
    assert data.train_indices.tolist() == list(range(116_605 - 10))
    assert torch.equal(data.train_inputs[1:, 0], data.train_labels.observed[:-1, -1])  # one text
    assert not data.train_labels.corrupted.any()


def test_the_row_before_training_is_that_of_a_hand_written_loss(tmp_path, text_run, composed):
    text_run(tmp_path, "epochs=1", "data.holdout=20", "lr=0.1")
    settings = read(composed(*TEXT, "data.holdout=20", "lr=0.1"))
    torch.manual_seed(0)
    data = make_data(settings)
    model = make_model(settings, data)
    first, last = rows(tmp_path)
    for name, inputs, labels in (
        ("train", data.train_inputs, data.train_labels.observed),
        ("test", data.test_inputs, data.test_labels.observed),
        ("holdout", data.holdout_inputs, data.holdout_labels.observed),
    ):
        logits = model(inputs)
        loss = cross_entropy(logits.transpose(1, 2), labels)
        assert first[f"{name}/loss"] == pytest.approx(loss.item(), rel=1e-6)
        assert first[f"{name}/error"] == float((logits.argmax(-1) != labels).double().mean())
    assert first["train/loss"] == pytest.approx(4.33, abs=0.05)  # log 76
    assert last["train/loss"] < first["train/loss"]
    assert 0 < last["train/error"] < 1
    assert not any(tag.startswith("fit/") for tag in first)
    loss_of = make_classifier(settings, model).measurement.loss
    total = torch.zeros(())
    minibatches = data.train_dataloader().indices(0)
    for indices in minibatches:
        leaves = {name: value.clone().requires_grad_() for name, value in detached_parameters(model).items()}
        loss = loss_of(leaves, (data.train_inputs[indices], data.train_labels.observed[indices]))
        total = total + sum(g.square().sum() for g in torch.autograd.grad(loss, list(leaves.values())))
    assert first["ireg/sgd"] == pytest.approx(0.1 / 4 * float(total) / len(minibatches), rel=1e-5)


def test_a_text_keeps_the_indices_of_its_blocks_alone(tmp_path, text_run):
    import numpy as np

    text_run(tmp_path, "epochs=1", "data.holdout=20", "terms=[l2]")
    kept = np.load(tmp_path / "labels.npz")
    assert {name: len(kept[name]) for name in kept} == {"indices": 70, "test_indices": 30, "holdout_indices": 20}
    assert not (tmp_path / "holdout.npz").exists()


@pytest.mark.parametrize(
    ("overrides", "match"),
    [
        (
            ("data=shakespeare", "model=mlp"),
            "^model: MLP on a minibatch of 64 blocks of shape .64,.: .*: choose a network that embeds them, like",
        ),
        (("data=digits", "model=gpt"), r"^model: input_shape=\(1, 8, 8\): GPT takes .*; use data=shakespeare$"),
        (("data=shakespeare", "data.noise.kind=uniform"), "^data.noise.kind=uniform: the characters of a text have no"),
    ],
)
def test_what_does_not_go_together_is_refused(tmp_path, composed, overrides, match):
    with pytest.raises(UserError, match=match) as error:
        run_in(tmp_path, read(composed(*overrides)))
    assert "\n" not in str(error.value)
