"""Terms estimated from some of the minibatches: unbiased over all samples, with honest standard errors."""

from itertools import combinations

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import mse_loss

import ireg
from ireg.core.moments import STANDARD_ERROR, sampled_gradients, standard_error
from ireg.core.moments.needs import Need, needs
from ireg.core.random import named_generator
from ireg.core.reservoir import Reservoir, sampled
from ireg.terms.named import SETS
from tests import reference

POPULATION = 6
TERMS = [tag for tag in SETS["default"] if tag.startswith("ireg/")]
generator = torch.Generator().manual_seed(0)
BATCHES = [
    (
        torch.randn(size, 3, generator=generator, dtype=torch.float64),
        torch.randn(size, 2, generator=generator, dtype=torch.float64),
    )
    for size in (4, 4, 4, 4, 4, 3)
]


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)).double()


def stepped(make):
    """A network and its optimizer after a few steps."""
    model = network()
    optimizer = make(model)
    for batch in BATCHES[:4]:
        optimizer.zero_grad()
        mse_loss(model(batch[0]), batch[1]).backward()
        optimizer.step()
    return model, optimizer


def groups(model):
    return [{"params": model[0].parameters(), "lr": 0.05}, {"params": model[2].parameters(), "lr": 0.1}]


OPTIMIZERS = {
    "sgd": lambda model: torch.optim.SGD(model.parameters(), lr=0.1),
    "momentum and decay": lambda model: torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=0.1),
    "groups": lambda model: torch.optim.SGD(groups(model), lr=0.1, weight_decay=0.1),
    "rmsprop": lambda model: torch.optim.RMSprop(model.parameters(), lr=0.01),
    "adam and decay": lambda model: torch.optim.AdamW(model.parameters(), lr=0.01, weight_decay=0.1),
}


def measured(model, optimizer, batches, **arguments):
    return ireg.measure(model, batches, optimizer=optimizer, criterion=mse_loss, terms=TERMS, **arguments)


@pytest.mark.parametrize("rates", [None, [[0.1 / step] * 2 for step in range(1, 7)]], ids=["one rate", "a schedule"])
@pytest.mark.parametrize("size", [3, 4])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_the_mean_over_all_samples_is_the_exact_value(name, size, rates):
    model, optimizer = stepped(OPTIMIZERS[name])
    rates = None if rates is None else [rate[: len(optimizer.param_groups)] for rate in rates]
    exact = measured(model, optimizer, BATCHES, rates=rates)
    estimates = [
        measured(model, optimizer, sample, population=POPULATION, rates=rates) for sample in combinations(BATCHES, size)
    ]
    assert set(estimates[0]) == {*exact, *(f"{tag}{STANDARD_ERROR}" for tag in exact)}
    for tag, value in exact.items():
        assert np.mean([estimate[tag] for estimate in estimates]) == pytest.approx(value, rel=1e-9, abs=0), tag


def test_what_is_computed_of_a_sample_alone_is_biased():
    """A negative control: the sample taken for the epoch gives another full-batch term on the mean."""
    model, optimizer = stepped(OPTIMIZERS["sgd"])
    exact = measured(model, optimizer, BATCHES)
    taken = [measured(model, optimizer, sample) for sample in combinations(BATCHES, 3)]
    biased = np.mean([values["ireg/full_batch"] for values in taken])
    assert biased > 1.05 * exact["ireg/full_batch"]
    assert np.mean([values["ireg/sgd"] for values in taken]) == pytest.approx(exact["ireg/sgd"], rel=1e-9, abs=0)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_the_standard_error_is_the_spread_over_all_samples(name):
    """Of a mean its square is the variance exactly, on the mean over all samples; of the others somewhat more."""
    model, optimizer = stepped(OPTIMIZERS[name])
    estimates = [measured(model, optimizer, some, population=POPULATION) for some in combinations(BATCHES, 4)]
    for tag in measured(model, optimizer, BATCHES):
        spread = np.var([estimate[tag] for estimate in estimates])
        claimed = np.mean([estimate[f"{tag}{STANDARD_ERROR}"] ** 2 for estimate in estimates])
        if tag in ("ireg/sgd", "ireg/rmsprop"):
            assert claimed == pytest.approx(spread, rel=1e-9, abs=0), tag
        else:
            assert 0.95 < claimed / spread < 3, tag


def test_all_minibatches_are_the_exact_values_with_no_error():
    model, optimizer = stepped(OPTIMIZERS["adam and decay"])
    exact = measured(model, optimizer, BATCHES)
    for batches, population in ((BATCHES, POPULATION), (BATCHES[:2], 2)):
        values = measured(model, optimizer, batches, population=population)
        assert {tag: values[f"{tag}{STANDARD_ERROR}"] for tag in exact} == dict.fromkeys(exact, 0.0)
    assert measured(model, optimizer, BATCHES, population=POPULATION).items() >= exact.items()


@pytest.mark.parametrize("method", ["loop", "vmap", "ghost", "layers"])
def test_every_method_keeps_the_same_gradients(method):
    model, optimizer = stepped(OPTIMIZERS["rmsprop"])
    values = measured(model, optimizer, BATCHES[1:5], population=POPULATION, method=method)
    expected = measured(model, optimizer, BATCHES[1:5], population=POPULATION, method="loop")
    assert values == pytest.approx(expected, rel=1e-9, abs=0)


def test_the_estimates_are_those_of_the_formula():
    model, optimizer = stepped(OPTIMIZERS["sgd"])
    gradients = reference.minibatch_gradients(model, mse_loss, BATCHES[:4])
    mean = reference.squared_norm(reference.mean(gradients))
    variance = (np.mean([reference.squared_norm(gradient) for gradient in gradients]) - mean) * 4 / 3
    values = measured(model, optimizer, BATCHES[:4], population=POPULATION)
    assert values["ireg/full_batch"] == pytest.approx(0.025 * (mean - (1 / 4 - 1 / 6) * variance), rel=1e-9, abs=0)
    assert values["ireg/minibatch_variance"] == pytest.approx(0.025 * 5 / 6 * variance, rel=1e-9, abs=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_tiny_second_moments_stay_in_range(dtype):
    model = network().to(dtype)
    optimizer = torch.optim.RMSprop(model.parameters(), lr=0.01)
    batches = [(inputs.to(dtype), targets.to(dtype)) for inputs, targets in BATCHES[:4]]
    mse_loss(model(batches[0][0]), batches[0][1]).backward()
    optimizer.step()
    for state in optimizer.state.values():
        state["square_avg"].fill_(1e-25)
    values = measured(model, optimizer, batches, population=POPULATION)
    assert values["ireg/rmsprop"] == pytest.approx(values["ireg/sgd"] * 1e-50, rel=0.01, abs=0)
    assert values["ireg/rmsprop_se"] == pytest.approx(values["ireg/sgd_se"] * 1e-50, rel=0.01, abs=0)


@needs(Need.MEAN)
def own_with_moments(snapshot):
    return snapshot.moments.mean["0.bias"].sum()


@needs(Need.MEAN, estimable=True)
def own_that_promises(snapshot):
    return snapshot.moments.mean["0.bias"].sum()


@needs(Need.MEAN, estimable=True)
def own_that_reduces(snapshot):
    return snapshot.gradients.square_of_mean(None).sum()


@needs(Need.SQ_NORMS, estimable=True)
def own_estimable(snapshot):
    return 2 * snapshot.gradients.mean_square(None)


def norm_only(snapshot):
    return snapshot.params["0.bias"].sum()


def test_terms_of_ones_own():
    model, optimizer = stepped(OPTIMIZERS["sgd"])

    def value(term, batches=BATCHES[:4]):
        return ireg.measure(model, batches, optimizer=optimizer, criterion=mse_loss, terms={"t": term}, population=6)

    assert value(own_estimable)["t"] == pytest.approx(2 / 0.025 * measured(model, optimizer, BATCHES[:4])["ireg/sgd"])
    assert set(value(own_estimable)) == {"t", "t_se"}
    assert set(value(norm_only)) == {"t"}
    assert value(own_that_promises, BATCHES)["t_se"] == 0
    with pytest.raises(
        ValueError,
        match="t has no estimate from drawn minibatches; leave it out of the terms, or leave num_batches out",
    ):
        value(own_with_moments)
    with pytest.raises(ValueError, match="moments of 4 of 6 minibatches are biased; a term that is estimated uses"):
        value(own_that_promises)
    with pytest.raises(ValueError, match=r"an estimate from a sample has shape \(\); must be a linear function"):
        value(own_that_reduces)


@pytest.mark.parametrize("tag", ["ireg/strength", "ireg/alignment_lag"])
def test_the_mean_flow_needs_exact_moments(tag):
    model, optimizer = stepped(OPTIMIZERS["sgd"])
    with pytest.raises(ValueError, match=f"{tag} has no estimate from drawn minibatches"):
        ireg.measure(model, BATCHES, optimizer=optimizer, criterion=mse_loss, terms=[tag], population=POPULATION)


def test_samples_that_are_none():
    model, optimizer = stepped(OPTIMIZERS["sgd"])
    with pytest.raises(ValueError, match="num_batches=2: must be at least 3, so that there is a standard error"):
        measured(model, optimizer, BATCHES[:2], population=POPULATION)
    with pytest.raises(ValueError, match="population=4: must be at least 6, the number of minibatches given"):
        measured(model, optimizer, BATCHES, population=4)
    weights = {name: value.detach() for name, value in model.named_parameters()}
    with pytest.raises(ValueError, match="a sample of 6 of 6 minibatches: must be at least 3, and fewer than all"):
        sampled_gradients(lambda params, batch: params["0.bias"].sum(), weights, BATCHES, 6)


def test_the_standard_error_of_a_mean_is_the_textbooks():
    values = torch.tensor([1.0, 4.0, 7.0], dtype=torch.float64)
    without = [values[values != value].mean() for value in values]
    estimate = torch.stack([values.mean(), *without])
    assert standard_error(estimate, 9) == pytest.approx((9 / 3 * (1 - 3 / 9)) ** 0.5, rel=1e-12)


# The draw.


def test_each_set_of_minibatches_is_drawn_equally_often():
    draws = 4000
    stream = torch.Generator().manual_seed(0)
    counts = {chosen: 0 for chosen in combinations(range(6), 3)}
    for _ in range(draws):
        counts[tuple(sorted(sampled(range(6), 3, stream)))] += 1
    expected = draws / len(counts)
    chi_squared = sum((count - expected) ** 2 / expected for count in counts.values())
    assert chi_squared < 43.8  # 19 degrees of freedom: 0.1 %


def test_the_reservoir_tells_what_it_replaces():
    reservoir = Reservoir(2, named_generator("test"))
    replaced = []
    for item in range(50):
        place = reservoir.place()
        if place is not None:
            replaced.append(reservoir.put(place, item))
    assert sorted([*filter(lambda item: item is not None, replaced), *reservoir.items]) == sorted(
        {*filter(lambda item: item is not None, replaced), *reservoir.items}
    )
    assert len(reservoir.items) == 2
    assert reservoir.seen == 50
    assert sampled("abc", None, named_generator("test")) == ["a", "b", "c"]
