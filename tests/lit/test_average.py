"""The average of the weights: what it adds up over the test examples."""

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from ireg.lit.average import AverageOfWeights


def test_means_are_of_the_averaged_weights():
    model = nn.Linear(2, 2, bias=False)
    average = AverageOfWeights(model, 0.5, cross_entropy)
    inputs, labels = torch.eye(2).repeat(2, 1), torch.tensor([0, 1, 1, 1])
    with torch.no_grad():
        model.weight.copy_(torch.eye(2))
        average.step(model)
        model.weight.copy_(3 * torch.eye(2))
        average.step(model)  # ω̄ = 2
        average.add(inputs[:3], labels[:3])
        average.add(inputs[3:], labels[3:])
    means = {tag: float(mean.compute()) for tag, mean in average.means().items()}
    assert means["test/error_ema"] == 0.25
    assert means["test/loss_ema"] == pytest.approx(float(cross_entropy(2 * inputs, labels)), rel=1e-6, abs=0)
    average.reset()
    with torch.no_grad():
        average.add(inputs[2:3], labels[2:3])
    assert float(average.means()["test/error_ema"].compute()) == 1.0
