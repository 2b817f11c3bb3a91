"""The second study: its trials in sequence, its comparisons over draws, its page; against independent code."""

import json
from itertools import product
from math import comb

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from ireg.system.errors import UserError
from study.annealed import claims, pictures
from study.annealed import trials as running
from study.annealed.__main__ import main
from study.annealed.claims import by_draw, family, over_draws, power, range_over_tied, settings_of, table, tied
from study.annealed.measures import ALL, PAIRS, associations
from study.annealed.pages import measures_table, write_page
from study.annealed.plan import (
    BASE,
    FINAL_SEEDS,
    SETTINGS,
    STAGES,
    STEPS,
    TUNED,
    TUNING_SEEDS,
    Trial,
    calls,
    decays,
    first_rates,
    further_rates,
    memories,
    optimizers_of,
)
from study.annealed.seed_claims import claims_table, lowest_common_level, quantities
from study.annealed.trials import chosen, chosen_trial, finish, in_sequence, tuned
from study.noise import at_shares

EXAMPLES = 2000


def rows_of(trials, error, wrong=None):
    """Tuning runs of trials: `error` gives the held-out error of a trial and seed."""
    return pd.DataFrame(
        {
            **vars(trial),
            "seed": seed,
            "state": "done",
            "holdout/error": error(trial, seed),
            "test/error": error(trial, seed) / 2,
            "fit/memorized": 0.1,
            "wrong": wrong(trial, seed) if wrong else "00" * (EXAMPLES // 8),
        }
        for trial in trials
        for seed in TUNING_SEEDS
    )


def bowl(trial, seed):
    """Lowest at the fifth rate of the grid, the second decay there, and the third memory."""
    wanted = first_rates(trial.optimizer)[4]
    distance = abs(np.log(trial.lr / (1 - trial.memory if trial.optimizer == "momentum" else 1.0)))
    target = abs(np.log(wanted.lr / (1 - wanted.memory if trial.optimizer == "momentum" else 1.0)))
    rate = abs(distance - target)
    decay = 0.0 if trial.decay == pytest.approx(decays(wanted)[1].decay, rel=0.05) else 0.05
    memory = 0.0 if trial.memory == TUNED[trial.optimizer].memories[2] else 0.02
    return 0.3 + 0.1 * rate + decay + memory + 0.001 * seed


def all_trials(optimizer, error=bowl):
    tried = []

    def run(new):
        tried.extend(new)
        return rows_of(tried, error)

    return in_sequence(optimizer, run), tried


@pytest.mark.parametrize("optimizer", TUNED)
def test_each_optimizer_has_fourteen_trials_and_finds_the_best(optimizer):
    best, tried = all_trials(optimizer)
    assert len(tried) == len(set(tried)) == 14
    assert best.memory == TUNED[optimizer].memories[2]
    assert best.decay == decays(first_rates(optimizer)[4])[1].decay
    assert chosen_trial(rows_of(tried, bowl), optimizer) == best


def test_decay_alone_would_shrink_the_weights_as_stated():
    # ln ‖ω‖ falls by λ Σ_t η_t of a cosine whose mean is half its peak; momentum's path is 1/(1 − β) times as long.
    for optimizer, longer in (("adamw", 1.0), ("muon", 1.0), ("lion", 1.0), ("momentum", 10.0)):
        start = first_rates(optimizer)[3]
        shrinks = [trial.decay * trial.lr * longer * STEPS / 2 for trial in decays(start)]
        assert shrinks == pytest.approx([0.1, 0.5, 2.0], rel=0.05, abs=0)
    assert [trial.decay for trial in decays(first_rates("rmsprop")[0])] == [1e-5, 1e-4, 1e-3]


def test_momentum_keeps_its_effective_rate_and_others_their_rate():
    start = first_rates("momentum")[3]
    assert [trial.lr / (1 - trial.memory) for trial in memories(start)] == pytest.approx(
        [start.lr / 0.1] * 3, rel=0.02, abs=0
    )
    assert {trial.lr for trial in memories(first_rates("adamw")[2])} == {first_rates("adamw")[2].lr}


def test_further_rates_lie_beyond_an_end_of_the_grid():
    grid = first_rates("lion")
    assert min(trial.lr for trial in further_rates(grid[-1])) > grid[-1].lr
    assert max(trial.lr for trial in further_rates(grid[0])) < grid[0].lr
    low, high = (trial.lr for trial in further_rates(grid[2]))
    assert grid[1].lr < low < grid[2].lr < high < grid[3].lr


def test_trials_that_differ_in_one_option_are_one_sweep():
    (overrides, stood_for), *none = calls(first_rates("adamw"))
    assert not none
    assert len(stood_for) == 6
    assert "lr=3.2e-05,0.0001,0.00032,0.001,0.0032,0.01" in overrides
    assert len(list(calls(memories(first_rates("momentum")[3])))) == 3
    (overrides, _), *none = calls(memories(first_rates("lion")[3]))
    assert "optimizer.betas=[0.9,0.9],[0.9,0.97],[0.9,0.999]" in overrides
    assert not none
    assert not list(calls([]))


def test_muon_is_left_out_where_not_all_weights_are_matrices():
    assert "muon" in optimizers_of("mnist10k_30")
    assert "muon" not in optimizers_of("mnist10k_cnn_30")
    with pytest.raises(UserError, match="cifar_30: no such setting; choose one of mnist10k_30"):
        optimizers_of("cifar_30")


def test_of_equal_trials_the_first_is_chosen_and_a_diverged_one_never():
    grid = first_rates("adamw")
    assert chosen(rows_of(grid, lambda trial, seed: 0.4), grid) == grid[0]
    diverged = rows_of(grid, lambda trial, seed: np.nan if trial == grid[1] and seed else 0.4 - 100 * trial.lr * 1e-3)
    diverged.loc[(diverged["lr"] == grid[1].lr), "holdout/error"] = [0.0, np.nan]
    assert chosen(diverged, grid[:2]) == grid[0]
    with pytest.raises(ValueError, match="0 of 2 tuning runs are recorded"):
        chosen(rows_of(grid[1:], lambda trial, seed: 0.4), grid)


def test_what_is_recorded_is_not_run_again(tmp_path, monkeypatch):
    def refuse(*arguments, **keywords):
        raise AssertionError("a sweep was started")

    best, tried = all_trials("momentum")
    rows_of(tried, bowl).to_csv(tmp_path / "tuning_mnist10k_30.csv", index=False, float_format="%.6g")
    cells(0.0).to_csv(tmp_path / "final_mnist10k_30.csv", index=False)
    monkeypatch.setattr(running, "sweep", refuse)
    assert tuned("mnist10k_30", "momentum", tmp_path, tmp_path / "runs", 1) == best
    finish("mnist10k_30", Trial("momentum", 0.1, 0.0, 0.9), tmp_path, tmp_path / "runs", 1)
    with pytest.raises(AssertionError, match="a sweep was started"):
        finish("mnist10k_30", Trial("momentum", 0.2, 0.0, 0.9), tmp_path, tmp_path / "runs", 1)


def test_trials_and_final_runs_are_recorded(tmp_path, monkeypatch, train):
    def sweep(overrides, *, folder, quiet):
        done = train("-m", *overrides, f"hydra.sweep.dir={folder}", cwd=tmp_path)
        assert done.returncode == 0, done.stderr

    monkeypatch.setattr(running, "sweep", sweep)
    small = (
        "data=digits", "data.holdout=40", "data.train_size=200", "data.test_size=50", "epochs=2", "model.hidden=[8]",
        "+model.bias=false", "batch_size=40", "schedule.warmup=2", "terms=[l2]", "data.noise.rate=0.3",
    )  # fmt: skip
    monkeypatch.setattr(running, "SETTINGS", {"small": small})
    monkeypatch.setattr(running, "FINAL_SEEDS", (10, 11))
    trial = Trial("momentum", 0.01, 0.001, 0.9)
    finish("small", trial, tmp_path, tmp_path / "runs", 1)
    written = pd.read_csv(tmp_path / "final_small.csv")
    assert set(written["seed"]) == {10, 11}
    assert {"end", "holdout"} <= set(written["place"])
    end = written[written["place"] == "end"]
    assert (end["at"] == 2).all()
    assert end["test/error_ema"].between(0, 1).all()
    assert end["schedule/lr"].lt(0.01).all()
    found = (tmp_path / "runs").glob("annealed_final_small/*/status.json")
    configs = [json.loads(path.read_text())["config"] for path in found]
    without = {config["seed"]: config["terms"]["curvature"] is None for config in configs}
    assert without == {10: False, 11: True}
    running._tune("small", [trial], tmp_path, tmp_path / "runs", 1)
    runs = pd.read_csv(tmp_path / "tuning_small.csv", dtype={"wrong": str})
    assert runs["seed"].tolist() == list(TUNING_SEEDS)
    for _, run in runs.iterrows():
        # The recorded bits are those of the recorded error.
        bits = np.unpackbits(np.frombuffer(bytes.fromhex(run["wrong"]), dtype=np.uint8))
        assert bits.sum() / 40 == pytest.approx(run["holdout/error"], rel=1e-6, abs=0)


def test_a_sweep_whose_runs_all_diverge_is_a_result(tmp_path, monkeypatch):
    def sweep(overrides, *, folder, quiet):
        raise RuntimeError(f"no run of {folder} has finished: -")

    monkeypatch.setattr(running, "sweep", sweep)
    monkeypatch.setattr(running, "runs", lambda folder: pd.DataFrame({"state": ["diverged"]}))
    running.do_sweep("annealed_tuning", ["lr=100"], (0, 2), tmp_path, 1)
    monkeypatch.setattr(running, "runs", lambda folder: pd.DataFrame({"state": ["interrupted"]}))
    with pytest.raises(RuntimeError, match="has finished"):
        running.do_sweep("annealed_tuning", ["lr=100"], (0, 2), tmp_path, 1)


# Comparisons


PLACES = (("end", 30, 0.5), ("holdout", 12, 0.2), ("loss 1", 5, 0.05), ("loss 0.4", 9, 0.3))


def cells(shift, spread=0.002, seeds=FINAL_SEEDS, generator=0):
    """Final runs of two optimizers whose draws share an error of their own; AdamW's is `shift` above."""
    draws = np.random.default_rng(generator)
    of_draw = dict(zip(sorted({seed // 2 for seed in FINAL_SEEDS}), draws.normal(0, 0.02, 5), strict=True))
    of_pair = {draw: draws.normal(0, spread) for draw in of_draw}
    rows = []
    for seed in seeds:
        for optimizer, above in ((BASE, 0.0), ("adamw", shift)):
            own = above + of_pair[seed // 2] if above is not None and optimizer != BASE else 0.0
            error = 0.08 + of_draw[seed // 2] + own + draws.normal(0, 1e-4)
            rows += [
                {"optimizer": optimizer, "lr": 0.1, "decay": 0.0, "memory": 0.9, "seed": seed, "place": place, "at": at,
                 "test/error": error, "test/error_ema": error, "fit/memorized": memorized}
                for place, at, memorized in PLACES
            ]  # fmt: skip
    return pd.DataFrame(rows)


def test_a_planted_point_is_found_and_nothing_where_there_is_none():
    planted, none = (
        [one for one in family({"mnist10k_30": cells(shift)}) if one.comparator == "end"] for shift in (0.01, 0.0)
    )
    assert [one.significant for one in planted] == [True]
    assert planted[0].difference.student.mean == pytest.approx(0.01, abs=0.003)
    assert [(one.significant, one.margin_adjusted < 0.05) for one in none] == [(False, True)]


def test_differences_are_tested_over_draws_and_not_over_runs():
    runs = cells(0.01)
    one = next(one for one in family({"mnist10k_30": runs}) if one.comparator == "end")
    end = runs[runs["place"] == "end"].pivot(index="seed", columns="optimizer", values="test/error")
    means = (end["adamw"] - end[BASE]).groupby(end.index // 2).mean()
    expected = stats.ttest_1samp(means, 0.0)
    assert one.difference.p == pytest.approx(expected.pvalue, rel=1e-9, abs=0)
    assert one.difference.count == 5
    low, high = expected.confidence_interval()
    assert (one.difference.student.low, one.difference.student.high) == pytest.approx((low, high), rel=1e-9, abs=0)


def test_a_comparison_needs_all_draws():
    without = cells(0.01, seeds=FINAL_SEEDS[:-2])
    assert over_draws(by_draw(without, "adamw", "end")) is None
    assert not family({"mnist10k_30": without})
    one_seed_less = cells(0.01, seeds=FINAL_SEEDS[:-1])
    assert over_draws(by_draw(one_seed_less, "adamw", "end")).count == 5


def test_the_family_is_adjusted_over_all_its_settings():
    of_settings = {"mnist10k_30": cells(0.01), "mnist10k_0": cells(0.002, generator=1)}
    found = table(family({name: pd.concat([runs, at_shares(runs)]) for name, runs in of_settings.items()}))
    # Holm's method again, each comparison counted once with its two hypotheses.
    hypotheses = sorted(
        [(p, number, "adjusted_p") for number, p in enumerate(found["p"])]
        + [(p, number, "adjusted_margin_p") for number, p in enumerate(found["margin_p"])]
    )
    largest = 0.0
    for rank, (p, number, column) in enumerate(hypotheses):
        left = len({other for _, other, _ in hypotheses[rank:]})
        largest = max(largest, min(1.0, left * p))
        assert found[column][number] == pytest.approx(largest, rel=1e-9, abs=0)
    assert set(found["setting"]) == {"mnist10k_30", "mnist10k_0"}
    # Between a memorized share of 5 % and one of 30 % lie two of the shares.
    assert {"memorized 10 %", "memorized 20 %"} <= set(found["comparator"])
    assert "memorized 40 %" not in set(found["comparator"])


def bits_of(trial, seed):
    """Held-out examples: trials far from the best have more of them wrong."""
    share = 0.3 + 0.1 * abs(np.log10(trial.lr / 1e-3)) + (0.3 if trial.decay > 0.2 else 0.0)
    draw = np.random.default_rng(seed).random(EXAMPLES)
    return np.packbits(draw < share)


def tuning_runs(optimizer):
    def error(trial, seed):
        return float(np.unpackbits(bits_of(trial, seed)).mean())

    tried = []

    def run(new):
        tried.extend(new)
        return rows_of(tried, error, lambda trial, seed: bits_of(trial, seed).tobytes().hex())

    in_sequence(optimizer, run)
    return run([])


def test_tied_trials_are_those_that_held_out_examples_do_not_separate():
    runs = tuning_runs("adamw")
    separated = tied(runs, "adamw", draws=1000)
    best = chosen_trial(runs, "adamw")
    assert len(separated) == 14
    at_best = separated[separated["difference"] == 0]
    assert (at_best["tied"]).all()
    assert best.lr in set(at_best["lr"])
    far = separated[separated["lr"] == 3.2e-5].iloc[0]
    assert not far["tied"]
    # The interval again, by the normal approximation of a paired difference within each draw.
    variances = []
    for seed in TUNING_SEEDS:
        one, other = (
            np.unpackbits(bits_of(trial, seed)).astype(float) for trial in (Trial("adamw", 3.2e-5, 0.0, 0.999), best)
        )
        variances.append((one - other).var() / EXAMPLES)
    half = 1.96 * np.sqrt(np.sum(variances)) / 2
    assert (far["high"] - far["low"]) / 2 == pytest.approx(half, rel=0.1, abs=0)
    base = pd.DataFrame({"test/error": [0.1, 0.2, 0.9], "tied": [True, True, False]})
    own = pd.DataFrame({"test/error": [0.5, 0.15, 0.3], "tied": [False, True, True]})
    assert range_over_tied(own, base) == pytest.approx((-0.05, 0.2), rel=1e-12, abs=0)


def test_a_trial_of_which_a_run_diverged_is_not_tied():
    runs = tuning_runs("adamw")
    there = (runs["lr"] == 1e-2) & (runs["seed"] == 0)
    runs.loc[there, ["holdout/error", "wrong"]] = np.nan
    assert 1e-2 not in set(tied(runs, "adamw", draws=200)["lr"])


def test_power_is_that_of_simulated_tests():
    differences = pd.Series([0.001, -0.004, 0.003, 0.002, -0.002])
    said = power(differences)
    deviation = differences.std(ddof=1)
    generator = np.random.default_rng(0)
    for shift, expected in ((0.01, said["power"]), (said["detectable"], 0.8)):
        samples = generator.normal(shift, deviation, size=(20_000, 5))
        found = (stats.ttest_1samp(samples, 0.0, axis=1).pvalue < 0.05).mean()
        assert found == pytest.approx(expected, abs=0.01)
    # Of the 32 sign patterns, those whose test rejects.
    about = (differences - differences.mean()).to_numpy()
    patterns = [np.array(signs) * about for signs in product((-1, 1), repeat=5)]
    rejected = sum(stats.ttest_1samp(pattern, 0.0).pvalue < 0.05 for pattern in patterns)
    assert said["false"] == rejected / sum(comb(5, number) for number in range(6))
    assert power(differences, shift=10.0)["power"] == pytest.approx(1.0, rel=1e-9, abs=0)
    assert said["planted_p"] == pytest.approx(stats.ttest_1samp(about + 0.01, 0.0).pvalue, rel=1e-9, abs=0)


def test_a_planted_measure_is_found_across_and_within_optimizers():
    runs = cells(0.01)
    end = runs["place"] == "end"
    runs["norm/l2"] = np.where(end, runs["test/error"], 0.0)
    runs["fit/memorized"] = np.where(end, -runs["test/error"], 0.0)
    found = associations({"mnist10k_30": runs}, resamples=200).set_index(["measure", "pairs_of"])
    assert found.loc["norm/l2"]["tau"].tolist() == [1.0, 1.0]
    assert found.loc["fit/memorized"]["tau"].tolist() == [-1.0, -1.0]
    # 10 pairs of one seed and two optimizers; 45 of one optimizer, twice.
    assert found.loc["norm/l2"]["pairs"].tolist() == [10, 90]
    assert abs(found.loc["random", "within optimizers"]["tau"]) < 0.3 < found.loc["planted", "within optimizers"]["tau"]
    middle = pd.concat([runs, runs[end].assign(place="epoch 15", **{"noise/scale": runs["test/error"] ** 2})])
    assert associations({"mnist10k_30": middle}, resamples=10).set_index("measure").loc["noise/scale"][
        "tau"
    ].tolist() == [1.0, 1.0]


def test_what_the_claims_are_about_is_that_of_the_runs():
    runs = cells(0.01)
    runs["norm/l2"] = np.where(runs["optimizer"] == "adamw", 6.0, 3.0)
    middle = runs[runs["place"] == "end"].assign(place="epoch 15", **{"train/loss": 0.5})
    middle["ireg/own_full_batch"] = 0.01
    middle["ireg/own"] = np.where(middle["optimizer"] == "adamw", 0.05, np.nan)
    without = (runs["optimizer"] == "adamw") & (runs["place"] == "loss 0.4") & (runs["seed"] == FINAL_SEEDS[0])
    both = pd.concat([runs[~without], middle])
    assert lowest_common_level(both) == "loss 1"
    assert lowest_common_level(runs[runs["place"] == "end"]) is None
    found = quantities({"mnist10k_30": both}).set_index(["optimizer", "quantity"])
    assert found.loc["adamw", "ln norm"]["mean"] == pytest.approx(np.log(2), rel=1e-12)
    assert found.loc["adamw", "ln epochs"][["at", "mean"]].tolist() == ["loss 1", 0.0]
    assert found.loc["adamw", "ireg/own over train/loss"]["mean"] == pytest.approx(0.1, rel=1e-12)
    assert found.loc["momentum", "ireg/own_full_batch over train/loss"]["mean"] == pytest.approx(0.02, rel=1e-12)
    written = claims_table(found.reset_index())
    assert "| AdamW | 2.00 (2.00 to 2.00) | 1.00 (1.00 to 1.00), to a loss 1 | 10 (10 to 10) |" in written
    assert "| SGD, momentum | – | – | 2 (2 to 2), full batch's part |" in written


def test_settings_pairs_are_apart():
    one, other = cells(0.0), cells(0.0, generator=1)
    end = one["place"] == "end"
    # Within each setting the measure is the error; between them it is not: one of them has less of both.
    one["norm/l2"] = np.where(end, one["test/error"], 0.0)
    other["norm/l2"] = np.where(end, other["test/error"] - 10.0, 0.0)
    found = associations({"mnist10k_30": one, "mnist10k_0": other}, resamples=50).set_index(["measure", "pairs_of"])
    assert found.loc["norm/l2"]["tau"].tolist() == [1.0, 1.0]
    assert found.loc["norm/l2"]["pairs"].tolist() == [20, 180]


def test_the_page_has_what_the_files_say(tmp_path, monkeypatch):
    monkeypatch.setattr(claims, "optimizers_of", lambda setting: [BASE, "adamw"])
    data = tmp_path / "data"
    data.mkdir()
    marks = "".join(
        f"<!-- {name} -->\n<!-- /{name} -->\n"
        for name in ("verdicts", "ends", "comparators", "chosen", "power", "measures", "seed")
    )
    (tmp_path / "results.md").write_text(marks)
    (tmp_path / "figures").mkdir()
    cells(0.01).to_csv(data / "final_mnist10k_30.csv", index=False)
    pd.concat([tuning_runs("momentum"), tuning_runs("adamw")]).to_csv(data / "tuning_mnist10k_30.csv", index=False)
    written = list(write_page(tmp_path, draws=200))
    assert [path.name for path in written] == [
        "comparisons_mnist10k.csv", "measures_mnist10k_30.csv", "seed_quantities.csv", "results.md",
        "verdicts.png", "at_the_end.png", "rates.png",
    ]  # fmt: skip
    page = (tmp_path / "results.md").read_text()
    end = next(one for one in family({"mnist10k_30": cells(0.01)}) if one.comparator == "end")
    assert f"{100 * end.difference.student.mean:.1f}" in page
    assert "| MNIST, MLP, 30 % | AdamW |" in page
    assert "worse" in page
    before = page
    list(write_page(tmp_path, draws=200))
    assert (tmp_path / "results.md").read_text() == before
    assert "norm/spectral_product" not in page
    (tmp_path / "results.md").write_text(f"{page}<!-- interventions -->\n<!-- /interventions -->\n")
    moved_measures = {"norm/l2": 2.0, "norm/spectral_product": 1.0, "margin/normalized_median": 0.5}
    runs = cells(0.01).assign(**moved_measures, **{"train/loss": 1.0, "fit/memorized": 0.1})
    runs.to_csv(data / "final_mnist10k_30.csv", index=False)
    moved = runs[(runs["optimizer"] == BASE) & (runs["place"] == "end")].assign(measure="norm/l2", dose=4.0)
    moved.to_csv(data / "interventions_mnist10k_30.csv", index=False)
    list(write_page(tmp_path, draws=200))
    assert "| `norm/l2` | 4 | 1.00 | 1.00 | 1.00 | 0.00 (0.00 to 0.00)" in (tmp_path / "results.md").read_text()
    assert settings_of("fashion10k", data) == []


def test_a_setting_is_shown_with_all_final_runs_of_all_its_optimizers(tmp_path, monkeypatch):
    monkeypatch.setattr(claims, "optimizers_of", lambda setting: [BASE, "adamw"])
    whole = cells(0.01)
    whole.to_csv(tmp_path / "final_mnist10k_30.csv", index=False)
    for missing in (whole["optimizer"] == "adamw", (whole["optimizer"] == "adamw") & (whole["seed"] == FINAL_SEEDS[0])):
        whole[~missing].to_csv(tmp_path / "final_mnist10k_0.csv", index=False)
        assert settings_of("mnist10k", tmp_path) == ["mnist10k_30"]
    whole.to_csv(tmp_path / "final_mnist10k_0.csv", index=False)
    assert settings_of("mnist10k", tmp_path) == ["mnist10k_0", "mnist10k_30"]


def test_measures_are_counted_by_the_sign_they_have_in_a_setting():
    rows = [
        {"measure": "norm/l2", "at": "end", "pairs_of": kind, "tau": tau, "low": tau - 0.1, "high": tau + 0.1}
        for kind, tau in zip(PAIRS, (0.5, 0.0), strict=True)
    ]
    one, other = pd.DataFrame(rows), pd.DataFrame(rows).assign(tau=[-0.5, 0.5], low=[-0.6, 0.4], high=[-0.4, 0.6])
    none = pd.DataFrame(rows).assign(tau=np.nan, low=np.nan, high=np.nan)
    of_settings = {"mnist10k_30": one, "mnist10k_0": other, "fashion10k_0": none}
    associated = {**of_settings, ALL: one}
    written = measures_table(associated)
    assert "| `norm/l2` | end | 0.50 (0.40 to 0.60) | 1, 1 of 2 | 0.00 (-0.10 to 0.10) | 1, 0 of 2 |" in written
    across, within = pictures.measures(associated).axes
    points = [line.get_xdata()[0] for line in across.lines if line.get_marker() != "None"]
    assert points[:2] == [0.5, -0.5]
    assert np.isnan(points[2])
    assert list(across.lines[0].get_xdata()) == [0.4, 0.6]
    assert [line.get_xdata()[0] for line in within.lines if line.get_marker() != "None"][:2] == [0.0, 0.5]


def test_the_picture_of_the_end_has_each_setting_and_fills_what_is_significant():
    settings = ["mnist10k_0", "mnist10k_30", "fashion10k_30"]
    members = [
        one for name, shift in zip(settings, (0.03, 0.0, -0.03), strict=True) for one in family({name: cells(shift)})
    ]
    axes = pictures.at_the_end(members).axes
    assert [[label.get_text() for label in axis.get_yticklabels()] for axis in axes] == [
        ["MNIST, MLP, 0 %", "MNIST, MLP, 30 %"],
        ["Fashion-MNIST, MLP, 30 %"],
    ]
    points = [
        (line.get_xdata()[0], int(np.rint(line.get_ydata()[0])), line.get_markerfacecolor() != "white")
        for axis in axes
        for line in axis.lines
        if line.get_marker() == "o"
    ]
    ends = [one for one in members if one.comparator == "end"]
    assert points == [
        (100 * one.difference.student.mean, row, one.significant) for one, row in zip(ends, (0, 1, 0), strict=True)
    ]
    assert {filled for *_, filled in points} == {True, False}


def test_the_command_refuses_what_is_not_there(tmp_path, capsys):
    assert main(["mnist10k_31"]) == 2
    assert "mnist10k_31: no such setting" in capsys.readouterr().err
    assert main(["--page", str(tmp_path)]) == 2
    assert f"{tmp_path}: its data holds no final runs" in capsys.readouterr().err
    assert main(["mnist10k_30", "--optimizer", "adam"]) == 2
    assert "--optimizer adam: choose one of momentum" in capsys.readouterr().err


def test_the_order_of_the_stages_and_of_the_settings_is_the_protocols():
    assert STAGES == (further_rates, decays, memories)
    assert list(SETTINGS)[:2] == ["mnist10k_30", "mnist10k_0"]
