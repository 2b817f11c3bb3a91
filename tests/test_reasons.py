"""Why a term has no value: each reason by a measurement that has it, beside one in which the term has a value."""

from functools import partial

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy, mse_loss

import ireg
from ireg.catalogue import CATALOGUE
from ireg.measurement import measure_epoch
from ireg.options import Epoch, Options
from ireg.reasons import CONDITIONS, NOTHING_RETURNED
from ireg.regularizers import L2
from ireg.terms.named import TERMS


class OwnRule(torch.optim.SGD):
    """A class that no rule is known for."""


class Scaled(nn.Module):
    """A classifier without a weight matrix."""

    def __init__(self, start=1.0):
        super().__init__()
        self.factor = nn.Parameter(torch.full((3,), start, dtype=torch.float64))

    def forward(self, inputs):
        return inputs * self.factor


def network(*, middle=nn.Tanh, bias=True):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4, bias=bias), middle(), nn.Linear(4, 3, bias=bias)).double()


def pairs(count=4, same=False):
    """Minibatches of a regression; the same one several times, if that is asked for."""
    stream = torch.Generator().manual_seed(1)
    made = [torch.randn(2, 5, 3, generator=stream, dtype=torch.float64).unbind() for _ in range(count)]
    return count * made[:1] if same else made


def labelled(count=4):
    return [(inputs, targets.argmax(1)) for inputs, targets in pairs(count)]


def opposed():
    """Two minibatches whose gradients cancel where all outputs are 0."""
    inputs, targets = pairs(1)[0]
    return [(inputs, targets), (inputs, -targets)]


SGD = partial(torch.optim.SGD, lr=0.1)
MOMENTUM = partial(SGD, momentum=0.9)
ADAM = partial(torch.optim.Adam, lr=0.1)
MUON = partial(torch.optim.Muon, lr=0.1)
DECAYING = partial(torch.optim.AdamW, lr=0.1, weight_decay=0.1)


def in_groups(make, **second):
    """The optimizer with two groups, the second with settings of its own."""

    def made(parameters):
        first, *others = parameters
        return make([{"params": [first]}, {"params": others, **second}])

    return made


def take(tag, make=SGD, *, steps=1, model=None, data=None, only=None, **options):
    """Measure a term, after steps on the first minibatch; with gradients of some of the parameters only."""
    model = network() if model is None else model
    data = pairs() if data is None else data
    optimizer = make(list(model.parameters()))
    given = {"criterion": mse_loss, **options}
    if "loss" in given:
        del given["criterion"]
    for _ in range(steps):
        optimizer.zero_grad()
        loss = given["loss"](model, data[0]) if "loss" in given else given["criterion"](model(data[0][0]), data[0][1])
        loss.backward()
        for name, parameter in model.named_parameters():
            if only is not None and not name.startswith(only):
                parameter.grad = None
        optimizer.step()
    return ireg.measure(model, data, optimizer=optimizer, terms=[tag], **given)


def on_path(tag, make):
    """Measure a term of the path."""
    model, data = network(), pairs()
    optimizer = make(model.parameters())
    monitor = ireg.Monitor(model, optimizer, criterion=mse_loss, terms=[tag])
    for inputs, targets in data:
        optimizer.zero_grad()
        mse_loss(model(inputs), targets).backward()
        optimizer.step()
        monitor.update((inputs, targets))
    return monitor.compute()


def of_labels(tag, *, wrong):
    """Measure a term of margins with labels that are known to be wrong or right."""
    model = network()
    options = Options(criterion=cross_entropy, terms=[tag])
    corrupted = torch.zeros(20, dtype=torch.bool) if not wrong else torch.arange(20) % 2 == 0
    return measure_epoch(
        model, options, Epoch(batches=labelled(), corrupted=corrupted), optimizer=SGD(model.parameters())
    )


def without_size(model, batch):
    return (model(batch["x"] * torch.ones(1, 3, dtype=torch.float64)) - 1).square().mean()


def sums(model, batch):
    return model(batch["x"]).square().sum()


def sinking(model, batch):
    return -model(batch[0]).square().mean()


def sized(*sizes):
    return [{"x": torch.ones(size, 3, dtype=torch.float64)} for size in sizes]


NUMBERS = [{"x": torch.tensor(value, dtype=torch.float64)} for value in (1.0, 2.0)]
ZERO = partial(Scaled, 0.0)
NO_GRADIENT = [(inputs, torch.zeros_like(inputs)) for inputs, _ in pairs()]
FLUCTUATION = "ireg/strength_fluctuation"
EXACT = "ireg/alignment_fluctuation_exact"

CASES = {
    "before the first step": ("ireg/own", {"make": ADAM, "steps": 0}, "Adam has not stepped yet", {"make": ADAM}),
    "a weight before its first step": (
        "ireg/own", {"make": ADAM, "only": "0."}, "Adam has not stepped 2.weight yet", {"make": ADAM},
    ),
    "no rule": ("ireg/own", {"make": partial(OwnRule, lr=0.1)}, "no rule is known for OwnRule", {}),
    "groups differ": (
        "ireg/own", {"make": in_groups(ADAM, betas=(0.5, 0.9))},
        "Adam: its parameter groups differ in betas, for which no modified loss is known",
        {"make": in_groups(ADAM, lr=0.2)},
    ),
    "no second moment": ("ireg/rmsprop", {}, "SGD divides by no second moment", {"make": ADAM}),
    "no lag": ("ireg/strength_lag", {}, "SGD divides by no second moment", {"make": ADAM}),
    "one minibatch fluctuates not": (
        FLUCTUATION, {"make": ADAM, "data": pairs(1)}, "there is one minibatch, and nothing varies", {"make": ADAM},
    ),
    "no fluctuation without expansion": (
        EXACT, {"make": ADAM, "model": ZERO(), "data": NO_GRADIENT},
        "the estimate of ‖F‖² is not positive, or within rounding", {"make": ADAM},
    ),
    "minibatches that are alike": (
        "ireg/alignment_fluctuation", {"make": ADAM, "data": pairs(1) * 3},
        "F is within rounding: the minibatches are alike", {"make": ADAM},
    ),
    "independent": (
        "ireg/own_variance", {"sampling": "independent"}, "independent minibatches add no such part", {},
    ),
    "norm of some": (
        "ireg/own_full_batch", {"make": MUON, "model": network(bias=False), "num_batches": 3},
        "of Muon it takes all minibatches of an epoch, without drawn masks: a norm has no estimate from some",
        {"make": MUON, "model": network(bias=False)},
    ),
    "norm with a penalty": (
        "ireg/own_full_batch", {"make": MUON, "model": network(bias=False), "regularizer": L2(strength=0.1)},
        "of Muon it is not known with a regularizer", {"make": MUON, "model": network(bias=False)},
    ),
    "no matrix": ("norm/product", {"model": Scaled()}, "the model has no weight matrix", {}),
    "no classifier": (
        "margin/median", {}, "margins need criterion=…, outputs (examples, classes) and whole numbers as labels",
        {"criterion": cross_entropy, "data": labelled()},
    ),
    "margins over no norm": (
        "margin/normalized_median", {"criterion": cross_entropy, "data": labelled(), "model": Scaled()},
        "the model has no weight matrix", {"criterion": cross_entropy, "data": labelled()},
    ),
    "no metric yet": (
        "curvature/preconditioned_sharpness", {"make": ADAM, "steps": 0}, "Adam has not stepped yet", {"make": ADAM},
    ),
    "no common edge": (
        "curvature/edge_fraction", {"make": in_groups(DECAYING, weight_decay=0.3)},
        "parameter groups differ in their decoupled weight decay, and there is no common edge", {"make": DECAYING},
    ),
    "no edge in mean square": (
        "curvature/noise_edge", {"make": ADAM}, "it is known for SGD and heavy-ball momentum, not for Adam", {},
    ),
    "Nesterov's edge in mean square": (
        "curvature/noise_edge", {"make": partial(MOMENTUM, nesterov=True)},
        "it is known for SGD and heavy-ball momentum, not for Nesterov's momentum", {"make": MOMENTUM},
    ),
    "dampening's edge in mean square": (
        "curvature/noise_edge", {"make": partial(MOMENTUM, dampening=0.5)},
        "it is known for SGD and heavy-ball momentum, not for dampening", {"make": MOMENTUM},
    ),
    "two rates": (
        "curvature/noise_edge", {"make": in_groups(SGD, lr=0.2)},
        "rates or decays differ between weights or steps", {"make": in_groups(SGD)},
    ),
    "a memory that stays": (
        "curvature/noise_edge", {"make": partial(SGD, momentum=1.0)}, "sgd with momentum 1: its memory must fade", {},
    ),
    "no valley": (
        "curvature/noise_edge", {"model": Scaled(), "loss": sinking, "steps": 0},
        "the mean curvature along the steepest direction is not positive", {"model": Scaled(), "steps": 0},
    ),
    "an exact trace": (
        "curvature/trace_se", {"model": network(middle=nn.ReLU)},
        "curvature/trace is exact here, and has no standard error", {},
    ),
    "an exact adaptive sharpness": (
        "curvature/adaptive_se", {"model": network(middle=nn.ReLU)},
        "curvature/adaptive is exact here, and has no standard error", {},
    ),
    "no exact diagonal": (
        "curvature/trace_root", {}, "the diagonal of the Hessian is not known exactly for this model and loss",
        {"model": network(middle=nn.ReLU)},
    ),
    "no sizes": (
        "noise/trace", {"data": NUMBERS, "loss": without_size}, "a minibatch does not say how many examples it has",
        {"data": sized(2, 3), "loss": sums},
    ),
    "an empty minibatch": (
        "noise/square", {"data": sized(0, 3), "loss": sums, "steps": 0}, "a minibatch has no examples",
        {"data": sized(2, 3), "loss": sums, "steps": 0},
    ),
    "one minibatch": ("noise/scale", {"data": pairs(1)}, "there is one minibatch, and nothing varies", {}),
    "no signal": (
        "noise/scale", {"model": ZERO(), "data": opposed(), "steps": 0}, "the estimate of ‖∇C‖² is not positive",
        {"data": pairs(same=True)},
    ),
    "no signal in the optimizer's metric": (
        "noise/scale_own", {"model": ZERO(), "data": opposed(), "steps": 0},
        "the estimate of ‖∇C‖²_P is not positive", {"data": pairs(same=True)},
    ),
    "no signal in a norm": (
        "noise/scale_own",
        {"make": MUON, "model": nn.Linear(3, 3, bias=False).double().requires_grad_(True), "data": NO_GRADIENT,
         "loss": lambda model, batch: (0 * model(batch[0])).sum(), "steps": 0},
        "the estimate of the gradient's norm is not positive", {"make": MUON, "model": network(bias=False)},
    ),
    "a noise scale of some, in a norm": (
        "noise/scale_own", {"make": MUON, "model": network(bias=False), "num_batches": 3},
        "of Muon it takes all minibatches of an epoch, without drawn masks: a norm has no estimate from some",
        {"make": MUON, "model": network(bias=False)},
    ),
    "no noise": (
        "noise/signal_to_noise", {"data": pairs(same=True)}, "the estimate of tr Σ is not positive", {},
    ),
    "no gradient": (
        "noise/share", {"model": ZERO(), "data": NO_GRADIENT}, "the estimate of ireg/sgd is not positive", {},
    ),
    "no weights": (
        "noise/update_ratio", {"model": ZERO(), "steps": 0}, "all weights are 0", {"model": Scaled(), "steps": 0},
    ),
    "an empty buffer": (
        "noise/update_ratio", {"make": MOMENTUM, "steps": 0}, "the buffer of SGD is 0, as before its first step",
        {"make": MOMENTUM},
    ),
    "more than the buffer": (
        "noise/angle", {"make": partial(MOMENTUM, nesterov=True)},
        "a step of SGD holds more than its buffer, and the state does not have it", {"make": MOMENTUM},
    ),
    "no buffer": ("noise/angle", {}, "SGD keeps no buffer that holds its last step", {"make": MOMENTUM}),
    "a penalty in each step": (
        "noise/update_ratio", {"regularizer": L2(strength=0.1)},
        "a regularizer that all minibatches share is part of each step", {},
    ),
    "no decay": (
        "noise/equilibrium", {}, "there is no weight decay", {"make": partial(SGD, weight_decay=0.1)},
    ),
    "decay that is divided": (
        "noise/equilibrium", {"make": partial(ADAM, weight_decay=0.1)},
        "Adam divides its L2 decay, so that a step shrinks no two weights by the same factor", {"make": DECAYING},
    ),
    "two decays": (
        "noise/equilibrium", {"make": in_groups(DECAYING, weight_decay=0.3)}, "weights differ in rate or decay",
        {"make": DECAYING},
    ),
    "a decay of nothing": (
        "noise/equilibrium", {"make": partial(SGD, lr=0.0, weight_decay=0.1)},
        "the share that decay takes off the weights in a step is not between 0 and 1",
        {"make": partial(SGD, weight_decay=0.1)},
    ),
}  # fmt: skip


@pytest.mark.parametrize(("tag", "lacking", "reason", "having"), CASES.values(), ids=CASES)
def test_a_reason_is_that_of_the_measurement(tag, lacking, reason, having):
    assert tag in take(tag, **having)
    values = take(tag, **lacking)
    assert values.get(tag) is None
    assert values.reasons == {tag: reason}
    with pytest.raises(KeyError) as refused:
        _ = values[tag]
    assert str(refused.value) == f"{tag}: {reason}"


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (partial(OwnRule, lr=0.1), "no rule is known for OwnRule"),
        (partial(SGD, momentum=1.0), "sgd with momentum 1: its memory must fade"),
    ],
)
def test_reasons_along_a_path(make, reason):
    tag = "path/settled_radial"
    assert on_path(tag, make).reasons == {tag: reason}
    assert on_path(tag, SGD)[tag]


def test_reasons_of_labels():
    among = {"criterion": cross_entropy, "data": labelled()}
    unknown = "which labels are wrong is known in runs of train.py alone"
    assert take("margin/clean_median", **among).reasons == {"margin/clean_median": unknown}
    tag = "margin/corrupted_median"
    assert of_labels(tag, wrong=False).reasons == {tag: "no example has a wrong label"}
    assert of_labels(tag, wrong=True)[tag]


def test_a_norm_by_name_is_left_out_where_there_is_no_matrix():
    assert take("norm/layers", model=Scaled()).reasons == {"norm/layers": "the model has no weight matrix"}
    values = take("norm/layers")
    assert values.reasons == {}
    with pytest.raises(KeyError, match=r"^norm/layers: its parts have values, as norm/layers/0\.weight$"):
        _ = values["norm/layers"]


def test_reasons_of_parts():
    """Where the last layer's input is 0, its weights have no gradient, and the first layer has none at all."""
    model = network()
    for value in model[2].parameters():
        nn.init.zeros_(value)
    values = take("noise/scale", model=model, by="layer", steps=0)
    assert values.reasons == {"noise/scale/0": "the estimate of ‖∇C‖² is not positive"}
    assert {"noise/scale", "noise/scale/2"} <= {*values}
    assert take("noise/scale", by="layer").reasons == {}


def test_reasons_of_several_optimizers():
    model = network()
    optimizers = [OwnRule(model[0].parameters(), lr=0.1), ADAM(model[2].parameters())]
    tags = ["ireg/own", "noise/scale", "noise/scale_own", "curvature/edge_fraction", "ireg/sgd"]
    given = {"criterion": mse_loss, "terms": tags}
    joint = "OwnRule and Adam step together, and no mean flow of a joint step is known"
    values = ireg.measure(model, pairs(), optimizer=optimizers, **given)
    assert values.reasons == {
        "ireg/own": "no rule is known for OwnRule",
        "ireg/own/OwnRule": "no rule is known for OwnRule",
        "ireg/own/Adam": "Adam has not stepped yet",
        "noise/scale_own": joint,
        "noise/scale_own/OwnRule": "no rule is known for OwnRule",
        "noise/scale_own/Adam": "Adam has not stepped yet",
        "curvature/edge_fraction": joint,
    }
    two = [SGD(model[0].parameters()), MOMENTUM(model[2].parameters())]
    values = ireg.measure(model, pairs(), optimizer=two, **given | {"terms": ["ireg/own"]})
    assert values.reasons == {}


def test_a_function_of_ones_own_returned_none():
    model = network()
    terms = {"mine/none": lambda snapshot: None, "mine/two": lambda snapshot: {"a": torch.ones(())}}
    values = ireg.measure(model, pairs(), optimizer=SGD(model.parameters()), criterion=mse_loss, terms=terms)
    assert values.reasons == {"mine/none": NOTHING_RETURNED}
    assert values == {"mine/two/a": 1.0}


SITUATIONS = {
    "Adam before its first step": {"make": ADAM, "steps": 0},
    "Adam": {"make": ADAM},
    "momentum, one minibatch": {"make": MOMENTUM, "data": pairs(1)},
    "no rule, piecewise linear": {"make": partial(OwnRule, lr=0.1), "model": network(middle=nn.ReLU)},
    "independent": {"make": DECAYING, "sampling": "independent"},
    "no weights": {"model": ZERO(), "data": opposed(), "steps": 0},
    "Muon": {"make": MUON, "model": network(bias=False)},
}
MEASURED = [tag for tag, of in CATALOGUE.items() if of.target and not tag.startswith(("path/", "ireg/str", "ireg/ali"))]


@pytest.mark.parametrize("situation", SITUATIONS.values(), ids=SITUATIONS)
def test_every_term_has_a_value_or_a_reason(situation):
    model = situation.get("model") or network()
    optimizer = situation.get("make", SGD)(list(model.parameters()))
    data = situation.get("data") or pairs()
    for _ in range(situation.get("steps", 1)):
        mse_loss(model(data[0][0]), data[0][1]).backward()
        optimizer.step()
    given = {"criterion": mse_loss, "sampling": situation.get("sampling", "epoch")}
    values = ireg.measure(model, data, optimizer=optimizer, terms=MEASURED, **given)
    had = {tag for tag in MEASURED if any(other == tag or other.startswith(f"{tag}/") for other in values)}
    assert {*values.reasons} == {*MEASURED} - had
    assert NOTHING_RETURNED not in values.reasons.values()


def test_every_term_that_may_return_none_has_conditions():
    functions = {getattr(term, "func", term) for term in TERMS.values()}
    assert {*CONDITIONS} <= functions
    optional = {function for function in functions if "None" in str(function.__annotations__["return"])}
    recorded = {function for function in optional if function.__name__ in ("radial", "diffusive", "whole")}
    assert len(recorded) == 3  # steps are recorded wherever these are measured
    assert {function.__name__ for function in optional - recorded - {*CONDITIONS}} == {"quantile"}
