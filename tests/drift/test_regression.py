"""Numbers from inner products, against vectors whose answer can be read off."""

import numpy as np
import pytest
import torch

from ireg.drift.regression import compare, numbers


def test_numbers_from_inner_products():
    vectors = {
        "d_full_batch": torch.tensor([1.0, 0.0, 0.0]),
        "d_variance": torch.tensor([1.0, 1.0, 0.0]),
        "downhill": torch.tensor([0.0, 2.0, 0.0]),
        "leading": torch.tensor([0.0, 0.0, 10.0]),
        "halving": torch.tensor([0.0, 0.5, 0.5]),  # −0.5 d₁ + 0.5 d₂, and 0.5 beside them
    }
    drift = torch.tensor([3.0, 2.0, 1.0])  # 1 · d₁ + 2 · d₂, and 1 beside them
    stacked = torch.stack([drift, *vectors.values()]).double()
    found = numbers((stacked @ stacked.T).numpy(), list(vectors))
    assert found["k_full_batch"] == pytest.approx(1)
    assert found["k_variance"] == pytest.approx(2)
    assert found["k"] == pytest.approx(8 / 5)
    assert found["residual"] == pytest.approx(1 / 14)
    assert found["residual of theory"] == pytest.approx((14 - 2 * 8 + 5) / 14)
    assert found["halving k_full_batch"] == pytest.approx(-0.5)
    assert found["halving k_variance"] == pytest.approx(0.5)
    assert found["halving"] == pytest.approx(0.5 / 14)
    assert found["strength"] == pytest.approx(14**0.5 / 10)
    assert found["strength predicted"] == pytest.approx(5**0.5 / 10)
    assert found["alignment"] == pytest.approx(2 / 14**0.5)
    assert found["alignment predicted"] == pytest.approx(1 / 5**0.5)
    assert found["cosine"] == pytest.approx(8 / (14 * 5) ** 0.5)


def test_noise_does_not_add_to_the_size_of_the_drift():
    generator = torch.Generator().manual_seed(0)
    true = torch.zeros(50, dtype=torch.float64)
    true[0] = 1.0
    drifts = [true + torch.randn(50, generator=generator, dtype=torch.float64) for _ in range(400)]
    found = compare(drifts, {"d_full_batch": true, "downhill": true, "leading": true, "halving": 0 * true})
    assert found["strength"].value == pytest.approx(1, abs=4 * found["strength"].error)
    assert found["residual"].value == pytest.approx(0, abs=4 * found["residual"].error)
    assert 0 < found["residual"].error < 0.1


def test_a_drift_of_nothing_but_noise_has_no_direction():
    drifts = [torch.tensor([sign * 1.0, 0.0]).double() for sign in (1, -1, 1, -1)]
    one = torch.tensor([1.0, 0.0]).double()
    found = compare(drifts, {"d_full_batch": one, "downhill": one, "leading": one, "halving": one})
    assert np.isnan(found["alignment"].value)
    assert np.isnan(found["residual"].value)
    assert found["k"].value == pytest.approx(0)
