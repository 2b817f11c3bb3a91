"""Curvature as terms: the values of dense matrices, what an optimizer lacks, and what a run keeps of them."""

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

import ireg
from ireg.core.functional import detached_parameters, functional_loss
from ireg.core.moments.needs import Need
from ireg.core.moving import moving_parameters
from ireg.core.optimizers import view
from ireg.core.random import named_generator
from ireg.core.snapshot import Snapshot
from ireg.terms import curvature
from ireg.terms.named import TERMS
from tests import reference
from tests.content import run_content
from tests.core.test_hessian import flat, some_batches, stack

CURVATURE = {tag: term for tag, term in TERMS.items() if tag.startswith("curvature/")}
OPTIMIZERS = {
    "sgd": (torch.optim.SGD, {}, 2 / 0.1),
    "decayed": (torch.optim.SGD, {"weight_decay": 0.2}, 2 / 0.1),
    "momentum": (torch.optim.SGD, {"momentum": 0.9}, 2 * 1.9 / 0.1),
    "nesterov": (torch.optim.SGD, {"momentum": 0.9, "nesterov": True}, 2 * 1.9 / (2.8 * 0.1)),
    "rmsprop": (torch.optim.RMSprop, {}, 2 / 0.1),
    "adam": (torch.optim.Adam, {}, 38 / 0.1),
    "adamw": (torch.optim.AdamW, {"weight_decay": 0.3}, (2 - 0.03) * 1.9 / (0.1 * 0.1)),
}


def seen(module, batches, optimizer, steps=2, generator="terms", kept=None):
    for _ in range(steps):
        optimizer.zero_grad()
        cross_entropy(module(batches[0][0]), batches[0][1]).backward()
        optimizer.step()
    loss = functional_loss(module, cross_entropy)
    moving = moving_parameters(optimizer, dict(module.named_parameters()), loss, batches)
    return Snapshot(
        params=detached_parameters(module), initial=detached_parameters(module), loss=loss, batches=batches,
        optimizer=view(optimizer, moving), generator=named_generator(generator), needs=Need.MEAN | Need.SQUARE,
        kept={} if kept is None else kept,
    )  # fmt: skip


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_they_are_those_of_dense_matrices(name):
    made, arguments, edge = OPTIMIZERS[name]
    module, batches = stack(nn.ReLU), some_batches()
    snapshot = seen(module, batches, made(module.parameters(), lr=0.1, **arguments))
    _, gradients, hessians = reference.dense(module, cross_entropy, batches, 0.0, list(snapshot.params))
    matrix, mean = hessians.mean(0), gradients.mean(0)
    scale = snapshot.preconditioner
    scale = torch.ones(len(mean), dtype=torch.float64) if scale is None else flat(scale)
    decay = 0.2 if name == "decayed" else 0.0
    decayed = matrix + decay * torch.eye(len(mean), dtype=torch.float64)
    own = scale.sqrt()[:, None] * decayed * scale.sqrt()
    mean = mean + decay * flat(snapshot.params)
    step = scale * mean
    largest, largest_own = (float(torch.linalg.eigvalsh(values)[-1]) for values in (matrix, own))
    values = {tag: None if (value := term(snapshot)) is None else float(value) for tag, term in CURVATURE.items()}
    assert snapshot.optimizer.edge == pytest.approx(edge, rel=1e-12)
    assert values["curvature/lambda_max"] == pytest.approx(largest, rel=1e-3)
    assert -1e-12 <= largest - values["curvature/lambda_max"] <= values["curvature/lambda_max_residual"] + 1e-12
    assert values["curvature/preconditioned_sharpness"] == pytest.approx(largest_own, rel=1e-3)
    assert values["curvature/edge_fraction"] == pytest.approx(largest_own / edge, rel=1e-3)
    assert values["curvature/trace"] == pytest.approx(float(matrix.trace()), rel=1e-10)
    assert values["curvature/trace_root"] == pytest.approx(float(matrix.diagonal().sqrt().sum()), rel=1e-10)
    half = 0.5 * float(flat(snapshot.params).square() @ matrix.diagonal())
    assert values["curvature/adaptive"] == pytest.approx(half, rel=1e-10)
    along = float(step @ decayed @ step / (mean @ step))
    assert values["curvature/along_step"] == pytest.approx(along / edge, rel=1e-10)
    assert values["curvature/trace_se"] is values["curvature/adaptive_se"] is None  # they are exact
    assert values["curvature/lambda_max_products"] == snapshot.steepest.products


def test_what_is_estimated_has_an_error_and_a_root_has_no_estimate():
    module, batches = stack(nn.Tanh), some_batches()
    snapshot = seen(module, batches, torch.optim.SGD(module.parameters(), lr=0.1))
    _, _, hessians = reference.dense(module, cross_entropy, batches, 0.0, list(snapshot.params))
    diagonal = hessians.mean(0).diagonal()
    for name, expected in (("trace", diagonal.sum()), ("adaptive", flat(snapshot.params).square() @ diagonal / 2)):
        value, error = (float(CURVATURE[f"curvature/{name}{suffix}"](snapshot)) for suffix in ("", "_se"))
        assert 0 < abs(value - float(expected)) < 5 * error
    assert curvature.trace_root(snapshot) is None


def test_before_the_first_step_an_adaptive_optimizer_has_no_edge():
    module, batches = stack(nn.ReLU), some_batches()
    snapshot = seen(module, batches, torch.optim.Adam(module.parameters(), lr=0.1), steps=0)
    for name in ("preconditioned_sharpness", "edge_fraction", "along_step"):
        assert CURVATURE[f"curvature/{name}"](snapshot) is None
    assert float(curvature.lambda_max(snapshot)) > 0


def test_without_a_rule_or_a_fading_memory_there_is_no_edge():
    module, batches = stack(nn.ReLU), some_batches()
    snapshot = seen(module, batches, torch.optim.RAdam(module.parameters(), lr=0.1))
    for term in (curvature.edge_fraction, curvature.along_step, curvature.preconditioned_sharpness):
        assert term(snapshot) is None
    groups = [{"params": [module[1].weight], "weight_decay": 0.1}, {"params": [module[5].weight], "weight_decay": 0.2}]
    unlike = seen(module, batches, torch.optim.AdamW(groups, lr=0.1))
    assert curvature.edge_fraction(unlike) is curvature.along_step(unlike) is None
    with pytest.raises(ValueError, match="differ in their decoupled weight decay"):
        _ = unlike.optimizer.edge


def test_the_draws_do_not_depend_on_what_else_is_measured():
    module, batches = stack(nn.Tanh), some_batches()
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
    first, second = (seen(module, batches, optimizer, steps=0) for _ in range(2))
    alone = float(curvature.gni(first))
    assert float(curvature.trace(second)) != 0
    assert float(curvature.gni(second)) == alone
    assert float(curvature.gni(seen(module, batches, optimizer, steps=0, generator="others"))) != alone


def test_a_measurement_starts_from_the_last_one():
    module, batches = stack(nn.ReLU), some_batches()
    optimizer, kept = torch.optim.Adam(module.parameters(), lr=0.1), {}
    first = seen(module, batches, optimizer, kept=kept).steepest_own
    assert set(kept) == {"lambda_max_own"}
    again = seen(module, batches, optimizer, steps=0, kept=kept).steepest_own
    assert abs(float(first.vector @ again.vector)) == pytest.approx(1, rel=1e-2)


def test_a_monitor_starts_from_its_last_measurement():
    module, batches = stack(nn.ReLU), some_batches()
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
    monitor = ireg.Monitor(module, optimizer, criterion=cross_entropy, terms=["curvature/lambda_max"])
    for batch in batches:
        monitor.update(batch)
    first, second = monitor.compute(), monitor.compute()
    assert set(monitor._kept) == {"lambda_max"}
    assert first["curvature/lambda_max"] == pytest.approx(second["curvature/lambda_max"], rel=1e-3)
    assert first != second  # the second start is another, and nearer


def test_they_need_the_whole_epoch():
    module, batches = stack(nn.ReLU), some_batches()
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
    with pytest.raises(ValueError, match="curvature/edge_fraction has no estimate from drawn minibatches"):
        ireg.Monitor(module, optimizer, criterion=cross_entropy, terms=["curvature/edge_fraction"], num_batches=3)
    values = ireg.measure(module, batches, optimizer=optimizer, criterion=cross_entropy, terms="curvature")
    assert values["curvature/trace"] > values["curvature/lambda_max"] > 0
    with pytest.raises(ValueError, match="needs all minibatches"):
        _ = Snapshot(**{**vars(seen(module, batches, optimizer)), "population": 9}).hessian


@pytest.mark.slow
def test_a_run_measures_them_at_intervals_of_their_own_and_resumes_to_the_last_bit(tmp_path, small_run):
    """The eigenvectors that a measurement starts from are in the checkpoint."""
    chosen = ["optimizer=adam", "terms=[curvature,path]", "terms.curvature.every=2", "epochs=5"]
    small_run(tmp_path / "whole", *chosen)
    rows = (tmp_path / "whole" / "metrics.csv").read_text().splitlines()
    column = rows[0].split(",").index("curvature/lambda_max")
    assert [bool(row.split(",")[column]) for row in rows[1:]] == [True, False, True, False, True, True]

    from ireg.lit.module import Classifier

    original, count = Classifier.on_train_epoch_end, []

    def interrupted(self):
        original(self)
        count.append(1)
        if len(count) == 4:
            raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Classifier, "on_train_epoch_end", interrupted)
        with pytest.raises(KeyboardInterrupt):
            small_run(tmp_path / "parts", *chosen)
    small_run(tmp_path / "parts", *chosen)
    whole, parts = (run_content(tmp_path / name) for name in ("whole", "parts"))
    assert whole["metrics.csv"] == parts["metrics.csv"]
    assert whole["checkpoints/last.ckpt"] == parts["checkpoints/last.ckpt"]
    assert "kept" in whole["checkpoints/last.ckpt"]


@pytest.mark.parametrize(("momentum", "decay"), [(0.0, 0.0), (0.9, 0.0), (0.5, 0.2)])
def test_the_edge_in_mean_square_takes_each_minibatchs_curvature(momentum, decay):
    module, batches = stack(nn.Tanh), some_batches()
    made = torch.optim.SGD(module.parameters(), lr=0.1, momentum=momentum, weight_decay=decay)
    snapshot = seen(module, batches, made)
    _, _, hessians = reference.dense(module, cross_entropy, batches, 0.0, list(snapshot.params))
    vector = snapshot.steepest.vector
    along = torch.stack([vector @ hessian @ vector for hessian in hessians]) + decay
    mean, variance = along.mean(), (along - along.mean()).square().mean()
    expected = 0.05 * (variance / mean / (1 - momentum) + mean / (1 + momentum))
    assert float(curvature.noise_edge(snapshot)) == pytest.approx(float(expected), rel=1e-10)


def test_others_have_no_edge_in_mean_square():
    module, batches = stack(nn.Tanh), some_batches()
    for optimizer in (
        torch.optim.Adam(module.parameters(), lr=0.1),
        torch.optim.SGD(module.parameters(), lr=0.1, momentum=0.9, nesterov=True),
        torch.optim.SGD(module.parameters(), lr=0.1, momentum=0.9, dampening=0.5),
        torch.optim.SGD(module.parameters(), lr=0.1, momentum=1.0),
    ):
        assert curvature.noise_edge(seen(module, batches, optimizer, steps=1)) is None


def test_it_is_none_where_the_curvature_is_not_positive():
    module = nn.Linear(2, 1, bias=False).double()
    batches = [(torch.ones(1, 2, dtype=torch.float64), torch.zeros(1, 1, dtype=torch.float64))]
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
    values = ireg.measure(
        module, batches, optimizer=optimizer, criterion=lambda outputs, targets: -outputs.square().mean(),
        terms=["curvature/noise_edge", "norm/l2"],
    )  # fmt: skip
    assert set(values) == {"norm/l2"}


@pytest.mark.parametrize("beta", [0.0, 0.5, 0.9, 0.99])
@pytest.mark.parametrize("spread", [0.0, 0.3, 1.0, 3.0])
def test_in_mean_square_one_weight_is_stable_up_to_it(beta, spread):
    """The second moments of (ω_t, ω_{t−1}) follow a linear recursion; its radius is 1 where the formula says 1."""
    eta, mean = 0.1, 1.0

    def radius(scale):
        h = scale * mean
        sigma = spread * h
        # E[A ⊗ A] over two equally likely curvatures h ± σ.
        total = torch.zeros(4, 4, dtype=torch.float64)
        for curve in (h - sigma, h + sigma):
            step = torch.tensor([[1 + beta - eta * curve, -beta], [1.0, 0.0]], dtype=torch.float64)
            total += torch.kron(step, step) / 2
        return float(torch.linalg.eigvals(total).abs().max())

    # (η/2) [(σ²/h)/(1 − β) + h/(1 + β)] = 1 for h = scale, σ = spread · scale.
    scale = 2 / (eta * (spread**2 / (1 - beta) + 1 / (1 + beta)))
    assert radius(scale) == pytest.approx(1, abs=1e-9)
    assert radius(1.01 * scale) > 1
    assert radius(0.99 * scale) < 1


def test_a_loss_linear_in_the_weights_has_no_noise_edge():
    """All curvatures are 0, and the variance over their mean is not defined."""
    module = nn.Linear(2, 1, bias=False).double()
    batches = [torch.tensor([[1.0, 2.0]]).double(), torch.tensor([[3.0, -1.0]]).double()]
    for decay in (0.0, 0.1):
        optimizer = torch.optim.SGD(module.parameters(), lr=0.1, weight_decay=decay)
        found = ireg.measure(
            module,
            batches,
            optimizer=optimizer,
            loss=lambda model, batch: model(batch).mean(),
            terms=["curvature/lambda_max", "curvature/noise_edge"],
        )
        # With decay λ all curvatures are λ: (η/2) λ.
        expected = {"curvature/lambda_max": 0.0} | ({"curvature/noise_edge": 0.005} if decay else {})
        assert found == pytest.approx(expected, rel=1e-10)
