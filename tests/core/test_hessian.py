"""Products with the Hessian of C, and what is made of them, against dense matrices."""

import math

import backpack
import backpack.extensions
import curvlinops
import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy, mse_loss
from torch.testing import assert_close

from ireg.core.diagonal import exact_diagonal
from ireg.core.functional import detached_parameters, functional_loss, measuring
from ireg.core.hessian import MeanHessian
from ireg.core.lanczos import largest_eigenpair
from ireg.core.random import named_generator
from ireg.core.sharpness import (
    batch_sharpness,
    gradient_noise_interaction,
    probed_trace,
    steepest,
)
from ireg.data.packed import packed
from ireg.models import CNN, MLP, ResNet
from tests import reference
from tests.cases import EXACT, IDS, problems


def flat(values):
    return torch.cat([value.flatten() for value in values.values()])


def by_name(params, vector):
    parts = vector.split([value.numel() for value in params.values()])
    return {name: part.view(value.shape) for (name, value), part in zip(params.items(), parts, strict=True)}


def random_like(params, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.randn(value.shape, generator=generator, dtype=value.dtype) for name, value in params.items()}


def dense(module, criterion, batches):
    """Minibatch gradients (m, p) and Hessians (m, p, p), from the reference."""
    _, gradients, hessians = reference.dense(module, criterion, batches, 0.0, list(dict(module.named_parameters())))
    return gradients, hessians


@pytest.mark.parametrize("problem", problems(), ids=IDS)
def test_a_product_is_that_of_the_mean_of_the_minibatches_hessians(problem):
    params = detached_parameters(problem.module)
    direction = random_like(params)
    _, hessians = dense(problem.module, problem.criterion, problem.batches)
    loss = functional_loss(problem.module, problem.criterion)
    hessian = MeanHessian(loss, params, problem.batches)
    assert_close(flat(hessian(direction)), hessians.mean(0) @ flat(direction), **EXACT)
    assert_close(hessian.along(direction), flat(direction) @ hessians.mean(0) @ flat(direction), **EXACT)
    assert hessian.products == 2


ACTIVATIONS = (nn.ReLU, nn.LeakyReLU, nn.Tanh, nn.GELU, nn.Softplus, nn.Sigmoid, nn.SiLU)


def stack(activation, seed=0):
    torch.manual_seed(seed)
    layers = [nn.Flatten(), nn.Linear(6, 5), activation(), nn.Linear(5, 4, bias=False), activation(), nn.Linear(4, 3)]
    return nn.Sequential(*layers).double()


def some_batches(sizes=(4, 4, 4, 2), seed=1):
    generator = torch.Generator().manual_seed(seed)
    return [
        (
            torch.randn(size, 2, 3, generator=generator, dtype=torch.float64),
            torch.randint(3, (size,), generator=generator),
        )
        for size in sizes
    ]


@pytest.mark.parametrize("frozen", [(), ("1.weight", "5.bias")])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_layer_by_layer_is_the_same(activation, frozen):
    module, batches = stack(activation), some_batches()
    loss = functional_loss(module, cross_entropy)
    params = {name: value for name, value in detached_parameters(module).items() if name not in frozen}
    hessian = MeanHessian(loss, params, batches)
    assert hessian._leaves is not None
    layerwise = hessian(random_like(params))
    hessian._leaves = None
    merged = hessian(random_like(params))
    hessian._separable = False
    one_by_one = hessian(random_like(params))
    assert_close(layerwise, one_by_one, **EXACT)
    assert_close(merged, one_by_one, **EXACT)
    assert flat(layerwise).abs().max() > 1e-3


def test_minibatches_that_couple_their_examples_are_not_merged():
    torch.manual_seed(0)
    module = nn.Sequential(nn.Flatten(), nn.Linear(6, 4), nn.BatchNorm1d(4), nn.Tanh(), nn.Linear(4, 3)).double()
    batches, params = some_batches(), detached_parameters(module)
    direction = random_like(params)
    with measuring(module):
        found = MeanHessian(functional_loss(module, cross_entropy), params, batches)(direction)
        _, hessians = reference_in_training(module, batches)
    assert_close(flat(found), hessians.mean(0) @ flat(direction), **EXACT)


def reference_in_training(module, batches):
    def value(vector, inputs, targets):
        outputs = torch.func.functional_call(module, by_name(detached_parameters(module), vector), (inputs,))
        return cross_entropy(outputs, targets)

    point = flat(detached_parameters(module))
    hessians = [torch.autograd.functional.hessian(lambda v, b=batch: value(v, *b), point) for batch in batches]
    return None, torch.stack(hessians)


@pytest.mark.parametrize("separable", [True, False])
def test_gradients_of_weighted_losses(separable):
    module, batches = stack(nn.Tanh), some_batches()
    gradients, _ = dense(module, cross_entropy, batches)
    hessian = MeanHessian(functional_loss(module, cross_entropy), detached_parameters(module), batches)
    hessian._separable = separable
    weights = torch.tensor([1.0, -2.0, 0.5, 3.0], dtype=torch.float64)
    assert_close(flat(hessian.gradient(weights)), weights @ gradients, **EXACT)
    module.register_parameter("idle", nn.Parameter(torch.ones(2, dtype=torch.float64)))
    hessian = MeanHessian(functional_loss(module, cross_entropy), detached_parameters(module), batches)
    hessian._separable = separable
    found = hessian.gradient(weights)
    assert found.pop("idle").tolist() == [0.0, 0.0]
    assert_close(flat(found), weights @ gradients, **EXACT)


@pytest.mark.parametrize(("decay", "scaled"), [(0.0, False), (0.3, False), (0.3, True)])
def test_the_steepest_direction(decay, scaled):
    module, batches = stack(nn.Tanh), some_batches()
    params = detached_parameters(module)
    _, hessians = dense(module, cross_entropy, batches)
    scale = {name: value.abs() + 0.1 for name, value in random_like(params, 5).items()} if scaled else None
    root = flat(scale).sqrt() if scaled else torch.ones(len(hessians[0]), dtype=torch.float64)
    matrix = root[:, None] * (hessians.mean(0) + decay * torch.eye(len(root))) * root
    values = torch.linalg.eigvalsh(matrix)
    hessian = MeanHessian(functional_loss(module, cross_entropy), params, batches)
    found = steepest(hessian, named_generator("x"), scale=scale, decay=decay)
    assert found.value <= float(values[-1]) * (1 + 1e-12)
    assert found.value == pytest.approx(float(values[-1]), rel=1e-3)
    assert found.residual <= 1e-2 * float(values.abs().max()) * (1 + 1e-9)
    assert float((matrix @ found.vector - found.value * found.vector).norm()) == pytest.approx(found.residual, rel=1e-6)
    again = steepest(hessian, named_generator("y"), scale=scale, decay=decay, before=found.vector)
    assert again.products <= found.products
    assert again.value == pytest.approx(float(values[-1]), rel=1e-3)
    assert hessian.products == found.products + again.products


def test_lanczos_finds_what_a_start_hides_and_says_how_well():
    generator = torch.Generator().manual_seed(4)
    half = torch.randn(60, 60, generator=generator, dtype=torch.float64)
    matrix = half + half.T
    values, vectors = torch.linalg.eigh(matrix)
    start = vectors[:, -2] + 0.1 * torch.randn(60, generator=generator, dtype=torch.float64) / 60**0.5
    # The second eigenvector has a small residual from the first product on; the largest is found all the same.
    found = largest_eigenpair(lambda v: matrix @ v, start, tolerance=0.02, products=60)
    assert found.value == pytest.approx(float(values[-1]), rel=0.02)
    few = largest_eigenpair(lambda v: matrix @ v, start, tolerance=0.0, products=7)
    assert few.products == 7
    assert min(abs(few.value - float(value)) for value in values) <= few.residual
    assert few.value <= float(values[-1])


def test_the_largest_algebraic_eigenvalue_is_not_the_largest_in_size():
    matrix = torch.diag(torch.tensor([-100.0, 1.0, 3.0], dtype=torch.float64))
    start = torch.ones(3, dtype=torch.float64)
    assert largest_eigenpair(lambda v: matrix @ v, start, tolerance=1e-9, products=9).value == pytest.approx(3.0)


def test_an_exhausted_space_ends_it():
    found = largest_eigenpair(lambda v: 2 * v, torch.ones(5, dtype=torch.float64), tolerance=0.0, products=5)
    assert (found.value, found.products, found.residual) == (pytest.approx(2, rel=1e-14), 1, 0.0)


@pytest.mark.parametrize("start", [0.0, math.nan, math.inf])
def test_lanczos_refuses_what_is_no_start(start):
    with pytest.raises(ValueError, match=f"start has norm {start:g}"):
        largest_eigenpair(lambda v: v, torch.full((3,), start), tolerance=0.1, products=3)


@pytest.mark.parametrize("factor", [math.nan, math.inf])
def test_a_matrix_that_is_not_finite_has_no_eigenvalue(factor):
    matrix = torch.diag(torch.tensor([1.0, 3.0, 2.0]))
    found = largest_eigenpair(lambda v: factor * (matrix @ v), torch.ones(3), tolerance=0.1, products=3)
    assert (math.isnan(found.value), math.isnan(found.residual), found.products) == (True, True, 1)
    assert torch.equal(found.vector, torch.ones(3) / math.sqrt(3))  # the next measurement begins there


@pytest.mark.parametrize("problem", problems(), ids=IDS)
def test_batch_sharpness_is_over_each_minibatchs_own_hessian(problem):
    gradients, hessians = dense(problem.module, problem.criterion, problem.batches)
    expected = torch.stack([g @ h @ g / (g @ g) for g, h in zip(gradients, hessians, strict=True)]).mean()
    loss = functional_loss(problem.module, problem.criterion)
    found = batch_sharpness(loss, detached_parameters(problem.module), problem.batches)
    assert_close(found, expected, **EXACT)


def test_batch_sharpness_is_the_change_of_a_quadratic_in_its_own_step():
    """Ĉ_k(ω − ηg) − Ĉ_k(ω) = −η‖g‖² (1 − η BS/2), exactly; a minibatch without gradient counts as 0."""
    torch.manual_seed(0)
    module = nn.Linear(3, 2).double()
    batch = (torch.randn(5, 3, dtype=torch.float64), torch.randn(5, 2, dtype=torch.float64))
    loss, params = functional_loss(module, mse_loss), detached_parameters(module)
    gradients, _ = dense(module, mse_loss, [batch])
    square, lr = float(gradients[0] @ gradients[0]), 0.3
    stepped = by_name(params, flat(params) - lr * gradients[0])
    change = float(loss(stepped, batch) - loss(params, batch))
    sharpness = float(batch_sharpness(loss, params, [batch]))
    assert change == pytest.approx(-lr * square * (1 - lr * sharpness / 2), rel=1e-12)
    still = (torch.zeros(1, 3, dtype=torch.float64), module.bias.detach()[None])
    assert float(batch_sharpness(loss, params, [batch, still])) == pytest.approx(sharpness / 2, rel=1e-12)


def test_gradient_noise_interaction_is_without_bias():
    module, batches = stack(nn.Tanh), some_batches()
    gradients, hessians = dense(module, cross_entropy, batches)
    mean = gradients.mean(0)
    expected = float(torch.stack([g @ hessians.mean(0) @ g for g in gradients]).mean() / (mean @ mean))
    hessian = MeanHessian(functional_loss(module, cross_entropy), detached_parameters(module), batches)
    means = by_name(hessian.params, mean)
    found = gradient_noise_interaction(hessian, means, named_generator("signs"), probes=400)
    assert float(found.value) == pytest.approx(expected, abs=4 * float(found.error))
    assert 0 < float(found.error) < 0.1 * abs(expected)


def test_the_probed_traces_mean_and_variance():
    """Its mean is the trace, and its variance 2 (‖H‖² − Σ H_ii²), as Hutchinson says."""
    module, batches = stack(nn.Tanh), some_batches()
    _, hessians = dense(module, cross_entropy, batches)
    matrix = hessians.mean(0)
    hessian = MeanHessian(functional_loss(module, cross_entropy), detached_parameters(module), batches)
    found = [probed_trace(hessian, named_generator("trace", seed)) for seed in range(60)]
    values = torch.stack([one.value for one in found])
    variance = 2 * float(matrix.square().sum() - matrix.diagonal().square().sum())
    error = (variance / 8 / len(values)) ** 0.5
    assert float(values.mean()) == pytest.approx(float(matrix.trace()), abs=4 * error)
    assert float(values.var()) == pytest.approx(variance / 8, rel=0.6)
    assert float(torch.stack([one.error for one in found]).square().mean()) == pytest.approx(variance / 8, rel=0.3)


def test_the_probed_trace_with_weights():
    module, batches = stack(nn.Tanh), some_batches()
    _, hessians = dense(module, cross_entropy, batches)
    params = detached_parameters(module)
    hessian = MeanHessian(functional_loss(module, cross_entropy), params, batches)
    found = [float(probed_trace(hessian, named_generator("a", seed), params).value) for seed in range(60)]
    expected = float(flat(params).square() @ hessians.mean(0).diagonal())
    spread = torch.tensor(found).std() / len(found) ** 0.5
    assert float(torch.tensor(found).mean()) == pytest.approx(expected, abs=4 * float(spread))


@pytest.mark.parametrize("frozen", [(), ("1.weight", "5.bias")])
@pytest.mark.parametrize("activation", [nn.ReLU, nn.LeakyReLU, nn.Identity])
def test_the_diagonal_of_a_piecewise_linear_stack_is_exact(activation, frozen):
    module, batches = stack(activation), some_batches()
    _, hessians = dense(module, cross_entropy, batches)
    every = detached_parameters(module)
    params = {name: value for name, value in every.items() if name not in frozen}
    found = exact_diagonal(functional_loss(module, cross_entropy), params, batches)
    expected = by_name(every, hessians.mean(0).diagonal())
    assert_close(found, {name: expected[name] for name in params}, **EXACT)
    assert all(bool((value >= 0).all()) for value in found.values())


CONVOLUTIONAL = {
    "cnn": CNN(input_shape=(1, 6, 6), num_classes=3, channels=[2, 3], groups=0).double(),
    "resnet": ResNet(input_shape=(1, 6, 6), num_classes=3, channels=[2, 3], groups=0).double(),
    "pooled": nn.Sequential(
        nn.Conv2d(1, 3, 3), nn.LeakyReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Dropout(), nn.Linear(12, 3)
    ).double(),
    "in place": nn.Sequential(nn.Flatten(), nn.Linear(36, 3), nn.ReLU(inplace=True), nn.Linear(3, 3)).double(),
}


def images(sizes=(3, 2)):
    generator = torch.Generator().manual_seed(2)
    return [
        (torch.randn(size, 1, 6, 6, generator=generator).double(), torch.randint(3, (size,), generator=generator))
        for size in sizes
    ]


@pytest.mark.parametrize("name", CONVOLUTIONAL)
def test_the_diagonal_of_convolutions_and_residual_networks_is_exact(name):
    module, batches = CONVOLUTIONAL[name].eval(), images()
    _, hessians = dense(module, cross_entropy, batches)
    params = detached_parameters(module)
    found = exact_diagonal(functional_loss(module, cross_entropy), params, batches)
    assert_close(found, by_name(params, hessians.mean(0).diagonal()), **EXACT)


@pytest.mark.parametrize(
    "module", [CONVOLUTIONAL["cnn"], MLP(input_shape=(1, 6, 6), num_classes=3, hidden=[4]).double()]
)
def test_the_diagonal_of_a_squared_error_is_exact(module):
    batches = [(inputs, nn.functional.one_hot(labels, 3).double()) for inputs, labels in images()]
    _, hessians = dense(module, mse_loss, batches)
    params = detached_parameters(module)
    found = exact_diagonal(functional_loss(module, mse_loss), params, batches)
    assert_close(found, by_name(params, hessians.mean(0).diagonal()), **EXACT)


class Squared(nn.Linear):
    """A layer of one's own, of which nothing is known."""

    def forward(self, inputs):
        return super().forward(inputs).square()


def hooked():
    module = stack(nn.ReLU)
    module[1].register_forward_hook(lambda layer, inputs, outputs: outputs.square())
    return module


def tied():
    module = nn.Sequential(nn.Flatten(), nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 3))
    module[3].weight = module[1].weight
    return module.double()


def shared():
    layer = nn.Linear(6, 6)
    return nn.Sequential(nn.Flatten(), layer, nn.ReLU(), layer, nn.ReLU(), nn.Linear(6, 3)).double()


REFUSED = {
    "tanh": lambda: stack(nn.Tanh),
    "layer normalization": lambda: nn.Sequential(
        nn.Flatten(), nn.Linear(6, 4), nn.LayerNorm(4), nn.Linear(4, 3)
    ).double(),
    "tied weights": tied,
    "a layer used twice": shared,
    "a layer of one's own": lambda: nn.Sequential(nn.Flatten(), Squared(6, 3)).double(),
    "a hook": hooked,
    "dropout": lambda: nn.Sequential(nn.Flatten(), nn.Linear(6, 4), nn.Dropout(), nn.Linear(4, 3)).double().train(),
    "tanh in a block": lambda: ResNet(input_shape=(1, 2, 3), num_classes=3, channels=[2], groups=0, activation="tanh"),
    "group normalization": lambda: CNN(input_shape=(1, 2, 3), num_classes=3, channels=[2], groups=2),
}


@pytest.mark.parametrize("name", REFUSED)
def test_where_the_diagonal_is_not_known_to_be_gauss_newtons_it_is_not_given(name):
    module = REFUSED[name]()
    assert exact_diagonal(functional_loss(module, cross_entropy), detached_parameters(module), some_batches()) is None


def test_no_diagonal_is_given_for_other_losses():
    module = stack(nn.ReLU)
    loss = functional_loss(module, lambda outputs, targets: outputs.square().mean())
    assert exact_diagonal(loss, detached_parameters(module), some_batches()) is None
    bare = lambda params, batch: params["w"].sum()  # noqa: E731
    assert exact_diagonal(bare, {"w": torch.ones(1)}, [None]) is None


@pytest.mark.parametrize("name", ["tanh", "layer normalization", "tied weights"])
def test_where_it_is_refused_it_would_be_wrong(name):
    """Gauss–Newton's diagonal by whole Jacobians is another one there, and the same for a piecewise linear stack."""
    batches = some_batches()

    def relative_difference(module):
        _, hessians = dense(module, cross_entropy, batches)
        params = detached_parameters(module)
        total = torch.zeros_like(flat(params))
        for inputs, _ in batches:
            outputs = lambda vector: torch.func.functional_call(module, by_name(params, vector), (inputs,))  # noqa: B023, E731
            jacobian = torch.autograd.functional.jacobian(outputs, flat(params))  # (n, C, p)
            chances = outputs(flat(params)).softmax(1).detach()
            bends = torch.diag_embed(chances) - chances[:, :, None] * chances[:, None, :]
            total += torch.einsum("ncp,ncd,ndp->p", jacobian, bends, jacobian) / len(inputs) / len(batches)
        exact = hessians.mean(0).diagonal()
        return float((total - exact).norm() / exact.norm())

    assert relative_difference(stack(nn.ReLU)) < 1e-10
    assert relative_difference(REFUSED[name]()) > 1e-2


def test_on_digits_they_are_those_of_the_whole_hessian():
    """A network 64-16-10 on real images: p = 1,210, of which the whole Hessian is at hand."""
    source = {
        "train-images-idx3-ubyte": "7f0c9ab9939c9fa77b26579f61a1549e",
        "train-labels-idx1-ubyte": "cde1decbe58ddf5d702ae9ce67ea98eb",
    }
    images, labels = packed(dataset="Digits", root=None, md5=source, train=True)
    inputs, labels = images[:300].double() / 16, labels[:300]
    torch.manual_seed(0)
    module = nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 10)).double()
    optimizer = torch.optim.Adam(module.parameters(), lr=0.01)
    for _ in range(40):  # to where the curvature is not that of initial weights
        optimizer.zero_grad()
        cross_entropy(module(inputs), labels).backward()
        optimizer.step()
    params = detached_parameters(module)
    batches = list(zip(inputs.split(64), labels.split(64), strict=True))  # the last one is smaller

    def value(vector):
        outputs = [torch.func.functional_call(module, by_name(params, vector), (batch[0],)) for batch in batches]
        losses = [cross_entropy(output, batch[1]) for output, batch in zip(outputs, batches, strict=True)]
        return torch.stack(losses).mean()

    whole = torch.autograd.functional.hessian(value, flat(params))
    assert whole.shape == (1210, 1210)
    loss = functional_loss(module, cross_entropy)
    hessian = MeanHessian(loss, params, batches)
    direction = random_like(params)
    assert_close(flat(hessian(direction)), whole @ flat(direction), **EXACT)
    found = steepest(hessian, named_generator("digits"))
    largest = float(torch.linalg.eigvalsh(whole)[-1])
    assert 0 <= largest - found.value <= found.residual
    assert found.value == pytest.approx(largest, rel=1e-3)
    assert_close(flat(exact_diagonal(loss, params, batches)), whole.diagonal(), **EXACT)


def test_products_are_curvlinops():
    """Another library's, on the same minibatches with equal sizes."""
    module, batches = stack(nn.Tanh), some_batches((4, 4, 4))
    params = detached_parameters(module)
    operator = curvlinops.HessianLinearOperator(module, nn.CrossEntropyLoss(), list(module.parameters()), batches)
    direction = random_like(params)
    expected = operator @ flat(direction)
    found = MeanHessian(functional_loss(module, cross_entropy), params, batches)(direction)
    assert_close(flat(found), torch.as_tensor(expected).detach(), rtol=1e-8, atol=1e-12)


def test_the_diagonal_is_backpacks():
    """Another library's, on one minibatch."""
    module = backpack.extend(stack(nn.ReLU))
    criterion = backpack.extend(nn.CrossEntropyLoss())
    ((inputs, labels),) = batches = some_batches((6,))
    with backpack.backpack(backpack.extensions.DiagHessian()):
        criterion(module(inputs), labels).backward()
    expected = {name: parameter.diag_h for name, parameter in module.named_parameters()}
    plain = stack(nn.ReLU)
    found = exact_diagonal(functional_loss(plain, cross_entropy), detached_parameters(plain), batches)
    assert_close(found, expected, **EXACT)
