"""The mean flow against its formulas as printed, from dense Hessians; what it means is certified in tests/certify."""

import copy
from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy
from torch.testing import assert_close

from ireg.core.functional import detached_parameters, functional_loss
from ireg.core.mean_flow import mean_flow
from ireg.core.moments import gradient_moments
from ireg.core.optimizers import view
from tests import reference
from tests.cases import EXACT, SINGLE, problems
from tests.reference import flat

ETA, DECAY = 0.05, 0.3
OPTIMIZERS = {
    "sgd": (torch.optim.SGD, {}),
    "momentum": (torch.optim.SGD, {"momentum": 0.8, "dampening": 0.25}),
    "nesterov": (torch.optim.SGD, {"momentum": 0.8, "nesterov": True}),
    "sgd with decay": (torch.optim.SGD, {"weight_decay": DECAY}),
    "momentum with decay": (torch.optim.SGD, {"momentum": 0.8, "weight_decay": DECAY}),
    "rmsprop": (torch.optim.RMSprop, {"alpha": 0.9, "eps": 1e-2}),
    "rmsprop with momentum": (torch.optim.RMSprop, {"alpha": 0.9, "eps": 1e-2, "momentum": 0.5}),
    "rmsprop with decay": (torch.optim.RMSprop, {"alpha": 0.9, "eps": 1e-2, "weight_decay": DECAY}),
    "adam": (torch.optim.Adam, {"betas": (0.8, 0.95), "eps": 1e-3}),
    "adam with decay": (torch.optim.Adam, {"betas": (0.8, 0.95), "eps": 1e-3, "weight_decay": DECAY}),
    "adamw": (torch.optim.AdamW, {"betas": (0.8, 0.95), "eps": 1e-3, "weight_decay": DECAY}),
}
# As the update rules say, see docs/theory.md.
ADAM = reference.Rule(rate=ETA, lag=4.0, tail=(1.0, 0.8), rho=0.95, eps=1e-3, beta=0.8, steps=19.5)
RMSPROP = reference.Rule(rate=ETA, rho=0.9, eps=1e-2, steps=9.5)
RULES = {
    "sgd": reference.Rule(rate=ETA),
    "momentum": reference.Rule(rate=ETA * 0.75 / 0.2, lag=4.0, tail=(1.0, 0.8)),
    "nesterov": reference.Rule(rate=ETA / 0.2, lag=0.64 / 0.2, tail=(0.8, 0.8)),
    "sgd with decay": reference.Rule(rate=ETA, decay=DECAY),
    "momentum with decay": reference.Rule(rate=ETA / 0.2, lag=4.0, tail=(1.0, 0.8), decay=DECAY),
    "rmsprop": RMSPROP,
    "rmsprop with momentum": replace(RMSPROP, rate=2 * ETA, lag=1.0, tail=(1.0, 0.5), steps=10.5),
    "rmsprop with decay": replace(RMSPROP, decay=DECAY),
    "adam": ADAM,
    "adam with decay": replace(ADAM, decay=DECAY),
    "adamw": replace(ADAM, decoupled=DECAY),
}


def smooth_problem():
    """A network whose Hessians are not zero, three minibatches of two sizes."""
    generator = torch.Generator().manual_seed(5)
    with torch.random.fork_rng():
        torch.manual_seed(6)
        module = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)).double()
    batches = [
        (torch.randn(size, 3, generator=generator, dtype=torch.float64), torch.randint(2, (size,), generator=generator))
        for size in (4, 4, 3)
    ]
    return module, batches


def flow_of(module, criterion, batches, optimizer_class, arguments, **moment_arguments):
    loss, params = functional_loss(module, criterion), detached_parameters(module)
    seen = view(optimizer_class(module.parameters(), lr=ETA, **arguments), dict(module.named_parameters()))
    moments = gradient_moments(loss, params, batches, **moment_arguments)
    return mean_flow(loss, params, batches, seen, moments)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_against_the_printed_formulas(name):
    module, batches = smooth_problem()
    flow = flow_of(module, cross_entropy, batches, *OPTIMIZERS[name])
    printed = reference.mean_flow(*reference.dense(module, cross_entropy, batches, RULES[name].decay), RULES[name])
    computed = (flow.leading, flow.memory, flow.lag, flow.fluctuation, flow.squares_gradient)
    for actual, expected in zip(computed, printed.values(), strict=True):
        assert (actual is None) == (expected is None)
        if expected is not None:
            assert_close(flat(actual), expected, **EXACT)
            assert float(expected.abs().max()) > 1e-6  # no two zeros that agree
    whole = sum(part for part in (printed["M"], printed["V"], printed["F"]) if part is not None)
    assert_close(flat(flow.correction), whole, **EXACT)


def test_of_sgd_is_a_quarter_of_the_rate_times_the_gradient_of_the_squares():
    module, batches = smooth_problem()
    flow = flow_of(module, cross_entropy, batches, torch.optim.SGD, {})
    assert_close(flat(flow.correction), ETA / 4 * flat(flow.squares_gradient), **EXACT)


@pytest.mark.parametrize("name", ["momentum", "adam"])
def test_in_single_precision(name):
    module, batches = smooth_problem()
    exact = flow_of(module, cross_entropy, batches, *OPTIMIZERS[name])
    single = [(inputs.float(), targets) for inputs, targets in batches]
    rough = flow_of(copy.deepcopy(module).float(), cross_entropy, single, *OPTIMIZERS[name])
    assert_close(flat(rough.correction).double(), flat(exact.correction), **SINGLE)


@pytest.mark.parametrize("scale", [1e-14, 1e14])
def test_single_precision_survives_small_and_large_gradients(scale):
    # Fourth powers of such gradients are outside of float32; what they are divided by scales them back.
    module, batches = smooth_problem()
    arguments = {"betas": (0.8, 0.95), "eps": 0.0}
    exact = flow_of(module, cross_entropy, batches, torch.optim.Adam, arguments)
    single = [(inputs.float(), targets) for inputs, targets in batches]

    def scaled(outputs, targets):
        return scale * cross_entropy(outputs, targets)

    rough = flow_of(copy.deepcopy(module).float(), scaled, single, torch.optim.Adam, arguments)
    # With ε = 0 Adam does not see the scale.
    assert_close(flat(rough.correction).double(), flat(exact.correction), rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("problem", problems(), ids=[problem.name for problem in problems()])
def test_every_kind_of_model(problem):
    # Linear layers alone, convolutions, shared and unused parameters, one minibatch.
    flow = flow_of(problem.module, problem.criterion, problem.batches, *OPTIMIZERS["rmsprop"])
    printed = reference.mean_flow(*reference.dense(problem.module, problem.criterion, problem.batches), RMSPROP)
    assert_close(flat(flow.squares_gradient), printed["∇Q"], **EXACT)
    parts = [part for part in (flow.leading, flow.memory, flow.lag, flow.fluctuation) if part is not None]
    for part in parts:
        assert all(value.isfinite().all() for value in part.values())
    if problem.name == "unused parameter":
        assert not any(part["unused"].any() for part in parts)


def test_a_loss_linear_in_its_parameters_has_no_correction_of_the_step():
    module = nn.Linear(2, 1, bias=False).double()
    batches = [(torch.ones(1, 2).double(), torch.zeros(1)), (torch.full((1, 2), 3.0).double(), torch.zeros(1))]
    flow = flow_of(module, lambda outputs, _: outputs.mean(), batches, *OPTIMIZERS["rmsprop"])
    assert not flat(flow.memory).any()
    assert not flat(flow.lag).any()
    assert flat(flow.fluctuation).abs().min() > 0


def test_a_single_minibatch_does_not_fluctuate():
    module, batches = smooth_problem()
    flow = flow_of(module, cross_entropy, batches[:1], *OPTIMIZERS["adam"])
    assert flow.fluctuation is None
    printed = reference.mean_flow(*reference.dense(module, cross_entropy, batches[:1]), ADAM)
    assert float(printed["F"].abs().max()) < 1e-15
    assert_close(flat(flow.correction), printed["M"] + printed["V"], **EXACT)


def test_nothing_is_changed():
    module, batches = smooth_problem()
    before = copy.deepcopy(module.state_dict())
    flow_of(module, cross_entropy, batches, *OPTIMIZERS["adam"])
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())
    assert all(parameter.grad is None for parameter in module.parameters())


@pytest.mark.parametrize(
    ("optimizer_class", "arguments", "kind"),
    [
        (torch.optim.Adagrad, {}, "adagrad"),
        (torch.optim.Adam, {"amsgrad": True}, "adam"),
        (torch.optim.RMSprop, {"centered": True}, "rmsprop"),
        (torch.optim.RMSprop, {"alpha": 1.0}, "rmsprop"),
    ],
)
def test_second_moments_that_are_no_fading_mean_are_refused(optimizer_class, arguments, kind):
    module = nn.Linear(1, 1)
    optimizer = optimizer_class(module.parameters(), lr=0.1, **arguments)
    with pytest.raises(ValueError, match=f"^{kind}: its mean flow is known only where"):
        _ = view(optimizer, dict(module.named_parameters())).divides_by
