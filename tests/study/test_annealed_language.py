"""The second study's language model: rates, records, layers against their equilibrium, and curvature."""

import math

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from study.annealed import language, layers
from study.annealed.language import FINAL, OPTIMIZERS, RATE, best_rate, decay_of, losses_of, main, next_rate
from study.annealed.language_tables import comparisons, write_language
from study.annealed.layers import known_steps, norms, predicted

SMALL = (
    "model.width=8", "model.blocks=1", "model.heads=2", "data.context=8", "data.train_size=400", "data.holdout=20",
    "data.test_size=20", "batch_size=4", "terms.num_batches=3", "max_steps=20", "terms.every_n_steps=5",
    "schedule.warmup=2",
)  # fmt: skip


def test_the_mean_rate_is_the_schedules():
    rates = [
        min(step / 100, 1.0) if step < 100 else 0.55 + 0.45 * math.cos(math.pi * (step - 100) / 900)
        for step in range(1000)
    ]
    assert pytest.approx(np.mean(rates), rel=2e-3) == language.MEAN_RATE


def test_runs_are_recorded_once_with_layers_and_curvature(tmp_path, monkeypatch, train):
    asked = []

    def sweep(experiment, overrides, seeds, folder, jobs):
        asked.append(seeds)
        whole = [f"experiment={experiment}", *overrides, *SMALL, f"seed={seeds[0]}", f"hydra.sweep.dir={folder}"]
        done = train("-m", *whole, cwd=tmp_path)
        assert done.returncode == 0, done.stderr

    monkeypatch.setattr(language, "do_sweep", sweep)
    for _ in range(2):
        language._run(FINAL, "adamw", 1e-2, 10, tmp_path, tmp_path / "runs")
    assert asked == [[10]]
    rows = pd.read_csv(tmp_path / "language_runs.csv")
    assert rows["step"].tolist() == [0, 5, 10, 15, 20]
    assert rows["holdout/loss"].notna().all()
    assert not [column for column in rows if column.startswith("time/")]
    by_layer = pd.read_csv(tmp_path / "language_layers.csv").set_index("layer")
    for moment in ("start", "end"):
        norm = rows["norm/l2"].iloc[0 if moment == "start" else -1]
        assert by_layer[moment].pow(2).sum() ** 0.5 == pytest.approx(norm, rel=1e-5)
    assert by_layer["predicted"].notna().all()
    assert pd.read_csv(tmp_path / "language_curvature.csv")["curvature/lambda_max"].item() > 0


def test_a_trial_beyond_the_best_rate_is_done_until_it_is_no_end(tmp_path, monkeypatch):
    tried = []

    def run(stage, optimizer, lr, seed, data, sweeps):
        tried.append((stage, lr, seed))
        loss = math.nan if lr > 0.2 else abs(math.log(lr / 0.1))
        rows = [
            {
                "stage": stage,
                "optimizer": optimizer,
                "lr": lr,
                "seed": seed,
                "step": step,
                "holdout/loss": 9.0 - step / 1000 * (9 - loss),
            }
            for step in ((0, 500) if math.isnan(loss) else (0, 500, 1000))
        ]
        before = [pd.read_csv(tmp_path / "language_runs.csv")] if (tmp_path / "language_runs.csv").exists() else []
        pd.concat([*before, pd.DataFrame(rows)]).to_csv(tmp_path / "language_runs.csv", index=False)

    monkeypatch.setattr(language, "_run", run)
    language.study_optimizer("adamw", tmp_path, tmp_path)
    rates = [lr for stage, lr, _ in tried if stage == RATE]
    assert rates == [1e-3, 3.2e-3, 1e-2, 0.032, 0.1, 0.32]
    assert [(lr, seed) for stage, lr, seed in tried if stage == FINAL] == [(0.1, seed) for seed in language.SEEDS]
    assert math.isnan(losses_of(pd.read_csv(tmp_path / "language_runs.csv"), "adamw")[0.32])


def test_a_trial_below_the_best_rate_is_done_where_it_is_the_lowest():
    assert next_rate({1e-3: 1.0, 3.2e-3: 1.1, 1e-2: math.nan}) == 0.00032
    assert best_rate({1e-3: 1.0, 3.2e-3: 1.0}) == 1e-3


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_decay_takes_off_as_much_at_any_rate(optimizer):
    memory = 1 - OPTIMIZERS[optimizer].momentum
    for lr in OPTIMIZERS[optimizer].rates:
        path = lr / memory * language.MEAN_RATE * language.STEPS
        assert decay_of(optimizer, lr) * path == pytest.approx(0.5, rel=0.05)


def test_prediction_is_that_of_a_random_walk_with_decay():
    generator = np.random.default_rng(0)
    steps, decay, rate, size = 400, 0.5, 0.01, 100_000
    weights = generator.normal(0, 0.02, size)
    start, shrunk = np.linalg.norm(weights), np.full(steps, (1 - rate * decay) ** 2)
    for _ in range(steps):
        weights = (1 - rate * decay) * weights - rate * generator.choice([-1.0, 1.0], size)
    end = float(np.linalg.norm(weights))
    found = predicted(start, end, np.full(steps, rate**2 * size), shrunk)
    assert found["predicted"] == pytest.approx(end, rel=0.02)
    assert found["equilibrium"] == pytest.approx(rate * size**0.5 / (1 - shrunk[0]) ** 0.5 / end, rel=1e-9)
    # Steps of twice the size.
    assert predicted(start, end, np.full(steps, 4 * rate**2 * size), shrunk)["predicted"] > 1.5 * end


def test_layers_whose_steps_are_known():
    model = nn.Sequential(nn.Embedding(5, 4), nn.Linear(4, 6), nn.Linear(6, 4), nn.Linear(4, 5))
    assert known_steps("lion", model) == {"0": 20, "1": 30, "2": 28, "3": 25}
    assert known_steps("muon_adamw", model) == pytest.approx({"1": 0.04 * 24, "2": 0.04 * 24})
    assert known_steps("adamw", model) == {}
    with torch.no_grad():
        model[1].weight.fill_(1.0)
        model[1].bias.fill_(2.0)
    assert norms(dict(model.named_parameters()))["1"] == pytest.approx((24 + 24) ** 0.5)


def test_what_is_no_run_or_no_optimizer_is_refused(tmp_path, capsys):
    with pytest.raises(ValueError, match="no run there"):
        layers.rebuilt(tmp_path)
    assert main(["--optimizer", "rmsprop"]) == 2
    assert "--optimizer rmsprop: choose one of adamw, muon_adamw, lion, momentum" in capsys.readouterr().err


# Tables


def final_rows(optimizer, lr, ends, steps=(0, 500, 1000)):
    """Runs whose held-out loss falls on a straight line of its logarithm from 4 to `ends`."""
    return [
        {
            "stage": FINAL, "optimizer": optimizer, "lr": lr, "seed": seed, "step": step,
            "holdout/loss": 4 * (end / 4) ** (step / 1000), "test/loss": 5 * (end / 4) ** (step / 1000),
            "train/loss": 3.0, "noise/scale": 10.0 + step,
        }
        for seed, end in zip(language.SEEDS, ends, strict=True)
        for step in steps
    ]  # fmt: skip


def trials(optimizer, best):
    rates = OPTIMIZERS[optimizer].rates
    return [
        {"stage": RATE, "optimizer": optimizer, "lr": lr, "seed": 0, "step": 1000, "holdout/loss": 2.0 - (lr == best)}
        for lr in rates
    ]


ENDS = np.array([1.9, 1.91, 1.92, 1.93, 1.94])
MORE = np.array([0.1, 0.11, 0.1, 0.09, 0.1])


def recorded_runs():
    return pd.DataFrame(
        [
            *trials("adamw", 3.2e-3), *trials("lion", 3.2e-4),
            *final_rows("adamw", 3.2e-3, ENDS), *final_rows("lion", 3.2e-4, ENDS + MORE),
        ]
    )  # fmt: skip


def test_losses_and_steps_are_compared_with_adamws():
    found = {(one.quantity, one.comparator): one for one in comparisons(recorded_runs())}
    assert found["test loss", "end"].difference.student.mean == pytest.approx(0.125, rel=1e-9)
    assert found["test loss", "end"].significant
    # At one held-out loss both have 5/4 of it, and Lion needs more steps: ln 4/2.2 over the rate of its fall.
    at = found["test loss", "held-out loss 2.2"].difference.student
    assert at.mean == pytest.approx(0.0, abs=1e-12)
    steps = found["ln steps", "held-out loss 2.2"].difference.student.mean
    expected = np.log(np.log(4 / ENDS) / np.log(4 / (ENDS + MORE))).mean()
    assert steps == pytest.approx(expected, rel=1e-9)
    assert ("test loss", "held-out loss 2") not in found  # not all of Lion's runs reach it
    assert len(found) == 3


def test_the_language_page_has_what_the_files_say(tmp_path):
    assert list(write_language(tmp_path)) == []
    data = tmp_path / "data"
    data.mkdir()
    recorded_runs().to_csv(data / "language_runs.csv", index=False)
    pd.DataFrame(
        [
            {
                "optimizer": "lion",
                "seed": 10,
                "layer": f"blocks.{block}.mix",
                "start": 2.0,
                "end": 4.0,
                "predicted": 3.0,
                "equilibrium": 1.5,
            }
            for block in range(2)
        ]
        + [
            {
                "optimizer": "lion",
                "seed": 10,
                "layer": "last",
                "start": 2.0,
                "end": 4.0,
                "predicted": np.nan,
                "equilibrium": np.nan,
            }
        ]
    ).to_csv(data / "language_layers.csv", index=False)
    pd.DataFrame(
        [
            {"optimizer": "adamw", "seed": seed, "curvature/lambda_max": 10.0 + seed, "curvature/edge_fraction": 0.25}
            for seed in (12, 10)
        ]
        + [{"optimizer": "lion", "seed": 10, "curvature/lambda_max": 7.0}]
    ).to_csv(data / "language_curvature.csv", index=False)
    marks = ("ends", "levels", "along", "layers", "curvature")
    (tmp_path / "language.md").write_text("".join(f"<!-- {mark} -->\n<!-- /{mark} -->\n" for mark in marks))
    assert len(list(write_language(tmp_path))) == 3
    page = (tmp_path / "language.md").read_text()
    assert "| Lion | 0.00032 of 0.0001, 0.00032, 0.001 | 2.9 |" in page
    assert "0.125 (0.114 to 0.136) | worse" in page
    assert "| AdamW | 20, 22 | 0.25, 0.25 |" in page
    assert "| Lion | 7 | – |" in page
    assert "| Lion | block: mix | 2.00 | 0.75 (0.75 to 0.75) | 1.50 |" in page
    assert "| AdamW | `noise/scale` | – | 510 | 1010 |" in page
    assert (tmp_path / "figures" / "language.png").stat().st_size > 10_000
