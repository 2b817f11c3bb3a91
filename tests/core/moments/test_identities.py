"""What must hold exactly for the moments and the terms, whatever the method that computes them.

Sampling identities over all partitions into minibatches, symmetries, and linear regression in closed form.
"""

from collections import Counter, OrderedDict
from itertools import combinations
from math import factorial, prod

import numpy as np
import pytest
import torch
from hydra.utils import instantiate
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.linalg import expm
from torch import nn
from torch.nn.functional import cross_entropy
from torch.testing import assert_close

from ireg.core.batches import IndexedBatches
from ireg.core.functional import detached_parameters, functional_loss
from ireg.core.moments import METHODS, drawn_moments, gradient_moments, sampled_gradients
from ireg.core.moments.needs import Need
from ireg.core.optimizers import OptimizerState
from ireg.core.optimizers.rmsprop import RMSpropRule
from ireg.core.random import named_generator
from ireg.core.snapshot import Snapshot
from ireg.models import MLP
from ireg.terms import implicit
from tests import reference
from tests.cases import EXACT, Problem

RATE = 0.25
# Every method; and without the squares, since a method may then go another way.
WAYS = {method: {"method": method} for method in METHODS} | {
    f"{method}, no squares": {"method": method, "needs": Need.SQ_NORMS | Need.MEAN} for method in METHODS
}
every_method = pytest.mark.parametrize("method", list(METHODS))
every_way = pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)


def snapshot(problem, *, batches=None, rate=RATE, second=None, **way):
    params = detached_parameters(problem.module)
    return Snapshot(
        params=params,
        initial=params,
        loss=functional_loss(problem.module, problem.criterion),
        batches=problem.batches if batches is None else batches,
        optimizer=OptimizerState(
            lr=rate, moving=tuple(params), weight_decay=0.0, second_moment=second, rule=RMSpropRule(alpha=0.9)
        ),
        generator=named_generator("terms", 0),
        **way,
    )


def small_mlp(sizes, seed=1):
    """A network of 147 weights and minibatches of the given sizes.

    Its layers are wider than some minibatches and narrower than others, which may decide how a method goes about them.
    """
    generator = torch.Generator().manual_seed(seed)
    module = nn.Sequential(nn.Linear(5, 16), nn.ReLU(), nn.Linear(16, 3)).double()
    for parameter in module.parameters():
        parameter.data.copy_(torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
    batches = [
        (
            torch.randn(size, 5, generator=generator, dtype=torch.float64),
            torch.randint(0, 3, (size,), generator=generator),
        )
        for size in sizes
    ]
    return Problem("small mlp", module, cross_entropy, batches)


# Sampling without replacement: the mean of the terms over all partitions of the examples into minibatches.


def population(problem, inputs, targets):
    """‖∇C‖² and tr Σ = (1/N) Σ ‖∇C_i‖² − ‖∇C‖² from one backward pass for each example."""
    total, squares = None, 0.0
    for i in range(len(inputs)):  # one at a time: all at once would not fit for images
        (gradient,) = reference.minibatch_gradients(
            problem.module, problem.criterion, [(inputs[i : i + 1], targets[i : i + 1])]
        )
        squares += reference.squared_norm(gradient)
        total = gradient if total is None else {name: total[name] + gradient[name] for name in gradient}
    full = reference.squared_norm({name: value / len(inputs) for name, value in total.items()})
    return full, squares / len(inputs) - full


def partitions(examples, sizes):
    """All partitions of the examples into minibatches of these sizes, each once; equal sizes are neighbours."""
    first, *others = sizes
    for chosen in combinations(examples, first):
        rest = [i for i in examples if i not in chosen]
        for parts in partitions(rest, others) if others else [[]]:
            if not parts or len(parts[0]) < first or chosen < parts[0]:
                yield [chosen, *parts]


def mean_over_partitions(term, problem, sizes, way):
    ((inputs, targets),) = problem.batches
    values = []
    for parts in partitions(range(sum(sizes)), sizes):
        batches = IndexedBatches(inputs, targets, [torch.tensor(part) for part in parts])
        values.append(float(term(snapshot(problem, batches=batches, **way))))
    alike = Counter(sizes).values()
    num_partitions = factorial(sum(sizes)) / prod(map(factorial, sizes)) / prod(map(factorial, alike))
    assert len(values) == num_partitions  # none left out
    return np.mean(values)


@every_way
@pytest.mark.parametrize("sizes", [(2, 2, 2), (3, 3), (4, 4), (6,)], ids=str)
def test_variance_of_equal_minibatches_over_all_partitions(sizes, way):
    num_examples, size = sum(sizes), sizes[0]
    problem = small_mlp([num_examples])
    _, trace = population(problem, *problem.batches[0])
    expected = RATE / 4 * (num_examples - size) / (num_examples - 1) * trace / size
    actual = mean_over_partitions(implicit.minibatch_variance, problem, sizes, way)
    assert actual == pytest.approx(expected, rel=EXACT["rtol"], abs=EXACT["atol"])
    if len(sizes) > 1:
        # Independent draws have tr Σ / B: too much by a fifth at least, at these sizes.
        assert RATE / 4 * trace / size > 1.2 * actual > 0


@every_way
@pytest.mark.parametrize("sizes", [(3, 3, 1), (2, 2, 1)], ids=str)
def test_ragged_minibatches_over_all_partitions(sizes, way):
    # A minibatch of b examples alone: E‖g_k‖² = ‖∇C‖² + (N − b)/(N − 1) · tr Σ/b. With ḡ the mean over minibatches,
    # the variance is N/(N − 1) · (m − 1)/m · h · tr Σ, h the mean of 1/b: the formula above where all b are equal.
    num_examples, num_batches, inverse = sum(sizes), len(sizes), np.mean([1 / size for size in sizes])
    problem = small_mlp([num_examples])
    full, trace = population(problem, *problem.batches[0])
    whole = full + np.mean([(num_examples - size) / (num_examples - 1) / size for size in sizes]) * trace
    variance = num_examples / (num_examples - 1) * (num_batches - 1) / num_batches * inverse * trace
    for term, expected in (
        (implicit.sgd, whole),
        (implicit.minibatch_variance, variance),
        (implicit.full_batch, whole - variance),
    ):
        actual = mean_over_partitions(term, problem, sizes, way)
        assert actual == pytest.approx(RATE / 4 * expected, rel=EXACT["rtol"], abs=0), term.__name__
    # Weighing the examples alike, ḡ would be ∇C whatever the partition. It is not.
    assert whole - variance > 1.01 * full


def test_variance_depends_on_rate_over_batch_size():
    # Each minibatch alone is any subset with the same probability, so the variance over *all* subsets of B examples is
    # the mean over partitions: η/4 · (N − B)/(N − 1) · tr Σ/B.
    num_examples = 40
    problem = small_mlp([num_examples])
    _, trace = population(problem, *problem.batches[0])

    def terms(rate, size):
        subsets = [torch.tensor(subset) for subset in combinations(range(num_examples), size)]
        seen = snapshot(problem, batches=IndexedBatches(*problem.batches[0], subsets), rate=rate)
        return float(implicit.minibatch_variance(seen)), float(implicit.full_batch(seen))

    (one, one_full), (two, two_full), (slow, slow_full) = terms(0.1, 1), terms(0.2, 2), terms(0.1, 2)
    assert one == pytest.approx(0.1 / 4 * trace, rel=EXACT["rtol"], abs=0)
    assert two / one == pytest.approx(38 / 39, rel=EXACT["rtol"], abs=0)  # equal η/B: nearly equal, for B ≪ N
    assert slow / one == pytest.approx(38 / 39 / 2, rel=EXACT["rtol"], abs=0)  # equal η: half
    assert (two_full, slow_full) == pytest.approx((2 * one_full, one_full), rel=EXACT["rtol"], abs=0)  # B plays no part


@pytest.mark.parametrize(("num_examples", "size", "repetitions"), [(2000, 50, 60), (200, 50, 100)])
def test_variance_over_random_partitions_of_images(composed, num_examples, size, repetitions):
    data = composed("data=mnist10k").data
    images, labels = instantiate(data.source)(train=True)
    inputs = (images[:num_examples].double() / 255 - data.mean) / data.std
    targets = labels[:num_examples]
    with torch.random.fork_rng():
        torch.manual_seed(4)
        module = MLP(input_shape=(784,), num_classes=data.num_classes, hidden=[8]).double()
    problem = Problem("images", module, cross_entropy, [])
    _, trace = population(problem, inputs, targets)
    generator = torch.Generator().manual_seed(5)
    values = []
    for _ in range(repetitions):
        batches = IndexedBatches(inputs, targets, torch.randperm(num_examples, generator=generator).split(size))
        values.append(float(implicit.minibatch_variance(snapshot(problem, batches=batches))))
    error = np.std(values, ddof=1) / repetitions**0.5
    independent = RATE / 4 * trace / size
    expected = (num_examples - size) / (num_examples - 1) * independent
    assert abs(np.mean(values) - expected) < 4 * error
    assert error < 0.02 * expected  # else the line above would say little
    if size >= num_examples / 4:
        # Here the draws are far from independent, and the formula for those must be seen to fail.
        assert abs(np.mean(values) - independent) > 8 * error


# Symmetries.

sizes_of_batches = st.lists(st.integers(1, 4), min_size=1, max_size=6)
seeds = st.integers(0, 2**20)
few = settings(max_examples=10, deadline=None)


def moments(problem, way, batches=None, **arguments):
    """The moments by name, those that this way computes."""
    found = gradient_moments(
        functional_loss(problem.module, problem.criterion),
        arguments.pop("params", detached_parameters(problem.module)),
        problem.batches if batches is None else batches,
        **way,
        **arguments,
    )
    names = ("mean", "sq_norms") if "needs" in way else ("mean", "square", "sq_norms")
    return {name: getattr(found, name) for name in names}


@every_way
@few
@given(data=st.data(), sizes=sizes_of_batches, seed=seeds)
def test_permuting_minibatches_permutes_the_norms_only(way, data, sizes, seed):
    problem = small_mlp(sizes, seed)
    order = data.draw(st.permutations(range(len(sizes))))
    expected = moments(problem, way)
    expected["sq_norms"] = expected["sq_norms"][order]
    assert_close(moments(problem, way, [problem.batches[k] for k in order]), expected, **EXACT)


@every_way
@few
@given(sizes=sizes_of_batches, seed=seeds)
def test_permuting_examples_within_a_minibatch_changes_nothing(way, sizes, seed):
    problem = small_mlp(sizes, seed)
    generator = torch.Generator().manual_seed(seed)
    orders = [torch.randperm(size, generator=generator) for size in sizes]
    batches = [(x[order], y[order]) for (x, y), order in zip(problem.batches, orders, strict=True)]
    assert_close(moments(problem, way, batches), moments(problem, way), **EXACT)


@every_way
def test_exchanging_examples_between_minibatches_keeps_the_mean_only(way):
    problem = small_mlp([3, 3])
    inputs, targets = (torch.cat(parts) for parts in zip(*problem.batches, strict=True))
    exchanged = IndexedBatches(inputs, targets, [torch.tensor([0, 1, 5]), torch.tensor([3, 4, 2])])
    expected, actual = moments(problem, way), moments(problem, way, exchanged)
    assert_close(actual.pop("mean"), expected.pop("mean"), **EXACT)
    for name, value in actual.items():
        with pytest.raises(AssertionError):
            assert_close(value, expected[name], rtol=0.01, atol=0.0)


@every_way
@few
@given(sizes=sizes_of_batches, seed=seeds, chunk_size=st.integers(1, 8))
def test_chunk_size_changes_nothing(way, sizes, seed, chunk_size):
    problem = small_mlp(sizes, seed)
    assert_close(moments(problem, way, chunk_size=chunk_size), moments(problem, way), **EXACT)


@every_way
@few
@given(order=st.permutations(range(4)), seed=seeds)
def test_names_and_order_of_the_parameters_do_not_matter(way, order, seed):
    problem = small_mlp([3, 3, 2], seed)
    first, activation, last = problem.module
    # The new names sort the other way round.
    renamed = nn.Sequential(OrderedDict([("z", first), ("activation", activation), ("b", last)]))
    names = {"0.weight": "z.weight", "0.bias": "z.bias", "2.weight": "b.weight", "2.bias": "b.bias"}
    shuffled = dict([*detached_parameters(renamed).items()][k] for k in order)
    expected = {
        field: {names[name]: value for name, value in values.items()} if field != "sq_norms" else values
        for field, values in moments(problem, way).items()
    }
    twin = Problem("renamed", renamed, problem.criterion, problem.batches)
    assert_close(moments(twin, way, params=shuffled), expected, **EXACT)


@every_way
@few
@given(factor=st.floats(-10, 10), sizes=sizes_of_batches, seed=seeds)
def test_a_factor_of_the_loss_comes_out_once_or_squared(way, factor, sizes, seed):
    plain = small_mlp(sizes, seed)
    scaled = Problem("scaled", plain.module, lambda outputs, y: factor * cross_entropy(outputs, y), plain.batches)
    expected = moments(plain, way)
    for name, power in (("mean", 1), ("square", 2)):
        if name in expected:
            expected[name] = {key: factor**power * value for key, value in expected[name].items()}
    expected["sq_norms"] = factor**2 * expected["sq_norms"]
    assert_close(moments(scaled, way), expected, **EXACT)


@every_way
@few
@given(sizes=sizes_of_batches, seed=seeds, times=st.integers(2, 3))
def test_repeating_all_minibatches_changes_nothing(way, sizes, seed, times):
    problem = small_mlp(sizes, seed)
    expected = moments(problem, way)
    expected["sq_norms"] = expected["sq_norms"].repeat(times)
    assert_close(moments(problem, way, problem.batches * times), expected, **EXACT)


@every_way
@few
@given(data=st.data(), sizes=st.lists(st.integers(1, 4), min_size=2, max_size=6), seed=seeds)
def test_moments_of_parts_merge_with_the_weights_of_their_minibatches(way, data, sizes, seed):
    cut = data.draw(st.integers(1, len(sizes) - 1))
    problem = small_mlp(sizes, seed)
    left, right = moments(problem, way, problem.batches[:cut]), moments(problem, way, problem.batches[cut:])
    share = cut / len(sizes)  # of the minibatches, however many examples they hold
    merged = {
        field: {name: share * value + (1 - share) * right[field][name] for name, value in left[field].items()}
        for field in left
        if field != "sq_norms"
    }
    merged["sq_norms"] = torch.cat([left["sq_norms"], right["sq_norms"]])
    assert_close(moments(problem, way), merged, **EXACT)


# Linear regression, C_k = ‖X_k ω − y_k‖²/(2b): matrices in place of automatic differentiation.


def regression(sizes):
    """Problem and its matrices: X_k and y_k for each minibatch, ω."""
    generator = np.random.default_rng(6)
    inputs = [generator.standard_normal((size, 4)) for size in sizes]
    targets = [generator.standard_normal(size) for size in sizes]
    weights = generator.standard_normal(4)
    module = nn.Linear(4, 1, bias=False).double()
    module.weight.data.copy_(torch.from_numpy(weights)[None])
    batches = [(torch.from_numpy(x), torch.from_numpy(y)[:, None]) for x, y in zip(inputs, targets, strict=True)]
    return Problem("linear regression", module, half_mse, batches), inputs, targets, weights


def half_mse(outputs, targets):
    return (outputs - targets).square().mean() / 2


@every_method
@pytest.mark.parametrize("sizes", [(5, 5, 5), (5, 5, 2)], ids=["equal", "ragged"])
def test_closed_forms_of_linear_regression(sizes, method):
    problem, inputs, targets, weights = regression(sizes)
    gradients = np.stack([x.T @ (x @ weights - y) / len(y) for x, y in zip(inputs, targets, strict=True)])  # (m, p)
    mean, square, norms = gradients.mean(0), (gradients**2).mean(0), np.diag(gradients @ gradients.T)
    second = np.array([0.5, 1.0, 2.0, 3.0])
    seen = snapshot(problem, method=method, second={"weight": torch.from_numpy(second)[None]})
    np.testing.assert_allclose(seen.moments.mean["weight"][0], mean, **EXACT)
    np.testing.assert_allclose(seen.moments.square["weight"][0], square, **EXACT)
    np.testing.assert_allclose(seen.moments.sq_norms, norms, **EXACT)
    covariance = np.cov(gradients.T, bias=True)
    for term, expected in (
        (implicit.sgd, np.trace(gradients.T @ gradients) / len(sizes)),
        (implicit.full_batch, mean @ mean),
        (implicit.minibatch_variance, np.trace(covariance)),
        (implicit.rmsprop, sum(g @ np.diag(second**2) @ g for g in gradients) / len(sizes)),
    ):
        assert float(term(seen)) == pytest.approx(RATE / 4 * expected, rel=EXACT["rtol"], abs=0), term.__name__
    # Xᵀ(Xω − y)/N over all examples: ḡ for equal minibatches, and for those only.
    x, y = np.concatenate(inputs), np.concatenate(targets)
    assert np.allclose(mean, x.T @ (x @ weights - y) / len(y), rtol=1e-3) == (len(set(sizes)) == 1)


@pytest.mark.parametrize(
    ("multiple", "expected"),
    [(1.0, 2), (0.0, 1), (2.0, 1), (-1.0, 1)],
    ids=["modified flow", "plain flow", "twice the constant", "wrong sign"],
)
def test_descent_on_a_quadratic_follows_the_modified_flow(multiple, expected):
    # On C with Hessian H, the flow of C + a‖∇C‖² is ω(t) = ω* + exp(−(H + 2a H²) t) (ω₀ − ω*): no solver is needed.
    # Over a fixed time the step's errors add up, so each order is one less than for a single step.
    problem, inputs, targets, start = regression((5, 5, 5))
    x, y = np.concatenate(inputs), np.concatenate(targets)
    hessian, minimum = x.T @ x / len(y), np.linalg.lstsq(x, y, rcond=None)[0]
    slope = hessian @ (start - minimum)
    loss = functional_loss(problem.module, problem.criterion)
    duration, rates, errors = 1.0, [2.0**-k for k in range(4, 9)], []
    for rate in rates:
        constant = multiple * float(implicit.full_batch(snapshot(problem, rate=rate))) / (slope @ slope)
        params = detached_parameters(problem.module)
        for _ in range(round(duration / rate)):
            mean = gradient_moments(loss, params, problem.batches).mean
            params = {name: value - rate * mean[name] for name, value in params.items()}
        flow = minimum + expm(-(hessian + 2 * constant * hessian @ hessian) * duration) @ (start - minimum)
        errors.append(np.linalg.norm(params["weight"].numpy()[0] - flow))
    assert np.polyfit(np.log(rates), np.log(errors), 1)[0] == pytest.approx(expected, abs=0.15)


@pytest.mark.parametrize("scale", [1.0, 1e-25])
@pytest.mark.parametrize("name", ["exact", "sample", "drawn"])
def test_the_mean_square_of_a_product_is_its_definition(name, scale):
    """(1/m) Σ ‖f ⊙ g_k‖² by plain loops, also where squares leave the range of single precision."""
    rows = torch.randn(4, 3, generator=torch.Generator().manual_seed(0))

    def loss(params, batch):
        return params["w"] @ batch  # g_k is the minibatch

    params, factor, batches = {"w": torch.ones(3)}, {"w": scale * torch.tensor([0.5, -2.0, 3.0])}, list(rows)
    values = [sum(float(f * g) ** 2 for f, g in zip(factor["w"].double(), row.double(), strict=True)) for row in rows]
    expected = [sum(values) / 4]
    if name == "exact":
        moments = gradient_moments(loss, params, batches, method="loop")
    elif name == "drawn":
        moments = drawn_moments(loss, params, batches)
    else:
        moments = sampled_gradients(loss, params, batches, 8, method="loop")
        expected += [(sum(values) - one) / 3 for one in values]  # without one of each
    found = moments.mean_square_of_product(factor)
    assert found.reshape(-1).tolist() == pytest.approx(expected, rel=1e-5, abs=0)
