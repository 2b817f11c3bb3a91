"""The mean flow against its formulas as printed, from dense Hessians; what it means is certified in tests/certify."""

import copy

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy
from torch.testing import assert_close

from ireg.core.functional import detached_parameters, functional_loss
from ireg.core.mean_flow import mean_flow, second_moment
from ireg.core.memory import overlap
from ireg.core.moments import gradient_moments
from ireg.core.optimizer_view import view
from tests.cases import EXACT, SINGLE, problems

ETA, DECAY = 0.05, 0.3
OPTIMIZERS = {
    "sgd": (torch.optim.SGD, {}),
    "momentum": (torch.optim.SGD, {"momentum": 0.8, "dampening": 0.25}),
    "nesterov": (torch.optim.SGD, {"momentum": 0.8, "nesterov": True}),
    "sgd with decay": (torch.optim.SGD, {"weight_decay": DECAY}),
    "rmsprop": (torch.optim.RMSprop, {"alpha": 0.9, "eps": 1e-2}),
    "rmsprop with momentum": (torch.optim.RMSprop, {"alpha": 0.9, "eps": 1e-2, "momentum": 0.5}),
    "rmsprop with decay": (torch.optim.RMSprop, {"alpha": 0.9, "eps": 1e-2, "weight_decay": DECAY}),
    "adam": (torch.optim.Adam, {"betas": (0.8, 0.95), "eps": 1e-3}),
    "adam with decay": (torch.optim.Adam, {"betas": (0.8, 0.95), "eps": 1e-3, "weight_decay": DECAY}),
    "adamw": (torch.optim.AdamW, {"betas": (0.8, 0.95), "eps": 1e-3, "weight_decay": DECAY}),
}
# As the update rules say: (η_e, L, β of the memory's overlap, its scale; ρ, β of F, lag of V, ε), see docs/theory.md.
RULES = {
    "sgd": (ETA, 0.0, 0.0, 1.0, None),
    "momentum": (ETA * 0.75 / 0.2, 4.0, 0.8, 1.0, None),
    "nesterov": (ETA / 0.2, 0.64 / 0.2, 0.8, 0.8, None),
    "sgd with decay": (ETA, 0.0, 0.0, 1.0, None),
    "rmsprop": (ETA, 0.0, 0.0, 1.0, (0.9, 0.0, 9.5, 1e-2)),
    "rmsprop with momentum": (2 * ETA, 1.0, 0.5, 1.0, (0.9, 0.0, 10.5, 1e-2)),
    "rmsprop with decay": (ETA, 0.0, 0.0, 1.0, (0.9, 0.0, 9.5, 1e-2)),
    "adam": (ETA, 4.0, 0.8, 1.0, (0.95, 0.8, 19.5, 1e-3)),
    "adam with decay": (ETA, 4.0, 0.8, 1.0, (0.95, 0.8, 19.5, 1e-3)),
    "adamw": (ETA, 4.0, 0.8, 1.0, (0.95, 0.8, 19.5, 1e-3)),
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


def flat(params):
    return torch.cat([value.flatten() for value in params.values()])


def dense(module, criterion, batches, decay):
    """Gradient and Hessian of each minibatch's loss with (decay/2) ‖ω‖² added, over the flattened parameters."""
    shapes = {name: value.shape for name, value in module.named_parameters()}
    point = flat(detached_parameters(module))
    gradients, hessians = [], []
    for inputs, targets in batches:

        def value(vector, inputs=inputs, targets=targets):
            parts = vector.split([shape.numel() for shape in shapes.values()])
            params = {name: part.view(shape) for (name, shape), part in zip(shapes.items(), parts, strict=True)}
            outputs = torch.func.functional_call(module, params, (inputs,))
            return criterion(outputs, targets) + decay / 2 * vector.square().sum()

        gradients.append(torch.autograd.functional.jacobian(value, point))
        hessians.append(torch.autograd.functional.hessian(value, point))
    return point, torch.stack(gradients), torch.stack(hessians)


def printed(name, point, g, hessians, decay):
    """u, M, V, F, ∇Q as docs/theory.md prints them."""
    rate, lag, beta, scale, dividing = RULES[name]
    m, mean, hessian = len(g), g.mean(0), hessians.mean(0)
    tau = scale * overlap(beta, m)
    s = g.square().mean(0)
    p = torch.ones_like(s) if dividing is None else 1 / (s.sqrt() + dividing[3])
    u = p * mean + decay * point
    pairs = torch.stack([h @ (p * gk) for h, gk in zip(hessians, g, strict=True)]).mean(0) - hessian @ (p * mean)
    memory = rate / 2 * (p * ((1 + 2 * lag) * hessian @ u + (1 - tau) * pairs) + decay * u)
    squares = 2 * torch.stack([h @ gk for h, gk in zip(hessians, g, strict=True)]).mean(0)
    if dividing is None:
        return u, memory, None, None, squares
    rho, beta_f, steps, eps = dividing
    first = -0.5 / (s.sqrt() * (s.sqrt() + eps) ** 2)
    second = 0.25 * s**-1.5 * (s.sqrt() + eps) ** -2 + 0.5 / s * (s.sqrt() + eps) ** -3
    slope = 2 * torch.stack([gk * (h @ u) for h, gk in zip(hessians, g, strict=True)]).mean(0)
    covariance = (g**3).mean(0) - mean * s
    variance = (g**4).mean(0) - s**2
    tau_rho, tau_beta = overlap(rho, m), overlap(beta_f, m)
    fluctuation = (1 - rho) * (1 - beta_f) / (1 - beta_f * rho) * first * covariance * (1 - (tau_rho + tau_beta) / 2)
    fluctuation = fluctuation + (1 - rho) / (2 * (1 + rho)) * second * mean * variance * (1 - tau_rho)
    return u, memory, rate * steps * mean * first * slope, fluctuation, squares


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_against_the_printed_formulas(name):
    module, batches = smooth_problem()
    optimizer_class, arguments = OPTIMIZERS[name]
    decay = arguments.get("weight_decay", 0.0)
    decoupled = optimizer_class is torch.optim.AdamW
    flow = flow_of(module, cross_entropy, batches, optimizer_class, arguments)
    point, g, hessians = dense(module, cross_entropy, batches, 0.0 if decoupled else decay)
    u, memory, lag, fluctuation, squares = printed(name, point, g, hessians, decay if decoupled else 0.0)
    for actual, expected in (
        (flow.leading, u),
        (flow.memory, memory),
        (flow.lag, lag),
        (flow.fluctuation, fluctuation),
        (flow.squares_gradient, squares),
    ):
        assert (actual is None) == (expected is None)
        if expected is not None:
            assert_close(flat(actual), expected, **EXACT)
            assert float(expected.abs().max()) > 1e-6  # no two zeros that agree
    whole = sum(part for part in (memory, lag, fluctuation) if part is not None)
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
    _, g, hessians = dense(problem.module, problem.criterion, problem.batches, 0.0)
    expected = 2 * torch.stack([h @ gk for h, gk in zip(hessians, g, strict=True)]).mean(0)
    assert_close(flat(flow.squares_gradient), expected, **EXACT)
    for part in (flow.leading, flow.memory, flow.lag, flow.fluctuation):
        assert all(value.isfinite().all() for value in part.values())
    if problem.name == "unused parameter":
        assert not any(part["unused"].any() for part in (flow.leading, flow.memory, flow.lag, flow.fluctuation))


def test_a_loss_linear_in_its_parameters_has_no_correction_of_the_step():
    module = nn.Linear(2, 1, bias=False).double()
    batches = [(torch.ones(1, 2).double(), torch.zeros(1)), (torch.full((1, 2), 3.0).double(), torch.zeros(1))]
    flow = flow_of(module, lambda outputs, _: outputs.mean(), batches, *OPTIMIZERS["rmsprop"])
    assert not flat(flow.memory).any()
    assert not flat(flow.lag).any()
    assert flat(flow.fluctuation).abs().min() > 0


def test_full_batches_do_not_fluctuate():
    module, batches = smooth_problem()
    flow = flow_of(module, cross_entropy, batches[:1], *OPTIMIZERS["adam"])
    assert float(flat(flow.fluctuation).abs().max()) < 1e-16 < float(flat(flow.lag).abs().max())


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
        second_moment(view(optimizer, dict(module.named_parameters())))
