"""The drift of any optimizer from its own steps, where it is known otherwise."""

import json
import re
from dataclasses import replace
from functools import partial
from types import SimpleNamespace

import pytest
import torch
from torch.optim import SGD, Adagrad, Adam, Optimizer

from ireg.drift import own_steps as module
from ireg.drift.__main__ import _parser, main
from ireg.drift.leading_flow import drift_from_leading_flow
from ireg.drift.own_steps import mean_loss, of_the_run, own_steps
from ireg.drift.own_steps_study import HEADER, OWN_STEPS, options, rows, study, text
from ireg.regularizers import L2
from ireg.system.errors import UserError
from tests.drift.small import alone, hessian_and_gradient, quadratic

FULL = {"batch_size": 24}


def at(cls, **settings):
    return lambda rate: lambda parameters: cls(parameters, lr=rate, **settings)


class Steps(Optimizer):
    """What `of` makes of a gradient, times the rate."""

    of = staticmethod(torch.sign)

    def __init__(self, params, lr):
        super().__init__(params, {"lr": lr})

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            for value in group["params"]:
                value.sub_(type(self).of(value.grad), alpha=group["lr"])


class Coarse(Steps):
    of = staticmethod(lambda gradient: gradient.bfloat16().double())


def test_gradient_descent_on_a_quadratic_in_closed_form():
    """D and d by the exponentials of matrices: the correction is (η/2) H∇C exactly."""
    problem, rate, steps = quadratic(partial(SGD, lr=0.02), **FULL), 0.02, 4
    hessian, uphill = hessian_and_gradient(problem)
    found = own_steps(problem, at(SGD), rate, steps=steps, halvings=2)
    assert (found.minibatches, found.left_out) == (None, "of a single minibatch")
    away = torch.linalg.solve(hessian, uphill)  # of the minimum
    for of, eta, count in zip(found.full_batch, (rate, rate / 2), (steps, 2 * steps), strict=True):
        plain = torch.matrix_exp(-eta * count * hessian) @ away
        modified = torch.matrix_exp(-eta * count * (hessian + eta / 2 * hessian @ hessian)) @ away
        end = torch.linalg.matrix_power(torch.eye(3).double() - eta * hessian, count) @ away
        drift, predicted, way = end - plain, modified - plain, (plain - away).norm()
        assert (of.rate, of.steps, of.reason) == (eta, count, "")
        assert of.smoothness == pytest.approx(1, rel=1e-9)
        assert of.strength == pytest.approx(float(eta / 2 * (hessian @ uphill).norm() / uphill.norm()), rel=1e-6)
        assert of.drift == pytest.approx(float(drift.norm() / way), rel=1e-4)
        assert of.predicted == pytest.approx(float(predicted.norm() / way), rel=1e-4)
        assert of.k == pytest.approx(float(drift @ predicted / predicted.square().sum()), rel=1e-4)
        assert of.residual == pytest.approx(float((drift - predicted).norm() / drift.norm()), rel=1e-2)
    first, second = found.full_batch
    assert second.residual == pytest.approx(first.residual / 2, rel=0.05)
    assert abs(second.k - 1) < abs(first.k - 1) < 0.05


def test_both_orders_of_two_minibatches_in_closed_form():
    """What both add: η²/2 (H₁ g₂ + H₂ g₁), less the η² H∇C of two full batches. Linear steps have no F."""
    problem, rate = quadratic(partial(SGD, lr=0.02), batch_size=12), 0.02
    found = own_steps(problem, at(SGD), rate, steps=1, halvings=1, orders=4).minibatches
    weights, loss = problem.weights, mean_loss(problem)
    parts = []
    for inputs, targets in loss.batches:
        hessian = inputs.T @ inputs / 12
        parts.append((hessian, inputs.T @ (inputs @ weights - targets) / 12))
    (h1, g1), (h2, g2) = parts
    mean = (h1 + h2) @ (g1 + g2) / 4
    added = rate**2 * ((h1 @ g2 + h2 @ g1) / 2 - mean)
    assert found.added.value == pytest.approx(float(added.norm() / (rate * (g1 + g2).norm())), rel=1e-6)
    assert found.added.error < 1e-9 * found.added.value
    assert found.noise.value < 1e-12
    assert (found.k, found.orders, found.steps) == (None, 4, 2)


def test_momentum_as_the_instrument_with_rules_measures_it():
    """One full-batch step: both begin on the slow manifold, by formulas or along the line."""
    made = {"momentum": 0.8, "dampening": 0.2, "weight_decay": 0.1}
    problem = quadratic(partial(SGD, lr=2e-4, **made), **FULL)
    (found,) = own_steps(problem, *of_the_run(problem), halvings=1).full_batch
    ruled = drift_from_leading_flow(alone(problem), 6, found.strength).estimates
    assert found.steps == 1
    assert found.predicted == pytest.approx(ruled["strength predicted"].value, rel=0.02)
    assert found.drift == pytest.approx(ruled["strength"].value, rel=0.02)
    assert found.k == pytest.approx(ruled["k"].value, rel=0.02)
    (other,) = own_steps(problem, at(SGD, momentum=0.6), 2e-4, halvings=1).full_batch
    assert other.predicted < 0.8 * found.predicted


def test_noise_at_order_0_is_what_minibatches_add_at_small_rates():
    problem = quadratic(partial(SGD, lr=0.1), batch_size=8)
    make = at(Adam, betas=(0.4, 0.6), eps=0.1)
    found = own_steps(problem, make, 1e-4, orders=16, steps=1, halvings=1).minibatches
    assert found.noise.value > 5 * found.noise.error
    assert found.added.value == pytest.approx(found.noise.value, abs=3 * found.noise.error)
    assert found.k.value == pytest.approx(1, abs=3 * found.k.error)
    assert found.k.error < 0.15


@pytest.mark.parametrize(("cls", "reason"), [(Steps, "no response"), (Coarse, "a step computes in torch.bfloat16")])
def test_steps_that_do_not_respond_have_no_flow(cls, reason):
    found = own_steps(quadratic(partial(SGD, lr=0.1), batch_size=8), at(cls), 1e-3)
    assert reason in found.reason
    assert (found.memory, found.full_batch, found.minibatches) == (None, (), None)


def test_a_memory_that_never_fades_has_no_flow(monkeypatch):
    monkeypatch.setattr(module, "MOST", 128)
    assert "the memory of Adagrad has not faded" in own_steps(quadratic(partial(SGD, lr=0.1)), at(Adagrad), 1e-3).reason


def test_noise_that_cannot_be_had_is_left_out(monkeypatch):
    def failing(*arguments, **options):
        raise module.NoFlowError("too many to be stored")

    monkeypatch.setattr(module, "driven_noise", failing)
    found = own_steps(quadratic(partial(SGD, lr=0.1), batch_size=12), at(SGD), 1e-3, steps=1, halvings=1)
    assert (found.minibatches, found.left_out) == (None, "too many to be stored")
    assert found.full_batch[0].drift > 0


def test_rates_at_which_nothing_can_be_compared(monkeypatch):
    problem = quadratic(partial(SGD, lr=0.1), batch_size=12)
    found = own_steps(problem, at(SGD), 0.4, steps=1, halvings=2)
    strong, weak = found.full_batch
    assert "from 0.3 on the expansion does not hold; choose --set lr=0.0" in strong.reason
    assert (strong.drift, found.minibatches, found.left_out) == (None, None, strong.reason)
    assert weak.strength == pytest.approx(strong.strength / 2, rel=0.01)
    assert weak.drift > 0
    monkeypatch.setattr(module, "ALLOWED", 1e-12)
    (stiff,) = own_steps(problem, at(SGD), 0.05, steps=4, halvings=1).full_batch
    assert "is too stiff, or too rough by kinks (smoothness 1)" in stiff.reason
    assert stiff.drift is None


def test_examples_of_a_smaller_last_minibatch_weigh_more():
    """C is the mean over minibatches, as the mean over their orders sees them."""
    problem = quadratic(partial(SGD, lr=0.1), batch_size=10)
    loss = mean_loss(problem)
    assert [len(targets) for _, (_, targets) in loss.parts] == [20, 4]
    each = [loss.of_batch(loss.start, number)["weight"] for number in range(3)]
    assert torch.allclose(loss.gradient(loss.start)["weight"], torch.stack(each).mean(0), rtol=1e-12, atol=0)


def test_the_runs_own_optimizer_is_made_again_at_any_rate():
    problem = quadratic(partial(SGD, lr=0.1, momentum=0.5))
    make, rate = of_the_run(problem)
    (group,) = make(0.01)([torch.nn.Parameter(torch.zeros(3).double())]).param_groups
    assert rate == 0.1
    assert (group["lr"], group["momentum"]) == (pytest.approx(0.01, rel=1e-12), 0.5)


def test_what_cannot_be_measured_is_refused(monkeypatch):
    problem = quadratic(partial(SGD, lr=0.1))
    for orders in (2, 5):
        with pytest.raises(ValueError, match=f"orders={orders}: must be even and at least 4"):
            own_steps(problem, at(SGD), 0.1, orders=orders)
    with pytest.raises(ValueError, match="an explicit penalty is not repeated"):
        own_steps(replace(problem, regularizer=L2(strength=0.1)), at(SGD), 0.1)
    monkeypatch.setattr(module, "view", lambda *_: SimpleNamespace(make=None))
    with pytest.raises(ValueError, match="several optimizers together cannot be made again"):
        of_the_run(problem)
    monkeypatch.setattr(module, "LARGEST", 2)
    with pytest.raises(ValueError, match="3 weights: the drift from own steps takes 2 at most"):
        own_steps(problem, at(SGD), 0.1)


def start(problem, tmp_path):
    config = SimpleNamespace(optimizer={"name": "sgd"}, lr=0.02)
    return SimpleNamespace(folder=tmp_path / "run", problem=problem, config=config, epoch=3, ended="then")


CHOSEN = {"optimizer": None, "settings": {}, "rate": None, "orders": 4, "steps": 2, "seed": 0, "checkpoint": "then"}


def test_the_files_and_the_text(tmp_path):
    problem = quadratic(partial(SGD, lr=0.02), batch_size=12)
    result = json.loads(json.dumps(study(start(problem, tmp_path), CHOSEN, processes=1)))
    assert (result["run"], result["optimizer"], result["rate"], result["epoch"]) == ("run", "sgd", 0.02, 3)
    assert [of["rate"] for of in result["full_batch"]] == [0.02, 0.01, 0.005]
    table = list(rows(result))
    assert {len(row) for row in table} == {len(HEADER)}
    (k,) = [row for row in table if row[2:5] == [0.01, "full batches", "k"]]
    assert k[5] == result["full_batch"][1]["k"]
    (added,) = [row for row in table if row[4] == "added"]
    assert added[5:] == result["minibatches"]["estimates"]["added"]
    lines = text([result]).splitlines()
    assert f"{k[5]:.3g}" in next(line for line in lines if " 0.01 " in line).split()
    assert lines[-1].split()[-1] == "–"  # F of linear steps
    none = text([result | {"full_batch": [], "minibatches": None, "reason": "no response"}])
    assert none == "run, sgd: no response"


def test_a_problem_of_the_study_is_the_users(tmp_path):
    problem = replace(quadratic(partial(SGD, lr=0.02)), regularizer=L2(strength=0.1))
    with pytest.raises(UserError, match="run: an explicit penalty"):
        study(start(problem, tmp_path), CHOSEN, processes=1)


WRONG = {
    ("--set", "lr=1"): "--set: is of the drift from own steps; add --own-steps or --optimizer CLASS",
    ("--full-batch-steps", "2"): "--full-batch-steps: is of the drift from own steps",
    ("--own-steps", "--full-batch-steps", "0"): "--full-batch-steps 0: must be at least 1",
    ("--own-steps", "--explicit"): "--explicit: is no option of the drift from own steps",
    ("--own-steps", "--flow-lr", "1"): "--flow-lr: is no option of the drift from own steps",
}
WRONG_OF_A_RUN = {
    ("--own-steps", "--set", "lr=0"): "--set lr=0: must be a finite number above 0, like 1e-3",
    ("--own-steps", "--set", "lr=yes"): "--set lr=True: must be a finite number above 0",
    ("--own-steps", "--set", "betas=[0.9,0.95]"): "--set betas=…: a run's own optimizer keeps its arguments",
    ("--optimizer", "torch.optim.Nothing"): "torch.optim has no Nothing",
    ("--optimizer", "torch.optim.Adam", "--set", "betas=1"): "--optimizer torch.optim.Adam: cannot be made with",
}


@pytest.mark.parametrize("given", WRONG)
def test_wrong_options(given, tmp_path, capsys):
    assert main([str(tmp_path), *given]) == 2
    assert WRONG[given] in capsys.readouterr().err


@pytest.mark.parametrize("given", WRONG_OF_A_RUN)
def test_wrong_options_of_an_optimizer(given, tmp_path):
    at_run = start(quadratic(partial(SGD, lr=0.02)), tmp_path)
    read = _parser().parse_args(["run", *given])
    with pytest.raises(UserError, match=re.escape(WRONG_OF_A_RUN[given])):
        study(at_run, options(at_run, read), processes=1)


def test_rates_are_read_as_they_are_written(tmp_path):
    at_run = start(quadratic(partial(SGD, lr=0.02)), tmp_path)
    given = [
        "run",
        "--optimizer",
        "torch.optim.Adam",
        "--set",
        "lr=1e-3",
        "betas=[0.9,1e-2]",
        "eps=1.5E-08",
        "fused=no",
    ]
    chosen = options(at_run, _parser().parse_args(given))
    assert chosen["rate"] == 1e-3
    assert chosen["settings"] == {"betas": [0.9, 0.01], "eps": 1.5e-8, "fused": False}


def test_a_run_without_rule(tmp_path, small_run, capsys):
    small_run(tmp_path, "optimizer=gd", "optimizer._target_=torch.optim.ASGD", "lr=0.1", "terms=[]", "epochs=1")
    assert main([str(tmp_path)]) == 2
    assert "ASGD: unknown optimizer" in (said := capsys.readouterr().err)
    assert said.strip().endswith("`ireg drift RUN --own-steps` needs no rule")
    large = ("--optimizer", "torch.optim.SGD", "--set", "lr=1e2")
    assert main([str(tmp_path), *large]) == 0
    assert "on the expansion does not hold; choose --set lr=" in capsys.readouterr().out
    folder = tmp_path / "drift"
    assert {path.name for path in folder.iterdir()} == set(OWN_STEPS.files) == {"own_steps.json", "own_steps.csv"}
    assert json.loads((folder / "own_steps.json").read_text())["options"]["rate"] == 100
