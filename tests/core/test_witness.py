"""What a step has used is noted when it is taken."""

import copy
import gc
import weakref

import pytest
import torch
from torch import nn
from torch.nn.functional import mse_loss

import ireg
from ireg.core.witness import Witness, set_aside, settings_of
from ireg.core.wrappers import bare_module, rate_of, unwrapped
from tests import reference

X, Y = torch.ones(1, 1), torch.zeros(1, 1)


def toy(bias=True):
    module = nn.Linear(1, 1, bias=bias)
    module.weight.data.fill_(2.0)
    if bias:
        module.bias.data.fill_(0.0)
    return module


def step(module, optimizer, monitor=None, batch=(X, Y)):
    optimizer.zero_grad()
    mse_loss(module(batch[0]), batch[1]).backward()
    optimizer.step()
    if monitor is not None:
        monitor.update(batch)


def test_momentum_is_that_of_the_step():
    module = toy()
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1, momentum=0.5)
    monitor = ireg.Monitor(module, optimizer, criterion=mse_loss, terms=["ireg/own"])
    step(module, optimizer, monitor)
    optimizer.param_groups[0].update(momentum=0.9, weight_decay=7.0, lr=1.0)
    with torch.no_grad():
        module.weight.fill_(2.0)
        module.bias.fill_(0.0)
    # η_e/4 (1 + 2L) ‖g‖² with η_e = 0.2, L = 1, g = (4, 4)
    assert monitor.compute()["ireg/own"] == pytest.approx(4.8, rel=1e-6)


def test_settings_that_change_within_a_window_are_said_and_momentum_is_that_of_each_step():
    module = toy()
    optimizer = torch.optim.SGD(module.parameters(), lr=1e-6, momentum=0.9)
    monitor = ireg.Monitor(module, optimizer, criterion=mse_loss, terms=["ireg/own"])
    for momentum in (0.9, 0.5):
        optimizer.param_groups[0]["momentum"] = momentum
        step(module, optimizer, monitor)
    with pytest.warns(UserWarning, match="momentum changes within the epoch: the terms use the value of the last step"):
        found = monitor.compute()["ireg/own"]
    # c = 2η both times, for 0.5 stays. The buffer holds 10 g before each step, of which 0.9 and 0.5 are left, and their
    # rest is worth 2η: (2 · 4 + 2 · 2 · 2 · (0.9 · 10 + 0.5 · 10)) η/(4 · 4) of ‖ḡ‖² = 32.
    assert found == pytest.approx(1e-6 * 7.5 * 32, rel=1e-3)


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)).double()


def batches(count=4):
    generator = torch.Generator().manual_seed(0)
    return [
        (torch.randn(5, 3, generator=generator).double(), torch.randn(5, 2, generator=generator).double())
        for _ in range(count)
    ]


def test_steps_that_a_scaler_leaves_out_are_none():
    model = network().float()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    monitor = ireg.Monitor(model, optimizer, criterion=mse_loss, terms=["ireg/sgd"])
    scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
    data = [(inputs.float(), targets.float()) for inputs, targets in batches()]
    for number, (inputs, targets) in enumerate(data):
        optimizer.zero_grad()
        scaler.scale(mse_loss(model(inputs), targets)).backward()
        if number in (0, 2):
            model[0].weight.grad[0, 0] = float("inf")
        scaler.step(optimizer)
        scaler.update()
        monitor.update((inputs, targets))
    assert monitor.steps == 2
    expected = ireg.measure(model, data[1::2], optimizer=optimizer, criterion=mse_loss, terms=["ireg/sgd"])
    assert monitor.compute()["ireg/sgd"] == expected["ireg/sgd"]


def test_a_closure_that_is_none_is_none():
    """As accelerate's optimizer gives it by position: the gradients are there before the step."""
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    witness = Witness(optimizer, model)
    witness.ask()
    inputs, targets = batches(1)[0]
    mse_loss(model(inputs), targets).backward()
    for parameter in model.parameters():
        parameter.grad *= 2  # after the backward pass, as the ranks' mean is taken
    optimizer.step(None)
    assert all(torch.equal(witness.record.gradient[name], value.grad) for name, value in model.named_parameters())


def test_parameters_without_a_gradient_at_the_step_do_not_move():
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    monitor = ireg.Monitor(model, optimizer, criterion=mse_loss, terms=["ireg/sgd", "ireg/own"])
    for inputs, targets in batches():
        optimizer.zero_grad()
        mse_loss(model(inputs), targets).backward()
        for parameter in model[2].parameters():
            parameter.grad = None
        optimizer.step()
        monitor.update((inputs, targets))
    gradients = reference.minibatch_gradients(model, mse_loss, batches())
    first = [{name: value for name, value in gradient.items() if name.startswith("0.")} for gradient in gradients]
    found = monitor.compute()
    assert found == pytest.approx(
        {"ireg/sgd": reference.sgd(first, 0.1), "ireg/own": reference.sgd(first, 0.1), "check/replay": 0}, rel=1e-10
    )


def test_a_group_that_joins_begins_the_window_again():
    model = network()
    optimizer = torch.optim.SGD(model[0].parameters(), lr=0.1)
    monitor = ireg.Monitor(model, optimizer, criterion=mse_loss, terms=["ireg/sgd"])
    data = batches()
    for number, batch in enumerate(data):
        if number == 2:
            optimizer.add_param_group({"params": list(model[2].parameters()), "lr": 0.01})
        step(model, optimizer, monitor, batch)
    expected = ireg.measure(model, data[2:], optimizer=optimizer, criterion=mse_loss, terms=["ireg/sgd"])
    assert monitor.compute()["ireg/sgd"] == expected["ireg/sgd"]
    assert monitor.rows["step"].tolist() == [monitor.steps] == [4]  # steps of other weights count


# Wrappers.


class Lookahead(torch.optim.Optimizer):
    """A wrapper with a step of its own, which does not call torch's constructor."""

    def __init__(self, optimizer):
        self.optimizer, self.param_groups, self.state = optimizer, optimizer.param_groups, optimizer.state
        self.slow = [value.detach().clone() for group in self.param_groups for value in group["params"]]

    def zero_grad(self):
        self.optimizer.zero_grad()

    def step(self):
        self.optimizer.step()
        held = [value for group in self.param_groups for value in group["params"]]
        for slow, value in zip(self.slow, held, strict=True):
            slow.add_(value.detach() - slow, alpha=0.5)
            value.data.copy_(slow)


def test_a_wrapper_with_steps_of_its_own_is_an_optimizer_of_its_own():
    module = toy(bias=False)
    optimizer = Lookahead(torch.optim.SGD(module.parameters(), lr=0.1))
    monitor = ireg.Monitor(module, optimizer, criterion=mse_loss, terms=["ireg/own", "ireg/sgd", "path/whole"])
    step(module, optimizer, monitor)
    found = monitor.compute()
    assert "ireg/own" not in found
    assert found["path/whole"] == pytest.approx(0.04, rel=1e-5)  # half of the step of 0.4


def test_pure_wrappers_are_looked_through_in_all_doors():
    from lightning.pytorch.core.optimizer import LightningOptimizer

    module = toy(bias=False)
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
    wrapped = LightningOptimizer(optimizer)
    assert unwrapped(wrapped) is optimizer
    found = ireg.measure(module, [(X, Y)], optimizer=wrapped, criterion=mse_loss, terms=["ireg/own"])
    assert found["ireg/own"] == pytest.approx(0.4)
    assert ireg.Monitor(module, wrapped, criterion=mse_loss).optimizer is optimizer

    class Other:
        def __init__(self):
            self.optimizer = optimizer

    for door in (
        lambda: ireg.Monitor(module, Other(), criterion=mse_loss),
        lambda: ireg.measure(module, [(X, Y)], optimizer=Other(), criterion=mse_loss),
    ):
        with pytest.raises(ValueError, match="optimizer is a Other; must be one of torch.optim"):
            door()


def test_optimizers_without_a_rate_are_refused_before_the_start():
    module = toy()
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
    del optimizer.param_groups[0]["lr"]
    with pytest.raises(ValueError, match=r"SGD: group 0 of its parameters has lr=None; must be a number"):
        ireg.Monitor(module, optimizer, criterion=mse_loss)


def test_the_rate_of_optimizers_that_estimate_a_distance():
    module = toy(bias=False)
    optimizer = torch.optim.SGD(module.parameters(), lr=1.0)
    optimizer.param_groups[0].update(d=0.1, d0=1e-6)
    assert rate_of(optimizer.param_groups[0]) == 0.1
    found = ireg.measure(module, [(X, Y)], optimizer=optimizer, criterion=mse_loss, terms=["ireg/sgd"])
    assert found["ireg/sgd"] == pytest.approx(0.4)


@pytest.mark.parametrize(
    ("model", "match"),
    [
        (lambda: torch.jit.script(toy()), "Linear is a ScriptModule, whose weights cannot be replaced"),
        (lambda: nn.DataParallel(toy()), "DataParallel splits minibatches over devices; give its .module"),
        (lambda: nn.Sequential(nn.LazyLinear(1)), "0.weight of a lazy layer has no shape yet; run one forward pass"),
        (lambda: "model", "model is a str; must be a torch.nn.Module"),
        (
            lambda: type("FullyShardedDataParallel", (nn.Linear,), {})(1, 1),
            "FullyShardedDataParallel shards the weights",
        ),
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_modules_whose_weights_cannot_be_replaced_are_refused(model, match):
    with pytest.raises(ValueError, match=match) as error:
        bare_module(model())
    assert "\n" not in str(error.value)


# The witness itself.


def test_it_holds_nobody_and_nobody_holds_it():
    module = toy()
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
    witness = Witness(optimizer, module)
    witness.ask()
    seen = weakref.ref(witness)
    del witness
    gc.collect()
    assert seen() is None
    step(module, optimizer)  # its hooks do nothing any more
    assert not optimizer._optimizer_step_pre_hooks


def test_a_record_has_all_of_the_step():
    module = nn.Sequential(nn.Linear(1, 1), nn.BatchNorm1d(1))
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
    witness = Witness(optimizer, module)
    step(module, optimizer, batch=(torch.ones(2, 1), torch.zeros(2, 1)))
    assert witness.record is None
    witness.ask()
    before = copy.deepcopy(module.state_dict())
    module[1].eval()
    step(module, optimizer, batch=(torch.ones(2, 1), torch.zeros(2, 1)))
    record = witness.record
    assert {name: bool((before[name] == value).all()) for name, value in record.weights.items()} == dict.fromkeys(
        record.weights, True
    )
    assert all(torch.equal(record.gradient[name], value.grad) for name, value in module.named_parameters())
    assert all(torch.equal(record.arrived[name], value) for name, value in record.gradient.items())
    assert record.modes == {"": True, "0": True, "1": False}
    assert torch.equal(record.buffers["1.running_mean"], before["1.running_mean"])
    assert record.autocast is None
    assert len(record.forwards) == 1
    witness.forget()
    assert witness.record is None


def test_a_record_keeps_the_gradients_that_are_emptied_after_the_step():
    module = toy()
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
    witness = Witness(optimizer, module)
    witness.ask()
    step(module, optimizer)
    optimizer.zero_grad(set_to_none=False)
    assert {name: float(value) for name, value in witness.record.gradient.items()} == {"weight": 4.0, "bias": 4.0}


@pytest.mark.filterwarnings("ignore:Using backward")
def test_a_record_of_gradients_that_have_a_graph_holds_none():
    module = nn.Linear(1, 1)
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
    witness = Witness(optimizer, module)
    witness.ask()
    module(torch.ones(2, 1)).square().mean().backward(create_graph=True)
    assert module.weight.grad.requires_grad
    optimizer.step()
    record = witness.record
    for held in (record.weights, record.gradient, record.arrived):
        assert held.keys() == {"weight", "bias"}
        assert not any(value.requires_grad for value in held.values())
    optimizer.zero_grad()  # else the graph would be a cycle


def test_settings_are_numbers():
    module = toy()
    optimizer = torch.optim.Adam(module.parameters(), lr=torch.tensor(0.5), capturable=False, foreach=False)
    (found,) = settings_of(optimizer)
    assert (found["lr"], found["betas"], "params" in found) == (0.5, (0.9, 0.999), False)


def test_only_the_witnesss_own_hook_is_set_aside():
    module = toy()
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
    calls = []
    module.register_forward_pre_hook(lambda *arguments: calls.append(arguments))
    witness = Witness(optimizer, module)
    witness.ask()
    assert len(module._forward_pre_hooks) == 2
    set_aside(module)
    module(X)
    assert len(calls) == len(module._forward_pre_hooks) == 1
