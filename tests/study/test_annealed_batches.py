"""Batch sizes of the second study: which rates are tried, which is chosen, and what is not run again."""

from itertools import pairwise

import pandas as pd
import pytest

from study.annealed import batches
from study.annealed.batches import SEEDS, SIZES, main, of_size, rates_at, study_size
from study.annealed.plan import Trial
from study.annealed.trials import chosen, tuning_file
from tests.study.test_annealed import all_trials, bowl, rows_of


def test_rates_follow_the_root_of_the_size():
    best = Trial("adamw", 1e-3, 0.1, 0.99)
    for size in SIZES:
        rates = [trial.lr for trial in rates_at(best, size)]
        assert (rates[0] * rates[3]) ** 0.5 == pytest.approx(1e-3 * (size / 64) ** 0.5, rel=0.05)
        assert [high / low for low, high in pairwise(rates)] == pytest.approx([10**0.5] * 3, rel=0.1)
        assert {(trial.decay, trial.memory) for trial in rates_at(best, size)} == {(0.1, 0.99)}


def test_the_lowest_held_out_error_chooses_and_a_diverged_run_does_not():
    trials = rates_at(Trial("adamw", 1e-3, 0.1, 0.99), 256)
    table = pd.DataFrame(
        {**vars(trial), "seed": 0, "holdout/error": error}
        for trial, error in zip(trials, [0.4, 0.35, float("nan"), 0.35], strict=True)
    )
    assert chosen(table, trials, runs=1) == trials[1]
    with pytest.raises(ValueError, match="0 of 1 tuning runs are recorded"):
        chosen(table[:2], trials, runs=1)


def test_sizes_are_recorded_apart_and_once(tmp_path, monkeypatch):
    _, tried = all_trials("momentum")
    rows_of(tried, bowl).to_csv(tuning_file(tmp_path, batches.SETTING), index=False)
    asked = []

    def sweep(experiment, overrides, seeds, folder, jobs):
        asked.append((overrides[-2:], tuple(seeds), folder.name))

    def rows(folder, trials, seeds):
        return pd.DataFrame(
            {**vars(trial), "seed": seed, "state": "done", "holdout/error": trial.lr, "test/error": 0.1}
            for trial in trials
            for seed in seeds
        )

    monkeypatch.setattr(batches, "do_sweep", sweep)
    monkeypatch.setattr(batches, "rows_at_the_end", rows)
    for _ in range(2):
        for size in SIZES:
            study_size(size, "momentum", tmp_path, tmp_path / "runs", 1)
    assert len(asked) == 2 * len(SIZES)
    assert asked[0] == (["batch_size=16", "schedule.warmup=500"], (0,), "annealed_batches_mnist10k_30_16")
    assert asked[-1] == (["batch_size=1024", "schedule.warmup=8"], SEEDS, "annealed_batches_mnist10k_30_1024")
    table = pd.read_csv(tmp_path / "batches_mnist10k_30.csv")
    for size in SIZES:
        assert len(of_size(table, size, "rate")) == 4
        final = of_size(table, size, "final")
        assert tuple(final["seed"]) == SEEDS
        assert final["lr"].nunique() == 1
        assert final["lr"].iloc[0] == of_size(table, size, "rate")["lr"].min()


def test_an_unknown_optimizer_is_refused(capsys):
    assert main(["--optimizer", "adam"]) == 2
    assert "--optimizer adam: choose one of momentum" in capsys.readouterr().err
