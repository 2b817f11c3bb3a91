"""Interventions of the second study: what is changed, what is recorded once, and what they have done."""

import numpy as np
import pandas as pd
import pytest
import torch

from study.annealed import interventions
from study.annealed.interventions import INTERVENTIONS, READ, effects, effects_table, intervene
from study.annealed.plan import Trial
from study.annealed.spectral import SpectralProduct
from tests.study.test_annealed import all_trials, bowl, rows_of

PARAMS = {
    "0.weight": torch.randn(5, 9, generator=torch.Generator().manual_seed(0), dtype=torch.float64),
    "1.weight": torch.randn(6, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64),
    "1.bias": torch.ones(6, dtype=torch.float64),
}


def logarithm(params):
    matrices = [value for value in params.values() if value.ndim == 2]
    return 0.3 * sum(torch.linalg.svdvals(value)[0].log() for value in matrices)


def test_the_penalty_is_the_logarithm_of_the_spectral_product():
    (part,) = SpectralProduct(strength=0.3).shared(lambda params, batch: torch.zeros(()), [])
    value, gradient = part.value_and_gradient(PARAMS)
    assert float(value) == pytest.approx(float(logarithm(PARAMS)), rel=1e-9)
    for name, param in PARAMS.items():
        expected = torch.zeros_like(param)
        if param.ndim == 2:
            left, _, right = torch.linalg.svd(param)
            expected = 0.3 * torch.outer(left[:, 0], right[0]) / torch.linalg.svdvals(param)[0]
        assert torch.allclose(gradient[name], expected, rtol=0, atol=1e-6)


def test_its_curvature_is_that_of_finite_differences():
    (part,) = SpectralProduct(strength=0.3).shared(lambda params, batch: torch.zeros(()), [])
    direction = {
        name: torch.cos(torch.arange(param.numel(), dtype=torch.float64)).view_as(param)
        for name, param in PARAMS.items()
    }
    ahead, behind = (
        torch.func.grad(logarithm)({name: param + step * direction[name] for name, param in PARAMS.items()})
        for step in (1e-5, -1e-5)
    )
    for name, found in part.product(PARAMS, direction).items():
        assert torch.allclose(found, (ahead[name] - behind[name]) / 2e-5, rtol=0, atol=1e-7)


def test_interventions_change_what_they_say():
    trial = Trial("momentum", 0.005, 0.0005, 0.95)
    assert INTERVENTIONS["norm/l2"].overrides(4.0, trial) == {"++optimizer.weight_decay": "0.002"}
    spectral = INTERVENTIONS["norm/spectral_product"].overrides(0.01, trial)
    assert spectral["regularizer.strength"] == "0.01"
    assert spectral["regularizer._target_"].endswith(SpectralProduct.__name__)


def test_doses_are_run_once_and_compared_with_the_runs_without(tmp_path, monkeypatch):
    _, tried = all_trials("momentum")
    rows_of(tried, bowl).to_csv(interventions.tuning_file(tmp_path, interventions.SETTING), index=False)
    seeds = list(interventions.SEEDS)
    without = pd.DataFrame({tag: 1.0 for tag in READ}, index=range(5)).assign(
        seed=seeds, optimizer="momentum", place="end", **{"test/error": [0.1, 0.2, 0.3, 0.4, 0.5]}
    )
    without.to_csv(interventions.final_file(tmp_path, interventions.SETTING), index=False)
    asked = []

    def sweep(experiment, overrides, seeds, folder, jobs):
        asked.append(overrides)

    def runs(folder):
        done = without.assign(state="done", **{"norm/l2": 0.5, "margin/normalized_median": 3.0})
        done["test/error"] += np.array([0.01, 0.02, 0.03, 0.02, 0.02])
        return done

    monkeypatch.setattr(interventions, "do_sweep", sweep)
    monkeypatch.setattr(interventions, "runs", runs)
    for _ in range(2):
        intervene("norm/l2", 4.0, tmp_path, tmp_path / "runs", 1)
    assert len(asked) == 1
    decays = [one for one in asked[0] if one.startswith("++optimizer.weight_decay=")]
    assert len(decays) == 1  # instead of the chosen one
    (row,) = effects(tmp_path).to_dict("records")
    assert row["mean"] == pytest.approx(0.02, rel=1e-9)
    assert row["norm/l2"] == 0.5
    assert row["norm/spectral_product"] == 1.0
    assert "| `norm/l2` | 4 | 1.00 | 0.50 | 3.00 | 2.00 (1.12 to 2.88) |" in effects_table(effects(tmp_path))
