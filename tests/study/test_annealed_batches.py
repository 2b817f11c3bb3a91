"""Batch sizes of the second study: which rates are tried, which is chosen, and what is not run again."""

from itertools import pairwise

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from study.annealed import batches
from study.annealed.batches import SEEDS, SIZES, main, of_size, rates_at, study_size
from study.annealed.plan import Trial
from study.annealed.sizes import by_size, comparisons, final_runs, largest_good_size, write_sizes
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


def final_runs_at(tmp_path, changes):
    """Final runs: each optimizer's test error by size and draw; those of 64 are the setting's own."""
    generator = np.random.default_rng(0)
    draws = dict(zip(SEEDS, generator.normal(0, 0.01, 5), strict=True))
    rows = [
        {
            "optimizer": optimizer, "batch_size": size, "lr": 0.01, "seed": seed, "fit/memorized": 0.1,
            "stage": "final", "place": "end", "test/error": 0.1 + change + draws[seed] + generator.normal(0, 1e-3),
        }
        for (optimizer, size), change in changes.items()
        for seed in SEEDS
    ]  # fmt: skip
    table = pd.DataFrame(rows)
    own = table[table["batch_size"] == 64]
    middle = own.assign(**{"noise/scale": 100.0, "noise/scale_own": 200.0, "place": "epoch 15"})
    pd.concat([own, middle]).to_csv(tmp_path / "final_mnist10k_30.csv", index=False)
    table[table["batch_size"] != 64].to_csv(tmp_path / "batches_mnist10k_30.csv", index=False)
    return table


CHANGES = {
    ("momentum", 16): 0.0, ("momentum", 64): 0.0, ("momentum", 256): 0.0,
    ("adamw", 16): -0.02, ("adamw", 64): 0.0, ("adamw", 256): 0.03,
}  # fmt: skip


def test_each_size_is_compared_with_momentums(tmp_path):
    table = final_runs_at(tmp_path, CHANGES)
    found = {one.size: one for one in comparisons(final_runs(tmp_path))}
    errors = table.pivot_table(index="seed", columns=["optimizer", "batch_size"], values="test/error")
    for size, one in found.items():
        expected = errors["adamw", size] - errors["momentum", size]
        assert one.difference.student.mean == pytest.approx(expected.mean(), rel=1e-9)
        assert one.difference.p == pytest.approx(stats.ttest_1samp(expected, 0.0).pvalue, rel=1e-9)
    assert [(size, one.significant) for size, one in found.items()] == [(16, True), (64, False), (256, True)]


def test_an_optimizers_size_is_the_largest_that_costs_nothing(tmp_path):
    final_runs_at(tmp_path, CHANGES)
    errors = by_size(final_runs(tmp_path))
    assert largest_good_size({size: values for (name, size), values in errors.items() if name == "adamw"}) == 16
    assert largest_good_size({size: values for (name, size), values in errors.items() if name == "momentum"}) == 256


def test_the_page_of_sizes_has_what_the_files_say(tmp_path):
    assert list(write_sizes(tmp_path)) == []
    data = tmp_path / "data"
    data.mkdir()
    final_runs_at(data, CHANGES)
    tuning = pd.concat([rows_of(all_trials(name)[1], bowl) for name in ("momentum", "adamw")])
    tuning.to_csv(tuning_file(data, batches.SETTING), index=False)
    (tmp_path / "batches.md").write_text(
        "".join(f"<!-- {mark} -->\n<!-- /{mark} -->\n" for mark in ("sizes", "scales"))
    )
    assert len(list(write_sizes(tmp_path))) == 3
    page = (tmp_path / "batches.md").read_text()
    assert "| AdamW | 100 | 200 | 16 |" in page
    assert "| SGD, momentum | 100 | 200 | 256 |" in page
    assert "| Kendall's τ with the size | – | – | – |" in page  # both have one noise scale
    assert "| 256 | AdamW | 0.01 |" in page
    assert (tmp_path / "figures" / "batches.png").stat().st_size > 10_000
