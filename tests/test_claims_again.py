"""The study's claims again, from its numbers alone: nothing of the project is imported here.

The pages' tables are read as text, and each number is computed by another path: csv, numpy and scipy's own tests.
"""

import csv
import itertools
import math
import re
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

STUDY = Path(__file__).parents[1] / "docs" / "study"
SETS = {"mnist10k": "answers", "fashion10k": "fashion", "mnist10k_cnn": "networks", "mnist10k_vit": "networks"}
LOSSES = ("1.5", "1.2", "1", "0.7", "0.4", "0.2", "0.1", "0.03")
AVERAGED = ("1", "0.7", "0.4", "0.2", "0.1")
SHARES = (10, 20, 40, 60, 80)
OTHERS = ("momentum", "rmsprop", "adam", "adamw")


def rows_of(part, name):
    path = STUDY / "data" / f"study_{part}_{name}.csv"
    return list(csv.DictReader(path.open(encoding="utf-8"))) if path.exists() else []


def values_of(rows):
    """{(optimizer, seed, place): {tag: number}} of each optimizer's first rate in the file."""
    first = {}
    for row in rows:
        first.setdefault(row["optimizer"], row["lr"])
    return {
        (row["optimizer"], int(row["seed"]), row["place"]): {
            tag: float(row[tag]) if row[tag] else math.nan for tag in ("test/error", "norm/l2", "at", "fit/memorized")
        }
        for row in rows
        if row["lr"] == first[row["optimizer"]]
    }


def paired(values, optimizer, tag, places, by=lambda value: value):
    """Differences to SGD by seed: the mean over the places that both have."""
    found = []
    for seed in sorted({seed for _, seed, _ in values}):
        differences = [
            by(values[optimizer, seed, place][tag]) - by(values["sgd", seed, place][tag])
            for place in places
            if (optimizer, seed, place) in values and ("sgd", seed, place) in values
        ]
        found += [np.mean(differences)] if differences else []
    return found


def at_noise(values, optimizer, seed, percent):
    """The test error where a share of the wrong labels is learned: numpy's interpolation between losses' values."""
    there = sorted(
        (cell["at"], cell["fit/memorized"], cell["test/error"])
        for (name, of, place), cell in values.items()
        if (name, of) == (optimizer, seed) and place.startswith("loss ")
    )
    for before, after in itertools.pairwise(there):
        if before[1] < percent / 100 <= after[1]:
            return float(np.interp(percent / 100, [before[1], after[1]], [before[2], after[2]]))
    return math.nan


def samples_of(name):
    """All samples of differences of a data set by (question, optimizer, comparator)."""
    values = values_of(rows_of("final", name))
    seeds = sorted({seed for _, seed, _ in values})
    found = {}
    for optimizer in OTHERS:
        if not any(key[0] == optimizer for key in values):
            continue
        averaged = [f"loss {loss}" for loss in AVERAGED]
        places = {"equal epochs": ["epoch 50"], "mean over losses": averaged, "best by hold-out": ["holdout"]}
        places |= {"end": ["end"], **{f"loss {loss}": [f"loss {loss}"] for loss in LOSSES}}
        for comparator, of in places.items():
            found[1, optimizer, comparator] = paired(values, optimizer, "test/error", of)
        for percent in SHARES:
            both = [
                at_noise(values, optimizer, seed, percent) - at_noise(values, "sgd", seed, percent) for seed in seeds
            ]
            found[1, optimizer, f"memorized {percent} %"] = [one for one in both if not math.isnan(one)]
        found[2, optimizer, "loss 1"] = paired(values, optimizer, "at", ["loss 1"], math.log)
        found[3, optimizer, "mean over losses"] = paired(values, optimizer, "norm/l2", averaged, math.log)
    barrier = {(row["run"], row["optimizer"], row["other"]): float(row["barrier/train/loss"])
               for row in rows_of("basins", name)}  # fmt: skip
    for optimizer in ("momentum", "adam"):
        found[4, optimizer, "barrier"] = [
            barrier[run, "sgd", optimizer] - (barrier[run, "sgd", "sgd"] + barrier[run, optimizer, optimizer]) / 2
            for run in sorted({run for run, *_ in barrier})
        ]
    if (1, "momentum", "end") in found:
        # Momentum's η/(1 − β) is SGD's tuned rate on both data sets, so that its partner is the same.
        found[4, "momentum", "effective rate"] = found[1, "momentum", "mean over losses"]
    for optimizer in ("rmsprop", "adam"):
        found[5, optimizer, "drift"] = [
            float(row["drift/leading flow/k"]) for row in rows_of("drift", name) if row["optimizer"] == optimizer
        ]
    return {key: sample for key, sample in found.items() if len(sample) > 1}


def family_of(samples):
    """p of 0, adjusted p of 0, adjusted p of a point or more, by key: step by step as Holm wrote it down."""
    open_ones = {}
    for key, sample in samples.items():
        open_ones[key, "zero"] = stats.ttest_1samp(sample, 0.0).pvalue
        if key[0] == 1:
            open_ones[key, "point"] = stats.ttest_1samp(sample, 0.01, alternative="less").pvalue
    plain, adjusted, largest = dict(open_ones), {}, 0.0
    while open_ones:
        left = len({key for key, _ in open_ones})
        smallest = min(open_ones, key=open_ones.get)
        largest = max(largest, min(1.0, left * open_ones.pop(smallest)))
        adjusted[smallest] = largest
    return {key: (plain[key, "zero"], adjusted[key, "zero"], adjusted.get((key, "point"), math.nan)) for key in samples}


@pytest.fixture(scope="module", params=SETS)
def studied(request):
    samples = samples_of(request.param)
    return request.param, samples, family_of(samples)


def table(name, title):
    """The lines of a table on a page, each by its heads."""
    text = (STUDY / f"{SETS[name]}.md").read_text(encoding="utf-8")
    between = text.split(f"<!-- {title} of {name} -->\n")[1].split("<!-- /")[0]
    head, _, *lines = (line.strip("| ").split(" | ") for line in between.splitlines() if line.startswith("|"))
    return [dict(zip(head, line, strict=True)) for line in lines]


def interval(sample):
    low, high = stats.t.interval(0.95, len(sample) - 1, np.mean(sample), stats.sem(sample))
    return np.mean(sample), (high - low) / 2


def verdict(sample, family):
    _, zero, point = family
    if zero < 0.05:
        return "worse" if np.mean(sample) > 0 else "better"
    return "no worse" if point < 0.05 else "undecided"


def near(text, value):
    """Whether a printed number is a value, to half of its last digit."""
    digits, _, power = text.partition("e")
    last = 10.0 ** (int(power or 0) - len(digits.partition(".")[2]))
    return abs(float(text) - value) <= 0.5 * last * (1 + 1e-6) + 1e-12


def test_every_comparison_of_test_errors(studied):
    name, samples, family = studied
    printed = [line for line in table(name, "claims") if line["difference, points"] != "–"]
    assert {(1, line["less SGD"], line["comparator"]) for line in printed} == {key for key in samples if key[0] == 1}
    for line in printed:
        key = (1, line["less SGD"], line["comparator"])
        mean, half = (float(part) for part in line["difference, points"].split(" ± "))
        assert (mean, half) == pytest.approx([100 * number for number in interval(samples[key])], abs=0.00501), key
        assert line["pairs"] == f"{len(samples[key])}"
        heads = ("p", "adjusted p", "adjusted p of +1 point or more")
        assert all(near(line[head], number) for head, number in zip(heads, family[key], strict=True)), (
            line,
            family[key],
        )
        assert line["verdict"] == verdict(samples[key], family[key]), key


def test_the_family_has_the_size_that_the_page_says(studied):
    name, samples, _ = studied
    text = (STUDY / f"{SETS[name]}.md").read_text(encoding="utf-8")
    (count,) = re.findall(rf"<!-- claims of {name} -->.*?Adjusted over the (\d+) comparisons", text, re.DOTALL)
    assert int(count) == len(samples)


@pytest.mark.parametrize(("title", "prefix"), [("by_loss", "loss "), ("by_noise", "memorized ")])
def test_verdicts_by_level(studied, title, prefix):
    name, samples, family = studied
    for line in table(name, title):
        optimizer = line.pop("less SGD, points")
        for level, text in line.items():
            key = (1, optimizer, prefix + level)
            if text == "–":
                assert key not in samples
                continue
            mean, half = interval(samples[key])
            expected = f"{verdict(samples[key], family[key])} ({len(samples[key])})"
            numbers, said = text.split(", ")
            assert said == expected, key
            assert [float(part) for part in numbers.split(" ± ")] == pytest.approx(
                [100 * mean, 100 * half], abs=0.00501
            )


def test_ratios_and_measurements(studied):
    name, samples, family = studied
    for line in table(name, "ratios"):
        question = 2 if line["quantity"].startswith("epochs") else 3
        key = (question, line["over SGD"], line["at"])
        mean, half = interval(samples[key])
        numbers = re.fullmatch(r"(\S+) \((\S+) to (\S+)\)", line["ratio"]).groups()
        expected = np.exp([mean, mean - half, mean + half])
        for text, value in zip(numbers, expected, strict=True):
            assert float(text) == pytest.approx(value, rel=0.006)
        assert near(line["p"], family[key][0])
        assert near(line["adjusted p"], family[key][1])
    if "_" in name:
        return
    kinds = {"barrier above the floor": "barrier", "test error at one effective rate": "effective rate",
             "coefficient of the mean flow": "drift"}  # fmt: skip
    for line in table(name, "measurements"):
        key = (int(line["question"]), line["optimizer"], kinds[line["quantity"]])
        mean, half = (float(part) for part in line["value"].split(" ± "))
        assert (mean, half) == pytest.approx(interval(samples[key]), rel=0.03)
        assert near(line["adjusted p"], family[key][1])


GRID = 400
"""Places between two levels at which the test of equality is made."""


def crossings_of(values, optimizer):
    """Sign changes of the mean difference, and the losses around each at which equality is not rejected, on a grid."""
    seeds = sorted({seed for _, seed, _ in values})
    differences, levels = [], []
    for loss in LOSSES:
        both = [
            values[optimizer, seed, f"loss {loss}"]["test/error"] - values["sgd", seed, f"loss {loss}"]["test/error"]
            for seed in seeds
            if (optimizer, seed, f"loss {loss}") in values and ("sgd", seed, f"loss {loss}") in values
        ]
        if len(both) == len(seeds):
            differences.append(both)
            levels.append(math.log(float(loss)))
    places = np.linspace(0, len(levels) - 1, GRID * (len(levels) - 1) + 1)
    table = np.array(differences).T
    there = np.array([np.interp(places, range(len(levels)), row) for row in table])
    logs, means = np.interp(places, range(len(levels)), levels), there.mean(0)
    accepted = stats.ttest_1samp(there, 0.0, axis=0).pvalue >= 0.05
    found = []
    for number in np.nonzero(np.sign(means[:-1]) * np.sign(means[1:]) < 0)[0]:
        low, high = number, number
        while low > 0 and accepted[low - 1]:
            low -= 1
        while high < len(places) - 1 and accepted[high + 1]:
            high += 1
        ends = (None if low == 0 else math.exp(logs[low]), None if high == len(places) - 1 else math.exp(logs[high]))
        found.append((bool(means[number + 1] > 0), math.exp(logs[number]), *ends))
    return found


def test_where_the_sign_turns(studied):
    name, *_ = studied
    values = values_of(rows_of("final", name))
    for line in table(name, "crossings"):
        expected = crossings_of(values, line["optimizer"])
        printed = [
            (rises, text)
            for rises, head in ((True, "worse than SGD below"), (False, "better than SGD below"))
            for text in line[head].split("; ")
            if text != "–"
        ]
        assert len(printed) == len(expected)
        for (rises, text), (really, loss, earlier, later) in zip(printed, sorted(expected, reverse=True), strict=True):
            said = re.fullmatch(r"(\S+) \((above 1.5|\S+) to (the last|\S+)\)", text).groups()
            assert rises == really
            for number, value in zip(said, (loss, earlier, later), strict=True):
                if value is None:
                    assert number in ("above 1.5", "the last")
                else:
                    assert float(number) == pytest.approx(value, rel=0.04)  # two digits, and the grid's width


@pytest.mark.parametrize(
    ("name", "key", "points", "half"),
    [
        # What the study's sentences rest on, written down once more by hand.
        ("mnist10k", (1, "rmsprop", "loss 1.2"), -1.38, 0.45),
        ("mnist10k", (1, "rmsprop", "loss 0.03"), 4.45, 1.82),
        ("mnist10k", (1, "adam", "loss 0.1"), 6.69, 0.26),
        ("mnist10k", (1, "adam", "end"), 10.02, 1.42),
        ("fashion10k", (1, "rmsprop", "loss 1"), -1.88, 0.58),
        ("fashion10k", (1, "adam", "memorized 20 %"), -1.09, 0.49),
        ("mnist10k_cnn", (1, "rmsprop", "loss 1"), -8.20, 0.34),
        ("mnist10k_cnn", (1, "rmsprop", "memorized 10 %"), -1.93, 0.59),
        ("mnist10k_vit", (1, "adam", "loss 0.4"), -2.25, 0.19),
    ],
)
def test_headline_numbers(name, key, points, half):
    assert [100 * number for number in interval(samples_of(name)[key])] == pytest.approx([points, half], abs=0.00501)
