"""Moments of noise that is drawn."""

import pytest
import torch

from ireg.core.moments.draws import DrawnMoments


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_the_square_in_a_metric(dtype):
    products = {"a": torch.tensor([1.0, 2.0], dtype=dtype), "b": torch.tensor([[3.0]], dtype=dtype)}
    scale = {"a": torch.tensor([0.5, 2.0], dtype=dtype), "b": torch.tensor([[10.0]], dtype=dtype)}
    moments = DrawnMoments(means=(products, products), products=products)
    assert float(moments.mean_square(scale)) == 0.5 + 4 + 30
    assert float(moments.mean_square(None)) == 6
