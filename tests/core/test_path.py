"""The growth of the squared norm, against sums over lists of weights in double precision."""

import gc
from itertools import pairwise

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from ireg.core import path
from ireg.core.optimizers import view
from ireg.core.path import Growth, PathRecorder

LR = 0.05
STEPS = 7


def heavy_ball(optimizer, parameter):
    return LR * 0.9 / 0.1 * optimizer.state[parameter]["momentum_buffer"]


def nesterov(optimizer, parameter):
    return LR * 0.81 / 0.1 * optimizer.state[parameter]["momentum_buffer"]


def adam(optimizer, parameter, second="exp_avg_sq", share=1.0):
    state = optimizer.state[parameter]
    root = (state[second] / (1 - 0.95 ** int(state["step"]))).sqrt()
    return share * LR * 0.9 / 0.1 * state["exp_avg"] / (root + 1e-3)


def nadam(optimizer, parameter):
    steps = int(optimizer.state[parameter]["step"]) + 1
    return adam(optimizer, parameter, share=0.9 * (1 - 0.5 * 0.96 ** (steps * 0.004)))


def amsgrad(optimizer, parameter):
    return adam(optimizer, parameter, "max_exp_avg_sq")


BETAS = {"betas": (0.9, 0.95), "eps": 1e-3}
CASES = {
    "sgd": (torch.optim.SGD, {}, None),
    "decayed sgd": (torch.optim.SGD, {"weight_decay": 0.1}, None),
    "momentum": (torch.optim.SGD, {"momentum": 0.9, "weight_decay": 0.1}, heavy_ball),
    "dampened": (torch.optim.SGD, {"momentum": 0.9, "dampening": 0.5}, heavy_ball),
    "nesterov": (torch.optim.SGD, {"momentum": 0.9, "nesterov": True}, nesterov),
    "rmsprop": (torch.optim.RMSprop, {"eps": 1e-3}, None),
    "rmsprop with momentum": (torch.optim.RMSprop, {"eps": 1e-3, "momentum": 0.9}, heavy_ball),
    "adagrad": (torch.optim.Adagrad, {}, None),
    "adam": (torch.optim.Adam, BETAS, adam),
    "adam without memory": (torch.optim.Adam, {"betas": (0.0, 0.95)}, None),
    "amsgrad": (torch.optim.Adam, BETAS | {"amsgrad": True}, amsgrad),
    "adamw": (torch.optim.AdamW, BETAS | {"weight_decay": 0.3}, adam),
    "nadam": (torch.optim.NAdam, BETAS, nadam),
}


def network(dtype=torch.float64):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 3)).to(dtype)


def minibatch(number, dtype=torch.float64):
    generator = torch.Generator().manual_seed(number)
    return torch.randn(6, 5, generator=generator).to(dtype), torch.randint(3, (6,), generator=generator)


def step(module, optimizer, number):
    inputs, labels = minibatch(number, next(module.parameters()).dtype)
    optimizer.zero_grad()
    cross_entropy(module(inputs), labels).backward()
    optimizer.step()


def flat(values):
    return torch.cat([value.detach().double().flatten() for value in values])


def growth(places):
    """The two parts by their definition."""
    steps = [before - after for before, after in pairwise(places)]
    radial = sum(-2 * float(place @ step) for place, step in zip(places, steps, strict=False))
    return radial, sum(float(step @ step) for step in steps)


def walk(module, optimizer, ahead, first, steps=STEPS):
    """ω and y before and after each of some steps."""
    weights, settled = [], []
    for number in range(first, first + steps + 1):
        if number > first:
            step(module, optimizer, number)
        weights.append(flat(module.parameters()))
        held = ahead is not None and len(optimizer.state)
        pending = flat(ahead(optimizer, value) for value in module.parameters()) if held else 0.0
        settled.append(weights[-1] - pending)
    return weights, settled


@pytest.mark.parametrize("chunk", [2**16, 7])
@pytest.mark.parametrize("warm", [0, 4])
@pytest.mark.parametrize("name", CASES)
def test_both_parts_are_those_of_the_definition(monkeypatch, name, warm, chunk):
    monkeypatch.setattr(path, "CHUNK", chunk)
    make, arguments, ahead = CASES[name]
    module = network()
    optimizer = make(module.parameters(), lr=LR, **arguments)
    recorder = PathRecorder(optimizer)
    for number in range(warm):
        step(module, optimizer, number)
    recorder.start()
    weights, settled = walk(module, optimizer, ahead, warm)
    found = recorder.path()
    for part, places in ((found.weights, weights), (found.settled, settled)):
        assert (part.radial, part.diffusive) == pytest.approx(growth(places), rel=1e-9, abs=0)
        whole = places[-1] - places[0]
        assert part.whole == pytest.approx(float(whole @ whole), rel=1e-9, abs=0)
        grown = float(places[-1] @ places[-1] - places[0] @ places[0])
        assert part.radial + part.diffusive == pytest.approx(grown, rel=1e-9, abs=0)
    assert (found.weights == found.settled) == (ahead is None)


def test_momentums_settled_weights_step_by_gradients():
    """η_e² Σ ‖g_k‖², of gradients that the recorder has not seen."""
    module = network()
    optimizer = torch.optim.SGD(module.parameters(), lr=LR, momentum=0.9)
    recorder = PathRecorder(optimizer)
    recorder.start()
    squares = 0.0
    for number in range(STEPS):
        step(module, optimizer, number)
        squares += sum(float(value.grad.square().sum()) for value in module.parameters())
    assert recorder.path().settled.diffusive == pytest.approx((LR / 0.1) ** 2 * squares, rel=1e-9, abs=0)


def test_single_precision_loses_little():
    """Of what an epoch adds, six digits: the steps are differences of rounded weights."""
    module = network(torch.float32)
    optimizer = torch.optim.SGD(module.parameters(), lr=LR, momentum=0.9)
    recorder = PathRecorder(optimizer)
    recorder.start()
    weights, settled = walk(module, optimizer, heavy_ball, 0, steps=50)
    for part, places in ((recorder.path().weights, weights), (recorder.path().settled, settled)):
        radial, diffusive = growth(places)
        assert part.diffusive == pytest.approx(diffusive, rel=1e-4, abs=0)
        assert part.radial == pytest.approx(radial, abs=1e-4 * (abs(radial) + diffusive))


def test_squares_are_widened_only_where_a_cpus_single_precision_does_not_hold_them():
    assert path._square(torch.ones(3)).dtype == torch.float32
    for size in (1e-30, 1e30):
        square = path._square(torch.full((3,), size))
        assert square.dtype == torch.float64
        assert float(square) == pytest.approx(3 * size**2, rel=1e-6, abs=0)
    elsewhere = path._square(torch.ones(3, device="meta"))  # which has no numbers to look at
    assert (elsewhere.dtype, elsewhere.device.type) == (torch.float32, "meta")


def test_half_precision_is_summed_in_single():
    module = network(torch.bfloat16)
    optimizer = torch.optim.SGD(module.parameters(), lr=LR)
    recorder = PathRecorder(optimizer)
    recorder.start()
    weights, _ = walk(module, optimizer, None, 0)
    assert recorder.path().weights.diffusive == pytest.approx(growth(weights)[1], rel=1e-5, abs=0)


def test_a_parameter_without_gradient_keeps_its_buffer():
    """torch does not step it, nor let its buffer fade: its settled weights stay, too."""
    module = network()
    optimizer = torch.optim.SGD(module.parameters(), lr=LR, momentum=0.9)
    for number in range(3):
        step(module, optimizer, number)
    recorder = PathRecorder(optimizer)
    recorder.start()
    module[2].requires_grad_(False)
    weights, settled = walk(module, optimizer, heavy_ball, 3)
    found = recorder.path()
    for part, places in ((found.weights, weights), (found.settled, settled)):
        assert (part.radial, part.diffusive) == pytest.approx(growth(places), rel=1e-9, abs=0)


def test_groups_have_their_own_rates_and_buffers():
    module = network()
    groups = [{"params": module[0].parameters(), "lr": 0.1, "momentum": 0.5}, {"params": module[2].parameters()}]
    optimizer = torch.optim.SGD(groups, lr=LR)
    recorder = PathRecorder(optimizer)
    recorder.start()
    settled = []
    for number in range(STEPS + 1):
        if number:
            step(module, optimizer, number)
        state = optimizer.state
        buffers = [state[value]["momentum_buffer"] if number else 0 * value for value in module[0].parameters()]
        pending = [0.1 * 0.5 / 0.5 * value for value in buffers] + [0 * value for value in module[2].parameters()]
        settled.append(flat(module.parameters()) - flat(pending))
    found = recorder.path().settled
    assert (found.radial, found.diffusive) == pytest.approx(growth(settled), rel=1e-9, abs=0)


@pytest.mark.parametrize(
    ("make", "arguments"), [(torch.optim.Rprop, {}), (torch.optim.SGD, {"momentum": 1.0})], ids=["rprop", "endless"]
)
def test_without_settled_weights_there_is_the_path_of_the_weights(make, arguments):
    module = network()
    optimizer = make(module.parameters(), lr=1e-3, **arguments)
    recorder = PathRecorder(optimizer)
    recorder.start()
    weights, _ = walk(module, optimizer, None, 0)
    found = recorder.path()
    assert found.settled is None
    assert (found.weights.radial, found.weights.diffusive) == pytest.approx(growth(weights), rel=1e-9, abs=0)


def test_a_momentum_that_ceases_to_fade_ends_the_settled_weights_and_not_the_training():
    module = network()
    optimizer = torch.optim.SGD(module.parameters(), lr=1e-3, momentum=0.9)
    recorder = PathRecorder(optimizer)
    recorder.start()
    step(module, optimizer, 0)
    assert recorder.path().settled is not None
    optimizer.param_groups[0]["momentum"] = 1.0
    step(module, optimizer, 1)
    assert recorder.path().settled is None
    assert recorder.path().weights.diffusive > 0


def test_a_state_that_is_loaded_brings_its_rates():
    module = network()
    optimizer = torch.optim.SGD(module.parameters(), lr=1.0, momentum=0.9)
    recorder = PathRecorder(optimizer)
    recorder.start()
    optimizer.load_state_dict(torch.optim.SGD(module.parameters(), lr=LR, momentum=0.9).state_dict())
    _, settled = walk(module, optimizer, heavy_ball, 0)
    found = recorder.path().settled
    assert (found.radial, found.diffusive) == pytest.approx(growth(settled), rel=1e-9, abs=0)


def test_steps_that_cancel_leave_no_whole_step():
    """A walk there and back is all diffusion, and ends where it began."""
    weight = nn.Parameter(torch.tensor([2.0, 1.0]).double())
    optimizer = torch.optim.SGD([weight], lr=0.5)
    recorder = PathRecorder(optimizer)
    recorder.start()
    for sign in (1.0, -1.0, -1.0, 1.0):
        weight.grad = torch.full_like(weight, sign)
        optimizer.step()
    assert recorder.path().weights == Growth(radial=-2.0, diffusive=2.0, whole=0.0)


def test_start_and_stop():
    module = network()
    optimizer = torch.optim.SGD(module.parameters(), lr=LR)
    recorder = PathRecorder(optimizer)
    step(module, optimizer, 0)
    assert recorder.path() is None
    recorder.start()
    assert recorder.path().weights == Growth(0.0, 0.0, 0.0)
    step(module, optimizer, 1)
    assert recorder.path().weights.diffusive > 0
    recorder.start()
    assert recorder.path().weights == Growth(0.0, 0.0, 0.0)
    recorder.stop()
    assert recorder.path() is None


def test_nothing_is_changed_and_nothing_stays():
    ends = []
    for recorded in (False, True):
        module = network(torch.float32)
        optimizer = torch.optim.Adam(module.parameters(), lr=LR)
        recorder = PathRecorder(optimizer) if recorded else None
        if recorder is not None:
            recorder.start()
        for number in range(STEPS):
            step(module, optimizer, number)
        ends.append((flat(module.parameters()), view(optimizer, dict(module.named_parameters())).second_moment))
    assert torch.equal(ends[0][0], ends[1][0])
    assert all(torch.equal(ends[0][1][name], ends[1][1][name]) for name in ends[0][1])
    assert len(optimizer._optimizer_step_post_hooks) == 1
    del recorder
    gc.collect()
    assert not optimizer._optimizer_step_post_hooks
