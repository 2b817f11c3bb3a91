"""What each rule does to torch's own state: how it is read, set, refined, and what a buffer still moves."""

import pytest
import torch
from torch.testing import assert_close

from ireg.core.optimizers import Held, rule_of, view
from ireg.core.optimizers.momentum import refine_momentum
from tests.cases import EXACT

LR, EPS, STEPS = 0.1, 1e-2, 3
GRADIENTS = (2.0, -1.0, 0.5)
BUFFERED = {
    "momentum": (torch.optim.SGD, {"momentum": 0.8, "dampening": 0.25}),
    "nesterov": (torch.optim.SGD, {"momentum": 0.8, "nesterov": True}),
    "rmsprop": (torch.optim.RMSprop, {"momentum": 0.5, "alpha": 0.7, "eps": EPS}),
    "adam": (torch.optim.Adam, {"betas": (0.6, 0.9), "eps": EPS}),
    "amsgrad": (torch.optim.Adam, {"betas": (0.6, 0.9), "eps": EPS, "amsgrad": True}),
    "adamw": (torch.optim.AdamW, {"betas": (0.6, 0.9), "eps": EPS, "weight_decay": 0.3}),
    "nadam": (torch.optim.NAdam, {"betas": (0.6, 0.9), "eps": EPS}),
}


def number(value):
    return torch.tensor([value], dtype=torch.float64)


def stepped(optimizer_class, **arguments):
    weight = torch.nn.Parameter(number(1.0))
    optimizer = optimizer_class([weight], lr=LR, **arguments)
    for gradient in GRADIENTS:
        weight.grad = number(gradient)
        optimizer.step()
    return optimizer, weight


def mean(decay, values):
    found = 0.0
    for value in values:
        found = decay * found + (1 - decay) * value
    return found


@pytest.mark.parametrize("name", BUFFERED)
def test_a_constant_gradient_fills_the_buffer_with_its_gain(name):
    optimizer_class, arguments = BUFFERED[name]
    weight = torch.nn.Parameter(number(0.0))
    optimizer = optimizer_class([weight], lr=LR, **(arguments | ({"weight_decay": 0.0})))
    for _ in range(400):
        weight.grad = number(3.0)
        optimizer.step()
    state = optimizer.state[weight]
    buffer = view(optimizer, {"w": weight}).buffer
    held = state["momentum_buffer"] if "momentum_buffer" in state else state["exp_avg"]
    constant = 3.0 / (3.0 + EPS) if buffer.divided else 3.0
    assert_close(held, number(buffer.gain * constant), **EXACT)
    before = held.clone()
    weight.grad = number(0.0)
    optimizer.step()
    assert_close(held, buffer.decay * before, **EXACT)


def test_gain_of_sgd_and_buffer_of_rmsprop():
    dampened = view(*_named(*stepped(torch.optim.SGD, momentum=0.8, dampening=0.25))).buffer
    assert (dampened.decay, dampened.gain, dampened.divided) == (0.8, pytest.approx(0.75 / 0.2), False)
    assert dampened.ahead == pytest.approx(LR * 0.8 / 0.2)
    nesterov = view(*_named(*stepped(torch.optim.SGD, momentum=0.8, nesterov=True))).buffer
    assert (nesterov.gain, nesterov.ahead) == (pytest.approx(5.0), pytest.approx(LR * 0.64 / 0.2))
    rmsprop = view(*_named(*stepped(torch.optim.RMSprop, momentum=0.5))).buffer
    assert (rmsprop.decay, rmsprop.gain, rmsprop.divided, rmsprop.ahead) == (0.5, 2.0, True, pytest.approx(LR))
    assert view(*_named(*stepped(torch.optim.RMSprop))).buffer is None


def _named(optimizer, weight):
    return optimizer, {"w": weight}


@pytest.mark.parametrize("amsgrad", [False, True])
def test_adams_scaled_buffer(amsgrad):
    optimizer, weight = stepped(torch.optim.Adam, betas=(0.6, 0.9), eps=EPS, amsgrad=amsgrad)
    squares = [mean(0.9, [gradient**2 for gradient in GRADIENTS[:count]]) for count in (1, 2, 3)]
    root = ((max(squares) if amsgrad else squares[-1]) / (1 - 0.9**STEPS)) ** 0.5
    found = rule_of(type(optimizer)).scaled_buffer(optimizer.param_groups[0], optimizer.state[weight])
    assert_close(found, number(mean(0.6, GRADIENTS) / (root + EPS)), **EXACT)


def test_buffers_that_are_scaled_already():
    for optimizer_class, arguments in (BUFFERED["momentum"], BUFFERED["rmsprop"]):
        optimizer, weight = stepped(optimizer_class, **arguments)
        slots = optimizer.state[weight]
        found = rule_of(optimizer_class).scaled_buffer(optimizer.param_groups[0], slots)
        assert torch.equal(found, slots["momentum_buffer"])


STATES = {
    torch.optim.SGD: {"momentum_buffer": 2.0},
    torch.optim.RMSprop: {"momentum_buffer": 2.0, "square_avg": 5.0},
    torch.optim.Adagrad: {"sum": 5.0},
    torch.optim.Adam: {"exp_avg": 2.0, "exp_avg_sq": 5.0},
    torch.optim.NAdam: {"exp_avg": 2.0, "exp_avg_sq": 5.0, "mu_product": 0.0},
}


@pytest.mark.parametrize("optimizer_class", STATES, ids=lambda kind: kind.__name__)
def test_a_state_past_all_bias_correction(optimizer_class):
    state = rule_of(optimizer_class).state(number(2.0), number(5.0))
    assert {slot: float(value) for slot, value in state.items() if slot != "step"} == STATES[optimizer_class]
    arguments = {"momentum": 0.5} if optimizer_class in (torch.optim.SGD, torch.optim.RMSprop) else {}
    weight = torch.nn.Parameter(number(0.0))
    optimizer = optimizer_class([weight], lr=LR, **arguments)
    optimizer.state[weight] = state
    weight.grad = number(1.0)
    optimizer.step()  # torch takes the state as its own
    assert torch.isfinite(weight).all()
    if optimizer_class is torch.optim.Adagrad:  # the sum and the gradient's square, at the undiminished rate
        assert_close(weight.detach(), number(-LR / (6.0**0.5 + 1e-10)), **EXACT)
    if optimizer_class is torch.optim.Adam:
        first, second = 0.9 * 2 + 0.1, 0.999 * 5 + 0.001
        assert_close(weight.detach(), number(-LR * first / (second**0.5 + 1e-8)), **EXACT)


def test_momentum_is_refined():
    group, states = {"lr": LR, "momentum": 0.81}, [{"momentum_buffer": number(4.0)}, {"momentum_buffer": None}, {}]
    refine_momentum(group, states, 2)
    share = (1 - 0.9) / (1 - 0.81)
    assert (group["momentum"], group["lr"]) == (pytest.approx(0.9), pytest.approx(LR / 2 * share))
    assert_close(states[0]["momentum_buffer"], number(4.0 / share), **EXACT)
    assert states[1:] == [{"momentum_buffer": None}, {}]


def test_nadam_is_refined():
    group = {"lr": LR, "betas": (0.81, 0.9801), "momentum_decay": 0.004}
    states = [{"step": torch.tensor(6.0)}]
    rule_of(torch.optim.NAdam).refine(group, states, 2)
    assert group["betas"] == (pytest.approx(0.9), pytest.approx(0.99))
    assert (group["lr"], group["momentum_decay"], float(states[0]["step"])) == (LR / 2, 0.002, 12.0)


def test_adagrad_is_refined():
    group, states = {"lr": LR, "eps": EPS, "lr_decay": 0.3}, [{"sum": number(8.0), "step": torch.tensor(3.0)}]
    rule_of(torch.optim.Adagrad).refine(group, states, 9)  # whose root is not its half
    assert (group["lr"], group["eps"], group["lr_decay"]) == (LR / 3, 3 * EPS, 0.3 / 9)
    assert (float(states[0]["sum"]), float(states[0]["step"])) == (72.0, 27.0)


def test_rmsprop_is_refined():
    group = {"lr": LR, "alpha": 0.81, "momentum": 0.25}
    states = [{"step": torch.tensor(3.0), "square_avg": number(5.0), "momentum_buffer": number(3.0)}]
    rule_of(torch.optim.RMSprop).refine(group, states, 2)
    share = (1 - 0.5) / (1 - 0.25)
    assert (group["alpha"], group["momentum"]) == (pytest.approx(0.9), pytest.approx(0.5))
    assert group["lr"] == pytest.approx(LR / 2 * share)
    (state,) = states
    assert (float(state["square_avg"]), float(state["step"])) == (5.0, 6.0)
    assert_close(state["momentum_buffer"], number(3.0 / share), **EXACT)


def test_a_second_moment_without_eps_is_refused():
    with pytest.raises(ValueError, match=r"gives its eps, too; give eps=0\.0 where it has none"):
        Held(second_moment={"w": number(1.0)})
    assert Held(eps=0.0, second_moment={"w": number(1.0)}).eps == 0.0
