"""The order of accuracy of anybody's optimizer, and `python -m ireg.verify --optimizer package.module.Class`."""

import dataclasses

import pytest
import torch

from ireg import verify
from ireg.certify import any_optimizer, own_step
from ireg.certify.any_optimizer import FACTORS, HALF, LATE, MODIFIED, PLAIN, Accuracy, accuracy, network
from ireg.core import ramp

OWN = '''
import torch

class Damped(torch.optim.Optimizer):
    """Momentum whose steps are bounded: ω ← ω − η m/(1 + ‖m‖)."""

    def __init__(self, params, lr, beta=0.5, power=1.0):
        if beta >= 1:
            raise ValueError(f"beta={beta}")
        super().__init__(params, {"lr": lr, "beta": beta, "power": power})

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            for parameter in group["params"]:
                mean = self.state[parameter].setdefault("mean", torch.zeros_like(parameter))
                mean.lerp_(parameter.grad, 1 - group["beta"])
                parameter.sub_(mean / (1 + mean.norm()) ** group["power"], alpha=group["lr"])

class Half(Damped):
    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            for parameter in group["params"]:
                parameter.sub_(parameter.grad.half().double(), alpha=group["lr"])

class First(Damped):
    def __init__(self, params, lr):
        super().__init__(params[:1], lr)

class Plain:
    pass

value = 3
'''


@pytest.fixture(autouse=True)
def _beside_a_module_of_ones_own(tmp_path, monkeypatch):
    (tmp_path / "own_optimizers.py").write_text(OWN, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", list(__import__("sys").path))


def test_numbers_of_arguments_are_read_without_a_dot():
    given = ["eps=1e-8", "lambd=-2E+3", "betas=[0.6,0.8]", "count=3", "name=1e-8x", "fused=false"]
    read = {"eps": 1e-8, "lambd": -2e3, "betas": [0.6, 0.8], "count": 3, "name": "1e-8x", "fused": False}
    found = own_step.settings_of(given)
    assert found == read
    assert [type(value) for value in found.values()] == [type(value) for value in read.values()]


def test_the_loss_has_the_derivatives_that_it_says():
    problem = network()
    weights = {name: value.clone().requires_grad_() for name, value in problem.start.items()}
    loss = problem.loss(weights, (problem.inputs, problem.targets))
    gradients = torch.autograd.grad(loss, list(weights.values()), create_graph=True)
    direction = {name: torch.randn_like(value) for name, value in problem.start.items()}
    along = sum((value * direction[name]).sum() for name, value in zip(weights, gradients, strict=True))
    products = torch.autograd.grad(along, list(weights.values()))
    for found, expected in (
        (problem.gradient(problem.start), gradients),
        (problem.product(problem.start, direction), products),
    ):
        for value, other in zip(found.values(), expected, strict=True):
            torch.testing.assert_close(value, other.detach(), rtol=1e-12, atol=1e-14)


def test_a_class_of_ones_own_is_certified(capsys):
    assert verify.main(["--optimizer", "own_optimizers.Damped", "--set", "beta=0.6"]) == 0
    out = capsys.readouterr().out
    assert "own_optimizers.Damped" in out
    assert "order 2" in out
    assert "NO ORDER" not in out


def test_what_has_no_order_says_why(capsys):
    paths = [
        "torch.optim.Adagrad",
        "torch.optim.Rprop",
        "own_optimizers.Half",
        "torch.optim.LBFGS",
        "own_optimizers.First",
    ]
    assert verify.main(["--optimizer", *paths]) == 1
    out = " ".join(capsys.readouterr().out.split())
    assert out.count("NO ORDER FOUND") == 5
    assert "own_optimizers.First: First does not hold second, of 1 parameters that it was given" in out
    assert "torch.optim.Adagrad: the memory of Adagrad has not faded after 8192 steps" in out
    assert "torch.optim.Rprop: a step does not respond to small changes of the gradient, as a sign does not" in out
    assert "own_optimizers.Half: a step computes in torch.float16, which rounds off the differences" in out
    assert "torch.optim.LBFGS: LBFGS takes no step with gradients alone" in out


def test_the_slopes_of_gradient_descent():
    found = accuracy(lambda rate: lambda parameters: torch.optim.SGD(parameters, lr=rate), "SGD")
    assert found.holds
    assert found.slopes[MODIFIED] == pytest.approx(2, abs=0.1)
    assert found.slopes.keys() == {PLAIN, MODIFIED, *LATE, HALF}
    assert all(slope == pytest.approx(1, abs=0.1) for flow, slope in found.slopes.items() if flow != MODIFIED)
    assert found.shares["bend"] == pytest.approx(1, rel=1e-6)
    assert found.shares["memory"] == pytest.approx(0, abs=1e-5)
    assert found.shares["weights"] == pytest.approx(0, abs=1e-5)
    assert [rate / found.rates[0] for rate in found.rates] == [1, 0.5, 0.25]


def test_shares_of_momentum_with_decay():
    """Of (½ + L) the bend is ½; decoupled decay w adds ½wu, of which the weights contribute half and the bend half."""
    found = accuracy(lambda rate: lambda p: torch.optim.SGD(p, lr=rate, momentum=0.5), "momentum")
    assert found.shares["memory"] == pytest.approx(2 / 3, rel=1e-5)
    assert found.shares["bend"] == pytest.approx(1 / 3, rel=1e-5)


@pytest.mark.parametrize("late", [0.0, 1.0])
def test_a_wrong_ramp_is_no_flow_of_order_2(monkeypatch, late):
    """The certificate can fail: with the line on time, or a whole step late, order 1 is left."""
    right = ramp.Line.driven

    def wrong(self, steps, scale=1.0, *, late=0.5):
        return right(self, steps, scale, late=shifted if late == 0.5 else late)

    shifted = late
    monkeypatch.setattr(ramp.Line, "driven", wrong)
    found = accuracy(lambda rate: lambda p: torch.optim.SGD(p, lr=rate, momentum=0.5), "momentum")
    assert not found.holds
    assert found.slopes[MODIFIED] < 1.2


def test_wrong_flows_that_pass_are_named(capsys, monkeypatch):
    passed = Accuracy(name="x", slopes={PLAIN: 1.0, MODIFIED: 2.0, "on time": 1.9, HALF: float("nan")}, memory=64)
    assert passed.accepted == ("on time", HALF)
    assert not passed.holds
    monkeypatch.setattr(own_step, "accuracy", lambda made, path: dataclasses.replace(passed, name=path))
    assert verify.main(["--optimizer", "torch.optim.SGD"]) == 1
    assert "torch.optim.SGD: not rejected: on time, half the correction" in capsys.readouterr().out
    low = Accuracy(name="x", slopes={PLAIN: 1.0, MODIFIED: 1.4, HALF: 1.0}, memory=64)
    monkeypatch.setattr(own_step, "accuracy", lambda made, path: dataclasses.replace(low, name=path))
    assert verify.main(["--optimizer", "torch.optim.SGD"]) == 1
    assert "the modified flow's slope is not near 2" in capsys.readouterr().out
    assert not Accuracy(name="x", slopes={PLAIN: 1.0, MODIFIED: 2.6}).holds
    assert Accuracy(name="x", slopes={PLAIN: 1.0, MODIFIED: 2.4}).holds
    assert not Accuracy(name="x", slopes={PLAIN: 1.0, MODIFIED: 2.4}, reason="why").holds


def test_a_memory_that_is_too_long_is_said():
    long = accuracy(lambda rate: lambda p: torch.optim.SGD(p, lr=rate, momentum=0.99), "momentum", most=256)
    assert not long.holds
    assert "the memory of SGD has not faded after 256 steps" in long.reason


def test_more_parts_and_other_factors():
    factors = {"a tenth less": 0.9}
    found = accuracy(
        lambda rate: lambda p: torch.optim.SGD(p, lr=rate), "SGD", factors=factors, parts=2
    )  # fmt: skip
    assert found.slopes.keys() == {PLAIN, MODIFIED, *LATE, "a tenth less"}
    assert found.slopes[MODIFIED] == pytest.approx(2, abs=0.1)
    assert found.slopes["a tenth less"] < 1.5
    assert FACTORS == {HALF: 0.5}
    assert any_optimizer.STAGES[-1][0] == 9 / 44
    assert sum(any_optimizer.WEIGHTS) == pytest.approx(1, rel=1e-15)


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        (["own_optimizers.None"], "own_optimizers has no None; write package.module.Class"),
        (["own_optimizers.Plain"], "is no class of torch.optim.Optimizer"),
        (["own_optimizers.value"], "is no class of torch.optim.Optimizer"),
        (["no_such_module.Class"], "No module named 'no_such_module'; install what it needs, or run in the folder"),
        (["own_optimizers.Damped", "--set", "lr=1"], "--set lr=1: the rates are chosen"),
        (["own_optimizers.Damped", "--set", "beta"], "--set beta: must be NAME=VALUE, like betas=[0.6,0.8]"),
        (["own_optimizers.Damped", "--set", "a b=1"], "--set a b=1: must be NAME=VALUE"),
        (["own_optimizers.Damped", "--set", "beta=[1"], "'[1' cannot be read"),
        (["own_optimizers.Damped", "--set", "gamma=1"], "cannot be made with gamma=1: "),
        (["own_optimizers.Damped", "--set", "beta=1"], "cannot be made with beta=1: beta=1"),
        (["own_optimizers.Damped", "sgd"], "--optimizer sgd: is no import path"),
        (["own_optimizers.Damped", "--only", "edges"], "--only: is not for classes by their import path"),
        (["own_optimizers.Damped", "--lr-range", "1e-3", "1e-2"], "--lr-range: is not for classes"),
        (["own_optimizers.Damped", "--plot", "a.png"], "--plot: is not for classes"),
        (["own_optimizers.Damped", "--jobs", "1"], "--jobs: is not for classes"),
        (["sgd", "--set", "momentum=0.9"], "--set: is for classes by their import path"),
    ],
)
def test_wrong_arguments_are_one_line(capsys, arguments, match):
    assert verify.main(["--optimizer", *arguments]) == 2
    err = capsys.readouterr().err
    assert match in err
    assert err.count("\n") == 1
