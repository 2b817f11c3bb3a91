"""The second study's committed comparisons, computed again from the committed runs by other code."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from tests.conftest import ROOT

DATA = ROOT / "docs" / "annealed" / "data"
FAMILIES = sorted(path.stem.removeprefix("comparisons_") for path in DATA.glob("comparisons_*.csv"))
WHERE = {"end": "end", "average, end": "end", "best by hold-out": "holdout"}


def per_seed(cells, optimizer, comparator):
    """Test errors by seed."""
    runs = cells[cells["optimizer"] == optimizer]
    if comparator.startswith("memorized"):
        share = float(comparator.split()[1]) / 100
        return {seed: value for seed, rows in runs.groupby("seed") if (value := at_share(rows, share)) is not None}
    tag = "test/error_ema" if comparator.startswith("average") else "test/error"
    rows = runs[runs["place"] == WHERE.get(comparator, comparator)]
    return dict(zip(rows["seed"], rows[tag], strict=True))


def at_share(rows, share):
    """Between the first loss at which so much is memorized and the one before, in the order of training."""
    levels = ["loss 1.5", "loss 1.2", "loss 1", "loss 0.7", "loss 0.4", "loss 0.2", "loss 0.1", "loss 0.03"]
    passed = rows[rows["place"].isin(levels) & rows["fit/memorized"].notna()].sort_values("at")
    above = np.flatnonzero(passed["fit/memorized"].to_numpy() >= share)
    if not len(above) or above[0] == 0:
        return None
    pair = passed.iloc[above[0] - 1 : above[0] + 1]
    return float(np.interp(share, pair["fit/memorized"], pair["test/error"]))


def draws(cells, optimizer, comparator):
    one, base = (per_seed(cells, name, comparator) for name in (optimizer, "momentum"))
    by_draw = {}
    for seed in sorted(one.keys() & base.keys()):
        by_draw.setdefault(seed // 2, []).append(one[seed] - base[seed])
    return [float(np.mean(values)) for values in by_draw.values()]


def of_settings(committed):
    cells = {name: pd.read_csv(DATA / f"final_{name}.csv") for name in committed["setting"].unique()}
    return [draws(cells[row.setting], row.optimizer, row.comparator) for row in committed.itertuples()]


def of_sizes(committed):
    others, own = pd.read_csv(DATA / "batches_mnist10k_30.csv"), pd.read_csv(DATA / "final_mnist10k_30.csv")
    own = own[(own["place"] == "end") & (own["seed"] % 2 == 0)]

    def errors(optimizer, size):
        runs = own if size == 64 else others[(others["stage"] == "final") & (others["batch_size"] == size)]
        return runs[runs["optimizer"] == optimizer].sort_values("seed")["test/error"].to_numpy()

    return [list(errors(row.optimizer, row.size) - errors("momentum", row.size)) for row in committed.itertuples()]


def of_language(committed):
    runs = pd.read_csv(DATA / "language_runs.csv")
    runs = runs[runs["stage"] == "final"]

    def value(rows, row):
        rows = rows.sort_values("step")
        if row.comparator == "end":
            return rows["test/loss"].iloc[-1]
        level = float(row.comparator.split()[-1])
        held_out = rows["holdout/loss"].to_numpy()
        after = int(np.argmax(held_out <= level))
        share = np.log(held_out[after - 1] / level) / np.log(held_out[after - 1] / held_out[after])
        step, log_loss = (
            (1 - share) * column[after - 1] + share * column[after]
            for column in (rows["step"].to_numpy(float), np.log(rows["test/loss"].to_numpy()))
        )
        return np.log(step) if row.quantity == "ln steps" else np.exp(log_loss)

    def values(optimizer, row):
        own = runs[runs["optimizer"] == optimizer]
        return np.array([value(rows, row) for _, rows in own.groupby("seed")])

    return [list(values(row.optimizer, row) - values("adamw", row)) for row in committed.itertuples()]


SOURCES = {
    **{f"comparisons_{name}": of_settings for name in FAMILIES},
    "batch_comparisons": of_sizes,
    "language_comparisons": of_language,
}


@pytest.fixture(scope="module", params=SOURCES)
def family(request):
    committed = pd.read_csv(DATA / f"{request.param}.csv")
    return committed, SOURCES[request.param](committed)


def test_every_difference_is_that_of_five_draws(family):
    committed, differences = family
    for row, values in zip(committed.itertuples(), differences, strict=True):
        assert len(values) == row.pairs == 5
        found = stats.ttest_1samp(values, 0.0)
        low, high = found.confidence_interval()
        assert (row.mean, row.low, row.high) == pytest.approx((np.mean(values), low, high), rel=2e-3, abs=2e-6)
        assert row.p == pytest.approx(found.pvalue, rel=2e-3, abs=0)
        assert row.margin_p == pytest.approx(
            stats.ttest_1samp(values, 0.01, alternative="less").pvalue, rel=2e-3, abs=0
        )


def test_p_values_are_adjusted_together_and_decide(family):
    committed, _ = family
    quantities = committed["quantity"] if "quantity" in committed else np.zeros(len(committed))
    for quantity, rows in committed.groupby(quantities):
        adjusted = by_holm(rows, ("p",) if quantity == "ln steps" else ("p", "margin_p"))
        for number, row in enumerate(rows.itertuples()):
            difference, margin = adjusted[number, "p"], adjusted.get((number, "margin_p"), np.nan)
            expected = (difference, margin)
            assert (row.adjusted_p, row.adjusted_margin_p) == pytest.approx(expected, rel=5e-3, abs=0, nan_ok=True)
            if difference < 0.05:
                verdict = "worse" if row.mean > 0 else "better"
            else:
                verdict = "no worse" if margin < 0.05 else "undecided"
            assert row.verdict == verdict


def by_holm(rows, columns):
    """Adjusted p-values: a comparison's hypotheses count once."""
    hypotheses = sorted((p, number, column) for column in columns for number, p in enumerate(rows[column]))
    left, largest, adjusted = len(rows), 0.0, {}
    open_ones = [len(columns)] * len(rows)  # hypotheses of each comparison that are not yet behind us
    for p, number, column in hypotheses:
        largest = max(largest, min(1.0, p * left))
        adjusted[number, column] = largest
        open_ones[number] -= 1
        left -= open_ones[number] == 0
    return adjusted


def test_the_page_has_the_committed_verdicts():
    page = (ROOT / "docs" / "annealed" / "results.md").read_text(encoding="utf-8")
    for name in FAMILIES:
        committed = pd.read_csv(DATA / f"comparisons_{name}.csv")
        for row in committed[committed["comparator"] == "end"].itertuples():
            assert f"{100 * row.mean:.2f}".rstrip("0") in page or f"{100 * row.mean:.1f}" in page
            assert row.verdict in page


def test_what_interventions_change_is_that_of_five_pairs():
    committed = pd.read_csv(DATA / "intervention_effects.csv")
    final, moved = pd.read_csv(DATA / "final_mnist10k_30.csv"), pd.read_csv(DATA / "interventions_mnist10k_30.csv")
    without = final[(final["optimizer"] == "momentum") & (final["place"] == "end")].set_index("seed")
    assert len(committed) == len(moved) / 5 == 6
    for row in committed.itertuples():
        runs = moved[(moved["measure"] == row.measure) & (moved["dose"] == row.dose)].set_index("seed")
        base = without.loc[runs.index]
        found = stats.ttest_rel(runs["test/error"], base["test/error"])
        interval = found.confidence_interval()
        changes = (runs["test/error"] - base["test/error"]).mean(), interval.low, interval.high
        assert (row.mean, row.low, row.high) == pytest.approx(changes, rel=2e-3, abs=2e-6)
        assert row.p == pytest.approx(found.pvalue, rel=2e-3, abs=0)
    for tag in ("norm/l2", "margin/normalized_median"):
        ratios = (moved[tag].to_numpy() / without.loc[moved["seed"], tag].to_numpy()).reshape(6, 5).mean(1)
        assert sorted(committed[tag]) == pytest.approx(sorted(ratios), rel=1e-3)
