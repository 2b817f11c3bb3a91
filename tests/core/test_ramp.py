"""An optimizer's modified flow from its own steps, against rules, closed forms and what has none."""

import pytest
import torch
from torch.nn.functional import mse_loss

import ireg
from ireg.certify.any_optimizer import network
from ireg.core import ramp
from ireg.core.norms import norm
from ireg.core.ramp import Driven, Line, NoFlowError, lowest_precision, respond, settled_step

PROBLEM = network()
START, GRADIENT = PROBLEM.start, PROBLEM.gradient(PROBLEM.start)


def product(direction):
    return PROBLEM.product(START, direction)


def off(one, other):
    return float(norm({name: value - other[name] for name, value in one.items()}) / norm(other))


def model():
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Tanh(), torch.nn.Linear(4, 2)).double()


BATCHES = [tuple(torch.randn(20, size, generator=torch.Generator().manual_seed(size)).double() for size in (3, 2))]

RULED = {
    "sgd": lambda p: torch.optim.SGD(p, lr=1e-2, weight_decay=0.1),
    "momentum": lambda p: torch.optim.SGD(p, lr=1e-2, momentum=0.8, weight_decay=0.1),
    "nesterov": lambda p: torch.optim.SGD(p, lr=1e-2, momentum=0.8, nesterov=True),
    "rmsprop": lambda p: torch.optim.RMSprop(p, lr=1e-3, alpha=0.9, momentum=0.5),
    "adam": lambda p: torch.optim.Adam(p, lr=1e-3, betas=(0.6, 0.8), eps=1e-3),
    "adamw": lambda p: torch.optim.AdamW(p, lr=1e-3, betas=(0.6, 0.9), weight_decay=0.1),
    "nadam": lambda p: torch.optim.NAdam(p, lr=1e-3, betas=(0.6, 0.8), momentum_decay=10.0),
}


@pytest.mark.parametrize("name", RULED)
def test_rules_and_own_steps_agree(name):
    """The rules' mean flow has formulas of each optimizer; the ramp has none."""
    network, make = model(), RULED[name]
    flow = ireg.modified_flow(make, network, BATCHES, criterion=mse_loss)
    optimizer = make(list(network.parameters()))
    if name == "nadam":  # whose momentum has come to its end
        for parameter in network.parameters():
            optimizer.state[parameter] = {
                "step": torch.tensor(1e6), "mu_product": torch.tensor(0.0), "exp_avg": torch.zeros_like(parameter),
                "exp_avg_sq": torch.zeros_like(parameter),
            }  # fmt: skip
    with ireg.snapshot(network, BATCHES, optimizer=optimizer, criterion=mse_loss) as taken:
        expected, rate = taken.mean_flow, taken.optimizer.memory.effective_rate
    assert off(flow.leading, {key: rate * value for key, value in expected.leading.items()}) <= 1e-8
    assert off(flow.correction, {key: rate * value for key, value in expected.correction.items()}) <= 1e-6
    assert flow.strength == pytest.approx(float(norm(expected.correction) / norm(expected.leading)), rel=1e-6)
    assert flow.nonlinearity <= 1e-6


def test_the_flow_of_gradient_descent_is_that_of_smith_and_others():
    """ηc = (η²/2) H∇C = (η²/4) ∇‖∇C‖², of which half is the bend; alignment with ∇‖∇C‖² is 1."""
    found = respond(lambda p: torch.optim.SGD(p, lr=0.01), START, GRADIENT, product)
    assert off(found.correction, {name: 5e-5 * value for name, value in product(GRADIENT).items()}) <= 1e-7
    assert off(found.late(1.0), {name: 1e-4 * value for name, value in product(GRADIENT).items()}) <= 1e-6
    assert float(norm(found.late(0.0))) <= 1e-6 * float(norm(found.correction))
    flow = ireg.modified_flow(lambda p: torch.optim.SGD(p, lr=0.01), model(), BATCHES, criterion=mse_loss)
    assert flow.alignment == pytest.approx(1.0, rel=1e-8)


class OfWeights(torch.optim.Optimizer):
    """A step that the weights themselves are part of: −η ‖ω‖ g, all parameters together."""

    def __init__(self, params, lr):
        super().__init__(params, {"lr": lr})

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            size = torch.stack([parameter.square().sum() for parameter in group["params"]]).sum().sqrt()
            for parameter in group["params"]:
                parameter.sub_(group["lr"] * size * parameter.grad)


def test_weights_that_a_step_depends_on_are_in_it():
    """F = ‖ω‖ g: F′F = ⟨ω, F⟩/‖ω‖ g + ‖ω‖ HF."""
    rate = 0.01
    found = respond(lambda p: OfWeights(p, rate), START, GRADIENT, product)
    size = float(norm(START))
    leading = {name: size * value for name, value in GRADIENT.items()}
    along = sum(float((START[name] * leading[name]).sum()) for name in START) / size
    bend = {name: along * GRADIENT[name] + size * value for name, value in product(leading).items()}
    assert off(found.correction, {name: rate**2 / 2 * value for name, value in bend.items()}) <= 1e-6


class Drawing(OfWeights):
    def step(self):
        for parameter in self.param_groups[0]["params"]:
            parameter.data.sub_(self.param_groups[0]["lr"] * (parameter.grad + 0.1 * torch.randn_like(parameter)))


class First(OfWeights):
    def __init__(self, params, lr):
        super().__init__(params[:1], lr)


class Still(OfWeights):
    def step(self):
        pass


class Stepped(OfWeights):
    """A step that jumps with the gradient's size."""

    def step(self):
        for parameter in self.param_groups[0]["params"]:
            parameter.data.sub_(self.param_groups[0]["lr"] * torch.round(parameter.grad * 1e8) / 1e8)


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda p: torch.optim.Adagrad(p, lr=0.01), "the memory of Adagrad has not faded after 512 steps"),
        (lambda p: torch.optim.SGD(p, lr=0.01, momentum=0.999), "the memory of SGD has not faded after 512 steps"),
        (lambda p: torch.optim.RMSprop(p, lr=0.01, alpha=0.999), "the memory of RMSprop has not faded"),
        (lambda p: Drawing(p, 0.01), "Drawing draws random numbers"),
        (lambda p: First(p, 0.01), "First does not hold second, of 1 parameters"),
        (lambda p: Still(p, 0.01), "Still takes a step of 0 at a constant gradient"),
        (lambda p: OfWeights(p, float("inf")), "OfWeights takes a step of nan|of inf"),
        (lambda p: torch.optim.LBFGS(p, lr=0.01), "LBFGS takes no step with gradients alone"),
    ],
)
def test_optimizers_without_a_flow_are_named(make, match):
    with pytest.raises(NoFlowError, match=match):
        respond(make, START, GRADIENT, product, most=512)


def test_a_step_that_jumps_is_refused():
    with pytest.raises(NoFlowError, match=r"a step of Stepped is no smooth function .* differs by 0.002 of itself"):
        respond(lambda p: Stepped(p, 0.01), START, GRADIENT, product)
    assert respond(lambda p: torch.optim.SGD(p, lr=0.01), START, GRADIENT, product).nonlinearity == 0.0


def test_no_more_steps_than_are_needed():
    for beta, steps in ((0.0, 64), (0.5, 64), (0.9, 256)):
        made = respond(lambda p, beta=beta: torch.optim.SGD(p, lr=0.01, momentum=beta), START, GRADIENT, product)
        assert made.steps == steps


def test_the_precision_of_a_step():
    """A lower precision rounds off the small differences that are measured."""
    muon = lowest_precision(lambda p: torch.optim.Muon(p, lr=0.01), START, GRADIENT)
    assert muon == torch.bfloat16
    for make in RULED.values():
        assert lowest_precision(make, START, GRADIENT) is None


def test_a_line_leads_through_the_points_that_theory_names(monkeypatch):
    """At lag j the weights are ω + s (j + late) Δ, and the gradients g + s (j + late) HΔ."""
    seen = []
    plain = Driven.step
    monkeypatch.setattr(Driven, "step", lambda self, given: (seen.append((self.weights, given)), plain(self, given)))
    along, uphill = ({name: factor * value for name, value in GRADIENT.items()} for factor in (2.0, 3.0))
    Line(RULED["sgd"], START, GRADIENT, along, uphill).driven(3, 0.1, late=1.0)
    for lag, (weights, gradients) in zip((2, 1, 0), seen, strict=True):
        distance = 0.1 * (lag + 1)
        for name in START:
            torch.testing.assert_close(weights[name], START[name] + distance * along[name])
            torch.testing.assert_close(gradients[name], GRADIENT[name] + distance * uphill[name])


def test_the_settled_step_of_momentum():
    leading, steps = settled_step(RULED["momentum"], START, GRADIENT, tolerance=1e-9)
    expected = {name: 1e-2 * 5 * (value + 0.1 * START[name]) for name, value in GRADIENT.items()}
    assert off(leading, expected) <= 1e-9
    assert steps == 256  # 0.8 to the power of half of them is below the tolerance
    assert ramp.FIRST == 32


def test_nothing_of_the_training_is_changed():
    network = model()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    network(BATCHES[0][0]).sum().backward()
    gradients = [parameter.grad.clone() for parameter in network.parameters()]
    state = torch.get_rng_state()
    ireg.modified_flow(RULED["adam"], network, BATCHES, criterion=mse_loss)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert all(map(torch.equal, gradients, [parameter.grad for parameter in network.parameters()]))
    assert torch.equal(state, torch.get_rng_state())


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"tolerance": 0.0}, "tolerance=0.0: must be a share between 0 and 1; 0.001 is usual"),
        ({"tolerance": 1.0}, "tolerance=1.0"),
        ({"max_steps": 0}, "max_steps=0: must be at least 1; 65536 are usual"),
        ({"max_steps": 1}, "has not faded after 1 steps"),
        ({"make_optimizer": lambda p: torch.optim.Adagrad(p), "max_steps": 64}, "has not faded after 64 steps"),
        ({"batches": []}, "there are no minibatches"),
    ],
)
def test_what_has_no_flow_is_refused(changes, match):
    given = {"make_optimizer": RULED["sgd"], "model": model(), "batches": BATCHES, "criterion": mse_loss} | changes
    with pytest.raises(ValueError, match=match):
        ireg.modified_flow(**given)


class Emptying(torch.optim.SGD):
    """One that writes to the gradients it gets."""

    def step(self, closure=None):
        super().step(closure)
        for value in self.param_groups[0]["params"]:
            value.grad.zero_()


def test_an_optimizer_may_write_to_the_gradients_it_gets():
    before = {name: value.clone() for name, value in GRADIENT.items()}
    expected, found = (
        respond(lambda p, kind=kind: kind(p, lr=1e-2, momentum=0.8), START, GRADIENT, product)
        for kind in (torch.optim.SGD, Emptying)
    )
    assert all(torch.equal(value, before[name]) for name, value in GRADIENT.items())
    assert off(found.correction, expected.correction) == off(found.leading, expected.leading) == 0.0


def test_where_nothing_moves_there_is_no_alignment():
    """At a constant curvature of 0 the correction of gradient descent is 0."""
    module = torch.nn.Linear(1, 1, bias=False).double()
    flow = ireg.modified_flow(
        RULED["nesterov"], module, [(torch.ones(1, 1).double(), torch.zeros(1, 1).double())],
        criterion=lambda outputs, targets: (outputs - targets).sum(),
    )  # fmt: skip
    assert (flow.strength, flow.alignment) == (0.0, 0.0)


def test_a_gradient_near_zero_makes_the_line_short():
    """Of Adam's step m/√v at ε = 0 the response is the relative change of the gradient, in any weight."""
    weights = {"w": torch.ones(2).double()}
    gradient = {"w": torch.tensor([1.0, 1e-5]).double()}
    found = respond(
        lambda p: torch.optim.Adam(p, lr=1e-3, betas=(0.5, 0.8), eps=0.0),
        weights, gradient, lambda direction: {"w": torch.tensor([1e-3, 1e-3]).double()},
    )  # fmt: skip
    assert found.nonlinearity <= 1e-3
    large, small = found.correction["w"].tolist()
    assert small / large == pytest.approx(1e5, rel=1e-3)
    # m is late by L₁ = 1 and v's root by half of 2 L₂ = 8 for the square: (L₁ − L₂) K/g in units of the step.
    assert large / float(found.leading["w"][0]) == pytest.approx((1 - 4) * 1e-3, rel=1e-3)
