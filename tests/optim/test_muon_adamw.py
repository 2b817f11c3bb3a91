"""Muon and AdamW as one optimizer, against torch's two side by side."""

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

import ireg
from ireg.models import CNN, GPT, MLP, ViT
from ireg.optim import MuonAdamW, hidden_matrices

INPUTS = torch.randn(12, 4, generator=torch.Generator().manual_seed(0))
TARGETS = torch.arange(12) % 3


def network():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 8), nn.LayerNorm(8), nn.Linear(8, 3))


def made(model, **options):
    return MuonAdamW(model.parameters(), lr=0.01, weight_decay=0.1, hidden=hidden_matrices(model), **options)


def train(model, step, zero_grad, steps=5):
    for _ in range(steps):
        zero_grad()
        cross_entropy(model(INPUTS), TARGETS).backward()
        step()
    return model


def test_a_step_is_one_of_torchs_muon_and_of_its_adamw():
    one, other = network(), network()
    optimizer = made(one)
    train(one, optimizer.step, optimizer.zero_grad)
    hidden = [other[0].weight, other[2].weight]
    rest = [value for value in other.parameters() if all(value is not matrix for matrix in hidden)]
    parts = [
        torch.optim.Muon(hidden, lr=0.01, weight_decay=0.1, momentum=0.95, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(rest, lr=0.01, weight_decay=0.1, betas=(0.9, 0.95)),
    ]
    train(other, lambda: [part.step() for part in parts], lambda: [part.zero_grad() for part in parts])
    assert all(map(torch.equal, one.parameters(), other.parameters()))


def test_a_closure_is_called_once_with_gradients():
    model, calls = network(), []
    optimizer = made(model)

    def closure():
        calls.append(torch.is_grad_enabled())
        optimizer.zero_grad()
        loss = cross_entropy(model(INPUTS), TARGETS)
        loss.backward()
        return loss

    before = [value.clone() for value in model.parameters()]
    with torch.no_grad():
        loss = optimizer.step(closure)
    assert calls == [True]
    assert loss > 0
    assert not any(map(torch.equal, before, model.parameters()))
    optimizer.zero_grad(set_to_none=False)
    assert all(not value.grad.any() for value in model.parameters())


@pytest.mark.parametrize(
    ("make", "names"),
    [
        (network, ["0.weight", "2.weight"]),
        (lambda: MLP(input_shape=(1, 4, 4), num_classes=3, hidden=[8, 8]), 2),
        (lambda: CNN(input_shape=(1, 8, 8), num_classes=3), []),
        (lambda: ViT(input_shape=(1, 14, 14), num_classes=3, width=8, heads=2), 4),
        (lambda: GPT(input_shape=(8,), num_classes=9, width=8, blocks=2, heads=2), 8),
        (lambda: nn.Embedding(3, 2), []),
    ],
)
def test_hidden_matrices_are_of_linear_layers_but_the_last(make, names):
    model = make()
    named = [name for name, _ in model.named_parameters()]
    found = [named[place] for place in hidden_matrices(model)]
    if isinstance(names, list):
        assert found == names
    else:
        assert len(found) >= names
        assert not any(name.startswith("last") for name in found)
        assert all(isinstance(model.get_submodule(name.removesuffix(".weight")), nn.Linear) for name in found)
    assert all(dict(model.named_parameters())[name].ndim == 2 for name in found)


def test_vectors_may_be_left_without_decay():
    model = network()
    groups = made(model, decay_matrices_alone=True).param_groups
    decayed = [value for group in groups if group["weight_decay"] for value in group["params"]]
    assert [group["weight_decay"] for group in groups] == [0.1, 0.1, 0.0]
    assert {id(value) for value in decayed} == {id(value) for value in model.parameters() if value.ndim > 1}


def test_without_positions_all_matrices_are_muons():
    both = MuonAdamW(network().parameters(), lr=0.01)
    assert [len(part.param_groups[0]["params"]) for part in both.parts] == [3, 5]
    alone = MuonAdamW([nn.Parameter(torch.ones(2, 2))])
    assert [type(part) for part in alone.parts] == [torch.optim.Muon]
    without = MuonAdamW([nn.Parameter(torch.ones(2))])
    assert [type(part) for part in without.parts] == [torch.optim.AdamW]


@pytest.mark.parametrize("hidden", [[1], [8], [-1]])
def test_a_hidden_weight_is_a_matrix(hidden):
    with pytest.raises(ValueError, match=f"hidden={hidden[0]}: must be the position of a matrix among 8 parameters"):
        MuonAdamW(network().parameters(), hidden=hidden)


def test_its_state_continues_a_training():
    whole, broken = network(), network()
    optimizer = made(whole)
    train(whole, optimizer.step, optimizer.zero_grad, 6)
    first = made(broken)
    train(broken, first.step, first.zero_grad, 3)
    second = made(broken)
    second.load_state_dict(first.state_dict())
    train(broken, second.step, second.zero_grad, 3)
    assert all(map(torch.equal, whole.parameters(), broken.parameters()))
    with pytest.raises(ValueError, match="longer than"):
        second.load_state_dict({"parts": first.state_dict()["parts"] * 2})


def test_a_run_measures_what_measure_does():
    model = network()
    optimizer = made(model)
    train(model, optimizer.step, optimizer.zero_grad)
    batches = [(INPUTS[:6], TARGETS[:6]), (INPUTS[6:], TARGETS[6:])]
    options = {"criterion": cross_entropy, "terms": ["ireg/sgd", "ireg/own_full_batch", "noise/scale_own"]}
    found = ireg.measure(model, batches, optimizer=optimizer, **options)
    assert dict(found) == dict(ireg.measure(model, batches, optimizer=list(optimizer.parts), **options))
    assert {"ireg/own_full_batch/Muon", "noise/scale_own/AdamW"} <= found.keys()
