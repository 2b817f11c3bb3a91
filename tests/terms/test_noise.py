"""Noise scales against the gradients of single examples, and steps against the weights that they have moved."""

import math
from dataclasses import replace
from itertools import combinations, product

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import mse_loss

import ireg
from ireg.catalogue import CATALOGUE, SETS
from ireg.core.batches import IndexedBatches, examples_of
from ireg.core.functional import StepLoss
from ireg.core.moments.needs import EVERYTHING, NOTHING, Need, needs_path
from ireg.core.optimizers import view
from ireg.core.own_passes import OwnPasses
from ireg.core.random import named_generator
from ireg.core.ranks import MeanOverRanks
from ireg.core.snapshot import Snapshot
from ireg.lit.step_loss import MicroBatches
from ireg.measurement import evaluate
from ireg.terms import noise
from ireg.terms.named import TERMS

TAGS = [tag for tag in SETS["noise"] if tag.startswith("noise/")]
stream = torch.Generator().manual_seed(0)
SCALE = torch.rand(4, generator=stream, dtype=torch.float64) + 0.5


def linear(params, batch):
    """A loss whose gradient is the mean of the minibatch's rows."""
    return (batch @ params["w"]).mean()


def module():
    """A module of four weights."""
    made = nn.Module()
    made.w = nn.Parameter(torch.ones(4, dtype=torch.float64))
    return made


def seen(batches, optimizer=None, weights=None, **arguments):
    """A snapshot of a linear loss; by default of Adam with a known P."""
    made = module()
    if optimizer is None:
        optimizer = torch.optim.Adam(made.parameters(), lr=0.1, eps=0.0, betas=(0.9, 0.99))
        made.w.grad = torch.ones(4, dtype=torch.float64)
        optimizer.step()
        optimizer.state[made.w]["exp_avg_sq"].copy_((1 - 0.99) / SCALE**2)
    else:
        optimizer = optimizer(made.parameters())
    params = {"w": made.w.detach() if weights is None else weights}
    return Snapshot(
        params=params, initial=params, loss=linear, batches=batches, optimizer=view(optimizer, {"w": made.w}),
        generator=named_generator("terms"), method="loop", needs=EVERYTHING, **arguments,
    )  # fmt: skip


def measured(batches, tags=("noise/trace", "noise/square"), **arguments):
    return evaluate({tag: TERMS[tag] for tag in tags}, seen(batches, **arguments))


def examples(count, seed=1):
    return torch.randn(count, 4, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) + 0.3


def partitions(rows, sizes):
    """Every partition of rows into minibatches of these sizes, each in one order of its rows."""
    if not sizes:
        yield []
        return
    for chosen in combinations(rows, sizes[0]):
        rest = [row for row in rows if row not in chosen]
        for others in partitions(rest, sizes[1:]):
            yield [list(chosen), *others]


def exact(rows, scale=1.0):
    """tr PΣ and ‖∇C‖²_P from the examples' gradients."""
    mean = rows.mean(0)
    return float((scale * (rows - mean) ** 2).sum(1).mean()), float((scale * mean**2).sum())


@pytest.mark.parametrize("sizes", [(2, 2, 2), (3, 3), (1, 1, 1, 1), (2, 2, 1), (3, 1, 2)], ids=str)
def test_the_mean_over_all_partitions_is_that_of_the_examples(sizes):
    rows = examples(sum(sizes))
    found = [measured([rows[index] for index in parts]) for parts in partitions(range(len(rows)), sizes)]
    trace, square = exact(rows)
    assert np.mean([values["noise/trace"] for values in found]) == pytest.approx(trace, rel=1e-10)
    assert np.mean([values["noise/square"] for values in found]) == pytest.approx(square, rel=1e-10)


@pytest.mark.parametrize("seed", range(3))
def test_some_of_the_minibatches(seed):
    """Of a partition with four minibatches the mean over all samples of three is the whole's value."""
    batches = list(examples(8, seed).split(2))
    found = [measured(list(sample), population=4) for sample in combinations(batches, 3)]
    for tag, expected in measured(batches).items():
        assert np.mean([values[tag] for values in found]) == pytest.approx(expected, rel=1e-10)
        assert all(values[f"{tag}_se"] > 0 for values in found)


@pytest.mark.parametrize("sizes", [(2, 2), (1, 2)], ids=str)
def test_the_mean_over_all_independent_draws_is_that_of_the_examples(sizes):
    rows = examples(3)
    found = []
    for draws in product(range(3), repeat=sum(sizes)):
        batches = [rows[list(part)] for part in (draws[: sizes[0]], draws[sizes[0] :])]
        found.append(measured(batches, sampling="independent"))
    trace, square = exact(rows)
    assert np.mean([values["noise/trace"] for values in found]) == pytest.approx(trace, rel=1e-10)
    assert np.mean([values["noise/square"] for values in found]) == pytest.approx(square, rel=1e-10)
    wrong = [
        measured([rows[list(draws[:2])], rows[list(draws[2:])]])["noise/trace"] for draws in product(range(3), repeat=4)
    ]
    assert np.mean(wrong) < 0.9 * trace  # a negative control: the constants of an epoch


def test_the_own_scale_is_in_the_metric_of_the_optimizer():
    rows = examples(6)
    upper, lower = [], []
    for parts in partitions(range(6), (2, 2, 2)):
        taken = seen([rows[index] for index in parts])
        assert torch.allclose(taken.preconditioner["w"], SCALE, rtol=1e-12)
        trace, square = noise._parts(taken, taken.preconditioner)
        upper.append(float(trace))
        lower.append(float(square))
        assert float(noise.scale_own(taken)) == pytest.approx(upper[-1] / lower[-1], rel=1e-12)
    trace, square = exact(rows, SCALE)
    assert (np.mean(upper), np.mean(lower)) == (pytest.approx(trace, rel=1e-10), pytest.approx(square, rel=1e-10))


def test_the_ratios_are_those_of_their_parts():
    batches = list(examples(12).split(3))
    values = measured(batches, TAGS)
    assert values["noise/scale"] == pytest.approx(values["noise/trace"] / values["noise/square"], rel=1e-12)
    assert values["noise/signal_to_noise"] == pytest.approx(3 / values["noise/scale"], rel=1e-12)
    means = torch.stack([batch.mean(0) for batch in batches])
    spread = float((means - means.mean(0)).square().sum() / means.square().sum())
    assert values["noise/share"] == pytest.approx(spread, rel=1e-12)


def test_two_standard_errors_cover_the_value():
    """Of twelve minibatches out of sixty; the errors are those of the ratio to first order."""
    batches = list((examples(240, seed=2) + 0.3).split(4))
    whole = measured(batches, TAGS)
    tags = [tag for tag in ("noise/trace", "noise/square", "noise/scale", "noise/share") if tag in whole]
    drawn = torch.Generator().manual_seed(3)
    within, off, claimed = dict.fromkeys(tags, 0), {tag: [] for tag in tags}, {tag: [] for tag in tags}
    for _ in range(200):
        chosen = torch.randperm(60, generator=drawn)[:12].tolist()
        values = measured([batches[number] for number in chosen], tags, population=60)
        for tag in tags:
            off[tag].append(values[tag] - whole[tag])
            claimed[tag].append(values[f"{tag}_se"])
            within[tag] += abs(off[tag][-1]) < 2 * claimed[tag][-1]
    assert len(tags) == 4
    for tag in tags:
        assert 0.85 < within[tag] / 200 <= 0.99, tag
        assert 0.8 < np.sqrt(np.mean(np.square(claimed[tag]))) / np.std(off[tag]) < 1.6, tag


@pytest.mark.parametrize("function", [noise._ratio, noise._root], ids=lambda function: function.__name__)
def test_jackknife_values_of_ratios_and_roots_are_those_of_their_first_order(function):
    """They are the differential at the whole sample, here by central differences."""
    exact = {noise._ratio: lambda upper, lower: upper / lower, noise._root: lambda one: math.sqrt(one)}[function]
    given = [[3.0, 2.0, 4.5, 3.1], [1.5, 2.5, -1.0, 1.4]][: 2 if function is noise._ratio else 1]
    found = function(*(torch.tensor(values, dtype=torch.float64) for values in given))
    whole = [values[0] for values in given]
    assert float(found[0]) == pytest.approx(exact(*whole), rel=1e-15)
    for number in range(1, 4):
        ends = [
            exact(*(one + step * (values[number] - one) for one, values in zip(whole, given, strict=True)))
            for step in (1e-5, -1e-5)
        ]
        assert float(found[number]) == pytest.approx(exact(*whole) + (ends[0] - ends[1]) / 2e-5, rel=1e-8, abs=1e-8)
    alone = function(*(torch.tensor(one, dtype=torch.float64) for one in whole))
    assert (alone.ndim, float(alone)) == (0, pytest.approx(exact(*whole), rel=1e-15))


def test_ratios_and_roots_of_nothing():
    for lower in (0.0, -0.5):
        assert noise._ratio(torch.tensor([1.0, 2.0]), torch.tensor([lower, 1.0])) is None
        assert noise._ratio(torch.tensor(1.0), torch.tensor(lower)) is None
    assert noise._ratio(torch.tensor([1.0, 2.0]), torch.tensor([0.5, -1.0])).tolist() == [2.0, 10.0]
    assert float(noise._ratio(torch.tensor(math.inf), torch.tensor(2.0))) == math.inf
    assert noise._root(torch.tensor([0.0, 4.0, 0.0])).tolist() == [0.0, 0.0, 0.0]  # no order of it is known
    assert float(noise._root(torch.tensor(0.0))) == 0.0


def test_a_minibatch_without_examples_has_no_noise_scale():
    def loss(params, batch):
        return (batch["rows"] @ params["w"]).mean()

    for first, tags in ((0, set()), (3, {"noise/trace", "noise/square"})):
        batches = [{"first": torch.zeros(size), "rows": examples(3, size)} for size in (first, 2)]
        taken = replace(seen([rows["rows"] for rows in batches]), loss=loss, batches=batches)
        assert taken.examples == [first, 2]
        assert {tag for tag in ("noise/trace", "noise/square") if TERMS[tag](taken) is not None} == tags


def test_where_they_do_not_exist():
    rows = examples(6)
    assert set(measured([rows], TAGS)) == {"noise/share", "noise/update_ratio", "noise/angle"}  # one minibatch
    equal = measured([rows[:3]] * 2, TAGS)  # which do not vary
    assert "noise/signal_to_noise" not in equal
    assert (equal["noise/trace"], equal["noise/scale"]) == (pytest.approx(0, abs=1e-14), pytest.approx(0, abs=1e-14))
    apart = measured([rows[:3] - rows[:3].mean(0) + 1, rows[3:] - rows[3:].mean(0) - 1], TAGS, sampling="independent")
    assert apart["noise/square"] < 0
    assert apart["noise/signal_to_noise"] < 0
    assert not {"noise/scale", "noise/scale_own"} & set(apart)
    nothing = measured([rows * 0] * 2, TAGS)
    assert not {"noise/scale", "noise/share", "noise/signal_to_noise"} & set(nothing)
    broken = measured([rows * math.nan, rows], TAGS)
    assert math.isnan(broken["noise/scale"])  # which is not hidden
    assert math.isnan(broken["noise/share"])
    with pytest.raises(ValueError, match="with 1 minibatch"):
        measured([rows], ["noise/share"], sampling="independent")
    unknown = measured([rows[:3], rows[3:]], TAGS, optimizer=lambda weights: torch.optim.Rprop(weights))
    assert set(unknown) == {
        "noise/scale", "noise/signal_to_noise", "noise/trace", "noise/square", "noise/share"
    }  # fmt: skip


def test_minibatches_that_do_not_say_how_many_examples_they_have():
    weights = torch.nn.Parameter(torch.ones(1, dtype=torch.float64))
    made = nn.Module()
    made.w = weights
    batches = [{"x": torch.tensor(value, dtype=torch.float64)} for value in (1.0, 2.0)]
    values = ireg.measure(
        made, batches, optimizer=torch.optim.SGD([weights], lr=0.1), terms=TAGS, check="off",
        loss=lambda model, batch: (model.w * batch["x"]).sum(),
    )  # fmt: skip
    assert set(values) == {"noise/share", "noise/update_ratio"}


def test_what_they_need():
    """Squares by weight only where a scale is not the same for all weights, and nothing where there is no value."""
    plain, squares, steps = Need.SQ_NORMS | Need.MEAN, Need.SQUARE | Need.MEAN, Need.SQUARE | Need.STEPS
    sgd, adam, rmsprop = torch.optim.SGD, torch.optim.Adam, torch.optim.RMSprop
    expected = {
        "sgd": (lambda made: sgd(made.parameters(), lr=0.1), True, (plain, Need.SQ_NORMS, Need.SQ_NORMS)),
        "momentum": (lambda made: sgd(made.parameters(), lr=0.1, momentum=0.5), True, (plain, NOTHING, Need.SQ_NORMS)),
        "groups": (lambda made: sgd(groups(made), lr=0.1), True, (squares, steps, steps)),
        "adam": (lambda made: adam(made.parameters()), True, (squares, NOTHING, steps)),
        "rmsprop": (lambda made: rmsprop(made.parameters()), True, (squares, steps, steps)),
        "rmsprop at the start": (lambda made: rmsprop(made.parameters()), False, (NOTHING, NOTHING, NOTHING)),
        "no rule": (lambda made: torch.optim.Rprop(made.parameters()), True, (plain, NOTHING, Need.SQ_NORMS)),
    }
    for name, (make, is_stepped, needed) in expected.items():
        made, _, optimizer, _ = trained(make) if is_stepped else (network()[0], None, None, None)
        optimizer = make(made) if optimizer is None else optimizer
        state = view(optimizer, dict(made.named_parameters()))
        assert (noise._scaled(state), noise._of_last_step(state), noise._of_steps(state)) == needed, name


# Sizes.


def test_examples_are_the_first_dimension_of_the_first_tensor():
    x = torch.zeros(5, 2)
    held = IndexedBatches(x, x, [torch.arange(3), torch.arange(2)])
    assert examples_of(held) == [3, 2]
    assert examples_of([(x, x[:2]), {"scale": torch.tensor(1.0), "name": "x", "inner": [x[:3]]}]) == [5, 3]
    assert examples_of([x, torch.tensor(1.0)]) is None
    assert examples_of([x, {"name": "x"}]) is None
    assert examples_of([MicroBatches((((x, x), 0), ((x[:2], x), 1)), 2)]) == [7]
    assert examples_of([MicroBatches((((x, x), 0), ("text", 1)), 2)]) is None


@pytest.mark.parametrize(
    "loss",
    [
        MeanOverRanks(StepLoss(module(), lambda model, batch: model.w.sum(), fresh=False)),
        OwnPasses(module(), module(), lambda model, batch: (model.w.sum(), None), group="two"),
    ],
    ids=lambda loss: type(loss).__name__,
)
def test_examples_of_all_ranks_are_counted(loss, monkeypatch):
    monkeypatch.setattr("torch.distributed.get_world_size", lambda group: 2)
    batches = list(examples(5).split(3))
    assert replace(seen(batches), loss=loss).examples == [6, 4]
    alone = OwnPasses(module(), module(), lambda model, batch: (model.w.sum(), None))
    assert replace(seen(batches), loss=alone).examples == [3, 2]


# Steps.


def network():
    torch.manual_seed(1)
    made = nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 2)).double()
    batches = [(torch.randn(4, 3, dtype=torch.float64), torch.randn(4, 2, dtype=torch.float64)) for _ in range(4)]
    return made, batches


def groups(made):
    return [{"params": made[0].parameters(), "lr": 0.01}, {"params": made[2].parameters(), "lr": 0.03}]


STEPPED = {
    "momentum": lambda made: torch.optim.SGD(made.parameters(), lr=0.1, momentum=0.9, weight_decay=0.1),
    "groups": lambda made: torch.optim.SGD(groups(made), lr=0.1, momentum=0.5),
    "adam": lambda made: torch.optim.Adam(made.parameters(), lr=0.01, weight_decay=0.1),
    "adamw": lambda made: torch.optim.AdamW(made.parameters(), lr=0.01, weight_decay=0.1),
    "adamw groups": lambda made: torch.optim.AdamW(groups(made), weight_decay=0.1),
    "amsgrad": lambda made: torch.optim.Adam(made.parameters(), lr=0.01, amsgrad=True),
    "rmsprop": lambda made: torch.optim.RMSprop(made.parameters(), lr=0.01, momentum=0.5),
    "rmsprop groups": lambda made: torch.optim.RMSprop(groups(made), momentum=0.5),
}


def flat(made):
    return torch.cat([value.detach().flatten() for value in made.parameters()]).clone()


def trained(make):
    """A network after an epoch, and its weights before the last step."""
    made, batches = network()
    optimizer = make(made)
    for batch in batches:
        before = flat(made)
        optimizer.zero_grad()
        mse_loss(made(batch[0]), batch[1]).backward()
        optimizer.step()
    return made, batches, optimizer, before


def values_of(made, batches, optimizer, **arguments):
    return ireg.measure(made, batches, optimizer=optimizer, criterion=mse_loss, terms=TAGS, **arguments)


@pytest.mark.parametrize("name", STEPPED)
def test_the_last_step_is_what_the_weights_have_moved(name):
    made, batches, optimizer, before = trained(STEPPED[name])
    now = flat(made)
    if name.startswith("adamw"):
        rates = torch.cat(
            [
                torch.full((value.numel(),), group["lr"], dtype=before.dtype)
                for group in optimizer.param_groups
                for value in group["params"]
            ]
        )
        before = before * (1 - 0.1 * rates)
    values = values_of(made, batches, optimizer)
    assert values["noise/update_ratio"] == pytest.approx(float((now - before).norm() / now.norm()), rel=1e-9)
    turned = math.acos(float(now @ before / (now.norm() * before.norm())))
    assert values["noise/angle"] == pytest.approx(turned, rel=1e-6)
    assert turned > 1e-3


@pytest.mark.parametrize("name", ["sgd", "rmsprop", "adagrad"])
def test_without_a_buffer_it_is_the_mean_of_the_steps_from_here(name):
    make = {
        "sgd": lambda made: torch.optim.SGD(groups(made), lr=0.1),
        "rmsprop": lambda made: torch.optim.RMSprop(made.parameters(), lr=0.01),
        "adagrad": lambda made: torch.optim.Adagrad(made.parameters(), lr=0.01),
    }[name]
    made, batches, optimizer, _ = trained(make)
    values = values_of(made, batches, optimizer)
    squares = []
    for inputs, targets in batches:
        optimizer.zero_grad()
        mse_loss(made(inputs), targets).backward()
        square = 0.0
        for group in optimizer.param_groups:
            for value in group["params"]:
                state = optimizer.state[value]
                root = {"sgd": 1.0, "rmsprop": state.get("square_avg"), "adagrad": state.get("sum")}[name]
                scale = 1.0 if name == "sgd" else 1 / (root.sqrt() + group["eps"])
                square += float((group["lr"] * scale * value.grad).square().sum())
        squares.append(square)
    expected = math.sqrt(np.mean(squares)) / float(flat(made).norm())
    assert values["noise/update_ratio"] == pytest.approx(expected, rel=1e-9)
    assert "noise/angle" not in values
    some = values_of(made, batches[:3], optimizer, population=4)
    assert some["noise/update_ratio"] == pytest.approx(
        math.sqrt(np.mean(squares[:3])) / float(flat(made).norm()), rel=1e-9
    )
    assert 0 < some["noise/update_ratio_se"] < some["noise/update_ratio"]


@pytest.mark.parametrize(
    "make",
    [
        lambda made: torch.optim.SGD(made.parameters(), lr=0.1, momentum=0.9, nesterov=True),
        lambda made: torch.optim.NAdam(made.parameters(), lr=0.01),
        lambda made: torch.optim.Rprop(made.parameters(), lr=0.01),
    ],
)
def test_steps_that_are_not_known(make):
    made, batches, optimizer, _ = trained(make)
    assert not {"noise/update_ratio", "noise/angle"} & set(values_of(made, batches, optimizer))


@pytest.mark.parametrize("name", STEPPED)
def test_before_the_first_step_there_is_none(name):
    made, batches = network()
    found = values_of(made, batches, STEPPED[name](made))
    assert not {"noise/update_ratio", "noise/angle"} & set(found)
    assert "noise/scale" in found
    divides = name not in ("momentum", "groups")
    assert ("noise/scale_own" in found) != divides
    if name == "momentum":
        assert found["noise/scale_own"] == found["noise/scale"]  # in the metric of the identity


def test_a_parameter_that_has_not_moved_hides_no_step():
    made, batches = network()
    made.register_parameter("still", nn.Parameter(torch.ones(2, dtype=torch.float64)))
    optimizer = torch.optim.Adam(made.parameters(), lr=0.01)
    for batch in batches:
        before = flat(made)
        optimizer.zero_grad()
        (mse_loss(made[:3](batch[0]), batch[1]) + 0 * made.still.sum()).backward()
        optimizer.step()
    loss = {"loss": lambda model, batch: mse_loss(model[:3](batch[0]), batch[1]) + 0 * model.still.sum()}
    values = ireg.measure(made, batches, optimizer=optimizer, terms=TAGS, by="layer", **loss)
    now = flat(made)
    assert values["noise/update_ratio"] == pytest.approx(float((now - before).norm() / now.norm()), rel=1e-9)
    assert not {"noise/update_ratio/still", "noise/angle/still"} & set(values)


def test_a_buffer_that_never_fades_is_refused():
    made, batches, optimizer, _ = trained(lambda made: torch.optim.SGD(made.parameters(), lr=0.01, momentum=1.0))
    with pytest.raises(ValueError, match="its memory must fade"):
        values_of(made, batches, optimizer)


# The equilibrium.


@pytest.mark.parametrize("rate", [0.05, 0.2])
def test_a_random_walk_with_decay_has_its_fixed_point_there(rate):
    """ω ← (1 − ηλ) ω − η x with independent x: E‖ω‖² has one fixed point, at which the term is 1."""
    steps = torch.randn(50, 4, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    decay, mean_square = 0.3, float(steps.square().sum(1).mean())
    fixed = rate**2 * mean_square / (1 - (1 - rate * decay) ** 2)
    assert (1 - rate * decay) ** 2 * fixed + rate**2 * mean_square == pytest.approx(fixed, rel=1e-12)

    def make(weights):
        return torch.optim.SGD(weights, lr=rate, weight_decay=decay)

    for size in (1.0, 0.5, 3.0):
        place = torch.full((4,), size * math.sqrt(fixed) / 2, dtype=torch.float64)
        values = measured([row[None] for row in steps], TAGS, optimizer=make, weights={"w": place}["w"])
        assert values["noise/equilibrium"] == pytest.approx(1 / size, rel=1e-12)
        some = measured([row[None] for row in steps[:10]], TAGS, optimizer=make, weights=place, population=50)
        assert 0 < some["noise/equilibrium_se"] < 0.3 * some["noise/equilibrium"]
    walk = torch.zeros(2000, 4, dtype=torch.float64)
    drawn = torch.Generator().manual_seed(5)
    for _ in range(int(3 / (rate * decay))):
        chosen = torch.randint(50, (2000,), generator=drawn)
        sign = 2 * torch.randint(2, (2000, 1), generator=drawn) - 1
        walk = (1 - rate * decay) * walk - rate * sign * steps[chosen]
    assert float(walk.square().sum(1).mean()) == pytest.approx(fixed, rel=0.06)


class Invariant(nn.Module):
    """A linear classifier whose weights' size does not matter."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(3 * torch.randn(1, 8, generator=torch.Generator().manual_seed(6)).double())

    def forward(self, inputs):
        return inputs @ (self.weight / self.weight.norm()).mT


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_a_scale_invariant_network_settles_there(momentum):
    """In twenty steps, with independent minibatches; its angle a step is then √(2ηλ)."""
    drawn = torch.Generator().manual_seed(7)
    inputs = torch.randn(64, 8, generator=drawn, dtype=torch.float64)
    batches = list(zip(inputs.split(4), torch.randn(64, 1, generator=drawn, dtype=torch.float64).split(4), strict=True))
    made = Invariant()
    optimizer = torch.optim.SGD(made.parameters(), lr=0.5 * (1 - momentum), momentum=momentum, weight_decay=0.05)
    ratios, turns = [], []
    for number in torch.randint(16, (500,), generator=drawn).tolist():
        optimizer.zero_grad()
        mse_loss(made(batches[number][0]), batches[number][1]).backward()
        optimizer.step()
        if len(turns) % 20 == 0:
            values = values_of(made, batches, optimizer, check="off")
            ratios.append(values["noise/equilibrium"])
        turns.append(values["noise/update_ratio"])
    assert np.mean(ratios[10:]) == pytest.approx(1, abs=0.1)
    assert abs(ratios[0] - 1) > 0.2
    if not momentum:
        assert np.mean(turns[200:]) == pytest.approx(math.sqrt(2 * 0.5 * 0.05), rel=0.1)


def test_decay_that_has_no_one_equilibrium():
    def found(make):
        made, batches, optimizer, _ = trained(make)
        return "noise/equilibrium" in values_of(made, batches, optimizer)

    def grouped(made, **second):
        return [{"params": made[0].parameters()}, {"params": made[2].parameters(), **second}]

    adamw, sgd = torch.optim.AdamW, torch.optim.SGD
    assert found(lambda made: adamw(made.parameters(), lr=0.01, weight_decay=0.1))
    assert found(lambda made: sgd(made.parameters(), lr=0.1, weight_decay=0.1, momentum=0.5))
    assert found(lambda made: adamw(grouped(made, lr=0.02, weight_decay=0.05), lr=0.01, weight_decay=0.1))
    single = nn.Linear(3, 1).double()  # a bias of one number
    rates = [{"params": [single.weight], "lr": 0.02, "weight_decay": 0.05}, {"params": [single.bias]}]
    state = view(adamw(rates, lr=0.01, weight_decay=0.1), dict(single.named_parameters()))
    decays = [noise._rate_of_decay(state, state.lr, name) for name in ("weight", "bias")]
    assert decays == pytest.approx([0.001, 0.001], rel=1e-12)
    assert not found(lambda made: adamw(grouped(made, weight_decay=0.0), lr=0.01, weight_decay=0.1))
    assert not found(lambda made: adamw(grouped(made, lr=0.02), lr=0.01, weight_decay=0.1))
    assert not found(lambda made: torch.optim.Adam(made.parameters(), lr=0.01, weight_decay=0.1))
    assert not found(lambda made: sgd(made.parameters(), lr=0.1))
    for decay, exists in ((9.9, True), (10.0, False), (15.0, False), (20.0, False)):  # ηλ below 1, and not
        assert found(lambda made, decay=decay: sgd(made.parameters(), lr=0.1, weight_decay=decay)) == exists


def test_the_set_takes_no_second_pass_and_no_path():
    made, batches, optimizer, _ = trained(STEPPED["adamw"])
    taken = []

    def criterion(outputs, targets):
        taken.append(1)
        return mse_loss(outputs, targets)

    passes = {}
    for terms in ("default", "noise"):
        taken.clear()
        ireg.measure(made, batches, optimizer=optimizer, criterion=criterion, terms=terms, method="loop", check="off")
        passes[terms] = len(taken)
    assert passes["default"] == passes["noise"] < 8
    others = {*SETS["mean_step"]}  # which drawn orders cost
    assert {tag for tag in CATALOGUE if tag.startswith("noise/")} - others == {*TAGS}
    assert not any(needs_path(TERMS[tag]) for tag in TAGS)


def test_two_batch_sizes_have_no_bias():
    """Over all independent draws of three examples, the first of which are the smaller batch."""
    rows = examples(3)
    found = []
    for draws in product(range(3), repeat=3):
        small, large = (float(rows[list(part)].mean(0).square().sum()) for part in (draws[:2], draws))
        found.append(ireg.noise_of_two_sizes(small, large, small=2, large=3))
    trace, square = exact(rows)
    assert np.mean([one.trace for one in found]) == pytest.approx(trace, rel=1e-10)
    assert np.mean([one.square for one in found]) == pytest.approx(square, rel=1e-10)
    assert any(one.scale is None for one in found)
    assert all(one.scale == one.trace / one.square for one in found if one.square > 0)
    for small, large in ((3, 3), (0, 3), (4, 3)):
        with pytest.raises(ValueError, match=f"^small={small}, large={large}: must be 0 < small < large"):
            ireg.noise_of_two_sizes(1.0, 1.0, small=small, large=large)
