"""Large models: the same numbers as of small ones, from few vectors."""

import copy
import math

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy
from torch.testing import assert_close

import ireg
from benchmarks.memory import peak_tensors
from ireg.core import ascent, large, sharpness
from ireg.core.ascent import largest_by_ascent
from ireg.core.functional import detached_parameters, functional_loss
from ireg.core.hessian import MeanHessian
from ireg.core.large import computed, is_large
from ireg.core.own_passes import passes_of
from ireg.core.random import named_generator
from ireg.core.sharpness import PATIENCE, PRODUCTS, steepest
from ireg.measurement import take_snapshot
from ireg.options import Epoch, Options
from ireg.terms import curvature
from tests import reference
from tests.cases import EXACT, problems
from tests.core.test_hessian import dense, flat, random_like, some_batches, stack
from tests.core.test_mean_flow import OPTIMIZERS, RULES, flow_of, smooth_problem
from tests.terms.test_curvature import seen

SPECTRA = {
    "one apart": [10.0],
    "two that are nearly one": [10.0, 10.0 - 1e-6],
    "a larger one below zero": [10.0, -40.0],
    "all below zero": None,
}


@pytest.fixture
def everything_is_large(monkeypatch):
    monkeypatch.setattr(large, "LARGE", 0)


def planted(spectrum, size=80):
    """Return a symmetric matrix of 80 rows: some eigenvalues, and others between -1 and 1, or below 0."""
    generator = torch.Generator().manual_seed(2)
    vectors, _ = torch.linalg.qr(torch.randn(size, size, generator=generator, dtype=torch.float64))
    values = torch.linspace(-1, 1, size, dtype=torch.float64)
    if spectrum is None:
        values = values - 2
    else:
        values[: len(spectrum)] = torch.tensor(spectrum, dtype=torch.float64)
    return (vectors * values) @ vectors.T


def into(matrix):
    def product(vector, image):
        product.count += 1
        torch.mv(matrix, vector, out=image)

    product.count = 0
    return product


def random_start(size=80, seed=3):
    return torch.randn(size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("scaled", [False, True])
@pytest.mark.parametrize("name", SPECTRA)
def test_it_is_the_largest_of_a_dense_matrix(name, scaled, monkeypatch):
    monkeypatch.setattr(ascent, "PIECE", 7)  # of the sums
    matrix = planted(SPECTRA[name])
    # In parts, as a model's parameters are; one number is 0, as where a group's rate is.
    scale = [random_start(30, 4).abs(), random_start(50, 5).abs()] if scaled else None
    if scaled:
        scale[0][3] = 0.0
    root = torch.cat(scale).sqrt() if scaled else torch.ones(80, dtype=torch.float64)
    product, own = into(matrix), root[:, None] * matrix * root
    kept = root > 0
    values, vectors = torch.linalg.eigh(own[kept][:, kept])
    found = largest_by_ascent(product, random_start(), tolerance=1e-6, products=400, scale=scale)
    assert found.settled
    assert found.products == product.count <= 400
    largest = float(values.abs().max())
    assert found.value == pytest.approx(float(values[-1]), rel=1e-6, abs=1e-9)
    assert found.value <= float(values[-1]) + 1e-9 * largest
    assert not found.vector[~kept].any()
    assert float(found.vector.norm()) == pytest.approx(1, rel=1e-9)
    assert found.residual <= 1e-6 * largest
    assert float((own @ found.vector - found.value * found.vector).norm()) == pytest.approx(found.residual, rel=1e-3)
    if name == "two that are nearly one" and not scaled:
        # Which of the two it is does not matter: the vector is in their plane.
        assert float((vectors[:, -2:].T @ found.vector).norm()) == pytest.approx(1, rel=1e-6)


def test_a_warm_start_takes_fewer_products_and_finds_what_it_hides():
    matrix = planted([1.05, 1.04])
    values, vectors = torch.linalg.eigh(matrix)
    cold = largest_by_ascent(into(matrix), random_start(), tolerance=1e-6, products=400)
    near = vectors[:, -1] + 0.1 * random_start(seed=9) / 80**0.5
    warm = largest_by_ascent(into(matrix), near, tolerance=1e-6, products=400)
    assert 10 <= warm.products < cold.products
    assert warm.value == pytest.approx(float(values[-1]), rel=1e-9)
    # The second eigenvector has a small residual from the first product on.
    hidden = vectors[:, -2] + 0.1 * random_start(seed=9) / 80**0.5
    found = largest_by_ascent(into(matrix), hidden, tolerance=0.02, products=60)
    assert found.products >= 10
    assert found.value == pytest.approx(float(values[-1]), rel=2e-2)


@pytest.mark.parametrize("products", [1, 5, 12])
def test_what_has_not_settled_says_so(products):
    matrix = planted([1.05])
    values = torch.linalg.eigvalsh(matrix)
    found = largest_by_ascent(into(matrix), random_start(), tolerance=1e-6, products=products)
    assert (found.settled, found.products) == (False, products)
    assert found.residual > 1e-6 * float(values[-1])
    assert min(abs(found.value - float(value)) for value in values) <= found.residual
    assert found.value <= float(values[-1])


def test_it_continues_over_a_restart(monkeypatch):
    monkeypatch.setattr(ascent, "STEPS", 12)
    matrix = planted([1.05])
    product = into(matrix)
    found = largest_by_ascent(product, random_start(), tolerance=1e-6, products=400)
    assert found.settled
    assert 24 < found.products == product.count
    assert found.value == pytest.approx(1.05, rel=1e-9)


def test_an_exhausted_space_ends_it():
    found = largest_by_ascent(into(2 * torch.eye(5).double()), torch.ones(5).double(), tolerance=0.0, products=9)
    assert (found.value, found.products, found.settled) == (pytest.approx(2, rel=1e-14), 1, True)


@pytest.mark.parametrize("start", [0.0, math.nan, math.inf])
def test_what_is_no_start_is_refused(start):
    with pytest.raises(ValueError, match=f"start has norm {start:g}"):
        largest_by_ascent(into(torch.eye(3)), torch.full((3,), start), tolerance=0.1, products=3)


@pytest.mark.parametrize("after", [0, 3])
@pytest.mark.parametrize("factor", [math.nan, math.inf])
def test_a_product_that_is_not_finite_has_no_eigenvalue(factor, after):
    matrix = planted([10.0])
    product = into(matrix)

    def broken(vector, image):
        product(vector, image)
        image.mul_(factor if product.count > after else 1.0)

    found = largest_by_ascent(broken, random_start(), tolerance=1e-9, products=30)
    assert (math.isnan(found.value), math.isnan(found.residual), found.settled) == (True, True, False)
    assert found.vector.isfinite().all()  # the next measurement begins there


@pytest.mark.parametrize(("decay", "scaled"), [(0.0, False), (0.3, False), (0.3, True)])
def test_the_steepest_direction_is_that_of_the_dense_hessian(decay, scaled, everything_is_large):
    module, batches = stack(nn.Tanh), some_batches()
    params = detached_parameters(module)
    _, hessians = dense(module, cross_entropy, batches)
    scale = {name: value.abs() + 0.1 for name, value in random_like(params, 5).items()} if scaled else None
    root = flat(scale).sqrt() if scaled else torch.ones(len(hessians[0]), dtype=torch.float64)
    values = torch.linalg.eigvalsh(root[:, None] * (hessians.mean(0) + decay * torch.eye(len(root))) * root)
    hessian = MeanHessian(functional_loss(module, cross_entropy), params, batches)
    backwards = None if scale is None else {name: scale[name] for name in reversed(scale)}
    found = steepest(hessian, named_generator("x"), scale=backwards, decay=decay)
    assert found.value <= float(values[-1]) * (1 + 1e-12)
    assert found.value == pytest.approx(float(values[-1]), rel=1e-3)
    assert found.residual <= 1e-2 * float(values.abs().max()) * (1 + 1e-9)
    assert found.settled
    again = steepest(hessian, named_generator("y"), scale=scale, decay=decay, before=found.vector.bfloat16())
    assert again.value == pytest.approx(float(values[-1]), rel=1e-3)
    assert hessian.products == found.products + again.products


def test_a_large_model_may_take_more_products(everything_is_large):
    curvatures = torch.linspace(0, 1, 2000, dtype=torch.float64)

    def quadratic(params, batch):
        return (curvatures * params["w"].square()).sum() / 2

    hessian = MeanHessian(quadratic, {"w": torch.zeros_like(curvatures)}, [None])
    found = steepest(hessian, named_generator("x"), tolerance=0.0)
    assert (found.products, found.settled) == (PATIENCE * PRODUCTS, False)
    assert found.value == pytest.approx(1, rel=1e-4)
    module, batches = stack(nn.Tanh), some_batches()
    many = ireg.top_eigenvalue(module, batches, criterion=cross_entropy, tolerance=1e-9)
    assert many.settled
    few = ireg.top_eigenvalue(module, batches, criterion=cross_entropy, tolerance=1e-9, max_products=5)
    assert (few.products, few.settled) == (5, False)


def convolutional():
    """No stack of Linear layers: two convolutions, and minibatches of two sizes."""
    generator = torch.Generator().manual_seed(5)
    with torch.random.fork_rng():
        torch.manual_seed(6)
        layers = [nn.Conv2d(1, 2, 2), nn.Tanh(), nn.Conv2d(2, 2, 2), nn.Tanh(), nn.Flatten(), nn.Linear(2, 3)]
        module = nn.Sequential(*layers).double()
    batches = [
        (
            torch.randn(size, 1, 3, 3, generator=generator, dtype=torch.float64),
            torch.randint(3, (size,), generator=generator),
        )
        for size in (4, 4, 3)
    ]
    return module, batches


PARTS = ("leading", "memory", "lag", "fluctuation", "squares_gradient", "correction")


@pytest.mark.parametrize("problem", [smooth_problem, convolutional])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_the_mean_flow_in_several_passes_is_that_of_one(name, problem, monkeypatch):
    module, batches = problem()
    one = flow_of(module, cross_entropy, batches, *OPTIMIZERS[name])
    monkeypatch.setattr(large, "LARGE", 0)
    several = flow_of(module, cross_entropy, batches, *OPTIMIZERS[name])
    printed = reference.mean_flow(*reference.dense(module, cross_entropy, batches, RULES[name].decay), RULES[name])
    for part in PARTS:
        expected, found = getattr(one, part), getattr(several, part)
        assert (found is None) == (expected is None)
        if expected is not None:
            assert list(found) == list(expected)
            assert_close(flat(found), flat(expected), **EXACT)
    assert_close(flat(several.memory), printed["M"], **EXACT)


@pytest.mark.parametrize("problem", problems(), ids=[problem.name for problem in problems()])
def test_every_kind_of_model_has_the_same_mean_flow(problem, monkeypatch):
    # Linear layers alone, convolutions, shared and unused parameters, one minibatch.
    one = flow_of(problem.module, problem.criterion, problem.batches, *OPTIMIZERS["rmsprop"])
    monkeypatch.setattr(large, "LARGE", 0)
    several = flow_of(problem.module, problem.criterion, problem.batches, *OPTIMIZERS["rmsprop"])
    for part in PARTS:
        if (expected := getattr(one, part)) is not None:
            assert_close(flat(getattr(several, part)), flat(expected), **EXACT)


SETS = {
    "noise": {"rel": 1e-9, "abs": 0},
    "theory": {"rel": 1e-9, "abs": 0},
    "default": {"rel": 1e-9, "abs": 0},
    "curvature": {"rel": 1e-3, "abs": 0},
}
MADE = {
    "momentum": (torch.optim.SGD, {"momentum": 0.9, "weight_decay": 0.1}),
    "adamw": (torch.optim.AdamW, {"weight_decay": 0.3}),
    "adam in groups": (torch.optim.Adam, {"weight_decay": 0.3}),
}


@pytest.mark.parametrize(
    ("terms", "sampling"),
    [("theory", "epoch"), ("theory", "independent"), ("default", "epoch"), ("noise", "epoch"), ("curvature", "epoch")],
)
@pytest.mark.parametrize("name", MADE)
def test_the_terms_are_the_same(name, terms, sampling, monkeypatch):
    module, batches = convolutional()
    made, arguments = MADE[name]
    groups = [{"params": [value], "lr": 0.01} for value in module.parameters()]
    if name == "adam in groups" and terms != "theory":
        groups[0]["lr"] = 0.02
    optimizer = made(groups, **arguments)
    for inputs, targets in batches:
        optimizer.zero_grad()
        cross_entropy(module(inputs), targets).backward()
        optimizer.step()

    def measured():
        return ireg.measure(
            module, batches, optimizer=optimizer, terms=terms, criterion=cross_entropy, sampling=sampling
        )

    small = measured()
    monkeypatch.setattr(large, "LARGE", 0)
    found = measured()
    # How many products it took, and how near it came, is the method's own.
    for values in (small, found):
        values.pop("curvature/lambda_max_products", None)
        residual = values.pop("curvature/lambda_max_residual", None)
        assert residual is None or residual <= 0.01 * values["curvature/lambda_max"]
    assert found == pytest.approx(small, **SETS[terms])


def test_half_an_eigenvector_is_kept(everything_is_large):
    module, batches = stack(nn.ReLU), some_batches()
    optimizer, kept = torch.optim.Adam(module.parameters(), lr=0.1), {}
    first = seen(module, batches, optimizer, kept=kept)
    value = first.steepest_own.value
    assert kept["lambda_max_own"].dtype == torch.bfloat16
    again = seen(module, batches, optimizer, steps=0, kept=kept)
    assert again.steepest_own.value == pytest.approx(value, rel=1e-3)
    assert float(curvature.noise_edge(seen(module, batches, torch.optim.SGD(module.parameters(), lr=0.1)))) > 0


@pytest.mark.parametrize(
    ("limit", "writes", "passes", "copies"),
    [(0, False, False, False), (0, True, False, True), (0, False, True, True), (2**24, False, False, True)],
)
def test_only_a_large_model_whose_weights_nothing_writes_to_is_not_copied(limit, writes, passes, copies, monkeypatch):
    monkeypatch.setattr(large, "LARGE", limit)
    module, batches = smooth_problem()
    loss = functional_loss(module, cross_entropy)
    loss.fresh = writes
    options = Options(terms=["ireg/sgd"], criterion=cross_entropy)
    snapshot = take_snapshot(
        module,
        Epoch(batches=batches),
        options,
        loss=passes_of(loss) if passes else loss,
        optimizer=torch.optim.SGD(module.parameters(), lr=0.1),
    )
    for name, value in module.named_parameters():
        assert (snapshot.params[name].data_ptr() != value.data_ptr()) == copies


def test_the_models_own_passes_find_the_same_eigenvalue(monkeypatch):
    module, batches = convolutional()
    before = copy.deepcopy(module.state_dict())
    arguments = {"optimizer": torch.optim.SGD(module.parameters(), lr=0.1), "criterion": cross_entropy}

    def value():
        return ireg.measure(module, batches, method="backward", terms=["curvature/lambda_max"], **arguments)

    small = value()
    monkeypatch.setattr(large, "LARGE", 0)
    assert value() == pytest.approx(small, rel=1e-3, abs=0)
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())


def test_a_tensor_is_computed_when_it_is_asked_for(everything_is_large):
    asked = []

    def compute(name):
        asked.append(name)
        return torch.zeros(2)

    values = computed({"a": torch.ones(2), "b": torch.ones(2)}, compute)
    assert (list(values), len(values), asked) == (["a", "b"], 2, [])
    assert torch.equal(values["b"], torch.zeros(2))
    assert asked == ["b"]
    with pytest.raises(KeyError, match="c"):
        values["c"]


def test_what_is_large_is_above_sixteen_mebibytes():
    assert is_large({"w": torch.empty(2**22 + 1, device="meta")})
    assert not is_large({"w": torch.empty(2**22, device="meta")})
    assert not is_large({"w": torch.empty(2**22 + 1, device="meta", dtype=torch.bfloat16)})


@pytest.mark.parametrize(
    ("terms", "made"),
    [
        ("theory", torch.optim.SGD),
        ("theory", torch.optim.AdamW),
        pytest.param(["curvature/preconditioned_sharpness"], torch.optim.AdamW, marks=pytest.mark.slow),
    ],
)
def test_at_most_eight_models_are_held(terms, made, monkeypatch):
    monkeypatch.setattr(ascent, "PIECE", 2**10)
    monkeypatch.setattr(sharpness, "PRODUCTS", 10)
    monkeypatch.setattr(sharpness, "PATIENCE", 1)
    torch.manual_seed(0)
    layers = [layer for _ in range(6) for layer in (nn.Linear(96, 96), nn.LayerNorm(96), nn.Tanh())]
    module = nn.Sequential(*layers)
    batches = [(torch.randn(1, 96), torch.tensor([3])) for _ in range(2)]
    optimizer = made(module.parameters(), lr=1e-3)
    for inputs, targets in batches:
        optimizer.zero_grad()
        cross_entropy(module(inputs), targets).backward()
        optimizer.step()
    model = sum(value.nbytes for value in module.parameters())

    def models():
        arguments = {"optimizer": optimizer, "terms": terms, "criterion": cross_entropy}
        return peak_tensors(lambda: ireg.measure(module, batches, **arguments)) / model

    held = models()  # of a small model
    monkeypatch.setattr(large, "LARGE", 0)
    few = models()
    assert few <= 8
    assert held > few + 0.9
