"""The study: cells recorded, rates chosen, claims decided, pages written."""

import math
import re

import numpy as np
import pandas as pd
import pytest

from ireg.system.errors import UserError
from study import claims, rates
from study.__main__ import main
from study.answers import answers
from study.cells import LOSSES, measured, merged
from study.checkpoints import barriers, drifts
from study.comparisons import COMPARISONS
from study.figures import FIGURES
from study.measures import associated, measures
from study.pages import ASSOCIATED, cells_of
from study.results import comparisons
from study.settings import common, settings
from study.tables import GIVEN, TABLES

TAGS = ("train/loss", "holdout/error", "holdout/loss", "fit/memorized", "fit/clean_error", "norm/l2", "norm/distance",
        "margin/normalized_clean_median", "ireg/sgd", "ireg/own", "curvature/edge_fraction",
        "path/settled_diffusive", "path/settled_radial")  # fmt: skip


def after(place):
    """Epochs since a loss of 1.5."""
    return 3 * (1.5 - float(place.removeprefix("loss "))) if place.startswith("loss ") else 0.0


def memorized(place):
    """From 1 % at a loss of 1.5 to 96 % at one of 0.03."""
    return 0.01 + 0.95 * (1.5 - float(place.removeprefix("loss "))) / 1.47 if place.startswith("loss ") else 0.5


def finals(effects, seeds=5, noise=0.002, reached=LOSSES):
    """Final runs whose test errors differ from SGD's by known numbers, and whose seeds share most of their noise."""
    generator = np.random.default_rng(0)
    shared = 0.02 * generator.standard_normal(seeds)
    rows = []
    for optimizer, effect in effects.items():
        for seed in range(seeds):
            for place in ("epoch 50", "end", "holdout", *(f"loss {loss:g}" for loss in reached)):
                error = 0.2 + effect + shared[seed] + noise * generator.standard_normal()
                rows.append(
                    {"run": f"{optimizer}_{seed}", "state": "done", "optimizer": optimizer, "lr": 0.1, "batch_size": 64,
                     "optimizer.momentum": 0.9, "seed": seed, "place": place,
                     "at": 10.0 + seed + after(place), "seconds": 3.0, "test/error": error,
                     **dict.fromkeys(TAGS, 1.0), "fit/memorized": memorized(place)}
                )  # fmt: skip
    return pd.DataFrame(rows)


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


def pivot(table):
    """The numbers of a table by its first column and its heads."""
    head, _, *lines = (line.strip("| ").split(" | ") for line in table.splitlines() if line.startswith("|"))
    return {(line[0], name): text for line in lines for name, text in zip(head[1:], line[1:], strict=True)}


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


PAIRS = (("sgd", "sgd", 0.01), ("sgd", "momentum", 0.02), ("momentum", "momentum", 0.03), ("sgd", "adam", 0.5),
         ("adam", "adam", 0.1))  # fmt: skip


def basins_table(runs=3):
    """As `ireg basins` writes it: forks with one order are no floor, matched ones are not asked for."""
    rows = [
        {"run": f"sgd_seed={run}", "first": one, "second": other, "first_order": 0, "second_order": order,
         "matched": matched, "quantity": quantity, "value": value * (1 + run / 100) + 7 * (order == 0) + 5 * matched
         + (run / 1000 - 0.0005) * (other == "momentum" and one != other)}
        for run in range(runs) for one, other, value in PAIRS for order in (0, 1) for matched in (False, True)
        for quantity in ("train/loss", "train/error", "test/error", "distance")
    ]  # fmt: skip
    return pd.DataFrame(rows)


def drift_table(runs=3):
    """As `ireg drift` writes it."""
    effects = [("small steps, memory kept", place, what, quantity, number)
               for place in ("mean", "ends", "position")
               for what, quantity, number in (("time", "loss", 0.1), ("equal C", "squares", -0.4), ("plain", "loss", 9))
               ]  # fmt: skip
    fits = [("leading flow", "path", "measured", name, number)
            for name, number in (("k", 0.8), ("k_lag", 0.6), ("k_fluctuation", 0.9), ("residual", 0.1),
                                 ("alignment", -0.2))]  # fmt: skip
    other = [("mean flow", "start", "predicted", "strength", 24.0)]
    rows = [
        {"run": f"{optimizer}_seed={run}", "optimizer": optimizer, "lr": 0.1, "part": part, "place": place,
         "what": what, "quantity": quantity, "value": value * (1 + run / 100), "error": 0.01}
        for optimizer in ("adam", "rmsprop") for run in range(runs)
        for part, place, what, quantity, value in (*effects, *fits, *other)
    ]  # fmt: skip
    return pd.DataFrame(rows)


def measured_cells():
    return pd.concat([barriers(basins_table()), drifts(drift_table())], ignore_index=True)


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


def answered(effects, noise=0.0005, **changes):
    """The five answers for known effects, by their question's number."""
    cells = pd.concat([finals(effects, noise=noise).assign(**changes), measured_cells()], ignore_index=True)
    lines = answers({"here": cells}).splitlines()
    assert lines[0] == "| question | here, 5 seeds |"
    assert lines[-1] == f"Points are of test error less SGD's. {GIVEN}"
    return [line.split(" | ")[1] for line in lines[2:-2]]


def test_five_answers_by_the_protocol():
    worse, speed, norm, basins, drift = answered({"sgd": 0.0, "adam": 0.05, "rmsprop": 0.05, "momentum": 0.0})
    assert re.fullmatch(
        r"\*\*Yes\*\*: stopped by held-out examples \(Adam \+5\.\d ± 0\.\d points\), at every training loss, "
        r"at every share of memorized noise, at the end \(Adam \+5\.\d ± 0\.\d points\), at equal epochs\. \|",
        worse,
    )
    assert speed == "**Not shown.** None is faster than SGD. |"
    assert norm == (
        "**RMSProp undecided, Adam undecided.** 1.00 (1.00 to 1.00), 1.00 (1.00 to 1.00) times SGD's, "
        "mean over losses. |"
    )
    assert basins.startswith(
        "**Another basin for Adam.** Barrier above the noise floor: to momentum 0.0005 ± 0.0025, to"
    )
    assert drift.startswith(
        "**An effect.** Drift over the predicted, at 1e-7: RMSProp 0.808 ± 0.02, Adam 0.808 ± 0.02."
    )
    one = answered({"sgd": 0.0, "adam": 0.05, "rmsprop": 0.0})[0]
    assert one.startswith("**Undecided**: stopped by")
    assert one.count("**") == 2
    assert answered({"sgd": 0.0, "adam": -0.05, "rmsprop": 0.0})[0].startswith(
        "**No**: stopped by held-out examples (Adam -"
    )
    # One that is significantly worse by less than a point is a "no", too, as the protocol has it.
    assert "**No**: stopped by" in answered({"sgd": 0.0, "adam": 0.005, "rmsprop": 0.0}, noise=0.0002)[0]
    # "No" needs significance as "yes" does: intervals below one point are not enough.
    close = answered({"sgd": 0.0, "adam": 0.005, "rmsprop": 0.005}, noise=0.002)[0]
    assert close.startswith("**Undecided**: stopped by held-out examples (")
    assert "at the end (Adam " in close.partition("; ")[0]
    # Without one of the two nothing is decided.
    assert answered({"sgd": 0.0, "adam": 0.05})[0] == "Not measured. |"


@pytest.mark.parametrize(
    ("worse_at", "said"),
    [
        (("loss 0.1", "loss 0.03"), "**yes**: at a loss of 0.1 to 0.03"),
        (("loss 1", "loss 0.4", "loss 0.2"), "**yes**: at a loss of 1, 0.4 to 0.2"),
        (("loss 0.03",), "**yes**: at a loss of 0.03"),
        (("end",), "**yes**: at the end (Adam +5."),
        (("epoch 50",), "**yes**: at equal epochs"),
    ],
)
def test_levels_with_one_answer_are_gathered(worse_at, said):
    cells = finals({"sgd": 0.0, "adam": -0.05, "rmsprop": -0.05}, noise=0.0005)
    cells["fit/memorized"] = 0.0  # so that no share is reached
    cells.loc[cells["place"].isin(worse_at) & (cells["optimizer"] != "sgd"), "test/error"] += 0.1
    answer = answers({"here": cells}).splitlines()[2].split(" | ")[1]
    assert answer.startswith("**No**: stopped by held-out examples")
    assert answer.partition("; ")[2].startswith(said)
    assert "memorized" not in answer


def test_what_differs_is_named():
    """Norms that are larger and smaller, and a coefficient that is shown of one optimizer alone."""
    cells = finals({"sgd": 0.0, "adam": 0.0, "rmsprop": 0.0}, noise=0.001)
    cells.loc[cells["optimizer"] == "adam", "norm/l2"] = 2.0 * 1.001 ** cells["seed"]
    cells.loc[cells["optimizer"] == "rmsprop", "norm/l2"] = 0.5 * 1.001 ** cells["seed"]
    table = drift_table()
    weak = (table["optimizer"] == "adam") & (table["quantity"] == "k")
    table.loc[weak, "value"] = table["run"].map({"adam_seed=0": 1.0, "adam_seed=1": -1.0, "adam_seed=2": 0.1})
    lines = answers({"here": pd.concat([cells, barriers(basins_table()), drifts(table)])}).splitlines()
    assert "**RMSProp smaller, Adam larger.** 0.50 (0.50 to 0.50), 2.00 (2.00 to 2.01) times SGD's" in lines[4]
    assert "**RMSProp: an effect, Adam: none shown.** Drift" in lines[6]
    none = cells.drop(columns="norm/l2").assign(**{"norm/l2": math.nan})
    assert answers({"here": none}).splitlines()[4].endswith("| Not measured. |")


def test_a_barrier_counts_by_the_same_rule():
    """An interval that excludes 0 is not enough: the adjusted p decides."""
    cells = finals({"sgd": 0.0, "adam": 0.0})
    pairs = basins_table(5)
    wide = (pairs["second"] == "adam") & (pairs["first"] == "sgd")
    pairs["value"] += wide * pairs["run"].map(lambda run: {"3": 0.3, "4": -0.3}.get(run[-1], 0.0))
    both = pd.concat([cells, barriers(pairs)], ignore_index=True)
    (adam,) = (claim for claim in claims.family(both) if (claim.question, claim.optimizer) == (4, "adam"))
    assert adam.difference.student.low > 0
    assert adam.adjusted > 0.05
    assert "| **Not shown.** Barrier above the noise floor: to momentum" in answers({"here": both}).splitlines()[5]


def test_settings_stand_side_by_side():
    cells = finals({"sgd": 0.0, "adam": 0.05})
    cells.loc[cells["optimizer"] == "adam", "at"] /= 4 * 1.001 ** cells["seed"]
    cells.loc[(cells["optimizer"] == "adam") & (cells["place"] == "end"), "test/error"] -= 0.07
    both = finals({"sgd": 0.0, "adam": 0.0, "rmsprop": 0.03}, seeds=3)
    head, _, *lines = settings({"here": cells, "there": both}).splitlines()[:-2]
    assert [line.split(" | ")[:2] for line in lines] == [
        ["| here (5)", "Adam"],
        ["| there (3)", "RMSProp"],
        ["| there (3)", "Adam"],
    ]
    found = dict(zip(head.split(" | "), lines[0].split(" | "), strict=True))
    assert (found["η, SGD's"], found["| setting (pairs)"]) == ("0.1, 0.1", "| here (5)")
    assert found["loss 0.03"].startswith("+5.")
    assert found["memorized 80 %"].endswith(", worse")
    assert found["end |"].startswith("-2.")
    assert lines[1].split(" | ")[0] == "| there (3)"


def test_settings_are_compared_at_levels_that_all_reach():
    """SGD stops early in one of them: what lies below is in neither's line."""
    here = finals({"sgd": 0.0, "adam": 0.05}, seeds=3)
    there = finals({"sgd": 0.0, "adam": 0.0}, seeds=3)
    there = there[~((there["optimizer"] == "sgd") & there["place"].isin(["loss 0.2", "loss 0.1", "loss 0.03"]))]
    partly = there[~((there["place"] == "loss 0.4") & (there["seed"] == 0) & (there["optimizer"] == "adam"))]
    tables = {"here": here, "there": there, "partly": partly}
    families = {name: claims.family(cells) for name, cells in tables.items()}
    losses = [f"loss {loss:g}" for loss in LOSSES]
    for names, level in ((("here",), "loss 0.03"), (("here", "there"), "loss 0.4"), (tables, "loss 0.7")):
        reached = common({name: families[name] for name in names})
        assert [place for place in reached if place in losses] == losses[: losses.index(level) + 1]
    head = settings({"there": there}).splitlines()[0].split(" | ")
    assert [name for name in head if name.startswith(("loss ", "memorized "))] == ["loss 0.4", "memorized 60 %"]
    none = there[~there["place"].str.startswith("loss ")]
    assert "| best by hold-out | end |" in settings({"there": none})


def test_a_faster_and_worse_optimizer_answers_yes():
    cells = finals({"sgd": 0.0, "adam": 0.05})
    cells.loc[cells["optimizer"] == "adam", "at"] /= 4 * 1.001 ** cells["seed"]
    line = answers({"here": cells}).splitlines()[3]
    assert "**Yes.** Adam takes 0.25 (0.25 to 0.25) of SGD's epochs to a loss of 1, with +5." in line
    assert line.endswith(" points (worse). |")
    # One that is faster still, and no worse, changes nothing.
    faster = finals({"momentum": 0.0})
    faster["at"] /= 8 * 1.001 ** faster["seed"]
    assert "**Yes.** Adam takes 0.25" in answers({"here": pd.concat([cells, faster])}).splitlines()[3]
    cells.loc[cells["optimizer"] == "adam", "test/error"] -= 0.05
    assert "**Not shown.** Adam takes 0.25" in answers({"here": cells}).splitlines()[3]
    lines = answers({"here": cells}).splitlines()
    assert [line.split(" | ")[1] for line in lines[5:7]] == ["Not measured. |", "Not measured. |"]


def test_cells_of_barriers_and_drift():
    cells = measured_cells()
    assert not [tag for tag in cells if "position" in tag or "plain" in tag or "strength" in tag]
    assert claims.above_floor(cells, "adam", "sgd", claims.BARRIER) == claims.above_floor(
        cells, "sgd", "adam", claims.BARRIER
    )
    assert claims.above_floor(cells, "sgd", "rmsprop", claims.BARRIER) == []
    table = TABLES["barriers"](cells)
    assert "| sgd, another order | 0.0101 ± " in table
    assert "| sgd and momentum | 0.0207 ± " in table
    assert table.endswith("\n3 checkpoints each, fewer where that is said.\n")
    fewer = barriers(basins_table())
    fewer = fewer[~((fewer["other"] == "momentum") & (fewer["optimizer"] == "sgd") & (fewer["run"] == "sgd_seed=0"))]
    assert "| sgd and momentum (2 checkpoints) | " in TABLES["barriers"](fewer)
    assert "| adam | 0.1 | 3 | 0.808 ± " in TABLES["drift"](cells)


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


def tuning():
    held_out = {0.01: (0.4, 0.42), 0.1: (0.35, 0.37), 1.0: (0.36, 0.36), 10.0: (0.1, 0.1)}
    rows = [
        {"run": f"{lr}_{seed}", "state": "diverged" if lr == 10 and seed else "done", "optimizer": "sgd", "lr": lr,
         "seed": seed, "place": place, "at": 5.0, "holdout/error": value, "holdout/loss": 1 / lr,
         "test/error": 0.1 * (place != "test") + lr / 100}
        for lr, values in held_out.items() for seed, value in enumerate(values) for place in rates.CHOICES
    ]  # fmt: skip
    return pd.DataFrame(rows)


def test_the_rate_is_chosen_by_held_out_examples():
    (row,) = rates.chosen(tuning()).to_dict("records")
    # 0.1 and 1 have the same mean, of which the smaller is chosen; 10 has the lowest, and a run of it diverged.
    assert (row["lr"], row["holdout/error"], row["test/error"]) == (0.1, pytest.approx(0.36), pytest.approx(0.101))
    assert row["inside"]
    assert (row["lr by test"], row["lr by holdout loss"]) == (0.01, 1.0)
    assert row["test/error by test"] == pytest.approx(1e-4)
    assert "| sgd | 0.1 | 36.00 | 10.10 | 1: 11.00 | 0.1: 10.10 | 0.01: 0.01 |" in TABLES["rates"](tuning())


def test_a_best_rate_at_the_edge_is_marked():
    cells = tuning()
    cells = cells[cells["lr"] >= 0.1]
    assert not rates.chosen(cells)["inside"].item()
    assert "| 0.1, **at the edge of 3 rates** |" in TABLES["rates"](cells)
    with pytest.raises(ValueError, match="choice='luck': choose one of holdout, holdout loss, end, test"):
        rates.ranked(cells, "luck")


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


def test_cells_of_a_run_are_replaced_together():
    before = pd.DataFrame({"run": ["a", "a", "b"], "place": ["end", "loss 1", "end"], "x": [1, 2, 3]})
    after = pd.DataFrame({"run": ["a", "c"], "place": ["end", "end"], "x": [4, 5]})
    assert merged(before, after).to_numpy().tolist() == [["a", "end", 4], ["b", "end", 3], ["c", "end", 5]]


@pytest.mark.parametrize(
    "name",
    [
        name
        for name in (*TABLES, *COMPARISONS, *ASSOCIATED)
        if name not in ("ties", "over_ties", "reruns", "at_the_end")
    ],
)
def test_every_table_can_be_made(name):
    cells = tuning() if name == "rates" else finals({"sgd": 0.0, "adam": 0.05}, seeds=3, reached=(1.0, 0.7, 0.4))
    cells = pd.concat([cells, measured_cells()]) if name in ("barriers", "drift") else cells
    table, _, note = {**TABLES, **COMPARISONS, **ASSOCIATED}[name](cells).partition("\n\n")
    lines = table.splitlines()
    assert len({line.count("|") for line in lines}) == 1
    assert len(lines) > 2
    # What all intervals of a page are conditional on stands below its comparisons.
    assert note.rstrip().endswith(GIVEN) == (name == "claims")


def test_each_rate_is_shown_at_one_training_loss():
    cells = pd.concat([finals({"sgd": lr / 10}, noise=0.0).assign(lr=lr) for lr in (0.1, 0.2)])
    assert re.search(
        r"^\| sgd \| 0\.1: 2\d\.\d\d ± \d\.\d\d; 0\.2: 2\d\.\d\d ± \d\.\d\d \| 14\.4, 14\.4 \| 1, 1 \|\n\n5 s",
        TABLES["by_rate"](cells),
        re.MULTILINE,
    )
    fewer = cells[~((cells["lr"] == 0.2) & (cells["seed"] == 0))]
    assert re.search(r"; 0\.2: \d+\.\d+ ± \d+\.\d+ \(4 seeds\) \|", TABLES["by_rate"](fewer))


def test_sizes_of_minibatches_stand_at_one_rate_and_at_one_ratio():
    cells = pd.concat(
        [
            finals({"sgd": lr}, seeds=2, noise=0.0).assign(batch_size=size, lr=lr)
            for size, lr in ((16, 0.2), (64, 0.2), (256, 0.2), (16, 0.025), (64, 0.1), (256, 0.4), (1024, 1.6))
        ]
    )
    fronts = [line.split(" | ")[:2] for line in TABLES["sizes"](cells).splitlines()]
    assert fronts[:5] == [["| B", "η"], ["| ---", "---"], ["| 16", "0.2"], ["| 64", "0.2"], ["| 256", "0.2"]]
    assert fronts[5:] == [["| 16", "0.025"], ["| 64", "0.1"], ["| 256", "0.4"], ["| 1024", "1.6"]]


def test_a_page_may_ask_for_several_files_together(study, tmp_path):
    assert main(study("<!-- fit of sweep+sweep -->\n<!-- /fit of sweep+sweep -->\n")) == 0
    assert "| sgd | " in (tmp_path / "pages" / "page.md").read_text()


def test_measures_and_their_controls():
    """A measure that follows the error within every optimizer is found; the random one is not."""
    generator = np.random.default_rng(3)
    rows = [
        {"run": f"{optimizer}_{lr}_{seed}", "state": "done", "optimizer": optimizer, "lr": lr, "seed": seed, "at": 1.0,
         "place": "loss 1", "test/error": error, "good/measure": 2 * error, "poor/measure": generator.standard_normal()}
        for optimizer in ("sgd", "adam") for lr in range(6) for seed in range(3)
        for error in [0.1 * generator.standard_normal() + 0.2]
    ]  # fmt: skip
    found = associated(pd.DataFrame(rows))
    assert set(found["measure"]) == {"at", "good/measure", "poor/measure", "planted", "random"}
    assert set(found["loss"]) == {1.0}
    good = found[found["measure"] == "good/measure"].set_index("pairs_of")
    groups = {"optimizer sgd", "optimizer adam", "other optimizer", "other lr", "other seed"}
    assert set(good.index) == {"all", *groups, "granulated"}
    assert good[["tau", "settings"]].to_numpy().tolist() == [[1.0, 12]] * 7
    assert good.loc["all", ["low", "high"]].tolist() == [1.0, 1.0]
    assert good.drop(index="all")[["low", "high"]].isna().all(axis=None)
    assert abs(found.set_index(["measure", "pairs_of"]).loc[("poor/measure", "all"), "tau"]) < 0.4
    shown = measures(pd.DataFrame(rows).rename(columns={"good/measure": "norm/l2"})).splitlines()
    assert shown[2] == "| `norm/l2` | 1.00 (1.00 to 1.00) | – | – |"
    assert [line.split(" | ")[0] for line in shown[3:]] == ["| planted", "| random"]


PANELS = {"speed": 1, "barriers": 1, "batches": 2, "measures": 2}


@pytest.mark.parametrize("name", FIGURES)
def test_every_figure_can_be_drawn(name):
    cells = finals({"sgd": 0.0, "adam": 0.05}, seeds=3, reached=(1.0, 0.4))
    figure = FIGURES[name](measured_cells() if name in ("barriers", "drift") else cells)
    assert len(figure.axes) == PANELS.get(name, 3)
    if name in ("barriers", "drift"):
        labels = [label.get_text() for label in figure.axes[0].get_yticklabels()]
        assert labels == (["rmsprop", "adam"] if name == "drift" else
                          ["sgd, another order", "sgd and momentum", "sgd and adam", "momentum, another order",
                           "adam, another order"])  # fmt: skip
    elif name == "measures":
        assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == ["planted", "random"]
    else:
        labels = [text.get_text() for text in figure.legends[0].get_texts()]
        assert labels == (["B = 64"] if name == "batches" else ["sgd", "adam"])


@pytest.mark.parametrize("top", [0.03, 0.15, 0.9])
def test_ticks_say_where_they_are(top):
    cells = finals({"sgd": 0.0}, seeds=2)
    cells["test/error"] = 0.2 + np.linspace(0, top, len(cells))
    axis = FIGURES["errors"](cells).axes[0]
    axis.figure.draw_without_rendering()
    for place, label in zip(axis.get_yticks(), axis.get_yticklabels(), strict=True):
        assert float(label.get_text().removesuffix(" %").replace("−", "-")) == pytest.approx(100 * place, abs=1e-9)


@pytest.fixture
def study(tmp_path, make_run):
    """A function that writes a page, beside a sweep of two seeds, and returns the command's arguments."""
    for seed in (0, 1):
        losses, errors = ([value / (1 + epoch) for epoch in range(30)] for value in (2.3, 0.4 + seed / 10))
        tags = {"train/loss": losses, "test/error": errors, "fit/memorized": errors, "time/epoch": [1.0] * 30}
        folder = make_run(f"sgd/sgd_seed={seed}", tags, {"seed": seed})
    (tmp_path / "pages").mkdir()

    def write(page):
        (tmp_path / "pages" / "page.md").write_text(page)
        return [str(folder), "--into", str(tmp_path / "pages")]

    return write


TABLE = "<!-- fit of sweep -->\nold\n<!-- /fit of sweep -->\n"


def test_a_sweep_is_recorded_and_its_page_written(tmp_path, study, capsys):
    arguments = study(TABLE)
    assert main(arguments) == 0
    assert capsys.readouterr().out.splitlines()[0] == f"recorded: {tmp_path / 'pages' / 'data' / 'sweep.csv'}"
    # ln C is linear between the middles of epochs 1 and 2, where it is 1.15 and 0.767: all that a passage of 1 needs.
    page = (tmp_path / "pages" / "page.md").read_text()
    assert "old" not in page
    assert page.splitlines()[1].startswith(
        "| optimizer | test error, %, at 1 | test error, %, at 0.1 | noise learned, %,"
    )
    data = pd.read_csv(tmp_path / "pages" / "data" / "sweep.csv")
    assert set(data["run"]) == {"sgd_seed=0", "sgd_seed=1"}
    first = (tmp_path / "pages" / "data" / "sweep.csv").read_bytes()
    assert main(arguments) == 0
    assert (tmp_path / "pages" / "data" / "sweep.csv").read_bytes() == first


def test_a_run_under_two_names_is_refused(tmp_path, study, capsys):
    """Else each pair of seeds would have two values."""
    arguments = study("")
    assert main(arguments) == 0
    file = tmp_path / "pages" / "data" / "sweep.csv"
    before = file.read_bytes()
    run = next((tmp_path / "sweep").rglob("sgd_seed=1"))
    run.rename(run.with_name("sgd_data=toy_seed=1"))
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert "sgd_data=toy_seed=1 and sgd_seed=1 have the same setting and seed; leave one out" in error
    assert file.read_bytes() == before


def test_a_run_that_diverged_at_once_is_still_a_run(make_run):
    """Else its rate would be chosen by the seeds that are left."""
    good = {"train/loss": [2.3, 1.0, 0.5], "test/error": [0.9, 0.2, 0.2], "holdout/error": [0.9, 0.4, 0.4],
            "time/epoch": [1.0] * 3}  # fmt: skip
    make_run("tuning/lr=1_seed=0", good, {"seed": 0, "lr": 1.0, "optimizer.name": "sgd"})
    bad = {"train/loss": [2.3], "test/error": [0.9], "holdout/error": [0.9], "time/epoch": [1.0]}
    folder = make_run("tuning/lr=1_seed=1", bad, {"seed": 1, "lr": 1.0, "optimizer.name": "sgd"}, state="diverged")
    cells = measured(folder)
    assert cells[["run", "place"]].to_numpy().tolist()[-1] == ["lr=1_seed=1", "nowhere"]
    assert math.isnan(cells["test/error"].iloc[-1])
    assert rates.ranked(cells.assign(**{"holdout/loss": 1.0}), "holdout")["value"].tolist() == [math.inf]


@pytest.mark.parametrize(
    ("key", "value", "named"),
    [
        ("model.hidden", [16], r"model.hidden \(\[16\], \[8,8\]\)"),
        ("data.noise.rate", 0.5, r"data.noise.rate \(0.3, 0.5\)"),
    ],
)
def test_runs_of_two_kinds_are_not_recorded_together(make_run, key, value, named):
    for seed in (0, 1):
        make_run(f"one/seed={seed}", {"train/loss": [2.3], "test/error": [0.9]}, {"seed": seed})
    folder = make_run("one/other", {"train/loss": [2.3], "test/error": [0.9]}, {key: value})
    with pytest.raises(UserError, match=f"its runs differ in {named}, and the study's tables would mix them"):
        measured(folder)


@pytest.mark.parametrize(("name", "table"), [("basins", basins_table), ("drift", drift_table)])
def test_barriers_and_drift_are_recorded(tmp_path, name, table):
    folder = tmp_path / f"study_{name}"
    folder.mkdir()
    table().to_csv(folder / f"{name}.csv", index=False)
    assert main([str(folder), "--into", str(tmp_path / "pages")]) == 0
    assert len(pd.read_csv(tmp_path / "pages" / "data" / f"study_{name}.csv")) == {"basins": 15, "drift": 6}[name]


def test_the_commands_of_the_final_runs(tmp_path, capsys):
    (tmp_path / "data").mkdir()
    tuning().to_csv(tmp_path / "data" / "tuning.csv", index=False)
    assert main(["--finals", "tuning", "--into", str(tmp_path)]) == 0
    assert capsys.readouterr().out == "experiment=study_final optimizer=sgd lr=0.1\n"
    assert main(["--finals", "tuning", "--experiment", "study_start", "--into", str(tmp_path)]) == 0
    assert capsys.readouterr().out == "experiment=study_start optimizer=sgd lr=0.1\n"
    assert main(["--finals", "x", "--into", str(tmp_path)]) == 2
    assert "x.csv: no such file of the study; there are: tuning" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("page", "why"),
    [
        (
            "<!-- errors of sweep -->",
            "<!-- errors of sweep -->: no such table; choose one of answers, settings, claims, ratios, measures, rates",
        ),
        ("<!-- claims of x -->", "study_final_x.csv: no such file of the study; there are: sweep"),
        ("![A](figures/verdicts_of_x.png)", "study_final_x.csv: no such file of the study; there are: sweep"),
        ("<!-- answers of x -->", "study_final_x.csv: no such file of the study; there are: sweep"),
        ("<!-- fit of x -->", "x.csv: no such file of the study; there are: sweep"),
        ("<!-- measures of x -->", "study_tuning_x.csv: no such file of the study; there are: sweep"),
        (
            "![A](figures/norm_of_sweep.png)",
            "figures/norm_of_sweep.png: no such figure; choose one of verdicts, crossing",
        ),
        ("![A](figures/norms_of_sweep.png)", "norm/l2: no run of the sweep has measured it"),
        ("<!-- terms of sweep -->\n<!-- /terms of sweep -->", "ireg/own: no run of the sweep has measured it"),
    ],
)
def test_a_page_asks_for_what_there_is(study, capsys, page, why):
    assert main(study(page)) == 2
    assert why in capsys.readouterr().err
