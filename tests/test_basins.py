"""Forks of training, barriers between them, and permutations of hidden units."""

import argparse
import json
from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from ireg.basins import study
from ireg.basins.__main__ import _check, main
from ireg.basins.barriers import POINTS, Examples, along_line, barrier, distance, loss_and_error
from ireg.basins.forks import fork, rates
from ireg.basins.permutations import layers_of, matched, permuted
from ireg.core.functional import detached_parameters, functional_loss
from ireg.drift.from_run import load
from ireg.models import MLP
from ireg.system.errors import UserError

FAST = ("--loss", "1.9", "--lr", "0.3", "--processes", "1", "--epochs", "200")


def trained(seed, *, steps=150):
    """A network that separates two moons of points, from its own start."""
    torch.manual_seed(seed)
    module = MLP(input_shape=(2,), num_classes=2, hidden=[16, 16])
    inputs, labels = points()
    optimizer = torch.optim.Adam(module.parameters(), lr=0.02)
    for _ in range(steps):
        optimizer.zero_grad()
        cross_entropy(module(inputs), labels).backward()
        optimizer.step()
    return module


def points():
    generator = torch.Generator().manual_seed(0)
    angles = torch.rand(200, generator=generator) * 6.28
    labels = torch.arange(200) % 2
    radii = 1 + labels
    return torch.stack([radii * angles.cos(), radii * angles.sin()], 1), labels


def measured(one, other):
    """Barriers of the loss between two networks, as they are and matched, and both distances."""
    inputs, labels = points()
    loss, examples = functional_loss(one, cross_entropy), {"train": Examples(inputs=inputs, labels=labels)}
    fixed, moved = detached_parameters(one), detached_parameters(other)
    near = matched(fixed, moved, layers_of(one, 2))
    found = []
    for ends in ((fixed, moved), (fixed, near)):
        found += [barrier(along_line(loss, ends, examples)["train/loss"]), distance(ends)]
    return found


def test_the_same_network_has_no_barrier_and_a_permuted_copy_none_after_matching():
    module = trained(0)
    assert measured(module, module) == [pytest.approx(0, abs=1e-6), 0, pytest.approx(0, abs=1e-6), 0]
    layers = layers_of(module, 2)
    permutations = [torch.randperm(16, generator=torch.Generator().manual_seed(i)) for i in range(2)]
    copied = trained(0)
    moved = permuted(detached_parameters(module), layers, permutations)
    copied.load_state_dict(moved)
    inputs, _ = points()
    torch.testing.assert_close(copied(inputs), module(inputs))
    as_is, apart, after, near = measured(module, copied)
    assert as_is > 0.1
    assert apart > 1
    assert (after, near) == (pytest.approx(0, abs=1e-6), 0)


def test_two_seeds_have_a_large_barrier_and_are_nearer_after_matching():
    as_is, apart, _, near = measured(trained(0), trained(1))
    assert as_is > 0.1
    assert near < apart


def test_a_quadratics_barrier_is_that_of_its_closed_form():
    """On E = aω², the line between ω₁ and ω₂ is below the mean of its ends; on −aω² it is a (ω₁ − ω₂)²/4 above."""
    module = nn.Linear(1, 2, bias=False).double()
    examples = Examples(inputs=torch.ones(1, 1).double(), labels=torch.zeros(1, dtype=torch.long))
    for sign in (1, -1):
        loss = functional_loss(module, lambda outputs, labels, sign=sign: sign * 3 * outputs.square().sum())
        ends = ({"weight": torch.tensor([[2.0], [0.0]]).double()}, {"weight": torch.tensor([[-1.0], [1.0]]).double()})
        curve = along_line(loss, ends, {"all": examples})["all/loss"]
        assert len(curve) == POINTS
        shares = torch.linspace(0, 1, POINTS).double()
        expected = sign * 3 * ((2 * shares - (1 - shares)) ** 2 + (1 - shares) ** 2)
        torch.testing.assert_close(torch.tensor(curve, dtype=torch.float64), expected, rtol=1e-6, atol=1e-6)
        between = barrier(curve)
        # With sign −1 the top is a/4 ‖ω₁ − ω₂‖² = 3 · 10/4 above the straight line at α = ½, between two points.
        assert between == pytest.approx(float(expected.max() - (expected[0] + expected[-1]) / 2), rel=1e-6)
        assert (between == pytest.approx(3 * 10 / 4, rel=0.1)) == (sign < 0)
    assert barrier([3.0, 0.0, 12.0]) == pytest.approx(4.5)


def test_losses_and_errors_are_those_of_evaluation():
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(2, 8), nn.ReLU(), nn.Dropout(0.5), nn.Linear(8, 2))
    inputs, labels = points()
    found = loss_and_error(
        functional_loss(module, cross_entropy), detached_parameters(module), Examples(inputs=inputs, labels=labels)
    )
    assert module.training
    module.eval()
    outputs = module(inputs)
    assert found[0] == pytest.approx(float(cross_entropy(outputs, labels)), rel=1e-6)
    assert found[1] == pytest.approx(float((outputs.argmax(1) != labels).float().mean()))


@pytest.mark.parametrize(
    ("module", "served"),
    [
        (MLP(input_shape=(2,), num_classes=2, hidden=[3, 3]), True),
        (MLP(input_shape=(2,), num_classes=2, hidden=[3], bias=False), True),
        (nn.Sequential(nn.Linear(2, 3), nn.Softmax(1), nn.Linear(3, 2)), False),
        (nn.Sequential(nn.Conv1d(1, 2, 1), nn.Flatten(), nn.Linear(4, 2)), False),
    ],
)
def test_whose_units_can_be_matched(module, served):
    assert (layers_of(module, 2) is not None) == served


@pytest.fixture
def run(tmp_path, small_run):
    small_run(tmp_path / "run", "terms=[]", "epochs=1", "lr=0.1")
    return tmp_path


def test_forks_have_one_effective_rate_and_reach_one_loss(run):
    problem = load(run / "run", seed=0).problem
    found = rates(problem, ("sgd", "momentum", "nesterov", "adam"), 0.3)
    assert [found[name] for name in ("sgd", "momentum", "nesterov")] == pytest.approx([0.3, 0.03, 0.03], rel=1e-12)
    batches = list(problem.partition("basins"))
    rows = []
    for inputs, labels in batches:
        loss = cross_entropy(problem.module(inputs), labels)
        slopes = torch.autograd.grad(loss, list(problem.module.parameters()))
        rows.append(torch.cat([slope.flatten() for slope in slopes]).double())
    mean, squares = torch.stack(rows).mean(0), torch.stack(rows).square().mean(0)
    falls = float((mean.square() / (squares.sqrt() + 1e-8)).sum() / mean.square().sum())
    assert found["adam"] == pytest.approx(0.3 / falls, rel=1e-4)
    ends = [fork(problem, "sgd", 0.3, order, 1.9, 200) for order in (0, 0, 1)]
    assert all(end.loss <= 1.9 for end in ends)
    assert ends[0].epochs == ends[1].epochs > 0
    assert ends[0].epochs % 0.25 == 0  # the loss is looked at four times an epoch
    assert all(torch.equal(value, ends[1].params[name]) for name, value in ends[0].params.items())
    assert not all(torch.equal(value, ends[2].params[name]) for name, value in ends[0].params.items())
    with pytest.raises(UserError, match=r"sgd at the rate 0.3: its training loss is .* after 1 epochs; raise --epochs"):
        fork(problem, "sgd", 0.3, 0, 0.01, 1)


def test_the_command_writes_what_it_prints(run, small_run, capsys):
    small_run(run / "other", "terms=[]", "epochs=1", "lr=0.1", "seed=1")
    chosen = [*FAST, "--optimizers", "sgd", "momentum", "--output", str(run / "out")]
    assert main([str(run / "run"), str(run / "other"), *chosen]) == 0
    out, err = capsys.readouterr()
    assert f"{run / 'run'}: 4 forks to the loss " in err
    assert "barriers between forks, mean of 2 checkpoints" in out
    assert "above the floor: " in out
    assert f"wrote {run / 'out' / 'basins.json'}" in out
    results = json.loads((run / "out" / "basins.json").read_text())
    assert [len(result["pairs"]) for result in results] == [6, 6]
    found = study.means(results, "as_is", "train/loss")
    assert set(found) == {("sgd", "sgd"), ("sgd", "momentum"), ("momentum", "momentum")}
    by_run = []
    for result in results:
        pairs = [
            study.values(pair["as_is"])["train/loss"]
            for pair in result["pairs"]
            if (pair["first"], pair["second"]) == ("sgd", "momentum") and pair["first_order"] != pair["second_order"]
        ]
        assert len(pairs) == 2
        by_run.append(sum(pairs) / 2)
    assert found["sgd", "momentum"].mean == pytest.approx(sum(by_run) / 2)
    floor = [found[name, name].mean for name in ("sgd", "momentum")]
    above = study.above_floor(results, "as_is", "train/loss")["sgd", "momentum"].mean
    assert above == pytest.approx(found["sgd", "momentum"].mean - sum(floor) / 2, abs=1e-12)
    assert (run / "out" / "basins.png").read_bytes().startswith(b"\x89PNG")
    assert len((run / "out" / "basins.csv").read_text().splitlines()) == 1 + 2 * 6 * 2 * 5
    assert main([str(run / "run"), str(run / "other"), *chosen]) == 0
    assert "measured already, kept as it is" in capsys.readouterr().err
    (run / "out" / "basins.csv").write_text("a,b\n")
    assert main([str(run / "run"), str(run / "other"), *chosen]) == 2
    assert "basins.csv" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["--optimizers", "sgd", "muon"], "--optimizers muon: must be of sgd, "),
        (["--optimizers", "sgd", "sgd"], "--optimizers: each must come once"),
        (["--orders", "1"], "--orders 1: must be at least 2, for the noise floor"),
        (["--loss", "0"], "--loss 0: must be a finite number above 0, like 0.3"),
        (["--loss", "inf"], "--loss inf: must be a finite number above 0"),
        (["--lr", "nan"], "--lr nan: must be a finite number above 0"),
        (["--lr", "0"], "--lr 0.0: must be a finite number above 0"),
        (["--lr", "inf"], "--lr inf: must be a finite number above 0"),
        (["--epochs", "0"], "--epochs 0: must be at least 1"),
        (["--processes", "0"], "--processes 0: must be at least 1"),
    ],
)
def test_wrong_options(run, capsys, arguments, line):
    assert main([str(run / "run"), *arguments]) == 2
    assert line in capsys.readouterr().err


def test_a_folder_without_runs_is_refused_before_torch_is_imported(tmp_path):
    given = argparse.Namespace(
        runs=[tmp_path], optimizers=["sgd"], orders=2, loss=0.3, lr=None, epochs=1, processes=1, into=None
    )
    with pytest.raises(UserError, match="no run there"):
        _check(given)


def test_the_smallest_options_are_taken(tmp_path, capsys):
    assert main([str(tmp_path), "--orders", "2", "--epochs", "1", "--processes", "1", "--optimizers", "sgd"]) == 2
    assert "no run there" in capsys.readouterr().err


def test_what_it_does_not_serve(run, tmp_path, small_run, capsys):
    small_run(tmp_path / "adam", "terms=[]", "epochs=1", "optimizer=adam")
    assert main([str(tmp_path / "adam")]) == 2
    assert "its optimizer is adaptive; give the effective rate of the forks, like --lr 0.05" in capsys.readouterr().err
    start = load(run / "run", seed=0)
    module = nn.Sequential(start.problem.module, nn.BatchNorm1d(10))
    normalized = replace(start, problem=replace(start.problem, module=module))
    with pytest.raises(UserError, match="between networks with BatchNorm running statistics are not those"):
        study.study(normalized, {"optimizers": ["sgd"], "orders": 2}, processes=1)
