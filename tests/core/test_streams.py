"""Measuring leaves every random stream, attribute and other module as it was."""

import random
from functools import partial

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import mse_loss

import ireg
from ireg.core.functional import measuring
from ireg.core.streams import DEPTH, Streams, _held, attributes_kept

TORCHS = torch.Generator().manual_seed(0)
BATCH = (torch.ones(3, 2), torch.zeros(3, 1))


class Drawing(nn.Module):
    """A network with a generator of its own."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(2, 1)
        self.inner = nn.Sequential(nn.Identity())
        self.inner[0].generators = {"one": [np.random.default_rng(0)]}
        self.calls, self.seen, self.last = 0, [], None

    def forward(self, inputs):
        self.calls += 1
        self.seen.append(self.calls)
        self.last = inputs
        return self.linear(inputs + self.inner[0].generators["one"][0].normal())


class Owner:
    def __init__(self):
        self.random = random.Random(0)

    def loss(self, model, batch):
        return mse_loss(model(batch[0] + self.random.random()), batch[1])


def by_default(numbers):
    def loss(model, batch, *, numbers=numbers):
        return mse_loss(model(batch[0] + numbers.rand()), batch[1])

    return loss


def by_global_name(model, batch):
    return mse_loss(model(batch[0] + torch.rand(1, generator=TORCHS)), batch[1])


def by_global_streams(model, batch):
    return mse_loss(model(batch[0] + torch.rand(1) + random.random() + np.random.rand()), batch[1])


def by_argument(generator, model, batch):
    return mse_loss(model(batch[0] + torch.rand(1, generator=generator)), batch[1])


LOSSES = {
    "the module": lambda: lambda model, batch: mse_loss(model(batch[0]), batch[1]),
    "an object": lambda: Owner().loss,
    "a default": lambda: by_default(np.random.RandomState(0)),
    "a global name": lambda: by_global_name,
    "global streams": lambda: by_global_streams,
    "an argument": lambda: partial(by_argument, torch.Generator().manual_seed(0)),
}


@pytest.mark.parametrize("name", LOSSES)
def test_the_next_draw_is_the_same_with_and_without_measuring(name):
    draws = []
    loss = LOSSES[name]()
    torch.manual_seed(0)
    model = Drawing()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    streams = Streams(model, loss)
    state = streams.state()
    for measured in (False, True):
        streams.restore(state)
        if measured:
            ireg.measure(model, [BATCH], optimizer=optimizer, loss=loss, terms=["ireg/sgd"])
        draws.append([float(loss(model, BATCH)) for _ in range(2)])
    assert draws[0] == draws[1]
    assert draws[0][0] != draws[0][1]


def test_attributes_of_layers_are_as_before():
    model = Drawing()
    model.linear.extra = "kept"
    seen = model.seen
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    ireg.measure(model, [BATCH], optimizer=optimizer, criterion=mse_loss)
    assert (model.calls, model.seen, model.last) == (0, [], None)
    assert model.seen is seen


def test_attributes_are_kept_by_every_way_to_measure():
    model = Drawing()
    for _ in range(2):
        with measuring(model):
            model(BATCH[0])
    assert (model.calls, model.seen, model.last) == (0, [], None)


def test_a_buffer_that_a_forward_pass_changes_is_as_before():
    class Counting(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(2, 1)
            self.register_buffer("count", torch.zeros(()))

        def forward(self, inputs):
            self.count += 1
            return self.linear(inputs)

    model = Counting()
    buffer = model.count
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for mode in ("as_trained", "two_draws", "eval"):
        ireg.measure(model, [BATCH] * 3, optimizer=optimizer, criterion=mse_loss, mode=mode)
        assert (float(model.count), model.count is buffer) == (0.0, True)


def test_a_teacher_that_the_loss_holds_is_as_before():
    teacher = nn.Linear(2, 1)

    def loss(model, batch):
        with torch.no_grad():
            for old, new in zip(teacher.parameters(), model.parameters(), strict=True):
                old.lerp_(new, 0.5)
        return mse_loss(model(batch[0]), teacher(batch[0]))

    model = nn.Linear(2, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    before = [value.clone() for value in teacher.parameters()]
    ireg.measure(model, [BATCH], optimizer=optimizer, loss=loss, terms=["ireg/sgd"], check="off")
    assert all(torch.equal(*pair) for pair in zip(before, teacher.parameters(), strict=True))


@pytest.mark.parametrize("write", ["no_grad", "data", "max_norm"])
def test_weights_that_a_forward_pass_writes_to_are_as_before(write):
    class Writing(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed = nn.Embedding(3, 2, max_norm=0.1 if write == "max_norm" else None)
            self.linear = nn.Linear(2, 1)

        def forward(self, tokens):
            if write == "no_grad":
                with torch.no_grad():
                    self.linear.weight.clamp_(-0.1, 0.1)
            if write == "data":
                self.linear.weight.data.clamp_(-0.1, 0.1)
            return self.linear(self.embed(tokens))

    torch.manual_seed(0)
    model = Writing()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    before = [value.detach().clone() for value in model.parameters()]
    batches = [(torch.tensor([0, 1]), torch.zeros(2, 1)), (torch.tensor([1, 2]), torch.ones(2, 1))]
    found = ireg.measure(model, batches, optimizer=optimizer, criterion=mse_loss)
    assert all(torch.equal(*pair) for pair in zip(before, model.parameters(), strict=True))
    size = sum(float(value.square().sum()) for value in before) ** 0.5
    assert found["norm/l2"] == pytest.approx(size, rel=1e-6)
    total = 0.0
    for inputs, targets in batches:  # each as in training, from the weights as they are
        model.zero_grad()
        mse_loss(model(inputs), targets).backward()
        total += sum(float(value.grad.square().sum()) for value in model.parameters())
        with torch.no_grad():
            for value, start in zip(model.parameters(), before, strict=True):
                value.copy_(start)
    assert found["ireg/sgd"] == pytest.approx(0.1 / 4 * total / 2, rel=1e-5)


def test_weights_that_only_a_later_minibatch_writes_to_are_as_before():
    """The first look at the module has not seen it."""

    class Writing(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(2, 1)

        def forward(self, inputs):
            if inputs.max() > 5:
                with torch.no_grad():
                    self.linear.weight.clamp_(-0.1, 0.1)
            return self.linear(inputs)

    torch.manual_seed(0)
    model = Writing()
    before = [value.detach().clone() for value in model.parameters()]
    batches = [(torch.ones(3, 2), torch.zeros(3, 1)), (torch.full((3, 2), 9.0), torch.ones(3, 1))]
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    ireg.measure(model, batches, optimizer=optimizer, criterion=mse_loss, terms=["ireg/sgd"])
    assert all(torch.equal(*pair) for pair in zip(before, model.parameters(), strict=True))


def test_containers_are_refilled_only_if_they_have_changed():
    model = nn.Module()
    model.items, model.names, model.both = [1, 2], {"a": 1}, {3, 4}
    items, names, both = model.items, model.names, model.both
    with attributes_kept(model):
        model.items.append(3)
        model.names["a"] = 2
        model.both.clear()
        model.new = 5
        del model.items
    assert (model.items, model.names, model.both) == ([1, 2], {"a": 1}, {3, 4})
    assert (model.items is items, model.names is names, model.both is both) == (True, True, True)
    assert not hasattr(model, "new")


def test_an_unknown_kind_of_generator_is_refused():
    from ireg.core import streams

    with pytest.raises(TypeError, match="int is no kind of generator whose state can be kept"):
        streams._door(3)


def test_streams_are_restored_after_an_error():
    def draw():
        with Streams(module).kept():
            torch.rand(3)
            raise KeyError

    module = nn.Linear(1, 1)
    before = torch.get_rng_state()
    with pytest.raises(KeyError):
        draw()
    assert torch.equal(torch.get_rng_state(), before)


def test_generators_are_looked_for_to_a_certain_depth():
    def nested(depth):
        value = torch.Generator()
        for _ in range(depth):
            value = [value]
        return value

    assert len(_held(nested(DEPTH))) == 1
    assert _held(nested(DEPTH + 1)) == []
