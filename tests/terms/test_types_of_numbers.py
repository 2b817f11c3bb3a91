"""Terms of networks whose parameters are integers, short floats, sparse, quantized or empty."""

import math

import pytest
import torch
from torch import nn
from torch.nn.functional import mse_loss

import ireg
from ireg.core.params import dense, squared_norm, sum_type, wide_squared_norm
from ireg.terms.named import TERMS

LR = 0.1
ONE = [(torch.ones(1, 1), torch.zeros(1, 1))]
SEVERAL = [(torch.tensor([[x]]), torch.tensor([[y]])) for x, y in ((1.0, 0.0), (0.5, 1.0), (2.0, -1.0))]


def toy(extra=None):
    """w = 2, b = 0 at x = 1, y = 0: g = (4, 4)."""
    module = nn.Linear(1, 1)
    with torch.no_grad():
        module.weight.fill_(2.0)
        module.bias.fill_(0.0)
    if extra is not None:
        module.extra = nn.Parameter(extra.clone(), requires_grad=False)
    return module


def measured(module, terms, **options):
    optimizer = torch.optim.SGD(module.parameters(), lr=LR)
    return ireg.measure(module, ONE, optimizer=optimizer, criterion=mse_loss, terms=terms, **options)


def full(value, dtype):
    return torch.full((2, 2), value).to(dtype)


# A frozen (2, 2) matrix of each type, and the number that all its entries are.
MATRICES = {
    "int8": (full(100, torch.int8), 100),
    "uint8": (full(200, torch.uint8), 200),
    "int16": (full(30000, torch.int16), 30000),
    "uint16": (full(60000, torch.uint16), 60000),
    "int32": (full(2**20, torch.int32), 2**20),
    "int64": (full(2**40, torch.int64), 2**40),
    "bool": (full(1, torch.bool), 1),
    "float8_e4m3fn": (full(448.0, torch.float8_e4m3fn), 448),
    "float8_e5m2": (full(3072.0, torch.float8_e5m2), 3072),
    "float16": (full(300.0, torch.float16), 300),
    "bfloat16": (full(3e30, torch.bfloat16), float(torch.tensor(3e30).bfloat16())),
    "complex32": (full(300.0, torch.complex32), 300),
    "complex64": (full(300.0, torch.complex64), 300),
    "quantized": (torch.quantize_per_tensor(full(3.0, torch.float32), 0.5, 0, torch.qint8), 3),
    "sparse": (full(7.0, torch.float32).to_sparse(), 7),
    "sparse rows": (full(7.0, torch.float32).to_sparse_csr(), 7),
}


@pytest.mark.parametrize("kind", MATRICES)
def test_sizes(kind):
    matrix, entry = MATRICES[kind]
    found = measured(toy(matrix), ["norm/l2", "norm/layers", "norm/product", "norm/spectral_product", "ireg/sgd"])
    expected = {
        "norm/l2": math.sqrt(4 + 4 * entry**2),
        "norm/layers/weight": 2,
        "norm/layers/extra": 2 * entry,
        "norm/product": 4 * entry,
        "norm/spectral_product": 4 * entry,
        "ireg/sgd": 0.8,
    }
    assert found == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("kind", MATRICES)
def test_the_distance_from_the_start(kind):
    matrix, entry = MATRICES[kind]
    module = toy(matrix)
    initial = {name: value.detach().clone() for name, value in module.named_parameters()}
    assert measured(module, ["norm/distance"], initial=initial) == {"norm/distance": 0}
    # As the same numbers of another type: from 0, and from their opposite, which leaves the range of unsigned ones.
    for factor in (0, -1):
        start = initial | {
            "extra": factor * dense(matrix).to(torch.complex128 if matrix.is_complex() else torch.float64)
        }
        expected = (1 - factor) * 2 * entry
        found = measured(module, ["norm/distance"], initial=start)
        assert found["norm/distance"] == pytest.approx(expected, rel=1e-6)


def test_a_frozen_parameter_of_four_hundreds():
    extra = torch.full((4,), 100, dtype=torch.int8)
    assert measured(toy(extra), ["norm/l2"])["norm/l2"] == pytest.approx(math.sqrt(40004), rel=1e-7)
    assert squared_norm({"extra": extra}) == 40000
    assert wide_squared_norm({"extra": extra}) == 40000


@pytest.mark.parametrize("kind", MATRICES)
def test_no_other_term_sees_a_frozen_parameter(kind):
    ends = []
    for module in (toy(), toy(MATRICES[kind][0])):
        optimizer = torch.optim.Adam(module.parameters(), lr=LR, weight_decay=0.1)
        monitor = ireg.Monitor(
            module, optimizer, criterion=mse_loss, terms=[tag for tag in TERMS if not tag.startswith("norm/")]
        )
        for inputs, targets in SEVERAL:
            optimizer.zero_grad()
            mse_loss(module(inputs), targets).backward()
            optimizer.step()
            monitor.update((inputs, targets))
        ends.append(monitor.compute())
    assert ends[0] == pytest.approx(ends[1], rel=1e-6)


def test_integers_in_single_precision_where_there_is_no_double(monkeypatch):
    assert sum_type(torch.ones(1, dtype=torch.int8)) == torch.float64
    monkeypatch.setattr("ireg.core.wide.WITHOUT_FLOAT64", frozenset({"cpu"}))
    assert sum_type(torch.ones(1, dtype=torch.int8)) == torch.float32


class Empty(nn.Module):
    """A parameter and a matrix without entries beside a layer."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(1, 1)
        self.none = nn.Parameter(torch.zeros(0))
        self.matrix = nn.Parameter(torch.zeros(0, 3))

    def forward(self, inputs):
        return self.layer(inputs) + self.none.sum() + self.matrix.sum()


def test_parameters_without_entries_change_nothing():
    # Without traces: exact for a Linear layer alone, else estimated.
    terms = [tag for tag in TERMS if not tag.startswith(("curvature/trace", "curvature/adaptive"))]
    ends = []
    for module in (Empty(), nn.Linear(1, 1)):
        with torch.no_grad():
            for parameter in module.parameters():
                parameter.fill_(2.0)
        optimizer = torch.optim.Adam(module.parameters(), lr=LR)
        monitor = ireg.Monitor(module, optimizer, criterion=mse_loss, terms=terms)
        for inputs, targets in SEVERAL:
            optimizer.zero_grad()
            mse_loss(module(inputs), targets).backward()
            optimizer.step()
            monitor.update((inputs, targets))
        ends.append({tag.replace("layer.", ""): value for tag, value in monitor.compute().items()})
    assert ends[0] == pytest.approx(ends[1], rel=1e-5)


def test_without_any_entry_there_is_nothing():
    assert wide_squared_norm({"none": torch.zeros(0)}) == 0
    assert wide_squared_norm({}) == 0


class Vector(nn.Module):
    """A classifier without a weight matrix."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([1.0, -1.0, 0.5]))

    def forward(self, inputs):
        return inputs * self.weight


def test_without_weight_matrices_there_is_no_product_of_norms():
    module = Vector()
    batches = [(torch.ones(2, 3), torch.tensor([0, 1]))]
    optimizer = torch.optim.SGD(module.parameters(), lr=LR)
    terms = ["norm/layers", "norm/product", "norm/spectral_product", "margin/median", "margin/normalized_median"]
    found = ireg.measure(module, batches, optimizer=optimizer, criterion=nn.functional.cross_entropy, terms=terms)
    assert found == {"margin/median": pytest.approx((0.5 - 2.0) / 2)}  # 1 − ½ and −1 − 1


class SparseProduct(nn.Module):
    """A sparse matrix that moves at its entries alone."""

    def __init__(self, layout):
        super().__init__()
        matrix = torch.tensor([[1.0, 0.0, 2.0], [0.0, 3.0, 0.0]], dtype=torch.float64)
        self.matrix = nn.Parameter(matrix.to_sparse(layout=layout))

    def forward(self, inputs):
        return torch.sparse.mm(self.matrix, inputs.T).T


@pytest.mark.parametrize("layout", [torch.sparse_coo, torch.sparse_csr])
def test_a_sparse_parameter_that_moves(layout):
    module = SparseProduct(layout)
    generator = torch.Generator().manual_seed(0)
    batches = [
        (torch.randn(4, 3, generator=generator, dtype=torch.float64), torch.zeros(4, 2, dtype=torch.float64))
        for _ in range(3)
    ]
    optimizer = torch.optim.SGD(module.parameters(), lr=LR)
    gradients = []
    for inputs, targets in batches:
        (gradient,) = torch.autograd.grad(mse_loss(module(inputs), targets), module.matrix)
        gradients.append(gradient.to_dense())
    found = ireg.measure(module, batches, optimizer=optimizer, criterion=mse_loss)
    sizes = [float(gradient.square().sum()) for gradient in gradients]
    assert found["ireg/sgd"] == pytest.approx(LR / 12 * sum(sizes), rel=1e-10)
    assert found["ireg/full_batch"] == pytest.approx(LR / 4 * float((sum(gradients) / 3).square().sum()), rel=1e-10)
    assert found["norm/l2"] == pytest.approx(14**0.5, rel=1e-10)
    for terms in ("theory", "curvature"):
        with pytest.raises(ValueError, match="^matrix is sparse, .*leave curvature and theory out$"):
            ireg.measure(module, batches, optimizer=optimizer, criterion=mse_loss, terms=terms)
