"""`ireg.Monitor` in a training loop."""

import copy

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy, mse_loss

import ireg
from tests import reference

INPUTS = torch.randn(20, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
TARGETS = torch.randint(0, 3, (20,), generator=torch.Generator().manual_seed(1))


def network(*layers):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 4), nn.Tanh(), *layers, nn.Linear(4, 3)).double()


def train(model, optimizer, monitor=None, epochs=2, scheduler=None, buffer=None):
    """Train, minibatch by minibatch, and return what was computed after each epoch."""
    values = []
    for epoch in range(epochs):
        order = torch.randperm(20, generator=torch.Generator().manual_seed(epoch))
        for index in order.split(8):
            batch = INPUTS[index], TARGETS[index]
            if buffer is not None:  # a loader that fills the same memory again
                batch = buffer[: len(index)].copy_(batch[0]), batch[1]
            optimizer.zero_grad()
            cross_entropy(model(batch[0]), batch[1]).backward()
            optimizer.step()
            if monitor is not None:
                monitor.update(batch)
            if scheduler is not None:
                scheduler.step()
        if monitor is not None:
            values.append(monitor.compute())
            monitor.reset()
    return values


def test_it_measures_the_epochs_minibatches_at_its_end():
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    monitor = ireg.Monitor(model, optimizer, criterion=cross_entropy, terms=["ireg/sgd", "norm/distance"])
    start = copy.deepcopy(model)
    values = train(model, optimizer, monitor, buffer=INPUTS.clone())
    order = torch.randperm(20, generator=torch.Generator().manual_seed(1))
    batches = [(INPUTS[index], TARGETS[index]) for index in order.split(8)]
    expected = reference.sgd(reference.minibatch_gradients(model, cross_entropy, batches), 0.1)
    assert values[1]["ireg/sgd"] == pytest.approx(expected, rel=1e-8)
    ends = zip(model.parameters(), start.parameters(), strict=True)
    moved = sum(float((end - begin).detach().square().sum()) for end, begin in ends)
    assert values[1]["norm/distance"] == pytest.approx(moved**0.5, rel=1e-8)
    assert (monitor.rows.pop("time/terms") > 0).all()
    assert monitor.rows.drop(columns="time/terms").to_dict("records") == [
        {"step": steps, **row} for steps, row in zip((3, 6), values, strict=True)
    ]


@pytest.mark.parametrize(
    "layers", [[], [nn.BatchNorm1d(4).double(), nn.Dropout(0.3)]], ids=["plain", "batch statistics"]
)
@pytest.mark.filterwarnings("ignore:the model has dropout")
def test_observing_does_not_change_training(layers):
    ends = []
    for watched in (False, True):
        model = network(*copy.deepcopy(layers))
        optimizer = torch.optim.Adam(model.parameters(), lr=0.1)
        train(model, optimizer, ireg.Monitor(model, optimizer, criterion=cross_entropy) if watched else None)
        ends.append((copy.deepcopy(model.state_dict()), torch.rand(())))
    (plain, stream), (observed, other) = ends
    assert all(torch.equal(value, observed[name]) for name, value in plain.items())
    assert stream == other


def test_minibatches_before_the_first_step_are_no_steps():
    """As with a gradient scaler that leaves the first steps out."""
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    monitor = ireg.Monitor(model, optimizer, criterion=cross_entropy, terms=["ireg/sgd"])
    for batch in ((INPUTS[:4], TARGETS[:4]), (INPUTS[4:8], TARGETS[4:8])):
        monitor.update(batch)
    assert monitor.steps == 2  # nobody has seen a step yet: each may have been one
    cross_entropy(model(INPUTS[8:12]), TARGETS[8:12]).backward()
    optimizer.step()
    monitor.update((INPUTS[8:12], TARGETS[8:12]))
    assert monitor.steps == 1
    monitor.compute()
    assert monitor.rows["step"].tolist() == [1]


def test_rates_are_those_the_steps_used():
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5)
    monitor = ireg.Monitor(model, optimizer, criterion=cross_entropy, terms=["ireg/full_batch", "ireg/sgd"])
    with pytest.warns(UserWarning, match="the learning rate changes within the epoch") as warned:
        values = train(model, optimizer, monitor, scheduler=scheduler)
    assert len(warned) == 1
    order = torch.randperm(20, generator=torch.Generator().manual_seed(1))
    batches = [(INPUTS[index], TARGETS[index]) for index in order.split(8)]
    gradients = reference.minibatch_gradients(model, cross_entropy, batches)
    rates = [0.1 * 0.5**k for k in (3, 4, 5)]
    total, squares = sum(rates), sum(rate**2 for rate in rates)
    full = squares / (4 * total) * reference.squared_norm(reference.mean(gradients))
    variance = (total**2 - squares) / (2 * total) * reference.minibatch_variance(gradients, 1.0)
    expected = {"ireg/full_batch": full, "ireg/sgd": full + variance, "check/replay": 0.0}
    assert values[1] == pytest.approx(expected, rel=1e-8)


def test_other_warnings_come_once():
    model = network(nn.Dropout(0.1))
    optimizer = torch.optim.SGD(model.parameters(), lr=50.0)
    monitor = ireg.Monitor(model, optimizer, criterion=cross_entropy, terms="theory")
    with (
        pytest.warns(UserWarning, match="the model has dropout, which is off") as dropout,
        pytest.warns(UserWarning, match=r"ireg/strength is .*: above 0.3 the expansion says nothing") as strength,
    ):
        train(model, optimizer, monitor)
    assert (len(strength), len(dropout)) == (2, 1)  # the inner block sees both


def test_a_sample_of_the_minibatches_is_kept():
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    batches = [(INPUTS[index], TARGETS[index]) for index in torch.arange(20).split(2)]
    some = ireg.Monitor(model, optimizer, criterion=cross_entropy, num_batches=4)
    for _ in range(2):
        for batch in batches:
            some.update(batch)
        kept = some._window.sample.items
        values = some.compute()
        some.reset()
        expected = ireg.measure(model, kept, optimizer=optimizer, criterion=cross_entropy, population=10)
        assert len(kept) == 4
        assert values == expected
        assert values["ireg/sgd_se"] > 0
    assert some.rows["step"].tolist() == [10, 20]
    assert some.rows["ireg/sgd"].nunique() == 2  # each epoch has a draw of its own


class Gated(nn.Module):
    """A second head that the loss depends on only while it is open."""

    passes = 0  # of the class: what a pass changes in a module is given back

    def __init__(self):
        super().__init__()
        self.body, self.head, self.open = network(), nn.Linear(5, 3).double(), False

    def forward(self, inputs):
        Gated.passes += 1
        return self.body(inputs) + (self.head(inputs) if self.open else 0)


@pytest.mark.parametrize("check", ["each", "first", "off"])
def test_a_row_takes_one_pass_a_minibatch_and_one_more(check):
    """The further one is the guard's, or where none compares, one that shows what kind of function the loss is."""
    model = Gated()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    monitor = ireg.Monitor(
        model, optimizer, criterion=cross_entropy, terms=["ireg/sgd"], check=check, method="loop", num_batches=3,
        sampling="independent",
    )  # fmt: skip
    counts = []
    for _ in range(2):
        before = Gated.passes
        train(model, optimizer, monitor, epochs=1)
        counts.append(Gated.passes - before - 3)
    assert counts[1] == 3 + 1


def test_what_the_loss_depends_on_is_seen_anew_in_each_row():
    model = Gated()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    monitor = ireg.Monitor(model, optimizer, criterion=cross_entropy, terms=["ireg/sgd"])
    order = torch.randperm(20, generator=torch.Generator().manual_seed(0))
    batches = [(INPUTS[index], TARGETS[index]) for index in order.split(8)]
    for is_open in (False, True, False):
        model.open = is_open
        optimizer.zero_grad()
        (row,) = train(model, optimizer, monitor, epochs=1)
        gradients = reference.minibatch_gradients(model, cross_entropy, batches)
        assert row["ireg/sgd"] == pytest.approx(reference.sgd(gradients, 0.1), rel=1e-8)


def test_what_cannot_work_is_refused_at_once():
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for arguments, match in (
        ({}, "neither of criterion and loss"),
        ({"criterion": mse_loss, "mode": "train"}, "mode='train'"),
        ({"criterion": mse_loss, "num_batches": 2}, "num_batches=2: must be at least 3"),
        (
            {"criterion": mse_loss, "num_batches": 8, "terms": "theory"},
            "ireg/strength has no estimate from drawn minibatches",
        ),
        ({"criterion": mse_loss, "terms": ["ireg/sdg"]}, "'ireg/sdg' is unknown"),
    ):
        with pytest.raises(ValueError, match=match):
            ireg.Monitor(model, optimizer, **arguments)
    monitor = ireg.Monitor(model, optimizer, criterion=mse_loss)
    with pytest.raises(ValueError, match="a minibatch is a dict"):
        monitor.update({"x": INPUTS})
    with pytest.raises(ValueError, match="there are no minibatches"):
        monitor.compute()
    with pytest.raises(ValueError, match=r"optimizer is a list; must be one of torch.optim"):
        ireg.Monitor(model, [], criterion=mse_loss)
