import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

from ireg.core.batches import stacks
from ireg.core.functional import detached_parameters, functional_loss
from ireg.core.moments import METHODS, gradient_moments, linear
from ireg.core.moments import vmap as vmap_module
from ireg.core.moments.needs import EVERYTHING, NOTHING, Need
from ireg.core.moments.sensitivities import Buffers, sensitivities
from ireg.core.moments.sums import MomentSums, add_up
from ireg.core.params import inner_product, squared_norm
from tests import reference
from tests.cases import EXACT, SINGLE, problems

METHOD_NAMES = [*METHODS, "auto"]
LAYERWISE = ("ghost", "layers")
NO_STACKS = (
    "cnn",
    "shared weights",
    "unused parameter",
    "a parameter of one number",
)  # what the layerwise ways cannot serve


NO_KINDS = ("unused parameter", "a parameter of one number")  # what is in no layer of a known kind


def pairs():
    """Problems and the methods that can serve them."""
    return [
        pytest.param(problem, method, id=f"{problem.name}-{method}")
        for problem in problems()
        for method in METHOD_NAMES
        if not (method in LAYERWISE and problem.name in NO_STACKS)
        and not (method == "hooks" and problem.name in NO_KINDS)
    ]


def moments_of(problem, **arguments):
    loss = functional_loss(problem.module, problem.criterion)
    return gradient_moments(loss, detached_parameters(problem.module), problem.batches, **arguments)


@pytest.mark.parametrize(("problem", "method"), pairs())
def test_moments_agree_with_a_loop_over_backward(problem, method):
    expected = reference.minibatch_gradients(problem.module, problem.criterion, problem.batches)
    loss = functional_loss(problem.module, problem.criterion)
    actual = gradient_moments(loss, detached_parameters(problem.module), problem.batches, method=method)
    assert_close(actual.mean, reference.mean(expected), **EXACT)
    assert_close(actual.square, reference.mean_square(expected), **EXACT)
    norms = torch.tensor([reference.squared_norm(gradient) for gradient in expected], dtype=torch.float64)
    assert_close(actual.sq_norms, norms, **EXACT)
    assert_close(actual.sq_norm_mean, norms.mean(), **EXACT)
    assert actual.num_batches == len(problem.batches)


@pytest.mark.parametrize("method", METHODS)
def test_float32_as_in_training_is_close_to_float64(method):
    problem = problems()[1]
    expected = reference.minibatch_gradients(problem.module, problem.criterion, problem.batches)
    module = problem.module.float()
    batches = [(inputs.float(), targets) for inputs, targets in problem.batches]
    actual = gradient_moments(
        functional_loss(module, problem.criterion), detached_parameters(module), batches, method=method
    )
    assert actual.sq_norms.dtype == torch.float32
    assert_close(actual.sq_norm_mean.double(), torch.tensor(_mean_norm(expected), dtype=torch.float64), **SINGLE)


def _mean_norm(gradients):
    return sum(reference.squared_norm(gradient) for gradient in gradients) / len(gradients)


@pytest.mark.parametrize("chunk_size", [1, 2, 3, 100])
@pytest.mark.parametrize("method", [method for method in METHODS if method != "loop"])
def test_chunk_size_does_not_matter(method, chunk_size):
    problem = problems()[1]
    expected = moments_of(problem, method="loop")
    actual = moments_of(problem, method=method, chunk_size=chunk_size)
    assert_close(actual.square, expected.square, **EXACT)
    assert_close(actual.sq_norms, expected.sq_norms, **EXACT)


def test_vmap_holds_as_many_minibatches_as_fit_into_its_memory(monkeypatch):
    problem = problems()[2]
    parameters = sum(value.numel() for value in problem.module.parameters())
    # Inputs (4, 5), hidden values after the ReLU (4, 7), log-probabilities (4, 3), targets (4,), and the mean's weight.
    kept = 4 * 5 + 4 * 7 + 4 * 3 + 4 + 1
    bytes_each = 8 * parameters + int(2.5 * 8 * kept)
    sizes = []
    original = vmap_module.stacks
    monkeypatch.setattr(vmap_module, "stacks", lambda batches, size: sizes.append(size) or original(batches, size))
    for room in (0, 2, 100):
        monkeypatch.setattr(vmap_module, "VMAP_MEMORY", room * bytes_each)
        moments_of(problem, method="vmap")
    assert sizes == [1, 2, 100]


@pytest.mark.parametrize("examples", [0, 8, 1000])
@pytest.mark.parametrize("method", LAYERWISE)
def test_examples_at_once_do_not_matter(monkeypatch, method, examples):
    problem = problems()[1]
    expected = moments_of(problem, method="loop")
    monkeypatch.setattr(linear, "EXAMPLES_AT_ONCE", examples)
    assert_close(moments_of(problem, method=method).mean, expected.mean, **EXACT)


@pytest.mark.parametrize("memory", [0, 200, 2**20])
def test_gradients_formed_at_once_do_not_matter(memory):
    """On an accelerator several minibatches' gradients are formed at once: the same sums."""
    problem = problems()[2]
    loss, params = functional_loss(problem.module, problem.criterion), detached_parameters(problem.module)
    sums = MomentSums(params=params, needs=EVERYTHING)
    ((inputs, targets),) = stacks(problem.batches, 3)
    leaves = linear._leaves(problem.module)
    losses, outputs, layers = sensitivities(loss, leaves, params, inputs, targets, Buffers())
    norms = [part for layer in layers for part in linear._add_layer(layer, sums, memory)]
    sums.add_minibatches(losses, outputs, add_up(norms))
    actual, expected = sums.moments("layers"), moments_of(problem, method="loop")
    assert_close(actual.square, expected.square, **EXACT)
    assert_close(actual.mean, expected.mean, **EXACT)
    assert_close(actual.sq_norms, expected.sq_norms, **EXACT)


@pytest.mark.parametrize(
    "needs",
    [
        Need.SQ_NORMS,
        Need.MEAN,
        Need.SQUARE,
        Need.SQ_NORMS | Need.MEAN,
        Need.SQ_NORMS | Need.SQUARE,
        Need.MEAN | Need.SQUARE,
        NOTHING,
    ],
)
@pytest.mark.parametrize("method", METHODS)
def test_only_what_is_needed_is_computed(method, needs):
    problem = problems()[1]
    everything, actual = moments_of(problem, method="loop"), moments_of(problem, method=method, needs=needs)
    assert_close(actual.losses, everything.losses, **EXACT)
    assert (actual.needs, actual.method, actual.num_batches) == (needs, method, 4)
    for need, name in ((Need.SQ_NORMS, "sq_norms"), (Need.MEAN, "mean"), (Need.SQUARE, "square")):
        if need in needs:
            assert_close(getattr(actual, name), getattr(everything, name), **EXACT)
        else:
            with pytest.raises(ValueError, match=rf"{need.name} was not computed: .* by @needs\(Need.{need.name}\)"):
                getattr(actual, name)


@pytest.mark.parametrize(("problem", "method"), pairs())
def test_an_observer_sees_the_outputs_of_each_minibatch_in_their_order(problem, method):
    seen = []

    def observe(first, outputs):
        assert first == len(seen)
        assert not outputs.requires_grad
        seen.extend(outputs)

    moments_of(problem, method=method, observer=observe)
    with torch.no_grad():
        for outputs, (inputs, _) in zip(seen, problem.batches, strict=True):
            assert_close(outputs, problem.module(inputs), **EXACT)


def test_a_bare_function_is_served_too_but_has_no_outputs():
    problem = problems()[1]
    loss, params = functional_loss(problem.module, problem.criterion), detached_parameters(problem.module)
    expected = moments_of(problem)

    def bare(params, batch):
        return loss(params, batch)

    for method in ("loop", "vmap", "auto"):
        assert_close(gradient_moments(bare, params, problem.batches, method=method).mean, expected.mean, **EXACT)
        with pytest.raises(ValueError, match="the loss gives no outputs to observe: make it with functional_loss"):
            gradient_moments(bare, params, problem.batches, method=method, observer=lambda first, outputs: None)
    for method in LAYERWISE:
        with pytest.raises(ValueError, match="ghost and layers need a loss made by functional_loss"):
            gradient_moments(bare, params, problem.batches, method=method)


@settings(max_examples=20, deadline=None)
@given(order=st.permutations(range(4)))
def test_order_of_minibatches_does_not_matter(order):
    problem = problems()[1]
    loss, params = functional_loss(problem.module, problem.criterion), detached_parameters(problem.module)
    expected = gradient_moments(loss, params, problem.batches)
    actual = gradient_moments(loss, params, [problem.batches[k] for k in order])
    assert_close(actual.mean, expected.mean, **EXACT)
    assert_close(actual.square, expected.square, **EXACT)
    assert_close(actual.sq_norms, expected.sq_norms[list(order)], **EXACT)


@pytest.mark.parametrize(("problem", "method"), pairs())
def test_measuring_leaves_everything_as_it_is(problem, method):
    parameters = list(problem.module.parameters())
    for parameter in problem.module.parameters():
        parameter.grad = torch.full_like(parameter, 7.0)
    before = {name: value.clone() for name, value in problem.module.state_dict().items()}
    state = torch.get_rng_state()
    gradient_moments(
        functional_loss(problem.module, problem.criterion),
        detached_parameters(problem.module),
        problem.batches,
        method=method,
    )
    assert torch.equal(torch.get_rng_state(), state)
    assert [id(parameter) for parameter in problem.module.parameters()] == [id(parameter) for parameter in parameters]
    assert all(torch.equal(value, before[name]) for name, value in problem.module.state_dict().items())
    assert all((parameter.grad == 7.0).all() and parameter.requires_grad for parameter in problem.module.parameters())


def test_gradients_are_taken_even_where_autograd_is_off():
    problem = problems()[0]
    loss, params = functional_loss(problem.module, problem.criterion), detached_parameters(problem.module)
    expected = gradient_moments(loss, params, problem.batches)
    with torch.no_grad():
        for method in METHODS:
            assert_close(gradient_moments(loss, params, problem.batches, method=method).mean, expected.mean, **EXACT)


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"batches": []}, "at least one minibatch, got none"),
        ({"method": "magic"}, "method='magic': unknown; choose one of auto, backward, hooks, ghost, layers, loop, "),
        ({"chunk_size": 0}, "chunk_size=0: must be at least 1"),
    ],
)
def test_errors(arguments, match):
    problem = problems()[0]
    loss, params = functional_loss(problem.module, problem.criterion), detached_parameters(problem.module)
    with pytest.raises(ValueError, match=match):
        gradient_moments(loss, params, **({"batches": problem.batches} | arguments))


def test_inner_product_and_squared_norm():
    left = {"a": torch.tensor([[1.0, 2.0]]), "b": torch.tensor(3.0)}
    right = {"b": torch.tensor(5.0), "a": torch.tensor([[7.0, -1.0]])}
    assert inner_product(left, right) == 7 - 2 + 15
    assert squared_norm(left) == 14
    with pytest.raises(KeyError):
        inner_product(left, {"a": left["a"]})
