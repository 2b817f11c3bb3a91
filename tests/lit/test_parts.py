"""The parts of a classifier's run, without a trainer: sums of an epoch, and the trial of a network."""

from types import SimpleNamespace

import pytest
import torch
from lightning.pytorch.plugins.precision import Precision
from torch import nn
from torch.nn.functional import cross_entropy

from ireg.data.labels import NoisyLabels
from ireg.lit.fit import TrainingFit
from ireg.lit.sums import EpochSums
from ireg.lit.trial import Tried, try_out
from ireg.options import Options
from ireg.system.errors import UserError
from ireg.terms.named import TERMS


def test_the_sums_of_an_epoch_make_its_row():
    sums = EpochSums(torch.device("cpu"))
    for indices, loss, wrong in (([3, 1], 0.5, 1), ([0, 2], 1.0, 2), ([4], 3.0, 0)):
        sums.add(torch.tensor(indices), torch.tensor(loss), wrong=torch.tensor(wrong))
    assert sums.row() == {"train/loss": 1.5, "train/error": 0.6}  # over minibatches, and over examples
    assert [indices.tolist() for indices in sums.minibatches] == [[3, 1], [0, 2], [4]]
    penalized = EpochSums(torch.device("cpu"))
    for penalty in (0.25, 0.75):
        penalized.add(torch.tensor([0]), torch.tensor(1.0), wrong=torch.tensor(0), penalty=torch.tensor(penalty))
    assert penalized.row()["penalty/value"] == 0.5


def test_examples_that_were_not_seen_count_nowhere():
    clean = torch.tensor([0, 0, 1, 1, 0])
    observed = torch.tensor([0, 1, 1, 0, 1])
    fit = TrainingFit(NoisyLabels(observed, clean, observed != clean), cross_entropy)
    logits = torch.tensor([[2.0, 0.0], [0.0, 3.0], [1.0, 0.0]])
    fit.add(torch.tensor([1]), logits[:1])
    fit.add(torch.tensor([2, 3]), logits[1:])
    assert fit.wrong().tolist() == [False, True, False, False, False]
    assert fit.error() == pytest.approx(1 / 3, rel=1e-12)
    each = [cross_entropy(row, label).item() for row, label in zip(logits, observed[1:4], strict=True)]
    assert fit.loss() == pytest.approx(sum(each) / 3, rel=1e-6)
    assert fit.shares() == {"fit/clean_error": 0.0, "fit/memorized": 0.5, "fit/recovered": 0.5}


class Elsewhere(nn.Module):
    """A network that also reads its weights by another name, which no given weights reach."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(2, 3))
        self.held = [self.weight]

    def forward(self, inputs):
        return inputs @ (self.weight + self.held[0]).T


class Evaluated(nn.Linear):
    """A layer that does something else in eval mode."""

    def forward(self, inputs):
        return super().forward(inputs) * (1 if self.training else 2)


class Writing(nn.Linear):
    """A layer whose forward pass writes to its weights."""

    def forward(self, inputs):
        with torch.no_grad():
            self.weight.mul_(0.5)
        return super().forward(inputs)


def tried(model, terms=("ireg/sgd",), **options):
    labels = torch.tensor([0, 1, 1, 0, 1])
    data = SimpleNamespace(
        example="image",
        train_inputs=torch.randn(5, 3, generator=torch.Generator().manual_seed(0)),
        train_labels=NoisyLabels(labels, labels, labels > 1),
        batch_size=2,
        num_classes=2,
    )
    return try_out(
        model, data=data, criterion=cross_entropy, terms={tag: TERMS[tag] for tag in terms}, options=Options(**options),
        make_optimizer=lambda parameters: torch.optim.SGD(parameters, lr=0.1), precision=Precision(),
        device=torch.device("cpu"),
    )  # fmt: skip


def test_a_trial_says_how_a_network_is_measured_and_changes_nothing():
    model = nn.Linear(3, 2)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    assert tried(model) == Tried(same_in_evaluation=True, noise=0.0, writes=False)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    model, stream = Evaluated(3, 2), torch.get_rng_state()
    assert tried(model) == Tried(same_in_evaluation=False)
    assert torch.equal(torch.get_rng_state(), stream)
    assert tried(Writing(3, 2)).writes


def test_a_trial_compares_gradients_if_it_is_asked_to():
    match = "^model: Elsewhere: the gradient of the first minibatch at given weights differs"
    for check in ("each", "first"):
        with pytest.raises(UserError, match=match):
            tried(Elsewhere(), check=check)
    tried(Elsewhere(), check="off")
    tried(Elsewhere(), terms=())  # where nothing is measured, nothing is compared
