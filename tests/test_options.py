"""One set of options: every door takes each by the same name, with the same default, and one place checks them."""

import inspect
import io
import sys
import threading
import time
from contextlib import nullcontext
from dataclasses import fields, replace
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy, mse_loss

import ireg
from ireg.core.random import named_generator
from ireg.core.reservoir import sampled
from ireg.data.labels import NoisyLabels
from ireg.lit.measurement import RunMeasurement
from ireg.lit.module import Classifier
from ireg.measurement import measure_epoch
from ireg.options import Epoch, Options
from ireg.regularizers import FullBatch, Minibatch
from ireg.system.terminal import counting
from ireg.terms.named import TERMS
from tests import reference

DOORS = {
    "measure": ireg.measure,
    "Monitor": ireg.Monitor,
    "callback": ireg.ImplicitRegularizationMonitor,
    "Classifier": Classifier,
}
ABSENT = object()
EXCEPTIONS = {
    ("measure", "max_cache"): ABSENT,  # it copies no minibatch
    ("callback", "sampling"): None,  # it reads the trainer's loader
    ("Classifier", "loss"): ABSENT,  # its minibatches are pairs
    ("Classifier", "criterion"): cross_entropy,  # a classifier has one
    ("Classifier", "progress"): ABSENT,  # a run shows its own
    ("Classifier", "max_cache"): ABSENT,  # it remembers indices, and copies no minibatch
}


def default_of(door, option):
    parameter = inspect.signature(DOORS[door]).parameters.get(option)
    return ABSENT if parameter is None else parameter.default


@pytest.mark.parametrize("door", DOORS)
def test_every_door_takes_each_option_with_the_same_default(door):
    for option in fields(Options):
        assert default_of(door, option.name) == EXCEPTIONS.get((door, option.name), option.default), option.name


@pytest.mark.parametrize("door", DOORS)
def test_a_door_names_and_describes_what_it_takes(door):
    parameters = inspect.signature(DOORS[door]).parameters.values()
    assert not {parameter.kind for parameter in parameters} & {
        inspect.Parameter.VAR_KEYWORD,
        inspect.Parameter.VAR_POSITIONAL,
    }
    described = inspect.getdoc(DOORS[door])
    assert [name for name in inspect.signature(DOORS[door]).parameters if f"    {name}: " not in described] == []
    assert "`ireg.options.Options`" in described
    assert not {"kept", "path", "generator", "steps"} & set(inspect.signature(DOORS[door]).parameters)


def test_progress_names_the_terms_on_standard_error_alone(capsys):
    model = nn.Linear(2, 3)
    known = {"optimizer": torch.optim.SGD(model.parameters(), lr=0.1), "criterion": cross_entropy}
    batches = 2 * [(torch.ones(4, 2), torch.tensor([0, 1, 2, 0]))]
    tags = ["ireg/sgd", "norm/l2"]
    shown = ireg.measure(model, batches, terms=tags, progress=True, **known)
    out, err = capsys.readouterr()
    assert out == ""
    assert "2/2" in err
    assert shown == ireg.measure(model, batches, terms=tags, **known)
    assert capsys.readouterr() == ("", "")
    begun = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ireg.measurement.counting", lambda total, *, shown: nullcontext(begun.append))
        ireg.measure(model, batches, terms=tags, progress=True, **known)
    assert begun == tags


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.mark.parametrize(("seconds", "terminal", "seen"), [(0.3, True, True), (0.3, False, False), (0.0, True, False)])
def test_what_takes_long_is_shown_on_a_terminal(monkeypatch, seconds, terminal, seen):
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr("ireg.system.terminal.PATIENCE", 0.1)
    monkeypatch.setattr("sys.stderr", Terminal() if terminal else io.StringIO())
    with counting(3, shown=None) as begins:
        begins("ireg/own")
        time.sleep(seconds)
    assert ("ireg/own" in sys.stderr.getvalue()) is seen
    assert not [thread for thread in threading.enumerate() if isinstance(thread, threading.Timer)]


def test_each_option_is_described_once():
    described = inspect.getdoc(Options)
    assert [described.count(f"\n    {option.name}: ") for option in fields(Options)] == [1] * len(fields(Options))
    assert [option.name for option in fields(Epoch) if f"\n    {option.name}: " not in inspect.getdoc(Epoch)] == []


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"criterion": mse_loss, "loss": mse_loss}, "both of criterion and loss are given"),
        ({"terms": "sdg"}, "terms: 'sdg' is unknown"),
        ({"terms": []}, "terms: none are given"),
        ({"mode": "train"}, "mode='train': must be one of as_trained, two_draws, eval"),
        ({"sampling": "iid"}, "sampling='iid': must be one of epoch, independent"),
        ({"by": "module"}, "by='module': must be one of layer, group, or None for the whole network alone"),
        ({"check": "often"}, "check='often': must be one of each, first, off"),
        ({"num_batches": 2}, "num_batches=2: must be at least 3"),
        ({"num_batches": 8, "mode": "two_draws"}, "mode='two_draws' takes all minibatches"),
        ({"num_batches": 8, "terms": "theory"}, "ireg/strength has no estimate from drawn minibatches"),
        ({"mode": "two_draws", "terms": "theory"}, "ireg/strength has no estimate from drawn masks"),
        ({"num_batches": 8, "regularizer": Minibatch(strength=1.0)}, "a regularizer is measured over all minibatches"),
        ({"sampling": "independent", "regularizer": FullBatch(strength=1.0)}, "FullBatch is a penalty of all"),
        ({"max_cache": "1 TB"}, "max_cache='1 TB': must be a number of bytes, or like 512MiB or 1GiB"),
    ],
)
def test_wrong_options_are_refused_in_one_place(arguments, match):
    with pytest.raises(ValueError, match=match) as error:
        Options(**arguments)
    assert "\n" not in str(error.value)
    with pytest.raises(ValueError, match=match):
        replace(Options(), **arguments)
    with pytest.raises(ValueError, match=match):
        ireg.ImplicitRegularizationMonitor(**arguments)


def test_sizes_are_read():
    sizes = {7: 7, "7": None, "2KiB": 2048, "1GiB": 2**30, "3 MiB": 3 * 2**20}
    for size, expected in sizes.items():
        if expected is None:
            with pytest.raises(ValueError, match="max_cache='7': must be"):
                Options(max_cache=size)
        else:
            assert Options(max_cache=size).cache == expected


# What the doors have got with it.

RANDOM = torch.Generator().manual_seed(0)
BATCHES = [
    (torch.randn(4, 5, generator=RANDOM).double(), torch.randint(0, 3, (4,), generator=RANDOM)) for _ in range(7)
]


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 3)).double()


def test_measure_draws_a_sample_itself():
    model = network()
    given = {"optimizer": torch.optim.SGD(model.parameters(), lr=0.1), "criterion": cross_entropy}
    drawn = sampled(BATCHES, 4, named_generator("minibatches"))
    found = ireg.measure(model, BATCHES, num_batches=4, **given)
    assert found == ireg.measure(model, drawn, population=7, **given)
    assert found["ireg/sgd_se"] > 0
    assert found["ireg/sgd"] != ireg.measure(model, BATCHES, **given)["ireg/sgd"]
    with pytest.raises(ValueError, match="num_batches=4 draws a sample, and population=9 says that batches are one"):
        ireg.measure(model, BATCHES, num_batches=4, population=9, **given)
    whole = ireg.measure(model, BATCHES, num_batches=9, **given)  # as many as there are
    assert whole["ireg/sgd_se"] == 0


def test_what_the_epoch_was_takes_the_place_of_defaults():
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    options = Options(terms=["ireg/sgd", "norm/distance", "curvature/lambda_max"], criterion=cross_entropy)
    initial = {name: torch.zeros_like(value) for name, value in model.named_parameters()}
    kept = {}
    found = measure_epoch(
        model, options, Epoch(batches=BATCHES, rates=[(0.2,)] * 7, initial=initial, kept=kept), optimizer=optimizer
    )
    plain = ireg.measure(model, BATCHES, optimizer=optimizer, criterion=cross_entropy, terms=["ireg/sgd", "norm/l2"])
    assert found["ireg/sgd"] == pytest.approx(2 * plain["ireg/sgd"], rel=1e-12)
    assert found["norm/distance"] == pytest.approx(plain["norm/l2"], rel=1e-12)
    assert list(kept) == ["lambda_max"]


def test_a_monitor_bounds_the_memory_of_its_copies():
    size = 4 * 5 * 8 + 4 * 8  # bytes of a minibatch
    model = network()
    given = {"optimizer": torch.optim.SGD(model.parameters(), lr=0.1), "criterion": cross_entropy, "check": "off"}

    def fill(count=7, **options):
        monitor = ireg.Monitor(model, terms=["ireg/sgd"], **given, **options)
        for batch in BATCHES[:count]:
            monitor.update(batch)
        return monitor

    match = (
        r"^the copies of 3 minibatches take 0\.0 MiB, more than max_cache=0\.0 MiB; raise max_cache, .*num_batches "
        r"\(at least 3\), or call compute and reset more often$"
    )
    with pytest.raises(ValueError, match=match):
        fill(max_cache=3 * size - 1)
    assert fill(max_cache=7 * size).compute()["ireg/sgd"] > 0  # each piece of advice
    assert fill(max_cache=3 * size, num_batches=3).compute()["ireg/sgd_se"] > 0
    monitor = fill(3, max_cache=3 * size)
    monitor.compute()
    monitor.reset()
    monitor.update(BATCHES[3])


class Halving(nn.Module):
    """Half of the weights' effect in eval mode, and dropout."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.full((2, 5), 0.5, dtype=torch.float64))
        self.dropout = nn.Dropout(0.5)

    def forward(self, inputs):
        return self.dropout(inputs) @ self.weight.T / (1 if self.training else 2)


def run_measurement(model, **options):
    """A run's measurement without a trainer: of seven minibatches of four."""
    inputs, labels = torch.cat([x for x, _ in BATCHES]), torch.cat([y for _, y in BATCHES]).clamp(max=1)
    nothing = torch.zeros(len(labels), dtype=torch.bool)
    data = SimpleNamespace(
        train_inputs=inputs,
        train_labels=NoisyLabels(labels, labels, nothing),
        holdout=0,
        has_noisy_labels=True,
        train_batches=lambda: [(inputs, labels, torch.arange(len(labels)))],
    )
    terms = {"ireg/sgd": TERMS["ireg/sgd"]}
    asked = Options(criterion=cross_entropy, **options)
    measurement = RunMeasurement(model, terms, asked, criterion=cross_entropy, terms_every=2, intervals={"norm": 3})
    measurement.start(data, torch.optim.SGD(model.parameters(), lr=0.1))
    minibatches = list(torch.arange(len(labels)).split(4))
    return measurement, minibatches, [(inputs[index], labels[index]) for index in minibatches]


def test_a_runs_measurement_needs_no_trainer():
    model = nn.Linear(5, 2).double()
    measurement, minibatches, batches = run_measurement(model)
    values, fit = measurement.measure(1, minibatches, measurement.terms)
    gradients = reference.minibatch_gradients(model, cross_entropy, batches)
    assert values == {"ireg/sgd": pytest.approx(reference.sgd(gradients, 0.1), rel=1e-10)}
    outputs = model(torch.cat([inputs for inputs, _ in batches]))
    targets = torch.cat([labels for _, labels in batches])
    assert fit.loss() == pytest.approx(cross_entropy(outputs, targets).item(), rel=1e-6)
    assert [list(measurement.terms_of(epoch, last=epoch == 5)) for epoch in (1, 2, 5)] == [
        [],
        ["ireg/sgd"],
        ["ireg/sgd"],
    ]
    assert measurement.on_held_out(1) == {}
    assert measurement.penalty(minibatches) == {}


@pytest.mark.parametrize("by", ["layer", "group"])
def test_every_door_measures_by_part(by):
    model = nn.Sequential(nn.Linear(5, 4), nn.Linear(4, 2)).double()
    run, minibatches, batches = run_measurement(model, by=by)
    values, _ = run.measure(1, minibatches, run.terms)
    assert {*values} == {"ireg/sgd", "ireg/sgd/0"} | ({"ireg/sgd/1"} if by == "layer" else set())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    given = {"criterion": cross_entropy, "terms": ["ireg/sgd"], "by": by}
    assert ireg.measure(model, batches, optimizer=optimizer, **given) == pytest.approx(values, rel=1e-12)
    monitor = ireg.Monitor(model, optimizer, check="off", **given)
    for batch in batches:
        monitor.update(batch)
    assert {tag: monitor.compute()[tag] for tag in values} == pytest.approx(values, rel=1e-12)
    assert ireg.ImplicitRegularizationMonitor(**given).options.by == by
    assert Classifier(model, torch.optim.Adam, by=by).measurement.options.by == by


def test_the_modes_of_a_run_are_those_of_measure():
    model = Halving()
    found = {}
    for mode in ("as_trained", "eval", "two_draws"):
        measurement, minibatches, batches = run_measurement(model, mode=mode)
        before = torch.get_rng_state()
        values, fit = measurement.measure(1, minibatches, measurement.terms)
        assert torch.equal(torch.get_rng_state(), before)
        assert fit.loss() > 0
        again, _ = measurement.measure(1, minibatches, measurement.terms)
        assert again == values
        found[mode] = values["ireg/sgd"]
        if mode != "two_draws":  # which draws masks of its own
            plain = ireg.measure(
                model, batches, optimizer=measurement.optimizer, criterion=cross_entropy, terms=["ireg/sgd"], mode=mode
            )
            assert values["ireg/sgd"] == pytest.approx(plain["ireg/sgd"], rel=1e-12)
    assert len(set(found.values())) == 3
    other, _ = measurement.measure(2, minibatches, measurement.terms)
    assert other["ireg/sgd"] != found["two_draws"]  # each epoch has masks of its own
