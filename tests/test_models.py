import pytest
import torch
from torch import nn

from ireg.models import MLP


def test_the_singhs_network():
    model = MLP(input_shape=(784,), num_classes=10, hidden=[256] * 4)
    layers = [layer for layer in model if isinstance(layer, nn.Linear)]
    assert len(layers) == 5
    assert sum(parameter.numel() for parameter in model.parameters()) == 400_906
    assert not any(isinstance(layer, nn.Softmax) for layer in model)
    logits = model(torch.rand(3, 1, 28, 28))
    assert logits.shape == (3, 10)
    assert float(logits.detach().min()) < 0  # logits, not probabilities


def test_no_hidden_layer_makes_a_linear_model():
    model = MLP(input_shape=(4,), num_classes=2, hidden=[])
    first, second = torch.randn(2, 3, 4)
    zero = torch.zeros(3, 4)
    torch.testing.assert_close(model(first + second), model(first) + model(second) - model(zero))


def test_widths_are_checked():
    with pytest.raises(ValueError, match=r"widths \[4, 0, 2\]: each must be at least 1"):
        MLP(input_shape=(4,), num_classes=2, hidden=[0])
