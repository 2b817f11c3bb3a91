"""The study's five answers, and its settings side by side."""

import math
import re

import pandas as pd
import pytest

from study import claims
from study.answers import answers
from study.cells import LOSSES
from study.checkpoints import barriers, drifts
from study.settings import common, settings
from study.tables import GIVEN
from tests.study.planted import basins_table, drift_table, finals, measured_cells


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
