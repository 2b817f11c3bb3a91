"""What a measurement returns: a dictionary, a table, an answer where a tag is missing, and sentences."""

import copy
import json
import math
import pickle
import subprocess
import sys
from html.parser import HTMLParser

import pandas as pd
import pytest
import torch
from torch import nn
from torch.nn.functional import mse_loss

import ireg
from ireg import catalogue
from ireg.core import moments
from ireg.explanations import explained
from ireg.measured import WIDTH, Measurement, NotMeasuredError
from tests.conftest import ROOT

PLAIN = {"ireg/sgd": 0.25, "norm/l2": 3.0}
KNOWN = {"reasons": {"ireg/own": "Adam has not stepped yet"}, "terms": "default", "by": "layer", "batch_size": 6.0}


def small(**options):
    """Measure a linear model with SGD."""
    torch.manual_seed(0)
    model = nn.Linear(3, 2)
    batches = [(torch.randn(size, 3), torch.randn(size, 2)) for size in (4, 4, 2, 2, 4, 4)]
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    return ireg.measure(model, batches, optimizer=optimizer, criterion=mse_loss, **options)


def test_it_is_a_dictionary():
    values = Measurement(PLAIN, **KNOWN)
    assert values == PLAIN
    assert repr(values) == repr(PLAIN)
    assert json.loads(json.dumps(values)) == PLAIN
    assert {**values, "a": 1.0} == values | {"a": 1.0} == {**PLAIN, "a": 1.0}
    assert type(values | {"a": 1.0}) is dict
    assert values.get("ireg/own") is None
    assert "ireg/own" not in values
    values |= {"a": 1.0}
    assert isinstance(values, Measurement)
    assert Measurement([("a", 1.0)]) == {"a": 1.0}
    assert Measurement.fromkeys(["a"], 1.0) == {"a": 1.0}
    rows = [Measurement(PLAIN, **KNOWN), PLAIN]
    pd.testing.assert_frame_equal(pd.DataFrame(rows), pd.DataFrame([PLAIN, PLAIN]))


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy, lambda values: pickle.loads(pickle.dumps(values))])
def test_copies_know_what_it_knows(copied):
    values = Measurement(PLAIN, **KNOWN)
    other = copied(values)
    assert type(other) is Measurement
    assert other == values
    assert vars(other) == vars(values) == KNOWN
    other["ireg/sgd"] = 1.0
    assert values["ireg/sgd"] == 0.25
    assert vars(values.with_values({"a": 1.0})) == KNOWN


def test_what_is_measured_knows_what_was_asked():
    values = small(by="layer", terms=("sgd", "noise_scale"))
    assert type(values) is Measurement
    assert (values.terms, values.by) == (("sgd", "noise_scale"), "layer")
    assert values.batch_size == pytest.approx(6 / (4 / 4 + 2 / 2), rel=1e-15)  # the harmonic mean of 4 4 2 2 4 4
    assert (small().terms, small().batch_size) == ("default", None)
    assert small(terms={"mine/one": lambda snapshot: torch.ones(())}).terms == ("mine/one",)


def test_rows_of_a_monitor():
    torch.manual_seed(0)
    model = nn.Linear(3, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    given = {"criterion": mse_loss, "terms": ["noise_scale"], "every_n_steps": 3, "population": 3}
    monitor = ireg.Monitor(model, optimizer, **given)
    for _ in range(3):
        batch = torch.randn(4, 3), torch.randn(4, 2)
        optimizer.zero_grad()
        mse_loss(model(batch[0]), batch[1]).backward()
        optimizer.step()
        row = monitor.update(batch)
    assert type(row) is Measurement
    assert (row["step"], row["epoch"], row.batch_size) == (3, 1.0, 4.0)
    assert row == monitor.rows.iloc[-1].to_dict()
    row["noise/scale"] = -1.0  # a copy
    assert monitor.rows["noise/scale"].ne(-1).all()
    lines = str(row).splitlines()
    assert any(line.split() == ["step", "3", "optimizer", "steps", "so", "far"] for line in lines)
    with pytest.raises(
        KeyError, match=r"^norm/l2: not among the measured terms \(terms=\['noise_scale'\]\); ask for it by"
    ):
        _ = row["norm/l2"]


TABLE = """\
tag                      value ± error        what it is
ireg/minibatch_variance  0.0001818 ± 1.2e-05  part of ireg/sgd that minibatches
                                              add [1]
ireg/sgd/0               2                    SGD's implicit regularizer, for
                                              every optimizer [2]
norm/l2                  1.421                norm of all parameters, frozen
                                              ones included
curvature/trace_se       100                  standard error of
                                              curvature/trace [3]
curvature/preconditioned_sharpness
                         0.5                  the same in the metric of the
                                              run's own optimizer [4]
step                     123456789            optimizer steps so far
mine/a                   nan

valid for
[1] small η
[2] small η; the own regularizer of others is ireg/own
[3] networks whose diagonal of H is not known exactly
[4] optimizers with a rule; adaptive ones from the first step on

left out
ireg/own, ireg/own_variance: Adam has not stepped yet
noise/angle: SGD keeps no buffer
"""


def test_a_printed_measurement_is_a_table():
    reasons = {
        "ireg/own": "Adam has not stepped yet",
        "ireg/own/0": "Adam has not stepped yet",
        "noise/angle": "SGD keeps no buffer",
        "ireg/own_variance": "Adam has not stepped yet",
    }
    values = Measurement(
        {
            "ireg/minibatch_variance": 1.81797e-4, "ireg/minibatch_variance_se": 1.2345e-5, "ireg/sgd/0": 2.0,
            "norm/l2": 1.42142, "curvature/trace_se": 103.2 - 3.2, "curvature/preconditioned_sharpness": 0.5,
            "step": 123456789, "mine/a": math.nan,
        },
        reasons=reasons,
    )  # fmt: skip
    assert str(values) + "\n" == TABLE
    assert f"{values}" == str(values)


@pytest.mark.parametrize("terms", [*catalogue.SETS])
def test_tables_fit_80_columns(terms):
    tags = catalogue.SETS[terms]
    values = dict.fromkeys(tags, -1.23456789e-300) | {f"{tag}_se": 1.23456789e-300 for tag in tags}
    values |= {f"{tags[0]}/transformer.h.0.attention.output.{'x' * 60}": 1.0}
    values = Measurement(values, reasons={f"{tags[0]}/{'y' * 100}": "why " * 40})
    lines = str(values).splitlines()
    assert WIDTH == 80
    assert max(map(len, lines)) <= 80
    assert all(line == line.rstrip() for line in lines)
    assert "](" not in str(values)


def test_a_part_is_described_once():
    text = str(Measurement({"ireg/sgd": 1.0, "ireg/sgd/0": 0.5, "ireg/sgd/0_se": 0.125}))
    assert text.count("implicit regularizer") == 1
    assert "ireg/sgd/0  0.5 ± 0.12" in text
    assert "_se" not in text


def test_nothing_at_all_is_a_heading():
    assert str(Measurement()) == "tag  value  what it is"


def test_control_characters_reach_no_terminal():
    values = Measurement({"mine/\x1b[2J\nb": 1.0}, reasons={"a\nb": "c\x07"})
    assert "\x1b[2J" not in str(values)
    assert "mine/?[2J b  1" in str(values)
    assert str(values).endswith("a b: c?")
    with pytest.raises(NotMeasuredError) as refused:
        _ = values["x\ny\x1b[2J"]
    assert "\n" not in str(refused.value)
    assert "x y?[2J: no such term" in str(refused.value)


def test_it_prints_where_the_output_has_few_characters():
    code = "from ireg import Measurement; print(Measurement({'norm/distance': 2.0, 'norm/distance_se': 0.5}))"
    environment = {"PYTHONIOENCODING": "ascii", "PYTHONPATH": str(ROOT), "PYTHONUTF8": "0", "PATH": ""}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    assert "norm/distance  2 +- 0.5" in done.stdout


def test_it_is_light_to_import():
    code = (
        "import sys, ireg; ireg.Measurement({'a': 1.0})._repr_html_(); str(ireg.Measurement());"
        "assert not {'torch', 'pandas', 'rich', 'numpy'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr


class Cells(HTMLParser):
    """The texts of a table's cells, row by row, and the names of all its elements."""

    def __init__(self, text):
        super().__init__()
        self.rows, self.names = [], set()
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        assert not attrs
        self.names.add(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_data(self, data):
        if data.strip():
            self.rows[-1][-1] += data


def test_a_notebook_shows_a_table():
    values = {"ireg/full_batch": 0.5, "ireg/full_batch_se": 0.25, "mine/<script>alert(1)</script>": 1.0}
    shown = Cells(Measurement(values, reasons={"a&b": "<b>no</b>"})._repr_html_())
    assert shown.names == {"table", "tr", "th", "td"}
    assert shown.rows == [
        ["tag", "value ± error", "what it is", "valid for"],
        ["ireg/full_batch", "0.5 ± 0.25", "part of ireg/sgd that full batches have, too", "small η"],
        ["mine/<script>alert(1)</script>", "1", "", ""],
        ["a&b", "left out", "<b>no</b>", ""],
    ]


MISSING = {
    "norm/l3": "no such term; the nearest is norm/l2",
    "ireg/full_bach": "no such term; the nearest is ireg/full_batch",
    "ireg/own": "Adam has not stepped yet",
    "ireg/own_se": "Adam has not stepped yet",
    "ireg/own/0": "Adam has not stepped yet",
    "noise/scale": "not among the measured terms (terms='default'); ask for it by terms=['default', 'noise/scale']",
    "noise/scale_se": "not among the measured terms (terms='default'); ask for it by terms=['default', 'noise/scale']",
    "norm/layers/0.weight": "not among the measured terms (terms='default'); ask for it by "
    "terms=['default', 'norm/layers']",
    "sgd": "the tag is ireg/sgd",
    "edge": "the tag is curvature/edge_fraction",
    "curvature/edge": "the tag is curvature/edge_fraction",
    "norm/l2_se": "no standard error of norm/l2 was estimated; terms of gradients have one with num_batches",
    "ireg/sgd/1": "no such part; the nearest is ireg/sgd/0",
    "norm/l2/0": "norm/l2 has no parts here; by='layer' or by='group' measures the parts of terms of gradients",
    "mine": "its parts have values, as mine/a",
    "check/replay": "no term, but what is written for: ireg.Monitor and the Lightning callback, without check='off'",
    "train/loss": "no term, but what is written for: runs of train.py",
}


@pytest.mark.parametrize(("tag", "reason"), MISSING.items())
def test_a_missing_tag_has_a_reason(tag, reason):
    values = {"ireg/sgd": 1.0, "ireg/sgd/0": 1.0, "norm/l2": 1.0, "mine/a": 1.0}
    values = Measurement(values, reasons={"ireg/own": "Adam has not stepped yet"}, terms="default")
    with pytest.raises(KeyError) as refused:
        _ = values[tag]
    assert str(refused.value) == f"{tag}: {reason}"
    assert str(pickle.loads(pickle.dumps(refused.value))) == str(refused.value)


@pytest.mark.parametrize(
    ("terms", "said"),
    [
        (("sgd",), " (terms=['sgd']); ask for it by terms=[…, 'norm/l2']"),
        (("a", "b", "c", "d"), " (terms=['a', 'b', 'c', …]); ask for it by terms=[…, 'norm/l2']"),
        ((), "; ask for it by terms=[…, 'norm/l2']"),
    ],
)
def test_what_was_asked_for_is_named(terms, said):
    with pytest.raises(KeyError) as refused:
        _ = Measurement({"a": 1.0}, terms=terms)["norm/l2"]
    assert str(refused.value) == f"norm/l2: not among the measured terms{said}"


def test_what_an_example_is_matters_to_the_noise_scale_alone():
    """A minibatch's class may mean something else by `examples`."""

    class Texts(tuple):
        examples = ("first", "second")

    model = nn.Linear(3, 2)
    given = {
        "optimizer": torch.optim.SGD(model.parameters(), lr=0.1),
        "loss": lambda model, batch: model(batch[0]).sum(),
    }
    batches = [Texts((torch.ones(4, 3),)), Texts((torch.ones(2, 3),))]
    assert ireg.measure(model, batches, terms=["sgd"], **given)["ireg/sgd"]


def test_a_term_without_parts_and_what_is_no_text():
    values = Measurement({"norm/l2": 1.0}, by="layer")
    with pytest.raises(KeyError, match=r"^norm/l2/0: norm/l2 has no parts$"):
        _ = values["norm/l2/0"]
    with pytest.raises(KeyError, match=r"^3: no such term; a tag is a text, like ireg/sgd$"):
        _ = values[3]


def test_what_was_asked_for_is_measured():
    """What the line asks for is what `measure` takes."""
    assert small(terms=["default", "noise/scale"])["noise/scale"]
    with pytest.raises(KeyError, match=r"^noise/scale: not among the measured terms \(terms='default'\)"):
        _ = small()["noise/scale"]


def test_a_standard_error_ends_alike_everywhere():
    assert catalogue.STANDARD_ERROR == moments.STANDARD_ERROR


SCALE, SHARE, RATIO, EDGE, STRENGTH = (
    "noise/scale", "noise/share", "noise/signal_to_noise", "curvature/edge_fraction", "ireg/strength"
)  # fmt: skip
# What triggers a sentence, how it begins, the threshold, the source.
SENTENCES = [
    ({SCALE: 96.0}, "noise/scale is 96 examples, and a minibatch has 32, fewer: a step makes 0.25 of", "B = B_simple"),
    ({SCALE: 8.0}, "noise/scale is 8 examples, and a minibatch has 32, not fewer: a step makes 0.8 of", "B = B_simple"),
    ({SCALE: 32.0, f"{SCALE}_se": 2.0}, "noise/scale is 32 ± 2 examples, and a minibatch has 32, not fewer", "0.5 of"),
    ({SHARE: 0.75}, "noise/share is 0.75, above 1/2: ", "the larger part is noise"),
    ({SHARE: 0.5}, "noise/share is 0.5, not above 1/2: ", "the smaller part is noise"),
    (
        {"ireg/sgd": 4.0, "ireg/minibatch_variance": 3.0},
        "ireg/minibatch_variance over ireg/sgd is 0.75, above 1/2: ",
        "the larger part is noise",
    ),
    ({RATIO: 0.99}, "noise/signal_to_noise is 0.99, below 1: ", "more noise than signal"),
    ({RATIO: 1.0}, "noise/signal_to_noise is 1, not below 1: ", "no more noise than signal"),
    ({EDGE: 0.99}, "curvature/edge_fraction is 0.99, below 1: ", "settle"),
    ({EDGE: 1.0}, "curvature/edge_fraction is 1, not below 1: ", "oscillate and do not settle"),
    ({EDGE: 2.5}, "curvature/edge_fraction is 2.5, above 2: ", "no fraction of the edge any more"),
    ({STRENGTH: 0.29}, "ireg/strength is 0.29, below 0.3: ", "holds to first order"),
    ({STRENGTH: 0.3}, "ireg/strength is 0.3, not below 0.3: ", "says nothing here"),
    ({"a": -1.0, "a_se": 1.5}, "The standard error is larger than the value of a (-1 ± 1.5): ", "1 standard error"),
]


@pytest.mark.parametrize(("values", "beginning", "said"), SENTENCES)
def test_a_sentence_names_number_threshold_and_source(values, beginning, said):
    (sentence,) = explained(values, 32)
    assert sentence.startswith(beginning)
    assert said in sentence
    assert sentence.endswith(").")
    source = sentence[sentence.rindex(" (") :]
    assert "arXiv:" in source or "docs/theory.md, section" in source
    assert Measurement(values, batch_size=32).explain() == [sentence]


@pytest.mark.parametrize(
    "values",
    [
        {}, {"norm/l2": 1.0}, {f"{SCALE}/0": 96.0}, {SCALE: math.nan}, {SCALE: math.inf}, {SHARE: math.nan},
        {f"{SHARE}/0": 0.75}, {"ireg/sgd": 0.0, "ireg/minibatch_variance": 0.0}, {"ireg/sgd": 1.0},
        {"ireg/minibatch_variance": 1.0}, {RATIO: math.inf}, {f"{EDGE}/SGD": 2.5}, {EDGE: math.nan},
        {STRENGTH: math.nan}, {f"{STRENGTH}_memory": 1.0}, {"a": -1.5, "a_se": 1.0}, {"a": 1.0, "a_se": 1.0},
        {"a_se": 1.0}, {"a": 0.0, "a_se": 0.0}, {"a": math.nan, "a_se": 1.0},
    ],
)  # fmt: skip
def test_nothing_is_said_without_cause(values):
    assert explained(values, 32) == []


def test_a_noise_scale_needs_a_batch_size():
    assert explained({SCALE: 96.0}) == []
    assert Measurement({SCALE: 96.0}).explain() == []


def test_one_sentence_about_noise_and_one_about_errors():
    assert len(explained({SHARE: 0.75, RATIO: 0.1, "ireg/sgd": 4.0, "ireg/minibatch_variance": 3.0})) == 1
    many = {f"{name}{end}": value for name in "abcde" for end, value in (("", 1.0), ("_se", 2.0))}
    (sentence,) = explained(many)
    assert "a (1 ± 2), b (1 ± 2), c (1 ± 2) and 2 others: " in sentence


def test_progress_is_that_of_two_noise_scales():
    """ΔL/ΔL_max = 1/(1 + B_noise/B) of a quadratic with Hessian 1: the best step −ε g, with E‖g‖² = ‖G‖² + tr Σ/B."""
    squared, trace, size = 2.0, 24.0, 4.0
    gain = max(
        step * squared - step**2 / 2 * (squared + trace / size) for step in torch.linspace(0, 1, 100001).tolist()
    )
    best = squared / 2  # at a step of 1, without noise
    assert gain / best == pytest.approx(0.25, rel=1e-6)
    (sentence,) = explained({SCALE: trace / squared}, size)
    assert "a step makes 0.25 of the progress" in sentence


def test_a_measurement_is_explained():
    values = small(terms=["noise", "curvature", "strength"])
    starts = [sentence.partition(" is ")[0] for sentence in values.explain()]
    assert starts == ["noise/scale", "noise/share", "curvature/edge_fraction", "ireg/strength"]
    assert "a minibatch has 3," in values.explain()[0]
