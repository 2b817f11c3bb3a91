"""Each term against its definition, computed over a plain list of gradients."""

import copy
from dataclasses import replace
from functools import partial

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from ireg.core.functional import detached_parameters, functional_loss
from ireg.core.moments.needs import Need
from ireg.core.moving import moving_parameters
from ireg.core.optimizers import view
from ireg.core.random import named_generator
from ireg.core.snapshot import Snapshot
from ireg.terms import implicit, norm, theory
from ireg.terms import own as own_terms
from tests import reference
from tests.cases import EXACT, IDS, problems

LR = 0.25


def snapshot(problem, optimizer_class=torch.optim.SGD, steps=0, method="auto", **arguments):
    """A snapshot after `steps` steps on the first minibatch."""
    module = problem.module
    initial = {name: value.clone() for name, value in detached_parameters(module).items()}
    optimizer = optimizer_class(module.parameters(), lr=LR, **arguments)
    for _ in range(steps):
        optimizer.zero_grad()
        problem.criterion(module(problem.batches[0][0]), problem.batches[0][1]).backward()
        optimizer.step()
    loss = functional_loss(module, problem.criterion)
    return Snapshot(
        params=detached_parameters(module),
        initial=initial,
        loss=loss,
        batches=problem.batches,
        optimizer=view(optimizer, moving_parameters(optimizer, dict(module.named_parameters()), loss, problem.batches)),
        generator=named_generator("terms", 0),
        method=method,
    )


# The rule of the optimizer in the test below: RMSprop as torch makes it, with its ε not to be overlooked.
ARGUMENTS = {"alpha": 0.9, "eps": 0.1, "momentum": 0.5, "weight_decay": 0.2}
RULE = reference.Rule(rate=2 * LR, lag=1.0, tail=(1.0, 0.5), rho=0.9, eps=0.1, steps=10.5, decay=0.2)


def own(gradients, seen):
    scale = {name: 1 / (value.sqrt() + RULE.eps) for name, value in seen.optimizer.second_moment.items()}
    return reference.own(gradients, RULE, seen.params, scale)


def flow_number(number, *parts):
    """A number of the mean flow, of the sum of some of its parts."""

    def value(gradients, seen):
        module, criterion = seen.loss.module, seen.loss.criterion
        dense = reference.dense(module, criterion, seen.batches, RULE.decay, seen.optimizer.moving)
        flow = reference.mean_flow(*dense, RULE)
        # What no minibatch depends on is out of it: 0/0 in the formulas as printed.
        flow = {name: vector.nan_to_num(0.0, 0.0, 0.0) for name, vector in flow.items()}
        return number(flow, sum(flow[part] for part in parts))

    return value


# Term, and its value from the gradients of the minibatches and the snapshot, at every problem.
DEFINITIONS = {
    "ireg/sgd": (implicit.sgd, lambda gradients, seen: reference.sgd(gradients, LR)),
    "ireg/full_batch": (implicit.full_batch, lambda gradients, seen: reference.full_batch(gradients, LR)),
    "ireg/minibatch_variance": (
        implicit.minibatch_variance,
        lambda gradients, seen: reference.minibatch_variance(gradients, LR),
    ),
    "ireg/rmsprop": (
        implicit.rmsprop,
        lambda gradients, seen: reference.rmsprop(gradients, LR, seen.optimizer.second_moment),
    ),
    "ireg/own": (own_terms.own, lambda gradients, seen: sum(own(gradients, seen))),
    "ireg/own_full_batch": (own_terms.own_full_batch, lambda gradients, seen: own(gradients, seen)[0]),
    "ireg/own_variance": (own_terms.own_variance, lambda gradients, seen: own(gradients, seen)[1]),
    "ireg/strength": (partial(theory.strength, part="whole"), flow_number(reference.strength, "M", "V", "F")),
    "ireg/strength_memory": (partial(theory.strength, part="memory"), flow_number(reference.strength, "M")),
    "ireg/strength_lag": (partial(theory.strength, part="lag"), flow_number(reference.strength, "V")),
    "ireg/strength_fluctuation": (partial(theory.strength, part="fluctuation"), flow_number(reference.strength, "F")),
    "ireg/alignment": (partial(theory.alignment, part="whole"), flow_number(reference.alignment, "M", "V", "F")),
    "ireg/alignment_memory": (partial(theory.alignment, part="memory"), flow_number(reference.alignment, "M")),
    "ireg/alignment_lag": (partial(theory.alignment, part="lag"), flow_number(reference.alignment, "V")),
    "ireg/alignment_fluctuation": (
        partial(theory.alignment, part="fluctuation"),
        flow_number(reference.alignment, "F"),
    ),
    "norm/l2": (norm.l2, lambda gradients, seen: reference.l2(seen.params)),
    "norm/distance": (norm.distance, lambda gradients, seen: reference.distance(seen.params, seen.initial)),
}


@pytest.mark.parametrize("method", ["loop", "vmap"])
@pytest.mark.parametrize("tag", DEFINITIONS)
@pytest.mark.parametrize("problem", problems(), ids=IDS)
def test_term_equals_its_definition(problem, tag, method):
    problem = replace(problem, module=copy.deepcopy(problem.module))  # the steps must not reach the next test
    seen = snapshot(problem, torch.optim.RMSprop, steps=2, method=method, **ARGUMENTS)
    gradients = [
        {name: gradient[name] for name in seen.optimizer.moving}
        for gradient in reference.minibatch_gradients(problem.module, problem.criterion, problem.batches)
    ]
    term, expected = DEFINITIONS[tag]
    actual = term(seen)
    if tag.endswith("_fluctuation") and len(problem.batches) == 1:
        assert actual is None  # a single minibatch does not fluctuate
        return
    assert actual.ndim == 0
    assert_close(float(actual), expected(gradients, seen), **EXACT)
    if tag not in ("ireg/minibatch_variance", "ireg/own_variance") or len(problem.batches) > 1:
        assert float(actual) != 0  # no two empty sums that agree


@pytest.mark.parametrize("problem", problems(), ids=IDS)
def test_equation_1_is_the_sum_of_the_parts_of_equation_2(problem):
    seen = snapshot(problem)
    assert_close(implicit.sgd(seen), implicit.full_batch(seen) + implicit.minibatch_variance(seen), **EXACT)


def test_the_full_batch_has_no_variance():
    (problem,) = (problem for problem in problems() if len(problem.batches) == 1)
    seen = snapshot(problem)
    assert float(implicit.minibatch_variance(seen)) == 0.0
    assert float(implicit.sgd(seen)) == float(implicit.full_batch(seen)) > 0


def test_equal_minibatches_have_no_variance():
    problem = problems()[1]
    problem.batches[:] = [problem.batches[0]] * 4
    seen = snapshot(problem)
    assert float(implicit.minibatch_variance(seen)) == pytest.approx(0.0, abs=1e-15)
    assert float(implicit.full_batch(seen)) > 1e-4


def test_scaling_the_loss_scales_the_terms_by_its_square():
    problem = problems()[1]
    plain = snapshot(problem)
    scaled = Snapshot(**{**vars(plain), "loss": lambda params, batch: 3.0 * plain.loss(params, batch)})
    for term in (implicit.sgd, implicit.full_batch, implicit.minibatch_variance):
        assert_close(term(scaled), 9.0 * term(plain), **EXACT)


def test_closed_form_of_linear_regression():
    # One weight, C_k = (x_k w − y_k)²/2: g_k = x_k (x_k w − y_k).
    module = nn.Linear(1, 1, bias=False).double()
    module.weight.data.fill_(2.0)
    batches = [(torch.tensor([[x]]).double(), torch.tensor([[y]]).double()) for x, y in ((1.0, 1.0), (3.0, 5.0))]
    problem = problems()[0].__class__("line", module, lambda out, y: ((out - y) ** 2).mean() / 2, batches)
    seen = snapshot(problem)  # gradients 1·(2 − 1) = 1 and 3·(6 − 5) = 3
    assert float(implicit.sgd(seen)) == pytest.approx(LR / 4 * (1 + 9) / 2)
    assert float(implicit.full_batch(seen)) == pytest.approx(LR / 4 * 2**2)
    assert float(implicit.minibatch_variance(seen)) == pytest.approx(LR / 4 * 1.0)
    assert float(norm.l2(seen)) == 2.0
    assert float(norm.distance(seen)) == 0.0


@pytest.mark.parametrize(
    ("optimizer_class", "arguments"), [(torch.optim.SGD, {}), (torch.optim.SGD, {"momentum": 0.9})]
)
def test_the_adaptive_term_exists_for_adaptive_optimizers_only(optimizer_class, arguments):
    assert implicit.rmsprop(snapshot(problems()[1], optimizer_class, steps=2, **arguments)) is None


@pytest.mark.parametrize("name", ["RMSprop", "Adagrad", "Adam", "AdamW"])
def test_the_adaptive_term_is_zero_before_the_first_step(name):
    optimizer_class = getattr(torch.optim, name)
    assert float(implicit.rmsprop(snapshot(problems()[1], optimizer_class))) == 0.0
    assert float(implicit.rmsprop(snapshot(problems()[1], optimizer_class, steps=1))) > 0


@pytest.mark.parametrize("size", [1e-9, 1e-5, 1.0, 1e3])
def test_the_adaptive_term_of_small_and_large_gradients_in_single_precision(size):
    problem = problems()[1]
    problem = replace(problem, criterion=lambda outputs, targets: size * problems()[1].criterion(outputs, targets))
    expected = implicit.rmsprop(snapshot(problem, torch.optim.RMSprop, steps=1))
    single = replace(
        problem,
        module=problems()[1].module.float(),
        batches=[(inputs.float(), targets) for inputs, targets in problem.batches],
    )
    actual = implicit.rmsprop(snapshot(single, torch.optim.RMSprop, steps=1))
    assert float(actual) == pytest.approx(float(expected), rel=1e-5, abs=0)  # six factors of seven digits each


def test_ten_terms_share_one_pass(monkeypatch):
    passes = []
    from ireg.core import snapshot as module

    original = module.gradient_moments
    monkeypatch.setattr(module, "gradient_moments", lambda *a, **k: passes.append(1) or original(*a, **k))
    seen = snapshot(problems()[1], torch.optim.Adam, steps=1)
    for term, _ in DEFINITIONS.values():
        term(seen)
    assert passes == [1]


@pytest.mark.parametrize("problem", problems(), ids=IDS)
def test_own_of_sgd_is_equation_1(problem):
    seen = snapshot(problem)
    assert float(own_terms.own(seen)) == pytest.approx(float(implicit.sgd(seen)), rel=4e-16, abs=0)
    assert float(own_terms.own_full_batch(seen)) == float(implicit.full_batch(seen))
    assert float(own_terms.own_variance(seen)) == float(implicit.minibatch_variance(seen))


@pytest.mark.parametrize("name", ["RMSprop", "Adagrad", "Adam", "AdamW"])
def test_own_of_an_adaptive_optimizer_begins_with_its_first_step(name):
    optimizer_class = getattr(torch.optim, name)
    for term in (own_terms.own, own_terms.own_full_batch, own_terms.own_variance):
        before, after = (snapshot(problems()[1], optimizer_class, steps=steps) for steps in (0, 1))
        assert term(before) is None
        assert float(term(after)) > 0
        assert not term.needs(before.optimizer)  # nothing is computed for nothing
        assert term.needs(after.optimizer) == Need.SQUARE | Need.MEAN


def test_sgd_has_no_lag_and_no_fluctuation_and_its_alignment_is_1():
    seen = snapshot(problems()[1])
    for part in ("lag", "fluctuation"):
        assert theory.strength(seen, part=part) is None
        assert theory.alignment(seen, part=part) is None
    for part in ("whole", "memory"):
        assert float(theory.alignment(seen, part=part)) == pytest.approx(1, abs=1e-14)


def test_memory_alone_leaves_the_direction_of_sgd():
    assert 0 < float(theory.alignment(snapshot(problems()[1], momentum=0.9))) < 0.999


def test_unknown_parts_are_refused():
    for term in (theory.strength, theory.alignment):
        with pytest.raises(ValueError, match="part='all': unknown; choose one of whole, memory, lag, fluctuation"):
            term(snapshot(problems()[1]), part="all")


def test_strength_needs_second_moments_for_adaptive_optimizers_only():
    assert theory.strength.needs(snapshot(problems()[1]).optimizer) == Need.MEAN
    assert theory.strength.needs(snapshot(problems()[1], torch.optim.Adam).optimizer) == Need.MEAN | Need.SQUARE
