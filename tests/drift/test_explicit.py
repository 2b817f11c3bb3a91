"""The exchange rate of finite steps and explicit penalties, measured."""

import json
from dataclasses import replace
from functools import partial

import pytest
import torch
from torch.optim import SGD, Adam

from ireg.drift.__main__ import main
from ireg.drift.exchange import compare, exchange, reordered
from ireg.drift.forces import mean_flow_at
from ireg.drift.orders import order_of, train_epoch
from ireg.drift.problem import flattened
from ireg.drift.runge_kutta import velocity
from ireg.regularizers import L2, FullBatch, Minibatch, MomentumLike
from ireg.system.errors import UserError
from tests.drift.small import quadratic

FAST = ("--orders", "6", "--processes", "1", "--refinements", "2", "--explicit")


@pytest.mark.slow
def test_the_exchange_rate_of_sgd_is_1_up_to_the_rate():
    """What is off falls with the rate, on a quadratic with 24 minibatches."""
    off = []
    for rate in (4e-3, 2e-3):
        found = exchange(quadratic(partial(SGD, lr=rate)), orders=20, refinement=2, step=0.01, processes=1)
        for method in ("exact", "differences"):  # of a quadratic both are the same
            assert found[method]["k"].value == pytest.approx(found["exact"]["k"].value, rel=1e-6)
            assert found[method]["cosine"].value > 0.99
        assert found["exact"]["left"].value < 0.04
        off.append(abs(found["exact"]["k"].value - 1))
    assert off[0] < 0.1
    assert off[1] < 0.7 * off[0]


@pytest.mark.slow
@pytest.mark.parametrize("nesterov", [False, True])
def test_sgd_imitates_momentum(nesterov):
    """But not Nesterov's: its L and τ are other ones, and the penalty is momentum's."""
    made = partial(SGD, lr=5e-4, momentum=0.8, nesterov=nesterov)
    found = exchange(quadratic(made), orders=20, refinement=2, step=0.01, processes=1)["exact"]
    assert (abs(found["k"].value - 1) < 0.1) == (not nesterov)
    assert found["implicit"].value > 0


def test_a_wrong_penalty_has_another_exchange_rate(monkeypatch):
    monkeypatch.setattr(
        "ireg.drift.exchange.Minibatch", lambda strength, **how: Minibatch(strength=strength / 2, **how)
    )
    problem = quadratic(partial(SGD, lr=2e-3))
    assert exchange(problem, orders=20, refinement=2, step=0.01, processes=1)["exact"]["k"].value > 1.8


def test_the_fit_is_by_different_pairs():
    torch.manual_seed(0)
    direction = torch.randn(50, dtype=torch.float64)
    noise = [torch.randn(50, dtype=torch.float64) for _ in range(40)]
    displacement = [10 * direction] * 40
    found = compare([2 * direction + 0.1 * other for other in noise], [direction] * 40, displacement)
    assert found["k"].value == pytest.approx(2, abs=4 * found["k"].error)
    assert found["cosine"].value == pytest.approx(1, abs=4 * found["cosine"].error + 1e-6)
    assert found["left"].value == pytest.approx(0.25, abs=0.03)  # ‖2d − d‖²/‖2d‖²
    assert found["implicit"].value == pytest.approx(0.2, abs=0.02)
    nothing = compare(noise, [torch.zeros_like(direction)] * 40, displacement)
    assert str(nothing["k"].value) == str(nothing["cosine"].value) == "nan"


def test_all_epochs_have_the_partition_of_the_order():
    problem = quadratic(partial(SGD, lr=0.1), num_examples=10, batch_size=3)
    for order in (0, 1):
        first = [tuple(part.tolist()) for part in order_of(problem, 1, order, 0)]
        assert [tuple(part.tolist()) for part in reordered(problem, order, 0)] == first
        later = [tuple(part.tolist()) for part in reordered(problem, order, 1)]
        assert set(later) == set(first)
        assert len(later[-1]) == 1
    backwards = [tuple(part.tolist()) for part in reordered(problem, 0, 1)]
    assert [tuple(part.tolist()) for part in reordered(problem, 1, 1)] == [*backwards[2::-1], backwards[3]]


# A run with a penalty of its own: epochs, mean flow and leading flow are of the objective.


def test_l2_is_weight_decay_in_all_of_it():
    decaying = quadratic(partial(SGD, lr=0.01, momentum=0.9, weight_decay=0.3))
    penalized = replace(quadratic(partial(SGD, lr=0.01, momentum=0.9)), regularizer=L2(strength=0.3))
    at = torch.tensor([0.5, -1.0, 2.0], dtype=torch.float64)
    assert torch.allclose(velocity(decaying, at), velocity(penalized, at), rtol=1e-12)
    flows = [
        mean_flow_at(problem, at, 0, replace(problem.optimizer, weight_decay=decay))
        for problem, decay in ((decaying, 0.3), (penalized, 0.0))
    ]
    assert torch.allclose(flattened(flows[0].correction), flattened(flows[1].correction), rtol=1e-10)
    ends = []
    for problem in (decaying, penalized):
        module, optimizer = problem.begin()
        train_epoch(module, optimizer, problem, order_of(problem, 1, 0, 0))
        ends.append(problem.vector(module))
    assert torch.allclose(*ends, rtol=1e-12)


@pytest.mark.parametrize("regularizer", [Minibatch(strength=0.3), FullBatch(strength=0.3), MomentumLike(strength=0.1)])
def test_the_leading_velocity_has_the_penalty(regularizer):
    """On a quadratic with one example a minibatch: g + (λ/2)(1/m) Σ H_k g_k, Hḡ, or both."""
    problem = replace(quadratic(partial(SGD, lr=0.01)), regularizer=regularizer)
    at = torch.tensor([0.5, -1.0, 2.0], dtype=torch.float64)
    errors = problem.inputs @ at - problem.targets
    rows = problem.inputs * errors[:, None]
    products = (problem.inputs * (rows * problem.inputs).sum(1)[:, None]).mean(0)
    of_mean = problem.inputs.T @ (problem.inputs @ rows.mean(0)) / len(errors)
    factors = {Minibatch: (0.3, 0.0), FullBatch: (0.0, 0.3)}
    each, whole = factors.get(type(regularizer)) or regularizer.coefficients(24)
    expected = rows.mean(0) + each / 2 * products + whole / 2 * of_mean
    assert torch.allclose(velocity(problem, at), expected, rtol=1e-10)


# The command.


@pytest.fixture
def run(tmp_path, small_run):
    small_run(tmp_path / "sgd", "terms=[]", "epochs=1", "optimizer=sgd", "lr=0.1")
    return tmp_path


def test_the_command_writes_what_it_prints(run, small_run, capsys):
    small_run(run / "momentum", "terms=[]", "epochs=1", "optimizer=momentum", "lr=0.01", "batch_size=100")
    assert main([str(run / "sgd"), str(run / "momentum"), *FAST, "--output", str(run / "out")]) == 0
    out = capsys.readouterr().out
    assert "sgd: finite steps in units of the penalty on minibatch gradients; 1 is theory" in out
    assert "momentum: finite steps in units of momentum's penalty; 1 is theory" in out
    result = json.loads((run / "out" / "sgd" / "explicit.json").read_text())
    assert result["options"] | {"checkpoint": None} == {
        "orders": 6, "refinement": 2, "step": 0.01, "seed": 0, "checkpoint": None,
    }  # fmt: skip
    assert set(result["exchange"]) == {"exact", "differences"}
    k, error = result["exchange"]["differences"]["k"]
    assert f"k {k:.3f} ± {error:.3f}" in out
    lines = (run / "out" / "explicit.csv").read_text().splitlines()
    assert lines[0] == "run,optimizer,lr,batch_size,method,quantity,value,error"
    assert len(lines) == 1 + 2 * 2 * 4
    assert main([str(run / "sgd"), *FAST, "--output", str(run / "out" / "sgd")]) == 0
    assert "measured already, kept as it is" in capsys.readouterr().err
    (run / "explicit.csv").write_text("a,b\n")
    assert main([str(run / "sgd"), *FAST, "--output", str(run)]) == 2
    assert "ireg did not write explicit.csv there" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("overrides", "text"),
    [
        (["optimizer=adam"], "--explicit with adam: the exchange rate is known for SGD and momentum"),
        (["regularizer=l2", "regularizer.strength=0.1"], "--explicit with sgd: the exchange rate is known for"),
    ],
)
def test_what_it_does_not_serve(tmp_path, small_run, capsys, overrides, text):
    small_run(tmp_path / "run", "terms=[]", "epochs=1", *overrides)
    assert main([str(tmp_path / "run"), *FAST]) == 2
    assert text in capsys.readouterr().err


def test_batch_norm_and_wrong_options(run, capsys):
    problem = quadratic(partial(SGD, lr=0.01))
    module = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.BatchNorm1d(2), torch.nn.Flatten(0)).double()
    state = SGD(module.parameters(), lr=0.01).state_dict()
    normalized = replace(
        problem, module=module, optimizer_state=state, batch_size=4, targets=torch.zeros(24).double(),
        criterion=lambda outputs, targets: outputs.square().mean(),
    )  # fmt: skip
    with pytest.raises(UserError, match="--explicit: with BatchNorm C differs between partitions"):
        exchange(normalized, orders=6, refinement=2, step=0.01, processes=1)
    with pytest.raises(UserError, match="--explicit with adam"):
        exchange(quadratic(partial(Adam, lr=0.01)), orders=6, refinement=2, step=0.01, processes=1)
    assert main([str(run / "sgd"), *FAST, "--step", "0"]) == 2
    assert "--step 0: must be a finite number above 0, like 0.01" in capsys.readouterr().err
