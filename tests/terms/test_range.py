"""Terms where squares leave single precision's range, against definitions and against the same in double precision."""

import copy
import math
from itertools import pairwise

import pytest
import torch
from torch import nn

import ireg
from ireg.core.diagonal import gauss_newton_diagonal
from ireg.core.functional import detached_parameters, functional_loss
from ireg.core.path import PathRecorder
from ireg.objective import squared_error
from tests import reference

SCALES = [1e-30, 1e-25, 1e-20, 1e-15, 1.0, 1e15, 1e20, 1e25, 1e30]
SINGLE = {"rel": 1e-4, "abs": 0}


def network(scale=1.0, last=1.0):
    torch.manual_seed(5)
    module = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            parameter.mul_(last if name.startswith("2") else scale)
    return module


def pairs(inputs=1.0, targets=1.0):
    generator = torch.Generator().manual_seed(6)
    return [
        (inputs * torch.randn(5, 3, generator=generator), targets * torch.randn(5, 2, generator=generator))
        for _ in range(4)
    ]


def doubled(batches):
    return [(inputs.double(), targets.double()) for inputs, targets in batches]


class Linear:
    """A criterion that is linear in the outputs, so that gradients have its scale."""

    def __init__(self, scale):
        self.scale = scale

    def __call__(self, outputs, targets):
        return (outputs * (self.scale * targets)).sum(1).mean()


class Square(Linear):
    """One whose gradients and curvatures have its scale."""

    def __call__(self, outputs, targets):
        return self.scale * (outputs - targets).square().sum(1).mean() / 2


def measured(module, batches, criterion, terms, optimizer=torch.optim.SGD, **settings):
    return ireg.measure(
        module, batches, optimizer=optimizer(module.parameters(), lr=0.1, **settings), criterion=criterion, terms=terms
    )


@pytest.mark.parametrize("scale", SCALES)
def test_norms_of_weights(scale):
    module, start = network(scale, scale), network(scale, scale)
    with torch.no_grad():
        for parameter in start.parameters():
            parameter.mul_(-0.5)
    params, initial = detached_parameters(module), detached_parameters(start)
    found = ireg.measure(
        module, pairs(), optimizer=torch.optim.SGD(module.parameters(), lr=0.1), criterion=Linear(1.0),
        terms=["norm/l2", "norm/distance", "norm/layers", "norm/product", "norm/spectral_product"], initial=initial,
    )  # fmt: skip
    wide = {name: value.double() for name, value in params.items()}
    matrices = [wide[name] for name in ("0.weight", "2.weight")]
    assert found["norm/l2"] == pytest.approx(reference.squared_norm(wide) ** 0.5, rel=1e-6, abs=0)
    assert found["norm/distance"] == pytest.approx(1.5 * reference.squared_norm(wide) ** 0.5, rel=1e-6, abs=0)
    norms = [math.hypot(*matrix.flatten().tolist()) for matrix in matrices]
    assert found["norm/layers/0.weight"] == pytest.approx(norms[0], rel=1e-12, abs=0)
    assert found["norm/product"] == pytest.approx(math.prod(norms), rel=1e-12, abs=0)
    largest = math.prod(float(torch.linalg.svdvals(matrix / scale)[0]) * scale for matrix in matrices)
    assert found["norm/spectral_product"] == pytest.approx(largest, rel=1e-6, abs=0)


@pytest.mark.parametrize("scale", [1e-200, 1e-120, 1.0, 1e120, 1e200])
def test_norms_of_double_precision(scale):
    module = network().double()
    with torch.no_grad():
        module[0].weight.mul_(scale)
        module[2].weight.div_(scale)
    terms = ["norm/l2", "norm/layers", "norm/product", "norm/spectral_product"]
    found = measured(module, doubled(pairs()), Linear(1.0), terms)
    matrices = [module[0].weight.detach() / scale, module[2].weight.detach() * scale]
    norms = [float(matrix.norm()) for matrix in matrices]
    assert found["norm/layers/0.weight"] == pytest.approx(norms[0] * scale, rel=1e-12, abs=0)
    assert found["norm/product"] == pytest.approx(math.prod(norms), rel=1e-12, abs=0)
    expected = math.prod(float(torch.linalg.svdvals(matrix)[0]) for matrix in matrices)
    assert found["norm/spectral_product"] == pytest.approx(expected, rel=1e-6, abs=0)
    every = math.hypot(*(entry for value in module.parameters() for entry in value.flatten().tolist()))
    assert found["norm/l2"] == pytest.approx(every, rel=1e-12, abs=0)


@pytest.mark.parametrize("scale", SCALES)
def test_terms_of_gradients(scale):
    module, batches, criterion = network(), pairs(), Linear(scale)
    terms = ["ireg/sgd", "ireg/full_batch", "ireg/minibatch_variance", "ireg/own"]
    found = measured(module, batches, criterion, terms)
    gradients = reference.minibatch_gradients(module, criterion, batches)
    assert found["ireg/sgd"] == pytest.approx(reference.sgd(gradients, 0.1), **SINGLE)
    assert found["ireg/full_batch"] == pytest.approx(reference.full_batch(gradients, 0.1), **SINGLE)
    assert found["ireg/minibatch_variance"] == pytest.approx(reference.minibatch_variance(gradients, 0.1), **SINGLE)
    assert found["ireg/own"] == pytest.approx(found["ireg/sgd"], **SINGLE)


@pytest.mark.parametrize("scale", [1e19, 1e25, 1e30])
def test_large_inputs_have_the_regularizer_of_all_methods(scale):
    module, batches = network(), pairs(scale)
    criterion = Linear(1 / scale)
    gradients = reference.minibatch_gradients(module, criterion, batches)
    assert measured(module, batches, criterion, ["ireg/sgd"])["ireg/sgd"] == pytest.approx(
        reference.sgd(gradients, 0.1), **SINGLE
    )


@pytest.mark.parametrize("scale", [1e-15, 1e-12, 1.0, 1e12, 1e18])
@pytest.mark.parametrize("optimizer", [torch.optim.SGD, torch.optim.RMSprop])
def test_strength_and_alignment(optimizer, scale):
    """The correction has the scale of Hessian times gradient, which must be in range."""
    module, batches, criterion = network(), pairs(), Square(scale)
    twin = copy.deepcopy(module).double()
    terms = ["ireg/strength", "ireg/alignment"]
    found = measured(module, batches, criterion, terms, optimizer)
    expected = measured(twin, doubled(batches), criterion, terms, optimizer)
    assert found == pytest.approx(expected, rel=1e-3, abs=0)


@pytest.mark.parametrize("scale", [1e20, 1e25])
def test_strength_where_squared_gradients_leave_the_range(scale):
    module, batches, criterion = network(), pairs(), Square(scale)
    twin = copy.deepcopy(module).double()
    found = measured(module, batches, criterion, ["ireg/strength"], torch.optim.RMSprop)
    expected = measured(twin, doubled(batches), criterion, ["ireg/strength"], torch.optim.RMSprop)
    assert found == pytest.approx(expected, rel=1e-3, abs=0)


@pytest.mark.parametrize("scale", [1e-30, 1e-20, 1.0, 1e18, 1e25])
def test_curvature(scale):
    module, batches, criterion = network(), pairs(), Square(scale)
    names = ("lambda_max", "gni", "trace", "along_step", "batch_sharpness", "adaptive")
    terms = [f"curvature/{name}" for name in names]
    found = measured(module, batches, criterion, terms)
    expected = measured(copy.deepcopy(module).double(), doubled(batches), criterion, terms)
    assert found == pytest.approx(expected, rel=1e-2, abs=0)


@pytest.mark.parametrize(
    ("inputs", "first", "last"),
    [(1, 1, 1), (1e25, 1, 1e-25), (1e-25, 1, 1e25), (1, 1, 1e-25), (1, 1, 1e25)],
)
def test_the_diagonal_of_the_hessian(inputs, first, last):
    """Of squares of inputs, and of what is behind a layer."""
    module, batches = network(first, last), pairs(inputs)
    labels = [(values, torch.tensor([0, 1, 1, 0, 1])) for values, _ in batches]
    twin = copy.deepcopy(module).double()
    found = gauss_newton_diagonal(functional_loss(module, squared_error), detached_parameters(module), labels)
    wide = [(values.double(), targets) for values, targets in labels]
    expected = gauss_newton_diagonal(functional_loss(twin, squared_error), detached_parameters(twin), wide)
    for name, value in found.items():
        assert torch.allclose(value.double(), expected[name], rtol=1e-5, atol=1e-37)


@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("scale", SCALES)
def test_the_length_of_steps(scale, momentum):
    parameter = nn.Parameter(torch.zeros(5))
    optimizer = torch.optim.SGD([parameter], lr=1.0, momentum=momentum)
    recorder = PathRecorder(optimizer)
    recorder.start()
    places = [[0.0] * 5]
    for step in (scale * torch.arange(1.0, 6.0), -scale * torch.arange(2.0, 7.0)):
        parameter.grad = step.clone()
        optimizer.step()
        places.append(parameter.tolist())
    found = recorder.path()
    steps = [[new - old for new, old in zip(*both, strict=True)] for both in pairwise(places)]
    assert found.weights.diffusive == pytest.approx(sum(s * s for step in steps for s in step), rel=1e-6, abs=0)
    # The settled weights take a step of η/(1 − β) times the gradient.
    squares = sum(s**2 + (s + 1) ** 2 for s in range(1, 6)) * scale**2 / (1 - momentum) ** 2
    assert found.settled.diffusive == pytest.approx(squares, rel=1e-4, abs=0)


@pytest.mark.parametrize("scale", [1e-25, 1.0, 1e25])
def test_adaptive_sharpness_of_an_exact_diagonal(scale):
    module = network(scale, 1 / scale)
    batches = [(values, torch.tensor([0, 1, 1, 0, 1])) for values, _ in pairs()]
    wide = [(values.double(), labels) for values, labels in batches]
    found = measured(module, batches, squared_error, ["curvature/adaptive"])
    expected = measured(copy.deepcopy(module).double(), wide, squared_error, ["curvature/adaptive"])
    assert found == pytest.approx(expected, rel=1e-4, abs=0)
