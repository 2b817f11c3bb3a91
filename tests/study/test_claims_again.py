"""The study's claims again, from its numbers alone: nothing of the project is imported here.

The pages' tables and the files of results are read as text, and each number is computed by another path: csv, numpy
and scipy's own tests.
"""

import csv
import itertools
import math
import re
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

STUDY = Path(__file__).parents[2] / "docs" / "study"
SETS = {"mnist10k": "answers", "fashion10k": "fashion", "mnist10k_cnn": "networks", "mnist10k_vit": "networks"}
LOSSES = ("1.5", "1.2", "1", "0.7", "0.4", "0.2", "0.1", "0.03")
AVERAGED = ("1", "0.7", "0.4", "0.2", "0.1")
SHARES = (10, 20, 40, 60, 80)
OTHERS = ("momentum", "rmsprop", "adam", "adamw")
PLACES = {
    "equal epochs": ["epoch 50"],
    "mean over losses": [f"loss {loss}" for loss in AVERAGED],
    "best by hold-out": ["holdout"],
    "end": ["end"],
}
TUNED = "end, tuned for it"


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


def all_values_of(name):
    """Those of the final runs, and the ends of the runs that are tuned for it under a name of their own."""
    ends = values_of(rows_of("end", name))
    return values_of(rows_of("final", name)) | {
        (one, seed, TUNED): cell for (one, seed, place), cell in ends.items() if place == "end"
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


def at_places(values, optimizer, places):
    """The test errors of pairs, by seed: an optimizer's and SGD's, each the mean over the places that both have."""
    found = []
    for seed in sorted({seed for _, seed, _ in values}):
        both = [
            (values[optimizer, seed, place]["test/error"], values["sgd", seed, place]["test/error"])
            for place in places
            if (optimizer, seed, place) in values and ("sgd", seed, place) in values
        ]
        for place in (place for place in places if place.startswith("memorized ")):
            pair = [at_noise(values, one, seed, int(place.split()[1])) for one in (optimizer, "sgd")]
            both += [pair] if not any(map(math.isnan, pair)) else []
        found += [np.mean(both, axis=0)] if both else []
    return np.array(found).T


def samples_of(name):
    """All samples of differences of a data set by (question, optimizer, comparator)."""
    values = all_values_of(name)
    seeds = sorted({seed for _, seed, _ in values})
    found = {}
    for optimizer in OTHERS:
        if not any(key[0] == optimizer for key in values):
            continue
        averaged = PLACES["mean over losses"]
        for comparator, of in {
            **PLACES,
            **{one: [one] for one in (TUNED, *(f"loss {loss}" for loss in LOSSES))},
        }.items():
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
    """p of 0 and of a point or more, plain and adjusted, by key: step by step as Holm wrote it down."""
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
    return {
        key: [of.get((key, which), math.nan) for which in ("zero", "point") for of in (plain, adjusted)]
        for key in samples
    }


@pytest.fixture(scope="module", params=SETS)
def studied(request):
    samples = samples_of(request.param)
    return request.param, samples, family_of(samples)


def table(name, title):
    """The numbers of a table on a page, by its first column and its heads; and what stands below it."""
    text = (STUDY / f"{SETS[name]}.md").read_text(encoding="utf-8")
    between = text.split(f"<!-- {title} of {name} -->\n")[1].split("<!-- /")[0]
    head, _, *lines = (line.strip("| ").split(" | ") for line in between.splitlines() if line.startswith("|"))
    numbers = {(line[0], one): text for line in lines for one, text in zip(head[1:], line[1:], strict=True)}
    return numbers, " ".join(line for line in between.splitlines() if not line.startswith("|"))


def results(kind, name):
    path = STUDY / "data" / f"{kind}_{name}.csv"
    return list(csv.DictReader(path.open(encoding="utf-8")))


def interval(sample):
    low, high = stats.t.interval(0.95, len(sample) - 1, np.mean(sample), stats.sem(sample))
    return np.mean(sample), (high - low) / 2


def verdict(sample, family):
    _, zero, _, point = family
    if zero < 0.05:
        return "worse" if np.mean(sample) > 0 else "better"
    return "no worse" if point < 0.05 else "undecided"


def near(text, value):
    """Whether a printed number is a value, to half of its last digit; nothing stands for no value."""
    if not text or math.isnan(value):
        return not text and math.isnan(value)
    digits, _, power = text.partition("e")
    last = 10.0 ** (int(power or 0) - len(digits.partition(".")[2]))
    return abs(float(text) - value) <= 0.5 * last * (1 + 1e-6) + 1e-12


def of_optimizer(name, optimizer, comparator=""):
    """The first rate of an optimizer's final runs, or of those that are tuned for the end."""
    part = "end" if comparator == TUNED else "final"
    return next(row["lr"] for row in rows_of(part, name) if row["optimizer"] == optimizer)


COMPARED = {"barrier": "training loss", "effective rate": "mean over losses"}
"""What a comparator is called in the file, where it is not as here."""


def test_the_file_has_every_comparison(studied):
    name, samples, family = studied
    values, rows = all_values_of(name), results("comparisons", name)
    lines = {(int(row["question"]), row["optimizer"], row["comparator"], row["quantity"]): row for row in rows}
    assert len(rows) == len(lines) == len(samples)
    for key, sample in samples.items():
        question, optimizer, comparator = key
        called = (question, optimizer, COMPARED.get(comparator, comparator))
        (row,) = (row for at, row in lines.items() if at[:3] == called)
        mean, half = interval(sample)
        numbers = [mean, mean - half, mean + half, *family[key]]
        names = ("mean", "low", "high", "p", "adjusted_p", "margin_p", "adjusted_margin_p")
        assert all(near(row[head], number) for head, number in zip(names, numbers, strict=True)), (key, row, numbers)
        assert row["pairs"] == f"{len(sample)}", key
        significant = "significant" if family[key][1] < 0.05 else "not significant"
        assert row["verdict"] == (verdict(sample, family[key]) if question == 1 else significant), key
        rates = [of_optimizer(name, one, comparator) for one in (optimizer, "sgd")] if question <= 3 else ["", ""]
        assert [row["lr"], row["sgd_lr"]] == rates, key
        expected = [math.nan, math.nan]
        if question == 1 and len(sample) > 2:
            one, other = at_places(values, optimizer, PLACES.get(comparator, [comparator]))
            expected = [stats.pearsonr(one, other)[0], stats.ttest_ind(one, other, equal_var=False)[1]]
        assert near(row["correlation"], expected[0]), key
        assert near(row["unpaired_p"], expected[1]), key


def test_every_comparison_of_test_errors_is_in_the_table(studied):
    name, samples, family = studied
    numbers, below = table(name, "claims")
    of_pairs = max(len(sample) for key, sample in samples.items() if key[0] == 1)
    shown = {(1, one, place): text for (place, one), text in numbers.items() if "below" not in place and text != "–"}
    assert shown.keys() == {key for key in samples if key[0] == 1}
    for key, text in shown.items():
        sample = samples[key]
        half, _, rest = text.partition(" ± ")[2].partition(",")
        said, _, pairs = f"{half}{',' if rest else ''}{rest}".partition(" (")
        half, _, said = said.partition(", ")
        mean, expected = float(text.partition(" ± ")[0]), verdict(sample, family[key])
        assert (mean, float(half)) == pytest.approx([100 * number for number in interval(sample)], abs=0.00501), key
        assert said == ("" if expected == "undecided" else expected), key
        assert pairs == ("" if len(sample) == of_pairs else f"{len(sample)} pairs)"), key
    assert f"{of_pairs} pairs of seeds where no number does." in below
    assert f"Adjusted over the {len(samples)} comparisons of this data set." in below


def test_the_correlation_within_pairs(studied):
    name, samples, _ = studied
    values, (_, below) = values_of(rows_of("final", name)), table(name, "claims")
    found = [
        stats.pearsonr(*at_places(values, optimizer, places))[0]
        for optimizer in OTHERS
        for places in PLACES.values()
        if (1, optimizer, "end") in samples
    ]
    assert near(re.findall(r"correlation of a pair's two runs is (\S+);", below)[0], np.mean(found))


def test_ratios(studied):
    name, samples, family = studied
    for (title, optimizer), text in table(name, "ratios")[0].items():
        key = (2, optimizer, "loss 1") if title.startswith("epochs") else (3, optimizer, "mean over losses")
        mean, half = interval(samples[key])
        *numbers, said = re.fullmatch(r"(\S+) \((\S+) to (\S+)\)(, not significant)?", text).groups()
        for number, value in zip(numbers, np.exp([mean, mean - half, mean + half]), strict=True):
            assert float(number) == pytest.approx(value, rel=0.006)
        assert bool(said) == (family[key][1] >= 0.05)


@pytest.mark.parametrize("name", ["mnist10k", "fashion10k"])
def test_measures_go_with_the_test_error_as_the_file_says(name):
    """Kendall's coefficient by scipy, over the tuning and final runs where a loss is reached."""
    runs, dividing = [*rows_of("tuning", name), *rows_of("final", name)], {"rmsprop", "adam", "adamw"}
    rows, checked = results("measures", name), 0
    for row in rows:
        group, measure = row["pairs_of"].removeprefix("optimizer "), row["measure"]
        if measure in ("planted", "random") or group.startswith("other ") or group == "granulated":
            continue
        there = [
            run
            for run in runs
            if run["place"] == f"loss {row['loss'].removesuffix('.0')}" and group in ("all", run["optimizer"])
            if run.get(measure)
        ]
        if measure == "curvature/edge_fraction":  # not valid above 2 with a preconditioner
            there = [run for run in there if float(run[measure]) <= 2 or run["optimizer"] not in dividing]
        values, errors = ([float(run[tag]) for run in there] for tag in (measure, "test/error"))
        tau = stats.kendalltau(values, errors)[0] if len(there) > 1 else math.nan
        assert near(row["tau"], tau), row
        if group == "all":
            assert int(row["settings"]) == len({(run["optimizer"], run["lr"]) for run in there}), row
        checked += 1
    assert checked > 600
    shown, _ = table(name, "measures")
    for (measure, head), text in shown.items():
        loss = head.removeprefix("τ at ")
        wanted = (measure.strip("`"), float(loss), "all")
        (row,) = (row for row in rows if (row["measure"], float(row["loss"]), row["pairs_of"]) == wanted)
        numbers = re.fullmatch(r"(\S+) \((\S+) to (\S+)\)", text).groups()
        assert all(
            float(number) == pytest.approx(float(row[side]), abs=0.00501)
            for number, side in zip(numbers, ("tau", "low", "high"), strict=True)
        ), (measure, head)


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
    name, samples, _ = studied
    values, (numbers, _) = values_of(rows_of("final", name)), table(name, "claims")
    for optimizer in {key[1] for key in samples if key[0] == 1}:
        expected = crossings_of(values, optimizer)
        printed = [
            (rises, text)
            for rises, title in ((True, "worse below a loss of"), (False, "better below a loss of"))
            for text in numbers.get((title, optimizer), "–").split("; ")
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
