"""Moments of gradients whose squares, or those of inputs and sensitivities, leave single precision's range."""

import copy
import math

import pytest
import torch
from torch import nn

from ireg.core import norms
from ireg.core.functional import detached_parameters, functional_loss
from ireg.core.moments import compute, gradient_moments, sampled_gradients
from ireg.core.moments.draws import drawn_moments
from ireg.core.moments.needs import EVERYTHING, Need
from ireg.core.moments.streamed import Foreseen, StreamedSums, sketches_of
from ireg.core.moments.sums import MomentSums
from tests import reference

METHODS = ["loop", "vmap", "ghost", "layers", "hooks"]
# Scales of inputs, weights and loss. A gradient is of the size of inputs · weights · loss, or of inputs · loss.
SCALES = [
    (1.0, 1.0, 1.0),
    (1e15, 1.0, 1e-15),
    (1e19, 1.0, 1e-19),
    (1e30, 1.0, 1e-30),
    (1e-25, 1.0, 1e25),
    (1e-30, 1.0, 1e30),
    (1.0, 1.0, 1e-30),
    (1.0, 1.0, 1e-25),
    (1.0, 1.0, 1e25),
    (1.0, 1.0, 1e30),
    (1.0, 1e-25, 1.0),
    (1.0, 1e18, 1.0),
    (1.0, 1e18, 1e10),  # of which the loss is not finite
    (1e20, 1e-25, 1.0),
]
SINGLE = {"rel": 2e-5, "abs": 0}


def problem(inputs=1.0, weights=1.0, loss=1.0):
    """A stack without biases in front, minibatches, and a criterion that is linear in the outputs."""
    generator = torch.Generator().manual_seed(3)
    module = nn.Sequential(nn.Linear(5, 4, bias=False), nn.ReLU(), nn.Linear(4, 3))
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(weights * torch.randn(parameter.shape, generator=generator))
    batches = [
        (inputs * torch.randn(6, 5, generator=generator), torch.randn(6, 3, generator=generator)) for _ in range(4)
    ]

    def criterion(outputs, targets):
        return (outputs * (loss * targets.to(outputs))).sum(1).mean()

    return module, batches, criterion


def expected_of(module, batches, criterion):
    return reference.minibatch_gradients(module, criterion, batches)


@pytest.mark.parametrize("scales", SCALES, ids=str)
@pytest.mark.parametrize("method", METHODS)
def test_each_method_against_the_loop_in_double_precision(method, scales):
    module, batches, criterion = problem(*scales)
    gradients = expected_of(module, batches, criterion)
    params = detached_parameters(module)
    for needs in (Need.SQ_NORMS | Need.MEAN, EVERYTHING):
        found = gradient_moments(functional_loss(module, criterion), params, batches, needs=needs, method=method)
        squares = [reference.squared_norm(gradient) for gradient in gradients]
        assert found.sq_norms.tolist() == pytest.approx(squares, **SINGLE)
        assert float(found.mean_square(None)) == pytest.approx(sum(squares) / 4, **SINGLE)
        mean = reference.mean(gradients)
        assert float(found.square_of_mean(None)) == pytest.approx(reference.squared_norm(mean), **SINGLE)
        assert found.method == method
        assert all(found.mean[name].dtype == torch.float32 for name in params)
    scale = {name: torch.full_like(value, 1e-3) for name, value in params.items()}
    assert float(found.mean_square(scale)) == pytest.approx(sum(squares) / 4 * 1e-3, **SINGLE)
    assert float(found.square_of_mean(scale)) == pytest.approx(reference.squared_norm(mean) * 1e-3, **SINGLE)
    assert float(found.mean_square_of_product(scale)) == pytest.approx(sum(squares) / 4 * 1e-6, **SINGLE)
    for name, value in found.square.items():  # in the weights' type: 0 or infinite where that cannot hold it
        whole = reference.mean_square(gradients)[name].float()
        assert value.dtype == torch.float32
        assert torch.allclose(value, whole, rtol=1e-3, atol=1e-3 * float(whole.clamp(max=3e38).mean()) + 1e-44)


@pytest.mark.parametrize("scales", [(1e30, 1.0, 1e-30), (1.0, 1.0, 1e-30), (1.0, 1.0, 1e25)], ids=str)
@pytest.mark.parametrize("method", ["ghost", "loop"])
def test_without_the_second_pass_they_are_wrong(monkeypatch, method, scales):
    module, batches, criterion = problem(*scales)
    monkeypatch.setattr(MomentSums, "has_left_range", lambda self: False)
    found = gradient_moments(
        functional_loss(module, criterion), detached_parameters(module), batches, needs=Need.SQ_NORMS, method=method
    )
    squares = [reference.squared_norm(gradient) for gradient in expected_of(module, batches, criterion)]
    right = found.sq_norms.tolist() == pytest.approx(squares, **SINGLE)
    # With large inputs the gradients are ordinary, and products of inputs are not.
    assert right == (method == "loop" and scales[0] > 1)


@pytest.mark.parametrize("method", METHODS)
def test_ordinary_moments_take_one_pass(monkeypatch, method):
    made = []
    begin = MomentSums.__post_init__
    monkeypatch.setattr(MomentSums, "__post_init__", lambda self: made.append(self.wide) or begin(self))
    for scales in [(1.0, 1.0, 1.0), (1e15, 1.0, 1e-15), (1.0, 1.0, 1e-14), (1.0, 1.0, 1e15), (1e-12, 1.0, 1.0)]:
        module, batches, criterion = problem(*scales)
        loss = functional_loss(module, criterion)
        found = gradient_moments(loss, detached_parameters(module), batches, method=method)
        numbers = found.sq_norms, found.mean_square(None), found.square_of_mean(None)
        assert {number.dtype for number in numbers} == {torch.float32}
        assert found.wide_square is found.square
    assert made == [False] * 5


@pytest.mark.parametrize(("step", "wide"), [(0.5, True), (2.0, False)])
@pytest.mark.parametrize("method", METHODS)
def test_both_sides_of_the_switch(method, step, wide):
    module, batches, criterion = problem()
    params = detached_parameters(module)
    gradients = expected_of(module, batches, criterion)
    count = sum(value.numel() for value in params.values())
    least = min(map(reference.squared_norm, gradients))
    limit = norms.floor(torch.float32, count)
    if method == "ghost" and not wide:  # and what is lost of the products of six examples, by two layers
        hidden = max(float(module[0](inputs).detach().square().sum(1).max()) for inputs, _ in batches)
        largest = max(float(inputs.square().sum(1).max()) for inputs, _ in batches)
        limit += norms.floor(torch.float32, 6) * (largest + hidden)
    module, batches, criterion = problem(loss=math.sqrt(limit * step / least))
    found = gradient_moments(functional_loss(module, criterion), params, batches, needs=Need.SQ_NORMS, method=method)
    assert (found.sq_norms.dtype == torch.float64) == wide
    squares = [reference.squared_norm(gradient) for gradient in expected_of(module, batches, criterion)]
    assert found.sq_norms.tolist() == pytest.approx(squares, **SINGLE)


def test_ghost_sees_small_sensitivities_beside_large_inputs():
    """Products of sensitivities vanish where one example's are small; its gradient need not."""
    module = nn.Linear(2, 1, bias=False)
    inputs, targets = torch.tensor([[1.0, 1.0], [1e18, 1e18]]), torch.tensor([[1e-10], [1e-24]])

    def criterion(outputs, targets):
        return (outputs * targets.to(outputs)).sum()

    batches = [(inputs, targets)] * 2
    loss, params = functional_loss(module, criterion), detached_parameters(module)
    found = gradient_moments(loss, params, batches, needs=Need.SQ_NORMS, method="ghost")
    expected = reference.squared_norm(expected_of(module, batches, criterion)[0])
    assert found.sq_norms.tolist() == pytest.approx([expected] * 2, rel=1e-6, abs=0)


@pytest.mark.parametrize("method", METHODS)
def test_a_loss_without_a_gradient(method):
    module, batches, criterion = problem(loss=0.0)
    found = gradient_moments(functional_loss(module, criterion), detached_parameters(module), batches, method=method)
    assert float(found.mean_square(None)) == float(found.square_of_mean(None)) == 0
    assert found.sq_norms.tolist() == [0] * 4


@pytest.mark.parametrize("method", ["loop", "vmap", "ghost", "layers"])
def test_an_input_that_is_nan(method):
    module, batches, criterion = problem()
    batches[0][0][0, 0] = math.nan
    found = gradient_moments(functional_loss(module, criterion), detached_parameters(module), batches, method=method)
    assert found.sq_norms.isnan().tolist() == [True, False, False, False]


@pytest.mark.parametrize(("entry", "expected"), [(math.inf, math.inf), (math.nan, math.nan), (1e38, 1e76)])
def test_gradients_that_are_not_finite(entry, expected):
    for wide in (False, True):
        sums = MomentSums(params={"w": torch.zeros(2)}, needs=Need.SQ_NORMS, wide=wide)
        norm = sums.add_gradient("w", torch.tensor([entry, 1.0]))
        sums.add_minibatches(torch.zeros(1), None, norm[None])
        assert sums.has_left_range() == (not wide)
    assert float(sums.moments("loop").sq_norm_mean) == pytest.approx(expected, rel=1e-6, nan_ok=True)


def test_weights_that_are_nan_take_no_second_pass():
    sums = MomentSums(params={"w": torch.tensor([math.nan])}, needs=Need.SQ_NORMS)
    sums.add_minibatches(torch.zeros(1), None, torch.tensor([math.nan]))
    assert not sums.has_left_range()


LEAST = 3 * torch.finfo(torch.float32).tiny
"""The least sum of three squares that has lost no digits."""


@pytest.mark.parametrize(
    ("of_b", "of_a", "parts", "lost"),
    [
        ([[1.0, 1.0]], None, None, False),
        ([[0.0, 1.0]], None, None, False),  # one minibatch without a gradient
        ([[0.0, LEAST]], None, None, False),
        ([[0.0, LEAST / 2]], None, None, True),
        ([[0.0, 0.0]], None, None, True),
        ([[1.0, 1.0], [LEAST / 2, 0.0]], None, None, True),  # in one metric of two
        ([[1.0, math.inf]], None, None, True),
        ([[math.nan, 1.0]], None, None, True),
        ([], None, None, False),
        ([[1.0, 1.0]], [[0.0, LEAST / 6]], [["a"], ["b"]], True),
        ([[1.0, 1.0]], [[0.0, LEAST / 6]], None, False),  # which is no part of its own
        ([[1.0, 1.0]], [[0.0, LEAST / 3]], [["a"], ["b"]], False),
        ([[1.0, 1.0]], [[0.0, 0.0]], [["a"], ["b"]], False),  # the loss does not depend on it
    ],
)
def test_streamed_sums_say_where_squares_may_have_been_lost(of_b, of_a, parts, lost):
    params = {"a": torch.zeros(1), "b": torch.zeros(2)}
    asked = Foreseen(scales=[None] * len(of_b), parts=parts)
    for wide in (False, True):
        sketches = sketches_of(params, 2, parts, torch.Generator().manual_seed(0))
        sums = StreamedSums(params=params, needs=Need.MEAN, wide=wide, size=2, foreseen=asked, sketches=sketches)
        for number, values in enumerate(of_b):
            sums.norms[number]["b"] += torch.tensor(values, dtype=torch.float64)
            if of_a is not None:
                sums.norms[number]["a"] += torch.tensor(of_a[number], dtype=torch.float64)
                sums.mean["a"] += float(any(of_a[number]))
        assert sums.has_left_range() == (lost and not wide)


@pytest.mark.parametrize("memory", [0, 2**20], ids=["streamed", "kept"])
@pytest.mark.parametrize("loss", [1e-30, 1e-20, 1.0, 1e20, 1e30])
def test_estimates_from_a_sample(loss, memory, monkeypatch):
    monkeypatch.setattr(compute, "KEPT_MEMORY", memory)
    module, batches, criterion = problem(loss=loss)
    params = detached_parameters(module)
    gradients = expected_of(module, batches, criterion)
    found = sampled_gradients(functional_loss(module, criterion), params, batches, 8)
    twin = copy.deepcopy(module).double()
    doubled = [(inputs.double(), targets.double()) for inputs, targets in batches]
    right = sampled_gradients(functional_loss(twin, criterion), detached_parameters(twin), doubled, 8)
    scale = {name: torch.full_like(value, 1e4) for name, value in params.items()}

    def shift(gradient):
        return {name: value + loss * params[name].to(value) for name, value in gradient.items()}

    for one in (None, scale):
        two = None if one is None else {name: value.double() for name, value in one.items()}
        assert found.mean_square(one).tolist() == pytest.approx(right.mean_square(two).tolist(), **SINGLE)
        for moved in (None, shift):
            expected = right.square_of_mean(two, moved).tolist()
            assert found.square_of_mean(one, moved).tolist() == pytest.approx(expected, rel=1e-4, abs=0)
    squares = [reference.squared_norm(gradient) for gradient in gradients]
    assert float(found.mean_square(None)[0]) == pytest.approx(sum(squares) / 4, **SINGLE)


@pytest.mark.parametrize("loss", [1e-30, 1e-20, 1.0, 1e20, 1e30])
def test_two_draws(loss):
    module, batches, criterion = problem(loss=loss)
    gradients = expected_of(module, batches, criterion)
    params = detached_parameters(module)
    found = drawn_moments(functional_loss(module, criterion), params, batches)  # without masks both draws are equal
    scale = {name: torch.full_like(value, 1e-3) for name, value in params.items()}
    whole = sum(map(reference.squared_norm, gradients)) / 4
    mean = reference.squared_norm(reference.mean(gradients))
    assert float(found.mean_square(None)) == pytest.approx(whole, **SINGLE)
    assert float(found.mean_square(scale)) == pytest.approx(1e-3 * whole, **SINGLE)
    assert float(found.square_of_mean(None)) == pytest.approx(mean, **SINGLE)
    assert float(found.square_of_mean(scale)) == pytest.approx(1e-3 * mean, **SINGLE)


def test_draws_without_a_product_are_drawn_once():
    """One has no gradient where the other has: their products are 0, and no digit is lost."""
    masks = [torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0])]
    taken = iter(masks)
    found = drawn_moments(lambda params, batch: (next(taken) * params["w"]).sum(), {"w": torch.ones(2)}, [None])
    assert (float(found.mean_square(None)), float(found.square_of_mean(None))) == (0, 0)
    assert found.products["w"].dtype == torch.float32
