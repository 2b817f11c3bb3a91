"""The study's claims: differences to SGD, adjusted and decided."""

import math

import numpy as np
import pandas as pd
import pytest

from study import claims
from study.checkpoints import barriers, drifts
from study.comparisons import COMPARISONS
from study.pages import cells_of
from study.results import comparisons
from tests.study.planted import PAIRS, basins_table, drift_table, finals, measured_cells, pivot


def test_a_planted_effect_is_found_and_none_where_there_is_none():
    found = claims.family(finals({"sgd": 0.0, "adam": 0.05, "rmsprop": 0.0, "momentum": -0.05}, noise=0.0005))
    verdicts = {}
    for claim in found:
        if claim.question == 1 and claim.difference.count:
            verdicts.setdefault(claim.optimizer, set()).add(claims.verdict(claim))
    assert verdicts == {"adam": {"worse"}, "rmsprop": {"no worse"}, "momentum": {"better"}}
    of_adam = [claim for claim in found if (claim.optimizer, claim.question) == ("adam", 1)]
    adam = [claim for claim in of_adam if claim.comparator != claims.TUNED_END]  # for which there are no runs
    assert len(adam) == len(of_adam) - 1 == 4 + 8 + 5  # as stated, by training loss, by memorized noise
    for claim in adam:
        assert claim.difference.student.mean == pytest.approx(0.05, abs=0.003)
        assert claim.difference.count == 5
        assert claim.adjusted >= claim.difference.p


def test_without_pairing_the_same_effect_is_undecided():
    """Seeds differ by far more than the effect: the pairs carry the claim."""
    cells = finals({"sgd": 0.0, "adam": 0.015}, noise=0.001)
    shifted = cells["seed"].where(cells["optimizer"] == "sgd", (cells["seed"] + 1) % 5)
    paired, not_paired = (
        next(claim for claim in claims.family(table) if (claim.optimizer, claim.comparator) == ("adam", "end"))
        for table in (cells, cells.assign(seed=shifted))
    )
    assert claims.verdict(paired) == "worse"
    assert claims.verdict(not_paired) == "undecided"


def test_comparisons_of_a_data_set_are_adjusted_together():
    """All that have values count once, barriers and drift too: the smallest p is multiplied by their number."""
    training = finals({"sgd": 0.0, "adam": 0.004}, noise=0.004).drop(columns=["norm/l2"])
    training["norm/l2"] = 20.0 + training["test/error"]
    training["at"] += training["test/error"]
    found = claims.family(training)
    decided = [claim for claim in found if claim.difference.count]
    assert {claim.optimizer for claim in decided} == {"adam"}
    assert len(decided) == 17 + 2
    both = pd.concat([training, measured_cells()], ignore_index=True)
    for cells, count in ((training, 19), (both, 19 + 4)):
        p_values = [
            p
            for claim in claims.family(cells)
            for p in (claim.difference.p, claim.difference.p_at_least(0.01) if claim.question == 1 else math.nan)
        ]
        adjusted = [p for claim in claims.family(cells) for p in (claim.adjusted, claim.margin_adjusted)]
        smallest = int(np.nanargmin(p_values))
        assert adjusted[smallest] == pytest.approx(min(1, count * p_values[smallest]))
        assert np.isnan(adjusted).tolist() == np.isnan(p_values).tolist()


def test_one_comparison_has_one_adjusted_p_in_file_and_tables():
    cells = pd.concat([finals({"sgd": 0.0, "adam": 0.05, "momentum": 0.003}), measured_cells()], ignore_index=True)
    found = {(claim.question, claim.optimizer, claim.comparator): claim for claim in claims.family(cells)}
    rows = comparisons(cells).set_index(["question", "optimizer", "comparator"])
    assert set(rows.index) == {key for key, claim in found.items() if claim.difference.count > 1}
    for key, row in rows.iterrows():
        assert row["adjusted_p"] == found[key].adjusted
        assert (row["pairs"], row["mean"]) == (found[key].difference.count, found[key].difference.student.mean)
        if key[0] == 1:
            assert (row["adjusted_margin_p"], row["verdict"]) == (
                found[key].margin_adjusted,
                claims.verdict(found[key]),
            )
        else:
            assert row["verdict"] == ("significant" if found[key].adjusted < 0.05 else "not significant")
            assert math.isnan(row["margin_p"])
    assert rows.loc[(1, "adam", "end"), ["lr", "sgd_lr"]].tolist() == [0.1, 0.1]
    assert rows.loc[[(4, "adam", "training loss"), (5, "adam", "drift")], ["lr", "sgd_lr"]].isna().all(axis=None)
    shown = pivot(COMPARISONS["claims"](cells))
    assert shown["loss 0.4", "adam"].endswith(", worse")
    undecided = {claims.verdict(found[1, "momentum", place]) == "undecided" for place in claims.COMPARATORS}
    assert undecided == {True, False}
    for place in (place for place in claims.COMPARATORS if place != claims.TUNED_END):
        said = claims.verdict(found[1, "momentum", place])
        assert shown[place, "momentum"].partition(", ")[2] == ("" if said == "undecided" else said)


def test_a_level_that_is_not_reached_is_not_counted():
    cells = finals({"sgd": 0.0, "adam": 0.05}, seeds=3)
    shallow = cells[~((cells["optimizer"] == "sgd") & cells["place"].isin(("loss 0.1", "loss 0.03")))]
    missing = {claim.comparator for claim in claims.family(shallow) if claim.optimizer == "adam" and claim.question == 1
               and not claim.difference.count}  # fmt: skip
    assert missing == {"loss 0.1", "loss 0.03", claims.TUNED_END}  # 80 % are learned between 0.4 and 0.2
    assert pivot(COMPARISONS["claims"](cells))["loss 0.1", "adam"].startswith("5.21 ± 0.48, ")
    assert not [place for place, _ in pivot(COMPARISONS["claims"](shallow)) if place in ("loss 0.1", "loss 0.03")]
    partly = cells[~((cells["optimizer"] == "sgd") & (cells["place"] == "loss 0.1") & (cells["seed"] == 0))]
    assert pivot(COMPARISONS["claims"](partly))["loss 0.1", "adam"].endswith(" (2 pairs)")
    assert "(3 pairs)" not in COMPARISONS["claims"](partly)
    both = pd.concat([shallow, finals({"momentum": 0.0}, seeds=3, reached=(1.5, 1.0))])
    assert pivot(COMPARISONS["claims"](both))["loss 0.2", "momentum"] == "–"


def test_further_rates_of_sgd_are_for_one_effective_rate_alone():
    """The first rate is compared with others; SGD at momentum's η/(1 − β) is compared with momentum."""
    cells = finals({"sgd": 0.0, "momentum": 0.05}, noise=0.0)
    same = cells[cells["optimizer"] == "sgd"].assign(lr=1.0)
    same["test/error"] += 0.02
    found = {
        (claim.question, claim.comparator): claim.difference
        for claim in claims.family(pd.concat([cells, same]))
        if claim.optimizer == "momentum"
    }
    assert found[1, "mean over losses"].student.mean == pytest.approx(0.05)
    assert found[4, "mean over losses"].student.mean == pytest.approx(0.03)
    alone = claims.family(cells)
    assert next(claim for claim in alone if claim.quantity.endswith("effective rate")).difference.count == 0


def test_barriers_and_drift_are_stated_comparisons():
    found = {
        (claim.question, claim.optimizer): claim
        for claim in claims.family(pd.concat([finals({"sgd": 0.0}), measured_cells()], ignore_index=True))
        if claim.question in (4, 5) and claim.difference.count
    }
    assert {key: claim.difference.count for key, claim in found.items()} == {
        (4, "momentum"): 3, (4, "adam"): 3, (5, "rmsprop"): 3, (5, "adam"): 3
    }  # fmt: skip
    assert found[4, "momentum"].difference.student.mean == pytest.approx(0.0005)
    assert found[4, "adam"].difference.student.mean == pytest.approx(0.445 * 1.01)
    assert found[5, "adam"].difference.student.mean == pytest.approx(0.8 * 1.01)
    assert found[5, "adam"].adjusted < 0.05


def test_cells_of_measurements_have_their_quantities_alone():
    cells, quantities = barriers(basins_table()), ("train/loss", "train/error", "test/error", "distance")
    assert set(cells) == {"run", "optimizer", "other", "place", *(f"barrier/{quantity}" for quantity in quantities)}
    assert len(cells) == 3 * len(PAIRS)
    effects = {f"drift/kept/{place}/{name}" for place in ("mean", "ends") for name in ("time/loss", "equal C/squares")}
    fits = {f"drift/leading flow/{name}" for name in ("k", "k_lag", "k_fluctuation", "residual", "alignment")}
    cells = drifts(drift_table())
    assert set(cells) == {"run", "optimizer", "lr", "place", *effects, *fits}
    assert len(cells) == 6


def test_a_mean_takes_the_levels_that_both_reach():
    cells = finals({"sgd": 0.0, "adam": 0.0}, seeds=2, noise=0.0)
    deep = cells["place"].isin(("loss 0.2", "loss 0.1"))
    cells.loc[deep & (cells["optimizer"] == "adam"), "test/error"] += 1.0  # where SGD does not come
    cells = cells[~(deep & (cells["optimizer"] == "sgd"))]
    assert claims.differences(cells, "adam", "test/error", claims.MEANT) == pytest.approx([0.0, 0.0], abs=1e-12)
    assert claims.differences(cells, "adamw", "test/error", claims.MEANT) == []
    missing = claims.family(cells[cells["place"] != "end"])
    end = next(claim for claim in missing if claim.comparator == "end")
    assert math.isnan(end.difference.student.mean)
    assert pivot(COMPARISONS["claims"](cells[cells["place"] != "end"]))["end", "adam"] == "–"
    assert not (comparisons(cells[cells["place"] != "end"])["comparator"] == "end").any()


def test_ratios_are_of_logarithms():
    cells = finals({"sgd": 0.0, "adam": 0.0}, seeds=3)
    cells.loc[cells["optimizer"] == "adam", "at"] /= 4 * 1.0001 ** (cells["seed"] - 1)
    (speed,) = (claim for claim in claims.family(cells) if claim.question == 2 and claim.difference.count)
    assert math.exp(speed.difference.student.mean) == pytest.approx(0.25)
    key = ("epochs to a training loss of 1", "adam")
    found = [pivot(COMPARISONS["ratios"](cells[cells["seed"] < seeds]))[key] for seeds in (3, 2, 1)]
    assert found == ["0.25 (0.25 to 0.25)", "0.25 (0.25 to 0.25)", "–"]
    same = pivot(COMPARISONS["ratios"](finals({"sgd": 0.0, "adam": 0.0})))
    assert same[key] == "1 (1 to 1), not significant"


@pytest.mark.parametrize("count", [1, 2])
def test_two_pairs_are_compared_and_one_is_not(count):
    measured = pd.concat([barriers(basins_table(count)), drifts(drift_table(count))], ignore_index=True)
    cells = pd.concat([finals({"sgd": 0.0, "adam": 0.05}, seeds=count), measured], ignore_index=True)
    assert (pivot(COMPARISONS["claims"](cells))["end", "adam"] == "–") == (count == 1)
    rows = comparisons(cells)
    if count == 1:
        assert rows.empty
    else:
        assert set(rows["pairs"]) == {2}
        assert {1, 2, 3, 4, 5} == set(rows["question"])


@pytest.mark.parametrize("lr", [0.1, 0.01])
def test_the_end_that_rates_are_tuned_for_is_a_comparison_of_its_own(tmp_path, lr):
    """At the chosen rates or at others; nothing else changes."""
    final = finals({"sgd": 0.0, "adam": 0.05}, noise=0.0005)
    shorter = finals({"sgd": 0.1, "adam": 0.07}, noise=0.0005).assign(lr=lr)
    final.to_csv(tmp_path / "study_final_x.csv", index=False)
    before = {key_of(claim): claim for claim in claims.family(cells_of(tmp_path, "x"))}
    shorter.to_csv(tmp_path / "study_end_x.csv", index=False)
    cells = cells_of(tmp_path, "x")
    after = {key_of(claim): claim for claim in claims.family(cells)}
    (key,) = (key for key in after if after[key].difference != before[key].difference and key[1] == "adam")
    assert key == (1, "adam", claims.TUNED_END)
    assert before[key].difference.count == 0
    assert after[key].difference.student.mean == pytest.approx(-0.03, abs=0.001)
    assert claims.verdict(after[key]) == "better"
    rows = comparisons(cells)
    (row,) = rows[(rows["comparator"] == claims.TUNED_END)].to_dict("records")
    assert (row["lr"], row["sgd_lr"], row["pairs"]) == (lr, lr, 5)


def key_of(claim):
    return claim.question, claim.optimizer, claim.comparator
