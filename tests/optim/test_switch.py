"""An optimizer that switches: when, to what, at which rate, and that it resumes."""

import copy
from itertools import pairwise

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy
from torch.optim import SGD, Adam, RMSprop

import ireg
from ireg.core.optimizers import acting, view
from ireg.core.path import PathRecorder
from ireg.lit.module import Classifier
from ireg.optim import Switch
from ireg.optim.switch import FIRST, RULES, SECOND
from ireg.system.errors import UserError
from tests.content import run_content
from tests.test_config import OPTIMIZERS
from tests.test_resume import break_at, break_off

GRADIENT = torch.tensor([[0.3, -2.0], [0.7, 0.01]])


def constant(parameters, *, steps, **arguments):
    """A switch after so many steps of a constant gradient."""
    optimizer = Switch(parameters, **{"first": "adam", "first_lr": 0.1, "at": "swats", "lr": "swats", **arguments})
    for _ in range(steps):
        for parameter in parameters:
            parameter.grad = GRADIENT[: len(parameter)].to(parameter.dtype)
        optimizer.step()
    return optimizer


def test_a_constant_gradient_fires_at_the_second_step_with_the_rate_of_theory():
    """η n/‖g‖₁, n the number of weights of all parameters together."""
    parameters = [nn.Parameter(torch.zeros(2, 2, dtype=torch.float64)), nn.Parameter(torch.zeros(1, 2).double())]
    for parameter in parameters:
        assert parameter.dtype == torch.float64
    rates = {}
    for steps in (1, 2):
        optimizer = Switch(parameters, first="adam", first_lr=0.1, at="swats", lr="swats", first_arguments={"eps": 0.0})
        for _ in range(steps):
            for parameter in parameters:
                parameter.grad = GRADIENT[: len(parameter)].double()
            optimizer.step()
        rates[steps] = optimizer.switched_after
    assert rates == {1: None, 2: 2}
    sizes = GRADIENT.double().abs().sum() + GRADIENT[:1].double().abs().sum()
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.1 * 6 / float(sizes), rel=1e-9)
    assert isinstance(optimizer.acting, SGD)
    # By tensor, as public versions decide, each has a rate of its own.
    alone = Switch(parameters[1:], first="adam", first_lr=0.1, at="swats", lr="swats", first_arguments={"eps": 0.0})
    for _ in range(2):
        parameters[1].grad = GRADIENT[:1].double()
        alone.step()
    assert alone.param_groups[0]["lr"] == pytest.approx(0.1 * 2 / float(GRADIENT[:1].double().abs().sum()), rel=1e-9)
    assert alone.param_groups[0]["lr"] != pytest.approx(optimizer.param_groups[0]["lr"], rel=0.1)


def test_single_precision_fires_with_a_relative_tolerance():
    parameter = nn.Parameter(torch.zeros(2, 2))
    optimizer = constant([parameter], steps=2, tolerance=1e-5, relative=True)
    assert optimizer.switched_after == 2
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.1 * 4 / float(GRADIENT.abs().sum()), rel=1e-4)


@pytest.mark.parametrize(("arguments", "fires"), [({}, False), ({"relative": True}, True), ({"tolerance": 2e-8}, True)])
def test_the_tolerance_is_absolute_by_default(arguments, fires):
    """The estimate is (γ₁ + 2γ₂)/3 at ρ = 0.5: from rates 100 and 100 + 3e-8 it differs from γ₂ by 1e-8."""
    parameter = nn.Parameter(torch.zeros(1, 2, dtype=torch.float64))
    optimizer = Switch([parameter], first="sgd", first_lr=100.0, at="swats", lr="swats", average=0.5, **arguments)
    for rate in (100.0, 100.0 + 3e-8):
        optimizer.param_groups[0]["lr"] = rate
        parameter.grad = GRADIENT[:1].double()
        optimizer.step()
    numbers = optimizer.numbers()
    assert numbers["switch/gamma"] - numbers["switch/estimate"] == pytest.approx(1e-8, rel=1e-3, abs=0)
    assert (optimizer.switched_after == 2) == fires


def test_momentum_takes_its_share_of_the_rate():
    parameter = nn.Parameter(torch.zeros(2, 2, dtype=torch.float64))
    optimizer = constant([parameter], steps=2, second="momentum", tolerance=1e-4)
    assert optimizer.acting.param_groups[0]["momentum"] == 0.9
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.1 * optimizer.estimate, rel=1e-12)


def test_gamma_is_that_of_the_whole_step():
    """By a loop in float64, over several steps with weights that are never stepped beside."""
    torch.manual_seed(0)
    parameters = [nn.Parameter(torch.randn(3)), nn.Parameter(torch.randn(2)), nn.Parameter(torch.randn(2))]
    optimizer = Switch(parameters, first="rmsprop", first_lr=0.01, at="swats", lr="swats", average=0.9)
    twins = [nn.Parameter(parameter.detach().clone()) for parameter in parameters]
    plain, total = RMSprop(twins, lr=0.01), 0.0
    for step in range(1, 6):
        for parameter, twin in zip(parameters[:2], twins[:2], strict=True):
            twin.grad = torch.randn_like(parameter)
            parameter.grad = twin.grad.clone()
        before = [twin.detach().double() for twin in twins]
        plain.step()
        optimizer.step()
        moved = torch.cat([twin.detach().double() - old for twin, old in zip(twins[:2], before[:2], strict=True)])
        slope = torch.cat([twin.grad.double() for twin in twins[:2]])
        gamma = float(moved @ moved) / -float(moved @ slope)
        total = 0.9 * total + 0.1 * gamma
        assert optimizer.numbers()["switch/gamma"] == pytest.approx(gamma, rel=1e-10)
        assert optimizer.numbers()["switch/estimate"] == pytest.approx(total / (1 - 0.9**step), rel=1e-10)


@pytest.mark.parametrize("second", SECOND)
def test_the_phases_are_torchs_own_to_the_last_bit(second):
    torch.manual_seed(0)
    weight = nn.Parameter(torch.randn(5))
    twin = nn.Parameter(weight.detach().clone())
    optimizer = Switch([weight], first="adam", second=second, first_lr=0.1, at="step:3", lr=0.05, foreach=True)
    plain = Adam([twin], lr=0.1)
    for step in range(8):
        if step == 3:
            plain = SGD([twin], lr=0.05, **FIRST[second][1])
        twin.grad = torch.randn(5)
        weight.grad = twin.grad.clone()
        plain.step()
        optimizer.step()
        assert torch.equal(weight, twin)
        assert optimizer.numbers()["switch/phase"] == (1 if step < 2 else 2)


def test_what_can_be_switched_between_is_as_in_the_configuration():
    for name, (cls, arguments) in FIRST.items():
        expected_class, expected = OPTIMIZERS[name]
        assert cls is expected_class
        group = cls([nn.Parameter(torch.zeros(1))], lr=0.1, **arguments).param_groups[0]
        assert {key: list(group[key]) if key == "betas" else group[key] for key in expected} == expected
    assert set(SECOND) <= set(FIRST)


def test_events_of_epochs():
    def made(at):
        return Switch([nn.Parameter(torch.zeros(1))], first="momentum", first_lr=0.1, at=at, lr=0.3)

    at_epoch, at_loss = made("epoch:3"), made("loss:0.5")
    for epoch, loss in ((1, 0.9), (2, 0.51), (3, 0.5), (4, 0.6)):
        for optimizer in (at_epoch, at_loss):
            optimizer.end_epoch(epoch, loss)
            assert optimizer.param_groups[0]["lr"] == (0.3 if epoch >= 3 else 0.1)
    second = at_loss.acting
    at_loss.end_epoch(5, 0.1)  # no second switch
    assert at_loss.switched_after == 0
    assert at_loss.acting is second


def test_momentums_effective_rate_is_kept():
    optimizer = Switch(
        [nn.Parameter(torch.zeros(1))], first="momentum", first_lr=0.1, at="epoch:1", lr="equal_effective"
    )
    optimizer.end_epoch(1, 1.0)
    assert optimizer.param_groups[0]["lr"] == pytest.approx(1.0, rel=1e-12)
    back = Switch(
        [nn.Parameter(torch.zeros(1))], first="sgd", second="nesterov", first_lr=1.0, at="epoch:1", lr="equal_effective"
    )
    back.end_epoch(1, 1.0)
    assert back.param_groups[0]["lr"] == pytest.approx(0.1, rel=1e-12)


@pytest.fixture
def trained():
    """A network after some steps of Adam that is to switch, and its minibatches."""
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)).double()
    batches = [(torch.randn(6, 4).double(), torch.randint(0, 3, (6,))) for _ in range(4)]

    def made(rule):
        copied = copy.deepcopy(module)
        optimizer = Switch(
            copied.parameters(), first="adam", first_lr=0.01, at="epoch:1", lr=rule, first_arguments={"eps": 1e-3}
        )
        for inputs, targets in batches:
            optimizer.zero_grad()
            cross_entropy(copied(inputs), targets).backward()
            optimizer.step()

        def measured(tags):
            return ireg.measure(copied, batches, optimizer=optimizer, criterion=cross_entropy, terms=list(tags))

        optimizer.measure = measured
        return copied, optimizer, measured

    return made, batches


def test_the_loss_falls_as_fast_at_the_equal_effective_rate(trained):
    made, batches = trained
    module, optimizer, _ = made("equal_effective")
    slopes = [
        torch.autograd.grad(
            torch.stack([cross_entropy(module(inputs), targets) for inputs, targets in batches]).mean(),
            list(module.parameters()),
        )
    ]
    scale = view(optimizer, {str(i): p for i, p in enumerate(module.parameters())}).preconditioner
    upper = sum(float((scale[str(i)] * slope.square()).sum()) for i, slope in enumerate(slopes[0]))
    lower = sum(float(slope.square().sum()) for slope in slopes[0])
    optimizer.end_epoch(1, 1.0)
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.01 * upper / lower, rel=1e-9)


def test_the_fraction_of_the_edge_is_kept(trained):
    made, _ = trained
    _, optimizer, measured = made("equal_edge")
    before = measured(["curvature/edge_fraction"])["curvature/edge_fraction"]
    assert 0 < before < 1
    optimizer.end_epoch(1, 1.0)
    assert isinstance(acting(optimizer), SGD)
    assert measured(["curvature/edge_fraction"])["curvature/edge_fraction"] == pytest.approx(before, rel=1e-3)


def test_own_terms_follow_the_phase(trained):
    made, _ = trained
    _, optimizer, measured = made(0.2)
    tags = ["ireg/own", "ireg/sgd"]
    assert measured(tags)["ireg/own"] != pytest.approx(measured(tags)["ireg/sgd"], rel=0.1)
    optimizer.end_epoch(1, 1.0)
    assert measured(tags)["ireg/own"] == pytest.approx(measured(tags)["ireg/sgd"], rel=1e-12)


def test_what_needs_terms_says_so(trained):
    made, _ = trained
    for rule in ("equal_effective", "equal_edge"):
        _, optimizer, _ = made(rule)
        optimizer.measure = None
        with pytest.raises(ValueError, match=f"lr={rule}: needs .*; give Switch"):
            optimizer.end_epoch(1, 1.0)
    _, optimizer, _ = made("equal_edge")
    optimizer.measure = lambda tags: {"curvature/edge_fraction": -0.5, "curvature/lambda_max": 1.0}
    with pytest.raises(ValueError, match="lr=equal_edge: comes to -1, which is no rate; give a number"):
        optimizer.end_epoch(1, 1.0)
    optimizer.rule = "guessed"
    with pytest.raises(ValueError, match="lr=guessed: must be a number or one of swats"):
        optimizer.end_epoch(1, 1.0)


def test_the_growth_of_the_norm_follows_the_phase():
    """In settled weights: Adam's buffer ahead before the switch, none after it."""
    weight = nn.Parameter(torch.tensor([2.0, 1.0], dtype=torch.float64))
    optimizer = Switch([weight], first="momentum", first_lr=0.1, at="step:2", lr=0.5)
    recorder = PathRecorder(optimizer)
    recorder.start()
    places = [weight.detach().clone()]
    for step in range(4):
        weight.grad = torch.tensor([1.0, -0.5 * step], dtype=torch.float64)
        optimizer.step()
        buffer = optimizer.state[weight].get("momentum_buffer") if step < 1 else None
        places.append(weight.detach() - (0.9 * buffer if buffer is not None else 0.0))
    found = recorder.path().settled
    steps = [before - after for before, after in pairwise(places)]
    assert found.diffusive == pytest.approx(sum(float(step @ step) for step in steps), rel=1e-12)
    assert found.radial + found.diffusive == pytest.approx(float(weight @ weight) - 5, rel=1e-12)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"first": "muon"}, "from=muon: must be one of sgd, "),
        ({"second": "adam"}, "to=adam: must be one of sgd, momentum, nesterov"),
        ({"tolerance": 0.0}, "tolerance=0.0: must be above 0"),
        ({"average": 1.0}, r"average=1.0: must be in \[0, 1\)"),
        ({"at": "epoch:3"}, "lr=swats: needs at=swats, which estimates it; at=epoch:3"),
        ({"lr": 0.0}, "lr=0.0: must be a finite number > 0"),
        ({"lr": "best"}, f"lr=best: must be a number or one of {', '.join(RULES)}"),
        *(
            ({"at": at, "lr": 0.1}, f"at={at}: must be epoch:N, step:N, loss:C or swats, like epoch:10")
            for at in ("week:2", "epoch:0", "epoch:1.5", "step", "loss:-1", "loss:0", "swats:2", "loss:x")
        ),
    ],
)
def test_wrong_values(arguments, text):
    with pytest.raises(ValueError, match=text):
        constant([nn.Parameter(torch.zeros(2, 2))], steps=0, **arguments)


def test_a_state_of_another_optimizer_is_refused():
    weight = nn.Parameter(torch.zeros(1))
    with pytest.raises(ValueError, match="the state is of an optimizer that does not switch"):
        Switch([weight], first="adam", first_lr=0.1, at="swats", lr="swats").load_state_dict(
            Adam([weight]).state_dict()
        )


def test_a_closure_is_evaluated_once():
    weight = nn.Parameter(torch.ones(1))
    for at in ("swats", "step:9"):
        calls = []

        def closure(calls=calls):
            calls.append(1)
            weight.grad = 2 * weight.detach()
            return weight.detach().square().sum()

        optimizer = Switch([weight], first="adam", first_lr=0.1, at=at, lr=0.1)
        assert float(optimizer.step(closure)) > 0
        assert calls == [1]


# Runs: seven steps an epoch.

CHOSEN = ("optimizer=switch", "lr=0.01", "epochs=4", "terms=path")
SETTINGS = {
    "epoch": ("optimizer.at=epoch:2", "optimizer.lr=equal_edge"),
    "step": ("optimizer.at=step:10", "optimizer.lr=equal_effective"),
    "swats": ("optimizer.at=swats", "optimizer.tolerance=0.3", "optimizer.relative=true"),
}


@pytest.mark.parametrize("name", SETTINGS)
@pytest.mark.parametrize("call", [6, 11, 19])
def test_a_run_killed_around_the_switch_resumes_to_the_last_bit(tmp_path, small_run, monkeypatch, name, call):
    small_run(tmp_path / "whole", *CHOSEN, *SETTINGS[name])
    with monkeypatch.context() as patch:
        break_at(patch, Classifier, "training_step", call + 1)  # one is tried before
        break_off(tmp_path / "parts", small_run, *CHOSEN, *SETTINGS[name])
    small_run(tmp_path / "parts", *CHOSEN, *SETTINGS[name])
    table = ireg.load(tmp_path / "whole").set_index("epoch")
    assert (table.loc[0, "switch/phase"], table.loc[4, "switch/phase"]) == (1, 2)
    assert run_content(tmp_path / "parts") == run_content(tmp_path / "whole")


@pytest.mark.parametrize(
    ("overrides", "text"),
    [
        (["optimizer.at=epoch:1"], "optimizer=switch: lr=swats: needs at=swats"),
        (["optimizer.first_lr=0.3"], "optimizer.first_lr=0.3: the learning rate is set at the top level only"),
        (["+optimizer.second_arguments={weight_decay:-1}", "optimizer.at=step:2", "optimizer.lr=0.1"], "weight_decay"),
    ],
)
def test_a_run_refuses_what_it_cannot_do(tmp_path, small_run, overrides, text):
    with pytest.raises(UserError, match=text):
        small_run(tmp_path, "optimizer=switch", *overrides)
