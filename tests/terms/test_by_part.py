"""Terms by layer and by parameter group against sums over the parameters of each, in double precision."""

import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import mse_loss
from torch.nn.utils import parametrizations

import ireg
from ireg.catalogue import SETS
from ireg.core.moments import STANDARD_ERROR, compute
from ireg.core.parts import parts_of
from ireg.measurement import take_snapshot
from ireg.options import Epoch, Options
from ireg.terms.named import TERMS
from tests.terms.test_noise import STEPPED, trained

RATE = 0.1
MINIBATCHES, EXAMPLES = 4, 4
TAGS = [
    "ireg/sgd",
    "ireg/full_batch",
    "ireg/minibatch_variance",
    "ireg/own",
    *(tag for tag in SETS["noise"] if tag.startswith("noise/")),
]
ADDITIVE = ["ireg/sgd", "ireg/full_batch", "ireg/minibatch_variance", "ireg/own", "noise/trace", "noise/square"]
LAYERS = {"0": ("0.weight", "0.bias"), "2": ("2.weight", "2.bias")}


def measured(made, batches, optimizer, **arguments):
    arguments = {"terms": TAGS, "by": "layer", **arguments}
    return ireg.measure(made, batches, optimizer=optimizer, criterion=mse_loss, **arguments)


def rows_of(made, batches, names):
    """Each minibatch's gradient by some parameters, one row each."""
    rows = []
    for inputs, targets in batches:
        made.zero_grad()
        mse_loss(made(inputs), targets).backward()
        rows.append(torch.cat([made.get_parameter(name).grad.flatten() for name in names]).double().numpy().copy())
    made.zero_grad()
    return np.stack(rows)


def expected(made, batches, optimizer, names):
    """The terms of some parameters, from the formulas, with P of Adam's state."""
    rows = rows_of(made, batches, names)
    mean, (m, b) = rows.mean(0), (len(rows), len(batches[0][0]))
    whole, square = np.mean(np.sum(rows**2, 1)), np.sum(mean**2)
    states = [optimizer.state[made.get_parameter(name)] for name in names]
    group = optimizer.param_groups[0]
    (beta1, beta2), rate, decay = group["betas"], group["lr"], group["weight_decay"]
    steps = int(states[0]["step"])
    root = np.concatenate([state["exp_avg_sq"].flatten() for state in states]) / (1 - beta2**steps)
    scale = 1 / (np.sqrt(root) + group["eps"])
    weights = np.concatenate([made.get_parameter(name).detach().flatten() for name in names])
    step = rate * scale * np.concatenate([state["exp_avg"].flatten() for state in states]) / (1 - beta1**steps)
    n = m * b
    trace = b * (whole - square) * (n - 1) / (n - b)
    own_variance = np.mean(np.sum(scale * (rows - mean) ** 2, 1))
    before = weights + step  # decoupled decay taken off
    length = np.linalg.norm(weights)
    cosine = weights @ before / (length * np.linalg.norm(before))
    balanced = rate**2 * np.mean(np.sum((scale * rows) ** 2, 1)) / (1 - (1 - rate * decay) ** 2)
    return {
        "ireg/sgd": rate / 4 * whole,
        "ireg/full_batch": rate / 4 * square,
        "ireg/minibatch_variance": rate / 4 * (whole - square),
        "noise/trace": trace,
        "noise/square": square,
        "noise/scale": trace / square,
        "noise/scale_own": b * own_variance * (n - 1) / (n - b) / np.sum(scale * mean**2),
        "noise/signal_to_noise": b * square / trace,
        "noise/share": (whole - square) / whole,
        "noise/update_ratio": np.linalg.norm(step) / length,
        "noise/angle": math.acos(cosine),
        "noise/equilibrium": math.sqrt(balanced) / length,
    }


@pytest.mark.parametrize("method", ["loop", "vmap", "ghost", "layers", "hooks"])
def test_each_layers_terms_are_sums_over_its_parameters(method):
    made, batches, optimizer, _ = trained(STEPPED["adamw"])
    found = measured(made, batches, optimizer, method=method)
    for layer, names in LAYERS.items():
        for tag, value in expected(made, batches, optimizer, names).items():
            assert found[f"{tag}/{layer}"] == pytest.approx(value, rel=1e-8), (tag, layer)
    everything = expected(made, batches, optimizer, [name for names in LAYERS.values() for name in names])
    assert {tag: found[tag] for tag in everything} == pytest.approx(everything, rel=1e-8)


@pytest.mark.parametrize(
    "arguments", [{}, {"population": 9}, {"sampling": "independent"}, {"mode": "two_draws"}], ids=str
)
@pytest.mark.parametrize("name", [*STEPPED, "sgd"])
def test_layers_add_up_to_the_whole(name, arguments):
    make = {**STEPPED, "sgd": lambda made: torch.optim.SGD(made.parameters(), lr=RATE, weight_decay=0.1)}[name]
    made, batches, optimizer, _ = trained(make)
    found = measured(made, batches, optimizer, **arguments)
    alone = measured(made, batches, optimizer, by=None, **arguments)
    assert found == {**found, **alone}
    for tag in (tag for tag in ADDITIVE if tag in alone):
        assert found[f"{tag}/0"] + found[f"{tag}/2"] == pytest.approx(found[tag], rel=1e-9), tag
    assert {tag.rpartition("/")[0] for tag in found if tag.endswith(("/0", "/2"))} >= {*ADDITIVE[:3]}


def test_an_explicit_penalty_is_part_of_each_layers_own_term():
    made, batches, optimizer, _ = trained(STEPPED["adamw"])
    for penalty in (ireg.regularizers.FullBatch(strength=0.3), ireg.regularizers.Minibatch(strength=0.3)):
        found = measured(made, batches, optimizer, regularizer=penalty, terms=["ireg/own"], check="off")
        assert found["ireg/own/0"] + found["ireg/own/2"] == pytest.approx(found["ireg/own"], rel=1e-9)
        without = measured(made, batches, optimizer, terms=["ireg/own"])
        assert all(abs(found[tag] / without[tag] - 1) > 1e-3 for tag in without)


# Samples and their standard errors.


def jackknife(values, population):
    """The standard error of a mean by the values without each minibatch."""
    k = len(values)
    return math.sqrt((1 - k / population) * (k - 1) / k * np.sum((values - np.mean(values)) ** 2))


def references(rows, population):
    """The estimates ‖ḡ‖² and (1/m) Σ ‖g_k‖² of a sample, then those without each of its minibatches."""

    def estimates(some):
        k, mean = len(some), some.mean(0)
        spread = np.sum((some - mean) ** 2) / (k - 1)
        return np.array([np.sum(mean**2) - (1 / k - 1 / population) * spread, np.mean(np.sum(some**2, 1))])

    return estimates(rows), np.array([estimates(np.delete(rows, number, 0)) for number in range(len(rows))])


@pytest.mark.parametrize("streamed", [False, True])
def test_each_layer_has_its_own_standard_error(streamed, monkeypatch):
    if streamed:
        monkeypatch.setattr(compute, "KEPT_MEMORY", 0)
    made, batches, optimizer, _ = trained(STEPPED["adamw"])
    found = measured(made, batches, optimizer, population=9)
    rate = optimizer.param_groups[0]["lr"]
    for layer, names in LAYERS.items():
        whole, without = references(rows_of(made, batches, names), 9)
        for number, tag in enumerate(["ireg/full_batch", "ireg/sgd"]):
            assert found[f"{tag}/{layer}"] == pytest.approx(rate / 4 * whole[number], rel=1e-9)
            error = rate / 4 * jackknife(without[:, number], 9)
            assert found[f"{tag}/{layer}{STANDARD_ERROR}"] == pytest.approx(error, rel=1e-9)
            assert found[f"{tag}{STANDARD_ERROR}"] != pytest.approx(error, rel=1e-3)
        # Of the ratio the error is to first order in trace and square; c of 36 examples in 9 minibatches.
        c, (square, mean_square) = 4 * 35 / (36 - 4), whole
        trace, traces = c * (mean_square - square), c * (without[:, 1] - without[:, 0])
        assert square > 0
        assert found[f"noise/scale/{layer}"] == pytest.approx(trace / square, rel=1e-9)
        first_order = (traces - trace / square * without[:, 0]) / square
        assert found[f"noise/scale/{layer}{STANDARD_ERROR}"] == pytest.approx(jackknife(first_order, 9), rel=1e-9)


def test_two_standard_errors_cover_each_layers_value():
    torch.manual_seed(2)
    made = nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 2)).double()
    inputs, noise = torch.randn(160, 3).double(), torch.randn(160, 2).double()
    batches = list(zip(inputs.split(4), (inputs[:, :2] + 0.3 * noise + 1).split(4), strict=True))
    optimizer, tags = torch.optim.SGD(made.parameters(), lr=RATE), ["noise/scale", "noise/trace", "ireg/full_batch"]
    whole = measured(made, batches, optimizer, terms=tags)
    drawn = torch.Generator().manual_seed(3)
    layered = [f"{tag}/{layer}" for tag in tags for layer in LAYERS]
    off = {tag: [] for tag in layered}
    for _ in range(100):
        chosen = torch.randperm(len(batches), generator=drawn)[:16].tolist()
        found = measured(
            made, [batches[number] for number in chosen], optimizer, terms=tags, population=len(batches), check="off"
        )
        for tag in layered:
            off[tag].append((found[tag] - whole[tag]) / found[f"{tag}{STANDARD_ERROR}"])
    for tag, values in off.items():
        assert 0.8 < np.mean(np.abs(values) < 2) < 1, tag
        assert 0.7 < np.std(values) < 1.5, tag


@pytest.fixture
def passes(monkeypatch):
    """The passes that have been taken."""
    taken, fill = [], compute._fill
    monkeypatch.setattr(compute, "_fill", lambda sums, *rest: taken.append(type(sums).__name__) or fill(sums, *rest))
    return taken


def test_a_sample_takes_one_pass_for_all_layers(monkeypatch, passes):
    made, batches, optimizer, _ = trained(STEPPED["adamw"])
    for memory, name in ((2**26, "KeptGradients"), (0, "StreamedSums")):
        monkeypatch.setattr(compute, "KEPT_MEMORY", memory)
        passes.clear()
        measured(made, batches, optimizer, population=9)
        assert passes == [name]
    passes.clear()
    measured(made, batches, optimizer)
    assert passes == ["MomentSums"]


# Which parts there are.


class Several(nn.Module):
    """A weight of its own, a weight that is computed from two, two layers that share a weight, and a frozen one."""

    def __init__(self):
        super().__init__()
        self.gain = nn.Parameter(torch.ones(3))
        self.first = parametrizations.weight_norm(nn.Linear(3, 3))
        self.inner = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3, bias=False))
        self.inner[1].weight = self.inner[0].weight
        self.frozen = nn.Linear(3, 3)
        self.frozen.requires_grad_(False)

    def forward(self, inputs):
        return self.frozen(self.inner(self.first(inputs) * self.gain))


def several():
    torch.manual_seed(4)
    return Several().double(), [(torch.randn(4, 3).double(), torch.randn(4, 3).double()) for _ in range(3)]


def test_layers_are_the_modules_that_hold_the_parameters():
    made, batches = several()
    optimizer = torch.optim.SGD(made.parameters(), lr=RATE)
    found = measured(made, batches, optimizer, terms=["ireg/sgd"])
    assert {*found} == {"ireg/sgd", "ireg/sgd/gain", "ireg/sgd/first", "ireg/sgd/inner.0"}
    held = {
        "gain": ["gain"],
        "first": [name for name, _ in made.named_parameters() if name.startswith("first.")],
        "inner.0": ["inner.0.weight", "inner.0.bias"],
    }
    assert len(held["first"]) == 3
    for part, names in held.items():
        rows = rows_of(made, batches, names)
        assert found[f"ireg/sgd/{part}"] == pytest.approx(RATE / 4 * np.mean(np.sum(rows**2, 1)), rel=1e-10)
    assert sum(found[f"ireg/sgd/{part}"] for part in held) == pytest.approx(found["ireg/sgd"], rel=1e-12)


def test_a_parametrized_weight_of_the_model_itself():
    made = parametrizations.weight_norm(nn.Linear(3, 3))
    named = dict(made.named_parameters())
    found = parts_of("layer", named, torch.optim.SGD(made.parameters(), lr=RATE), named)
    assert {part: len(names) for part, names in found.items()} == {"weight": 2, "bias": 1}


def test_groups_are_the_optimizers():
    made, batches, optimizer, _ = trained(STEPPED["groups"])
    found = measured(made, batches, optimizer, by="group")
    layered = measured(made, batches, optimizer)
    assert {tag for tag in found if tag.startswith("ireg/sgd/")} == {"ireg/sgd/0", "ireg/sgd/1"}
    for tag in TAGS:  # each group holds one layer
        assert found.get(f"{tag}/1") == layered.get(f"{tag}/2"), tag
        assert found.get(f"{tag}/0") == layered.get(f"{tag}/0"), tag
    rates = [group["lr"] for group in optimizer.param_groups]
    for number, (rate, names) in enumerate(zip(rates, LAYERS.values(), strict=True)):
        rows = rows_of(made, batches, names)
        assert found[f"ireg/sgd/{number}"] == pytest.approx(rate / 4 * np.mean(np.sum(rows**2, 1)), rel=1e-10)


def test_each_groups_equilibrium_is_of_its_own_decay():
    """All together have none where decay differs."""

    def make(made):
        groups = [{"params": made[0].parameters(), "weight_decay": 0.1}, {"params": made[2].parameters()}]
        return torch.optim.AdamW(groups, lr=0.01, weight_decay=0.0)

    made, batches, optimizer, _ = trained(make)
    found = measured(made, batches, optimizer, by="group", terms=["noise/equilibrium"])
    assert {*found} == {"noise/equilibrium/0"}
    value = expected(made, batches, optimizer, LAYERS["0"])["noise/equilibrium"]
    assert found["noise/equilibrium/0"] == pytest.approx(value, rel=1e-9)


def test_terms_without_parts_are_of_the_whole_alone():
    made, batches, optimizer, _ = trained(STEPPED["momentum"])
    tags = ["norm/l2", "curvature/lambda_max", "ireg/strength", "ireg/sgd", "mine/largest"]
    terms = {tag: TERMS[tag] for tag in tags[:-1]} | {"mine/largest": largest}
    found = measured(made, batches, optimizer, terms=terms)
    assert {*found} == {*tags, "ireg/sgd/0", "ireg/sgd/2"}


@ireg.needs(ireg.Need.SQ_NORMS)
def largest(snapshot):
    return snapshot.moments.sq_norms.max().sqrt()


@ireg.needs(ireg.Need.SQ_NORMS | ireg.Need.MEAN, estimable=True)
def through_the_moments(snapshot):
    return {"m": snapshot.moments.mean_square(None), "v": snapshot.descended_moments.square_of_mean(None)}


def test_a_term_of_ones_own_has_parts_if_it_has_estimates(passes):
    made, batches, optimizer, _ = trained(STEPPED["momentum"])
    found = measured(made, batches, optimizer, terms={"mine/both": through_the_moments})
    assert {*found} == {f"mine/both{part}/{name}" for part in ("", "/0", "/2") for name in "mv"}
    for layer, names in LAYERS.items():
        rows = rows_of(made, batches, names)
        assert found[f"mine/both/{layer}/m"] == pytest.approx(np.mean(np.sum(rows**2, 1)), rel=1e-10)
        assert found[f"mine/both/{layer}/v"] == pytest.approx(np.sum(rows.mean(0) ** 2), rel=1e-10)
    assert passes == ["MomentSums"]
    penalty = ireg.regularizers.Minibatch(strength=0.3)
    found = measured(made, batches, optimizer, terms={"mine/both": through_the_moments}, regularizer=penalty)
    assert found["mine/both/0/v"] + found["mine/both/2/v"] == pytest.approx(found["mine/both/v"], rel=1e-10)
    assert passes == ["MomentSums"] * 3  # of the loss, and of the objective


def test_a_layer_whose_tag_would_be_that_of_a_standard_error():
    made = nn.ModuleDict({"a": nn.Linear(1, 1), "a_se": nn.Linear(1, 1)})
    named, optimizer = dict(made.named_parameters()), torch.optim.SGD(made.parameters(), lr=RATE)
    with pytest.raises(ValueError, match=r"^by='layer': layer 'a_se' has the tags of the standard errors of layer 'a'"):
        parts_of("layer", named, optimizer, named)
    assert parts_of("group", named, optimizer, named) == {"0": tuple(named)}  # the advice
    del named["a.weight"], named["a.bias"]
    assert [*parts_of("layer", named, optimizer, named)] == ["a_se"]


def test_a_part_that_was_not_foreseen_has_no_estimate(monkeypatch):
    monkeypatch.setattr(compute, "KEPT_MEMORY", 0)
    made, batches, optimizer, _ = trained(STEPPED["momentum"])
    options = Options(terms=["ireg/sgd"], criterion=mse_loss, by="layer")
    loss = ireg.core.functional.functional_loss(made, mse_loss)
    snapshot = take_snapshot(made, Epoch(batches=batches, population=9), options, loss=loss, optimizer=optimizer)
    assert snapshot.gradients.of(LAYERS["0"]).names == LAYERS["0"]
    with pytest.raises(ValueError, match=r"^0\.weight were not foreseen as a part; name them in Foreseen\.parts"):
        snapshot.gradients.of(["0.weight"])


# The range of single precision.


def steep(loss_of_first):
    """Two layers side by side, of which one has gradients of another size."""
    torch.manual_seed(5)
    made = nn.ModuleDict({"a": nn.Linear(3, 2), "b": nn.Linear(3, 2), "unused": nn.Linear(3, 2)})
    batches = [torch.randn(4, 3) for _ in range(4)]

    def loss(model, batch):
        first, second, third = (model[name](batch).square().mean() for name in ("a", "b", "unused"))
        return loss_of_first * first + second + 0 * third

    return made, batches, loss


def divided(made, **seconds):
    """RMSProp with second moments of 1, or others by layer."""
    optimizer = torch.optim.RMSprop([{"params": layer.parameters()} for layer in made.values()], lr=RATE, eps=0.0)
    for name, parameter in made.named_parameters():
        second = torch.full_like(parameter, seconds.get(name[0], 1.0))
        optimizer.state[parameter] = {"step": torch.tensor(1.0), "square_avg": second}
    return optimizer


@pytest.mark.parametrize("arguments", [{}, {"population": 9}, {"mode": "two_draws"}], ids=str)
@pytest.mark.parametrize("streamed", [False, True])
def test_squares_of_one_layer_are_not_lost_beside_those_of_another(streamed, arguments, monkeypatch):
    if streamed:
        monkeypatch.setattr(compute, "KEPT_MEMORY", 0)
    tags = ["ireg/sgd", "ireg/full_batch", "ireg/own", "noise/trace"]
    found = {}
    for size in (1.0, 1e-25):
        made, batches, loss = steep(size)
        given = {"optimizer": divided(made), "loss": loss, "by": "layer", "check": "off", **arguments}
        found[size] = ireg.measure(made, batches, terms=tags, **given)
        for tag in tags:  # a term alone asks for less of the pass
            alone = ireg.measure(made, batches, terms=[tag], **given)
            assert alone == pytest.approx({name: found[size][name] for name in alone}, rel=1e-5, abs=0)
    for tag in tags:
        assert found[1e-25][f"{tag}/a"] == pytest.approx(1e-50 * found[1.0][f"{tag}/a"], rel=1e-4, abs=0), tag
        assert found[1e-25][f"{tag}/b"] == pytest.approx(found[1.0][f"{tag}/b"], rel=1e-5)
        assert found[1e-25][f"{tag}/unused"] == 0


@pytest.mark.parametrize("slow", [1.0, 1e-30])
@pytest.mark.parametrize(("memory", "population"), [(2**26, 9), (0, 9), (0, None)])
def test_metrics_of_one_layer_are_not_lost_beside_those_of_another(memory, population, slow, monkeypatch):
    """Where one has second moments of 1e-20, for gradients of 1e-10, and a learning rate of its own."""
    monkeypatch.setattr(compute, "KEPT_MEMORY", memory)
    found = {}
    for size in (1.0, 1e-10):
        made, batches, loss = steep(size)
        optimizer = divided(made, a=size**2)
        if size < 1:
            optimizer.param_groups[0]["lr"] = slow * RATE
        found[size] = ireg.measure(
            made, batches, optimizer=optimizer, loss=loss, terms=["ireg/rmsprop", "ireg/sgd", "ireg/own"], by="layer",
            check="off", population=population,
        )  # fmt: skip
    for tag, factor in {"ireg/rmsprop": 1e-60, "ireg/sgd": 1e-20 * slow, "ireg/own": 1e-10 * slow}.items():
        for ending in ("", STANDARD_ERROR) if population else ("",):
            value = factor * found[1.0][f"{tag}/a{ending}"]
            assert found[1e-10][f"{tag}/a{ending}"] == pytest.approx(value, rel=1e-4, abs=0), tag
            assert found[1e-10][f"{tag}/b{ending}"] == pytest.approx(found[1.0][f"{tag}/b{ending}"], rel=1e-5)


def test_a_layer_without_a_gradient_takes_no_second_pass(monkeypatch, passes):
    made, batches, loss = steep(1.0)
    optimizer = torch.optim.SGD(made.parameters(), lr=RATE)
    ireg.measure(made, batches, optimizer=optimizer, loss=loss, terms=["ireg/sgd"], by="layer", check="off")
    monkeypatch.setattr(compute, "KEPT_MEMORY", 0)
    ireg.measure(
        made, batches, optimizer=optimizer, loss=loss, terms=["ireg/sgd"], by="layer", check="off", population=9
    )
    assert passes == ["MomentSums", "StreamedSums"]


@pytest.mark.parametrize("method", ["ghost", "layers"])
def test_products_of_one_layers_examples_are_not_lost(method):
    """By ghost norms, of inputs that are small where sensitivities are large, and beside another layer's gradient."""
    torch.manual_seed(6)
    made = nn.Sequential(nn.Linear(3, 4, bias=False), nn.Identity(), nn.Linear(4, 2))
    with torch.no_grad():
        made[2].weight.mul_(1e18)
    made[2].weight.requires_grad_(False)
    batches = [(5e-23 * torch.randn(4, 3), torch.ones(4, 2)) for _ in range(3)]
    optimizer = torch.optim.SGD([made[0].weight, made[2].bias], lr=RATE)
    tags = ["ireg/sgd", "ireg/full_batch"]
    found = measured(made, batches, optimizer, terms=tags, method=method)
    for layer, names in {"0": ["0.weight"], "2": ["2.bias"]}.items():
        rows = rows_of(made, batches, names)
        assert found[f"ireg/sgd/{layer}"] == pytest.approx(RATE / 4 * np.mean(np.sum(rows**2, 1)), rel=1e-4, abs=0)
        assert found[f"ireg/full_batch/{layer}"] == pytest.approx(RATE / 4 * np.sum(rows.mean(0) ** 2), rel=1e-4, abs=0)
    assert found["ireg/sgd/0"] < 1e-6 * found["ireg/sgd/2"]
