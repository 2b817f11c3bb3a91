import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

from ireg.core import moments as moments_module
from ireg.core.functional import detached_parameters, functional_loss
from ireg.core.moments import METHODS, gradient_moments, inner_product, squared_norm
from tests import reference
from tests.cases import EXACT, IDS, SINGLE, problems

METHOD_NAMES = [*METHODS, "auto"]


@pytest.mark.parametrize("method", METHOD_NAMES)
@pytest.mark.parametrize("problem", problems(), ids=IDS)
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
def test_chunk_size_does_not_matter(chunk_size):
    problem = problems()[1]
    loss, params = functional_loss(problem.module, problem.criterion), detached_parameters(problem.module)
    expected = gradient_moments(loss, params, problem.batches, method="loop")
    actual = gradient_moments(loss, params, problem.batches, method="vmap", chunk_size=chunk_size)
    assert_close(actual.square, expected.square, **EXACT)
    assert_close(actual.sq_norms, expected.sq_norms, **EXACT)


def test_vmap_holds_as_many_minibatches_as_fit_into_its_memory(monkeypatch):
    problem = problems()[2]
    loss, params = functional_loss(problem.module, problem.criterion), detached_parameters(problem.module)
    bytes_each = sum(value.numel() * value.element_size() for value in params.values())
    sizes = []
    for room in (0, 2, 100):
        monkeypatch.setattr(moments_module, "VMAP_MEMORY", room * bytes_each)
        chunks = moments_module._vmap(loss, params, problem.batches, None)
        sizes.append([len(next(iter(chunk.values()))) for chunk in chunks])
    assert sizes == [[1, 1, 1], [2, 1], [3]]


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


@pytest.mark.parametrize("problem", problems(), ids=IDS)
@pytest.mark.parametrize("method", METHODS)
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
        ({"method": "magic"}, "method='magic': unknown; choose one of auto, loop, vmap"),
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
