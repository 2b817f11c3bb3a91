"""Explicit penalties: their values, their gradients, and what of a run follows them."""

import math
from dataclasses import replace

import pytest
import torch
import yaml
from torch import nn
from torch.nn.functional import cross_entropy
from torch.testing import assert_close

import ireg
from ireg.core.functional import detached_parameters, functional_loss, measuring
from ireg.core.repeated import Repeated, with_gradient
from ireg.lit.module import Classifier
from ireg.objective import Objective
from ireg.regularizers import ASAM, L2, METHODS, SAM, FullBatch, Micro, Minibatch, MomentumLike, Norm
from ireg.system.errors import UserError
from tests.cases import EXACT
from tests.conftest import ROOT
from tests.content import run_content
from tests.test_resume import break_at, break_off

STRENGTH = 0.3
KINDS = {
    "minibatch": Minibatch(strength=STRENGTH),
    "micro": Micro(strength=STRENGTH, size=2),
    "full": FullBatch(strength=STRENGTH),
    "norm": Norm(strength=STRENGTH),
    "momentum": MomentumLike(strength=STRENGTH, momentum=0.5),
    "l2": L2(strength=STRENGTH),
}
NEARBY = {"sam": SAM(strength=STRENGTH), "asam": ASAM(strength=STRENGTH)}


@pytest.fixture
def case():
    """A network with tanh, its loss and an epoch of three minibatches, in float64."""
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)).double()
    batches = [(torch.randn(5, 4).double(), torch.randint(0, 3, (5,))) for _ in range(3)]
    return module, functional_loss(module, cross_entropy), batches


def flat(tensors):
    return torch.cat([tensor.flatten() for tensor in tensors])


def gradient_at(module, batch, weights=None, create_graph=False):
    """By torch alone: the gradient of a minibatch at the module's weights, or at these, as one vector."""
    inputs, targets = batch
    params = list(module.parameters()) if weights is None else weights
    outputs = torch.func.functional_call(
        module, dict(zip(dict(module.named_parameters()), params, strict=True)), (inputs,)
    )
    return flat(torch.autograd.grad(cross_entropy(outputs, targets), params, create_graph=create_graph))


def value_of(name, module, batches, batch, weights=None):
    """By torch alone: R_k with its graph."""

    def gradient(batch):
        return gradient_at(module, batch, weights, create_graph=True)

    own = gradient(batch)
    mean = torch.stack([gradient(other) for other in batches]).mean(0)
    if name == "minibatch":
        return STRENGTH / 4 * own.square().sum()
    if name == "micro":
        inputs, targets = batch
        parts = [(inputs[first : first + 2], targets[first : first + 2]) for first in (0, 2, 4)]
        return STRENGTH / 4 * torch.stack([gradient(part).square().sum() for part in parts]).mean()
    if name == "full":
        return STRENGTH / 4 * mean.square().sum()
    if name == "norm":
        return STRENGTH * own.norm()
    if name == "momentum":  # L = 1, and τ = (2·½ + ¼)/3 for β = ½ and m = 3; in the mean over k, (η_e/4)[2L‖ḡ‖² − τVar]
        overlap = (2 * 0.5 + 0.25) / 3
        return STRENGTH / 4 * ((2 + overlap) * mean.square().sum() - overlap * own.square().sum())
    if name == "l2":
        return STRENGTH / 2 * flat(list(module.parameters()) if weights is None else weights).square().sum()
    raise ValueError(name)


def evaluated(objective, module, batch):
    """The evaluation, and its gradient as one vector; a parameter without gradient has 0."""
    module.zero_grad()
    found = objective.evaluate(dict(module.named_parameters()), batch)
    found.total.backward()
    assert (found.loss.requires_grad, found.penalty.requires_grad) == (False, False)
    return found, flat([torch.zeros_like(p) if p.grad is None else p.grad for p in module.parameters()])


@pytest.mark.parametrize("name", KINDS)
def test_value_and_gradient_are_those_of_the_formula(case, name):
    module, loss, batches = case
    expected = value_of(name, module, batches, batches[1])
    slope = gradient_at(module, batches[1]) + flat(torch.autograd.grad(expected, list(module.parameters())))
    found, gradient = evaluated(Objective(loss, KINDS[name], batches), module, batches[1])
    assert_close(found.penalty, expected.detach(), **EXACT)
    assert_close(found.loss, cross_entropy(module(batches[1][0]), batches[1][1]).detach(), **EXACT)
    assert_close(found.total.detach(), found.loss + found.penalty, **EXACT)
    assert_close(found.outputs, module(batches[1][0]), **EXACT)
    assert_close(gradient, slope, **EXACT)
    mean = torch.stack([value_of(name, module, batches, batch).detach() for batch in batches]).mean()
    assert_close(Objective(loss, KINDS[name], batches).penalty(detached_parameters(module)), mean, **EXACT)


@pytest.mark.parametrize("name", [name for name in KINDS if name != "l2"])
def test_central_differences_are_of_second_order(case, name):
    module, loss, batches = case
    _, exact = evaluated(Objective(loss, KINDS[name], batches), module, batches[0])
    errors = []
    for step in (0.04, 0.02):
        by_differences = replace(KINDS[name], method="differences", step=step)
        found, gradient = evaluated(Objective(loss, by_differences, batches), module, batches[0])
        assert_close(found.total.detach(), found.loss + found.penalty, **EXACT)
        errors.append(float((gradient - exact).norm()))
    assert math.log2(errors[0] / errors[1]) == pytest.approx(2, abs=0.1)
    assert errors[1] < 1e-3 * float(exact.norm())


def test_the_gradient_nearby_is_sams(case):
    module, loss, batches = case
    own = gradient_at(module, batches[0])
    weights = flat(list(module.parameters())).detach()
    shifts = {
        "sam": STRENGTH * own / own.norm(),
        "asam": STRENGTH * weights.square() * own / (weights.abs() * own).norm(),
    }
    for name, shift in shifts.items():
        sizes = [parameter.numel() for parameter in module.parameters()]
        moved = [
            part.view_as(parameter).requires_grad_()
            for part, parameter in zip((weights + shift).split(sizes), module.parameters(), strict=True)
        ]
        found, gradient = evaluated(Objective(loss, NEARBY[name]), module, batches[0])
        assert_close(gradient, gradient_at(module, batches[0], moved), **EXACT)
        assert float(found.penalty) > 0
        with pytest.raises(ValueError, match=f"the mean flow of {name.upper()} is not known"):
            Objective(loss, NEARBY[name]).smooth(detached_parameters(module), batches[0])


@pytest.mark.parametrize("method", METHODS)
def test_where_the_gradient_is_0_so_is_the_penaltys(method):
    weight = torch.zeros(2, dtype=torch.float64, requires_grad=True)
    kinds = [kind(strength=1.0, method=method) for kind in (Norm, Minibatch, FullBatch)]
    for regularizer in (*kinds, SAM(strength=1.0)):
        batches = [torch.zeros(2, dtype=torch.float64)]
        objective = Objective(lambda params, batch: (params["w"] - batch).square().sum(), regularizer, batches)
        found = objective.evaluate({"w": weight}, torch.zeros(2, dtype=torch.float64))
        (slope,) = torch.autograd.grad(found.total, weight)
        assert float(found.penalty) == 0
        assert slope.tolist() == [0, 0]


@pytest.mark.parametrize("name", ["full", "momentum", "l2"])
def test_the_shared_hessian_is_the_derivative_of_the_shared_slope(case, name):
    module, loss, batches = case
    objective, params = Objective(loss, KINDS[name], batches), detached_parameters(module)
    direction = {key: torch.randn_like(value) for key, value in params.items()}
    ends = [
        objective.shared({key: value + size * direction[key] for key, value in params.items()}).gradient
        for size in (1e-5, -1e-5)
    ]
    for key, product in objective.shared(params).product(direction).items():
        assert_close(product, (ends[0][key] - ends[1][key]) / 2e-5, rtol=1e-6, atol=1e-8)
    assert Objective(loss, KINDS["minibatch"], batches).shared(params) is None


# What is measured of a training with a penalty.


def penalized_gradients(name, module, batches):
    """By torch alone: the gradient of each minibatch's objective, (m, p)."""
    rows = []
    for batch in batches:
        slope = torch.autograd.grad(value_of(name, module, batches, batch), list(module.parameters()))
        rows.append(gradient_at(module, batch) + flat(slope))
    return torch.stack(rows)


@pytest.mark.parametrize("name", KINDS)
def test_own_is_of_the_objective_and_sgd_of_the_loss(case, name):
    module, _, batches = case
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
    measured = ireg.measure(
        module, batches, optimizer=optimizer, criterion=cross_entropy, regularizer=KINDS[name], terms="theory"
    )
    bare = ireg.measure(module, batches, optimizer=optimizer, criterion=cross_entropy)
    rows = penalized_gradients(name, module, batches)
    assert measured["ireg/own"] == pytest.approx(0.1 / 4 * float(rows.square().sum(1).mean()), rel=1e-9, abs=0)
    assert measured["ireg/own_full_batch"] == pytest.approx(0.1 / 4 * float(rows.mean(0).square().sum()), rel=1e-9)
    for tag in ("ireg/sgd", "ireg/full_batch", "ireg/minibatch_variance"):
        assert measured[tag] == bare[tag]
    assert measured["ireg/own"] != pytest.approx(bare["ireg/own"], rel=1e-3)
    # The mean flow of SGD is that of its own term: ‖∇own‖/‖∇(C + R)‖, by differences of the rows.
    weights = list(module.parameters())
    slopes = []
    for weight in weights:
        slope = torch.zeros_like(weight)
        for index in range(weight.numel()):
            ends = []
            for size in (1e-5, -1e-5):
                with torch.no_grad():
                    weight.view(-1)[index] += size
                ends.append(0.1 / 4 * float(penalized_gradients(name, module, batches).square().sum(1).mean()))
                with torch.no_grad():
                    weight.view(-1)[index] -= size
            slope.view(-1)[index] = (ends[0] - ends[1]) / 2e-5
        slopes.append(slope)
    strength = float(flat(slopes).norm() / rows.mean(0).norm())
    assert measured["ireg/strength"] == pytest.approx(strength, rel=1e-5, abs=0)
    assert measured["ireg/alignment"] == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("name", ["minibatch", "full", "l2"])
def test_adaptive_optimizers_measure_the_objective(case, name):
    """A penalty within the loss that is given makes the same own term and the same mean flow."""
    module, _, batches = case
    optimizer = torch.optim.Adam(module.parameters(), lr=0.1, eps=1e-3)
    for batch in batches:
        optimizer.zero_grad()
        cross_entropy(module(batch[0]), batch[1]).backward()
        optimizer.step()

    def whole(model, batch):
        penalty = value_of(name, model, batches, batch, list(model.parameters()))
        return cross_entropy(model(batch[0]), batch[1]) + penalty

    chosen = ["ireg/own", "ireg/own_variance", "ireg/strength", "ireg/strength_lag", "ireg/strength_fluctuation"]
    within = ireg.measure(module, batches, optimizer=optimizer, loss=whole, terms=chosen)
    beside = ireg.measure(
        module, batches, optimizer=optimizer, criterion=cross_entropy, regularizer=KINDS[name], terms=chosen
    )
    assert beside == pytest.approx(within, rel=1e-8, abs=0)


def test_l2_is_weight_decay(case):
    module, _, batches = case
    decaying = torch.optim.SGD(module.parameters(), lr=0.1, momentum=0.9, weight_decay=STRENGTH)
    plain = torch.optim.SGD(module.parameters(), lr=0.1, momentum=0.9)
    terms = ["ireg/own", "ireg/own_full_batch", "ireg/strength"]
    measured = ireg.measure(
        module, batches, optimizer=plain, criterion=cross_entropy, regularizer=L2(strength=STRENGTH), terms=terms
    )
    expected = ireg.measure(module, batches, optimizer=decaying, criterion=cross_entropy, terms=terms)
    assert measured == pytest.approx(expected, rel=1e-10, abs=0)


def test_estimates_need_all_minibatches(case):
    module, _, batches = case
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
    what = "a regularizer is measured over all minibatches"
    with pytest.raises(ValueError, match=what):
        ireg.measure(
            module, batches, optimizer=optimizer, criterion=cross_entropy, regularizer=KINDS["full"], population=9
        )
    with pytest.raises(ValueError, match=what):
        ireg.Monitor(module, optimizer, criterion=cross_entropy, regularizer=KINDS["full"], num_batches=3)
    monitor = ireg.Monitor(module, optimizer, criterion=cross_entropy, regularizer=KINDS["minibatch"])
    for batch in batches:
        monitor.update(batch)
    assert monitor.compute() == ireg.measure(
        module, batches, optimizer=optimizer, criterion=cross_entropy, regularizer=KINDS["minibatch"]
    )


# What a loss sees that is evaluated several times.


def test_it_is_the_same_loss_each_time_and_training_sees_one():
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.5), nn.Linear(8, 3))
    batch = (torch.randn(6, 4), torch.randint(0, 3, (6,)))
    loss = functional_loss(module, cross_entropy)
    torch.manual_seed(1)
    first = module(batch[0])
    buffers, stream = [buffer.clone() for buffer in module.buffers()], torch.get_rng_state()
    module[1].reset_running_stats()
    torch.manual_seed(1)
    repeated = Repeated(loss, batch)
    value, outputs = repeated.first(dict(module.named_parameters()))
    again = [repeated.of(dict(module.named_parameters())) for _ in range(2)]
    assert torch.equal(outputs, first)
    assert [other.item() for other in again] == [value.item()] * 2
    assert torch.equal(torch.get_rng_state(), stream)
    for buffer, expected in zip(module.buffers(), buffers, strict=True):
        assert torch.equal(buffer, expected)
    with measuring(module):  # without dropout it is another loss: the masks were drawn
        assert float(loss(dict(module.named_parameters()), batch)) != float(value)


def test_a_parameter_that_the_loss_does_not_use_gets_no_gradient():
    class Partly(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer, self.unused = nn.Linear(4, 3), nn.Parameter(torch.ones(2))

        def forward(self, inputs):
            return self.layer(inputs)

    module = Partly()
    batch = (torch.randn(6, 4), torch.randint(0, 3, (6,)))
    for method in METHODS:
        module.zero_grad()
        objective = Objective(functional_loss(module, cross_entropy), Minibatch(strength=0.1, method=method))
        objective.evaluate(dict(module.named_parameters()), batch).total.backward()
        assert module.unused.grad is None
        assert module.layer.weight.grad is not None


def test_given_gradients_are_scaled_and_taken_once():
    weight, value = torch.tensor([1.0, 2.0], requires_grad=True), torch.tensor(5.0)
    total = with_gradient(value, {"w": torch.tensor([3.0, 4.0])}, {"w": weight})
    assert not value.requires_grad
    assert total.data_ptr() != value.data_ptr()
    (2 * total).backward(retain_graph=True)
    assert weight.grad.tolist() == [6, 8]
    with pytest.raises(RuntimeError, match="taken already; evaluate the objective again"):
        total.backward()


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: Minibatch(strength=-0.1), "strength=-0.1: must be a finite number of at least 0"),
        (lambda: Minibatch(strength=math.inf), "strength=inf: must be a finite number of at least 0"),
        (lambda: Norm(strength=0.1, method="forward"), "method='forward': must be one of exact, differences"),
        (lambda: Norm(strength=0.1, step=0.0), "step=0.0: must be a finite number > 0"),
        (lambda: Micro(strength=0.1, size=0), "size=0: must be at least 1"),
        (lambda: MomentumLike(strength=0.1, momentum=1.0), r"momentum=1.0: must be in \[0, 1\)"),
    ],
)
def test_wrong_values(make, text):
    with pytest.raises(ValueError, match=text):
        make()


def test_what_a_penalty_needs_is_said(case):
    module, loss, batches = case
    with pytest.raises(ValueError, match="needs the epoch's minibatches"):
        Objective(loss, KINDS["full"]).evaluate(dict(module.named_parameters()), batches[0])
    with pytest.raises(ValueError, match="micro-batches need pairs of tensors"):
        Objective(lambda params, batch: params["w"].sum() * batch["x"], KINDS["micro"]).evaluate(
            {"w": torch.ones(1, requires_grad=True)}, {"x": 2.0}
        )


# Runs.


CHOICES = sorted({path.stem for path in (ROOT / "conf" / "regularizer").glob("*.yaml")} - {"none"})
PLAIN = ("lr=0.1", "terms=[sgd]")


def filled(name):
    """What a run gives to a penalty whose file leaves that open."""
    values = {"strength": 0.1, "size": 16}
    text = (ROOT / "conf" / "regularizer" / f"{name}.yaml").read_text(encoding="utf-8")
    return [f"regularizer.{key}={values[key]}" for key, value in yaml.safe_load(text).items() if value == "???"]


@pytest.fixture(scope="module")
def bare(tmp_path_factory):
    """The folder of a run without a penalty, done once."""
    return tmp_path_factory.mktemp("bare")


@pytest.mark.parametrize("name", CHOICES)
def test_a_run_descends_it(tmp_path, small_run, bare, name):
    """In a run, too, the losses are bare, and a strength of 0 changes nothing but the last bits."""
    small_run(tmp_path / "with", f"regularizer={name}", *filled(name), *PLAIN)
    small_run(bare / "without", *PLAIN)  # nothing to do but the first time
    (tmp_path / "without").symlink_to(bare / "without")
    small_run(tmp_path / "zero", f"regularizer={name}", *filled(name), "regularizer.strength=0", *PLAIN)
    with_it, without, zero = (ireg.load(tmp_path / run).set_index("epoch") for run in ("with", "without", "zero"))
    assert with_it.loc[0, "train/loss"] == without.loc[0, "train/loss"]
    assert with_it.loc[0, "ireg/sgd"] == without.loc[0, "ireg/sgd"]
    assert "penalty/value" not in without
    assert with_it["penalty/value"].gt(0).all()
    assert zero["penalty/value"].eq(0).all()
    assert with_it.loc[2, "train/loss"] != pytest.approx(without.loc[2, "train/loss"], rel=1e-6)
    assert zero.loc[2, "train/loss"] == pytest.approx(without.loc[2, "train/loss"], rel=1e-4)
    if name == "minibatch":  # (λ/4) (1/m) Σ ‖g_k‖², of which SGD's term is the same with η
        assert with_it.loc[0, "penalty/value"] == pytest.approx(with_it.loc[0, "ireg/sgd"], rel=1e-5)


def test_it_resumes_to_the_last_bit(tmp_path, small_run, monkeypatch):
    chosen = ["regularizer=minibatch", "regularizer.strength=0.1", "regularizer.method=differences", "lr=0.1"]
    small_run(tmp_path / "whole", *chosen)
    with monkeypatch.context() as patch:
        break_at(patch, Classifier, "training_step", 10)  # in the second epoch of seven steps
        break_off(tmp_path / "parts", small_run, *chosen)
    small_run(tmp_path / "parts", *chosen)
    assert run_content(tmp_path / "parts") == run_content(tmp_path / "whole")


class NoPenalty:
    """What is no regularizer."""

    def __init__(self, strength):
        self.strength = strength


@pytest.mark.parametrize(
    ("overrides", "text"),
    [
        (["regularizer=minibatch"], "regularizer.strength: .*give it a value"),
        (["regularizer=minibatch", "regularizer.strength=-1"], "regularizer.strength=-1: must be a finite number"),
        (
            ["regularizer=minibatch", "regularizer.strength=1", "regularizer.method=forward"],
            "regularizer=minibatch: method='forward': must be one of exact, differences",
        ),
        (["++regularizer.strength=1"], "regularizer.strength=1: without a penalty there is nothing to set"),
        (["regularizer=sam", "terms.num_batches=3"], "terms.num_batches=3: a regularizer is measured over all"),
        (
            ["regularizer=sam", "regularizer._target_=tests.test_regularizers.NoPenalty"],
            "tests.test_regularizers.NoPenalty makes a NoPenalty; must make an ireg.regularizers.Regularizer",
        ),
        (["regularizer=sam", "terms=theory"], "term ireg/strength: the mean flow of SAM is not known"),
    ],
)
def test_a_run_refuses_what_it_cannot_do(tmp_path, small_run, overrides, text):
    with pytest.raises(UserError, match=text):
        small_run(tmp_path, *overrides)


def test_every_class_is_a_choice():
    files = [ROOT / "conf" / "regularizer" / f"{name}.yaml" for name in CHOICES]
    targets = {yaml.safe_load(path.read_text(encoding="utf-8"))["_target_"] for path in files}
    kinds = {type(kind) for kind in (*KINDS.values(), *NEARBY.values())}
    assert targets >= {f"ireg.regularizers.{kind.__name__}" for kind in kinds}
