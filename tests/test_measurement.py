"""`ireg.measure` on other people's models and losses, against loops over `.backward()`."""

import copy
import random
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy, mse_loss
from torch.nn.utils import prune
from torch.testing import assert_close
from torch.utils.checkpoint import checkpoint
from torch.utils.data import DataLoader, TensorDataset

import ireg
from ireg.measured_loss import MeasuredLoss
from tests import reference

LR = 0.1
TAGS = ("ireg/sgd", "ireg/full_batch", "ireg/minibatch_variance", "ireg/own")


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def labels(count, classes=3, seed=0):
    return torch.randint(0, classes, (count,), generator=torch.Generator().manual_seed(seed))


class Tied(nn.Module):
    """A language model whose embedding is its output layer."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(7, 4)
        self.mix = nn.LSTM(4, 4, batch_first=True)

    def forward(self, tokens):
        hidden, _ = self.mix(self.embed(tokens))
        return hidden @ self.embed.weight.T


class Checkpointed(nn.Module):
    """A network that computes its hidden layer again in the backward pass."""

    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(5, 4), nn.Linear(4, 3)

    def forward(self, inputs):
        return self.last(checkpoint(lambda x: torch.tanh(self.first(x)), inputs, use_reentrant=False))


@dataclass
class Case:
    model: nn.Module
    loss: object
    batches: list


def next_token(model, batch):
    outputs = model(batch["tokens"][:, :-1])
    return cross_entropy(outputs.flatten(0, 1), batch["tokens"][:, 1:].flatten(), label_smoothing=0.1)


def classified(model, batch):
    inputs, targets, _ = batch
    return cross_entropy(model(inputs), targets)


def penalized(model, batch):
    penalty = sum(parameter.square().sum() for parameter in model.parameters())
    return mse_loss(model(batch[0]), batch[1]) + 0.3 * penalty


def two_inputs(model, batch):
    return (model(batch["a"]) * model(batch["b"])).mean()


def in_place(model, batch):
    batch[0].add_(1)
    return mse_loss(model(batch[0]), batch[1])


def sums(model, batch):
    return mse_loss(model(batch[0]), batch[1], reduction="sum")


def network():
    return nn.Sequential(nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 3))


PAIRS = [(normal(size, 5, seed=size), normal(size, 3, seed=size)) for size in (4, 4, 2)]
CASES = {
    "convolutions, strings in the batch": lambda: Case(
        nn.Sequential(nn.Conv2d(2, 4, 3), nn.GroupNorm(2, 4), nn.ReLU(), nn.Flatten(), nn.Linear(16, 3)),
        classified,
        [(normal(size, 2, 4, 4, seed=size), labels(size), ["name"] * size) for size in (3, 5, 2)],
    ),
    "tied language model, dict": lambda: Case(
        Tied(), next_token, [{"tokens": labels(3 * length, 7, seed=length).reshape(3, length)} for length in (4, 6, 5)]
    ),
    "penalty": lambda: Case(network(), penalized, PAIRS),
    "two inputs": lambda: Case(
        nn.Linear(3, 1), two_inputs, [{"a": normal(2, 3, seed=k), "b": normal(2, 3, seed=9 + k)} for k in range(3)]
    ),
    "in place": lambda: Case(network(), in_place, PAIRS),
    "a sum instead of a mean": lambda: Case(network(), sums, PAIRS),
    "activation checkpointing": lambda: Case(
        Checkpointed(), lambda model, batch: mse_loss(model(batch[0]), batch[1]), PAIRS
    ),
}


def gradients_of(case, dtype=torch.float64):
    """By a plain loop, each on a copy of the model."""
    found = []
    for batch in case.batches:
        twin = copy.deepcopy(case.model).to(dtype)
        case.loss(twin, copy.deepcopy(batch)).backward()
        found.append({name: p.grad.to_dense().double() for name, p in twin.named_parameters()})
    return found


def expected(gradients, lr=LR):
    return {
        "ireg/sgd": reference.sgd(gradients, lr),
        "ireg/full_batch": reference.full_batch(gradients, lr),
        "ireg/minibatch_variance": reference.minibatch_variance(gradients, lr),
        "ireg/own": reference.sgd(gradients, lr),
    }


@pytest.mark.parametrize("name", CASES)
def test_any_model_and_loss(name):
    torch.manual_seed(0)
    case = CASES[name]()
    case.model.double()
    optimizer = torch.optim.SGD(case.model.parameters(), lr=LR)
    batches = copy.deepcopy(case.batches)
    found = ireg.measure(case.model, batches, optimizer=optimizer, loss=case.loss, terms=TAGS)
    assert found == pytest.approx(expected(gradients_of(case)), rel=1e-8, abs=0)
    again = ireg.measure(case.model, batches, optimizer=optimizer, loss=case.loss, terms=TAGS)
    assert found == again
    assert str(batches) == str(case.batches)


def test_the_mean_flow_of_any_loss():
    torch.manual_seed(0)
    model = network().double()
    optimizer = torch.optim.SGD(model.parameters(), lr=LR)
    pairs = ireg.measure(model, PAIRS, optimizer=optimizer, criterion=mse_loss, terms="theory")
    dicts = [{"x": inputs, "y": targets} for inputs, targets in PAIRS]
    found = ireg.measure(
        model, dicts, optimizer=optimizer, loss=lambda m, b: mse_loss(m(b["x"]), b["y"]), terms="theory"
    )
    assert found == pytest.approx(pairs, rel=1e-10, abs=0)
    assert found["ireg/alignment"] == pytest.approx(1.0, rel=1e-8)


def test_a_loss_that_reads_the_model_by_another_name():
    model = nn.Linear(1, 1, bias=False).double()
    optimizer = torch.optim.SGD(model.parameters(), lr=LR)
    batch = [(torch.ones(1, 1).double(), torch.zeros(1, 1).double())]

    def closed_over(_, batch):
        return mse_loss(model(batch[0]), batch[1]) + model.weight.square().sum()

    with torch.no_grad():
        model.weight.fill_(1.5)
    found = ireg.measure(model, batch, optimizer=optimizer, loss=closed_over, terms=["ireg/sgd"])
    assert found == {"ireg/sgd": pytest.approx(0.9)}  # g = 2w + 2w = 6, (0.1/4) 36


def test_nothing_is_changed():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 4), nn.BatchNorm1d(4), nn.Dropout(0.5), nn.Linear(4, 3)).double()
    optimizer = torch.optim.Adam(model.parameters(), lr=LR)
    mse_loss(model(PAIRS[0][0]), PAIRS[0][1]).backward()
    optimizer.step()
    state, kept = copy.deepcopy(optimizer.state_dict()), copy.deepcopy(model.state_dict())
    buffers, grads = dict(model.named_buffers()), {n: p.grad.clone() for n, p in model.named_parameters()}
    streams = torch.get_rng_state(), random.getstate(), np.random.get_state()

    def noisy(module, batch):
        random.random(), np.random.rand()
        return mse_loss(module(batch[0]), batch[1]) + 0 * torch.rand(()).double()

    first = ireg.measure(model, PAIRS, optimizer=optimizer, loss=noisy)
    assert first == ireg.measure(model, PAIRS, optimizer=optimizer, loss=noisy)
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in kept.items())
    assert all(model.get_buffer(name) is buffer for name, buffer in buffers.items())
    assert all(torch.equal(parameter.grad, grads[name]) for name, parameter in model.named_parameters())
    assert_close(optimizer.state_dict(), state, rtol=0, atol=0)
    assert torch.equal(torch.get_rng_state(), streams[0])
    assert random.getstate() == streams[1]
    assert np.random.get_state()[1].tolist() == streams[2][1].tolist()
    assert all(module.training for module in model.modules())


def test_batch_statistics_as_trained_and_in_eval_mode():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 4), nn.BatchNorm1d(4), nn.Linear(4, 3)).double()
    optimizer = torch.optim.SGD(model.parameters(), lr=LR)
    batches = PAIRS[:2]
    for mode, training in (("as_trained", True), ("eval", False)):
        gradients = reference.minibatch_gradients(model, mse_loss, batches, training=training)
        found = ireg.measure(model, batches, optimizer=optimizer, criterion=mse_loss, terms=TAGS, mode=mode)
        assert found == pytest.approx(expected(gradients), rel=1e-8, abs=0)


def test_half_precision_is_added_up_in_single():
    torch.manual_seed(0)
    model = network().to(torch.bfloat16)
    batches = [(normal(4, 5, seed=k).bfloat16(), normal(4, 3, seed=k).bfloat16()) for k in range(200)]
    case = Case(model, lambda m, b: mse_loss(m(b[0]), b[1]), batches)
    optimizer = torch.optim.SGD(model.parameters(), lr=LR)
    for given in ({"criterion": mse_loss, "method": "loop"}, {"loss": case.loss}):
        found = ireg.measure(model, batches, optimizer=optimizer, terms=TAGS, **given)
        assert found == pytest.approx(expected(gradients_of(case, torch.bfloat16)), rel=1e-5, abs=0)


def test_half_precision_of_an_adaptive_optimizer():
    model = network().to(torch.bfloat16)
    optimizer = torch.optim.Adam(model.parameters(), lr=LR)
    inputs, targets = (value.bfloat16() for value in PAIRS[0])
    mse_loss(model(inputs), targets).backward()
    optimizer.step()
    found = ireg.measure(model, [(inputs, targets)], optimizer=optimizer, criterion=mse_loss)
    assert all(np.isfinite(value) for value in found.values())
    assert found["ireg/own"] > 0


def test_sparse_gradients():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Embedding(7, 3, sparse=True), nn.Linear(3, 2)).double()
    batches = [labels(4, 7, seed=k) for k in range(3)]
    case = Case(model, lambda m, b: m(b).square().mean(), batches)
    optimizer = torch.optim.SGD(model.parameters(), lr=LR)
    found = ireg.measure(model, batches, optimizer=optimizer, loss=case.loss, terms=TAGS)
    assert found == pytest.approx(expected(gradients_of(case)), rel=1e-8, abs=0)


def test_groups_and_rates():
    torch.manual_seed(0)
    model = nn.Linear(5, 3).double()
    optimizer = torch.optim.SGD([{"params": [model.weight]}, {"params": [model.bias], "lr": 0.02}], lr=LR)
    gradients = reference.minibatch_gradients(model, mse_loss, PAIRS)
    split = [[{name: gradient[name]} for gradient in gradients] for name in ("weight", "bias")]
    total = reference.sgd(split[0], LR) + reference.sgd(split[1], 0.02)
    found = ireg.measure(model, PAIRS, optimizer=optimizer, criterion=mse_loss, terms=["ireg/sgd", "ireg/own"])
    assert found == pytest.approx({"ireg/sgd": total, "ireg/own": total}, rel=1e-8)
    with pytest.warns(UserWarning, match="the mean flow is known for one rate and one weight decay"):
        found = ireg.measure(model, PAIRS, optimizer=optimizer, criterion=mse_loss, terms="theory")
    assert {"ireg/own", "ireg/strength/full_batch", "ireg/alignment/full_batch"} <= found.keys()
    assert "ireg/strength" not in found


def test_an_optimizer_without_rule_has_what_needs_gradients_weights_and_rate():
    model = network()
    optimizer = torch.optim.RAdam(model.parameters(), lr=LR)
    batches = [(inputs.float(), targets.float()) for inputs, targets in PAIRS]
    found = ireg.measure(model, batches, optimizer=optimizer, criterion=mse_loss)
    assert set(found) == {"ireg/sgd", "ireg/full_batch", "ireg/minibatch_variance", "norm/l2", "norm/distance"}


@contextmanager
def refused(match):
    with pytest.raises(ValueError, match=match) as error:
        yield
    assert "\n" not in str(error.value)


def test_refusals():
    model = network().double()
    known = {"optimizer": torch.optim.SGD(model.parameters(), lr=LR)}

    with refused("batches is a DataLoader; must be a sequence.*give list"):
        ireg.measure(model, DataLoader(TensorDataset(*PAIRS[0])), criterion=mse_loss, **known)
    with refused("there are no minibatches"):
        ireg.measure(model, [], criterion=mse_loss, **known)
    with refused("neither of criterion and loss"):
        ireg.measure(model, PAIRS, **known)
    with refused("both of criterion and loss"):
        ireg.measure(model, PAIRS, criterion=mse_loss, loss=sums, **known)
    with refused(r"a minibatch is a dict, and criterion takes pairs .*; give loss\(model, batch\)"):
        ireg.measure(model, [{"x": 1}], criterion=mse_loss, **known)
    with refused(r"float64 of shape \(4, 3\); must be one number, the mean"):
        ireg.measure(model, PAIRS, criterion=lambda o, t: mse_loss(o, t, reduction="none"), **known)
    with refused("the loss of a minibatch is 1.0; must be one number"):
        ireg.measure(model, PAIRS, loss=lambda m, b: 1.0, **known)
    with refused("moves no parameter"):
        ireg.measure(model, PAIRS, loss=lambda m, b: b[0].sum(), **known)
    with refused("mode='train': must be one of as_trained, two_draws, eval"):
        ireg.measure(model, PAIRS, criterion=mse_loss, mode="train", **known)
    with refused(r"terms: 'sdg' is unknown; choose a set \(default, .*, study\) or a term, like ireg/sgd$"):
        ireg.measure(model, PAIRS, criterion=mse_loss, terms="sdg", **known)
    with refused("terms: none are given"):
        ireg.measure(model, PAIRS, criterion=mse_loss, terms=[], **known)


def test_a_term_may_return_a_plain_number_and_no_vector():
    model = nn.Linear(2, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    batches = [(torch.ones(1, 2), torch.zeros(1, 1))]

    def value(term):
        return ireg.measure(model, batches, optimizer=optimizer, criterion=mse_loss, terms={"t": term})

    assert value(lambda snapshot: 3.0) == {"t": 3.0}
    with pytest.raises((RuntimeError, ValueError)):
        value(lambda snapshot: torch.ones(3))


# What a model does that eval mode, a graph or a wrapper would hide.

ONE = torch.ones(1, 1, dtype=torch.float64), torch.zeros(1, 1, dtype=torch.float64)


class Factor(nn.Module):
    """w x, and twice that in training mode: g = 8 w x²."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([[2.0]], dtype=torch.float64))

    def forward(self, inputs):
        return inputs @ self.weight * (2 if self.training else 1)


def sgd_of(model, batches, **arguments):
    optimizer = torch.optim.SGD(model.parameters(), lr=LR)
    return ireg.measure(model, batches, optimizer=optimizer, terms=["ireg/sgd"], **arguments)["ireg/sgd"]


def test_training_mode_is_what_is_measured():
    model = Factor()
    assert sgd_of(model, [ONE], criterion=mse_loss) == pytest.approx(6.4)
    assert sgd_of(model, [ONE], criterion=mse_loss, mode="eval") == pytest.approx(0.4)
    assert sgd_of(model.eval(), [ONE], criterion=mse_loss) == pytest.approx(0.4)


class OwnNormalization(nn.Module):
    """A normalization by the minibatch's statistics that nobody knows, with running ones that it replaces."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(4, dtype=torch.float64))
        self.register_buffer("mean", torch.zeros(4, dtype=torch.float64))
        self.register_buffer("variance", torch.full((4,), 1e4, dtype=torch.float64))

    def forward(self, inputs):
        if not self.training:
            return (inputs - self.mean) / self.variance.sqrt() * self.scale
        mean, variance = inputs.mean(0), inputs.var(0, unbiased=False)
        with torch.no_grad():
            self.mean.lerp_(mean, 0.1)
            self.variance = 0.9 * self.variance + 0.1 * variance
        return (inputs - mean) / (variance + 1e-5).sqrt() * self.scale


@pytest.mark.parametrize("method", ["auto", "loop", "hooks", "vmap"])
def test_a_normalization_of_ones_own(method):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 4), OwnNormalization(), nn.Tanh(), nn.Linear(4, 3)).double()
    before = copy.deepcopy(model.state_dict())
    batches = [(normal(6, 5, seed=k), normal(6, 3, seed=k)) for k in range(16)]
    gradients = reference.minibatch_gradients(model, mse_loss, batches, training=True)
    optimizer = torch.optim.SGD(model.parameters(), lr=LR)
    terms = {"criterion": mse_loss, "method": method, "terms": TAGS}
    if method in ("hooks", "vmap"):
        with pytest.raises(ValueError, match="choose auto"):
            ireg.measure(model, batches, optimizer=optimizer, **terms)
    else:
        found = ireg.measure(model, batches, optimizer=optimizer, **terms)
        assert found == pytest.approx(expected(gradients), rel=1e-8, abs=0)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_hessian_products_keep_minibatches_apart_that_are_not_additive():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 4), OwnNormalization(), nn.Linear(4, 3)).double()
    batches = [(normal(6, 5, seed=k) + k, normal(6, 3, seed=k)) for k in range(4)]
    optimizer = torch.optim.SGD(model.parameters(), lr=LR)
    pairs = ireg.measure(model, batches, optimizer=optimizer, criterion=mse_loss, terms=["curvature/lambda_max"])
    loss = ireg.measure(model, batches, optimizer=optimizer, loss=lambda m, b: mse_loss(m(b[0]), b[1]),
                        terms=["curvature/lambda_max"])  # fmt: skip
    assert pairs == pytest.approx(loss, rel=1e-6)  # one by one


class Heads(nn.Module):
    """Two outputs in training, one else, as some networks with auxiliary heads."""

    def __init__(self):
        super().__init__()
        self.body, self.first, self.second = nn.Linear(5, 4), nn.Linear(4, 3), nn.Linear(4, 3)

    def forward(self, inputs):
        hidden = torch.tanh(self.body(inputs))
        return (self.first(hidden), self.second(hidden)) if self.training else self.first(hidden)


def test_outputs_that_exist_in_training_only():
    def loss(model, batch):
        first, second = model(batch[0])
        return mse_loss(first, batch[1]) + 0.3 * mse_loss(second, batch[1])

    torch.manual_seed(0)
    case = Case(Heads().double(), loss, PAIRS)
    found = ireg.measure(
        case.model, PAIRS, optimizer=torch.optim.SGD(case.model.parameters(), lr=LR), loss=loss, terms=TAGS
    )
    assert found == pytest.approx(expected(gradients_of(case)), rel=1e-8, abs=0)


def test_reentrant_checkpointing_takes_the_models_own_passes():
    class Body(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = (nn.Parameter(torch.tensor(value, dtype=torch.float64)) for value in (2.0, 1.0))

        def forward(self, inputs):
            return self.b * checkpoint(lambda x: self.a * x, inputs, use_reentrant=True)

    batch = ONE[0].clone().requires_grad_(), ONE[1]
    with refused("Body uses reentrant activation checkpointing.*use_reentrant=False"):
        sgd_of(Body(), [batch], criterion=mse_loss, method="loop")
    for method in ("auto", "backward"):  # of (b a x)² at a = 2, b = x = 1: (4, 8), and 80 · 0.1/4
        assert sgd_of(Body(), [batch], criterion=mse_loss, method=method) == pytest.approx(80 * LR / 4, rel=1e-12)


def test_a_criterion_that_reads_the_weights():
    model = nn.Sequential(nn.Linear(1, 1, bias=False)).double()
    with torch.no_grad():
        model[0].weight.fill_(2.0)

    def criterion(outputs, targets):
        return mse_loss(outputs, targets) + 0.5 * model[0].weight.square().sum()

    assert sgd_of(model, [ONE], criterion=criterion) == pytest.approx(0.9)  # g = 2w + w = 6


@pytest.mark.parametrize("wrap", ["weight_norm", "spectral_norm", "prune"])
@pytest.mark.filterwarnings("ignore")
def test_weights_that_hooks_compute(wrap):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv1d(1, 2, 3), nn.Flatten(), nn.Linear(6, 3)).double()
    if wrap == "prune":
        prune.l1_unstructured(model[0], "weight", 2)
    else:
        getattr(nn.utils, wrap)(model[0])
    batches = [(normal(6, 1, 5, seed=k), normal(6, 3, seed=k)) for k in range(12)]
    model.train(wrap != "spectral_norm")  # each pass of it in training mode moves its vectors on
    model(batches[0][0])
    held = model[0].weight
    gradients = []
    for inputs, targets in batches:
        model.zero_grad()
        mse_loss(model(inputs), targets).backward()
        gradients.append({name: value.grad.clone() for name, value in model.named_parameters()})
    found = ireg.measure(model, batches, optimizer=torch.optim.SGD(model.parameters(), lr=LR), criterion=mse_loss,
                         terms=TAGS)  # fmt: skip
    assert found == pytest.approx(expected(gradients), rel=1e-8, abs=0)
    assert torch.equal(model[0].weight, held)


def test_a_minibatch_that_requires_a_gradient():
    def penalized(model, batch):
        outputs = model(batch)
        (slopes,) = torch.autograd.grad(outputs.sum(), batch, create_graph=True)
        return slopes.square().mean() + outputs.square().mean()

    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, 1)).double()
    batch = normal(8, 2).requires_grad_()
    penalized(model, batch).backward()
    gradient = {name: value.grad for name, value in model.named_parameters()}
    assert sgd_of(model, [batch], loss=penalized) == pytest.approx(reference.sgd([gradient], LR), rel=1e-10)


def test_within_inference_mode():
    model = network().double()
    outside = sgd_of(model, PAIRS, criterion=mse_loss)
    with torch.inference_mode():
        inside = [(inputs.clone(), targets.clone()) for inputs, targets in PAIRS]
        assert sgd_of(model, inside, criterion=mse_loss) == outside


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(4, 4)

    def forward(self, inputs):
        def attend(x):
            x = self.inner(x)[:, None]
            return torch.nn.functional.scaled_dot_product_attention(x, x, x)[:, 0]

        return checkpoint(attend, inputs, use_reentrant=False)


def test_all_is_restored_at_the_end_of_the_block_and_no_later():
    model = nn.Sequential(nn.Linear(3, 4), nn.Dropout(0.5), nn.Linear(4, 2))
    with torch.inference_mode():
        measured = MeasuredLoss(model, torch.optim.SGD(model.parameters(), lr=0.1), cross_entropy, None)
        before = torch.get_rng_state()
        with measured.in_modes({"1": False}):
            assert not torch.is_inference_mode_enabled()
            assert not model[1].training
            torch.rand(3)
        # The object still exists: nothing is left to the moment at which it is forgotten.
        assert torch.is_inference_mode_enabled()
        assert model[1].training
        assert torch.equal(torch.get_rng_state(), before)


def test_the_mean_flow_of_attention_that_is_computed_again():
    torch.manual_seed(0)
    model = Attention().double()
    batches = [(normal(2, 3, 4, seed=k), normal(2, 3, 4, seed=9 + k)) for k in range(2)]
    optimizer = torch.optim.SGD(model.parameters(), lr=LR)
    found = ireg.measure(model, batches, optimizer=optimizer, criterion=mse_loss, terms="theory")
    assert found["ireg/alignment"] == pytest.approx(1.0, rel=1e-6)  # of SGD
    curved = ireg.measure(model, batches, optimizer=optimizer, criterion=mse_loss, terms=["curvature/batch_sharpness"])
    assert np.isfinite(curved["curvature/batch_sharpness"])


def test_the_mean_flow_of_a_compiled_model():
    model = network().double()
    optimizer = torch.optim.SGD(model.parameters(), lr=LR)
    plain = ireg.measure(model, PAIRS, optimizer=optimizer, criterion=mse_loss, terms=["ireg/strength", "norm/layers"])
    compiled = torch.compile(model, backend="eager")
    assert ireg.measure(compiled, PAIRS, optimizer=optimizer, criterion=mse_loss,
                        terms=["ireg/strength", "norm/layers"]) == plain  # fmt: skip
