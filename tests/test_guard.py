"""The guard: what is measured is compared with the gradient that training has computed."""

import copy
import warnings

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy, dropout, mse_loss
from torch.utils.checkpoint import checkpoint

import ireg
from ireg.check import CHECKS
from ireg.core.clipping import clipping_of
from ireg.core.functional import functional_loss, trained_parameters
from ireg.core.replay import TOLERANCE, difference
from ireg.objective import Objective
from ireg.regularizers import FullBatch, Minibatch
from tests import reference

LR = 0.1


def batches(count=3, dtype=torch.float64):
    generator = torch.Generator().manual_seed(1)
    return [
        (torch.randn(6, 5, generator=generator).to(dtype), torch.randn(6, 3, generator=generator).to(dtype))
        for _ in range(count)
    ]


def network(*layers):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 4), *(layers or (nn.Tanh(),)), nn.Linear(4, 3)).double()


def plain(model, optimizer, batch):
    """One step as most take it."""
    optimizer.zero_grad()
    mse_loss(model(batch[0]), batch[1]).backward()
    optimizer.step()


def watch(step, model=None, *, data=None, optimizer=None, given=None, steps=3, **arguments):
    """Train with a monitor; its values. `given` is what the monitor gets of a minibatch."""
    model = network() if model is None else model
    optimizer = torch.optim.SGD(model.parameters(), lr=LR) if optimizer is None else optimizer(model)
    arguments = {} if "loss" in arguments else {"criterion": mse_loss} | arguments, arguments
    monitor = ireg.Monitor(model, optimizer, **{"terms": ["ireg/sgd"], **arguments[0], **arguments[1]})
    data = batches() if data is None else data
    for batch in data[:steps]:
        step(model, optimizer, batch)
        monitor.update(batch if given is None else given(batch))
    return monitor.compute()


# Ways in which what is measured is not what trains.


def smoothed(model, optimizer, batch):
    optimizer.zero_grad()
    mse_loss(model(batch[0]), 0.9 * batch[1] + 0.03).backward()
    optimizer.step()


def second_loss(model, optimizer, batch):
    optimizer.zero_grad()
    mse_loss(model(batch[0]), batch[1]).backward()
    model[0](batch[0]).square().mean().backward()
    optimizer.step()


def mixed_up(model, optimizer, batch):
    plain(model, optimizer, (0.7 * batch[0] + 0.3 * batch[0].flip(0), batch[1]))


def two_micro_batches(model, optimizer, batch):
    optimizer.zero_grad()
    for inputs, targets in (batches()[2], batch):
        (mse_loss(model(inputs), targets) / 2).backward()
    optimizer.step()


def noise_added(model, optimizer, batch):
    def add(optimizer, *_):
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                parameter.grad += 0.1 * torch.randn_like(parameter)

    handle = optimizer.register_step_pre_hook(add)
    plain(model, optimizer, batch)
    handle.remove()


def stopped_features(model, optimizer, batch):
    optimizer.zero_grad()
    hidden = model[1](model[0](batch[0]))
    mse_loss(model[2](hidden.detach()) + 0 * hidden.sum(), batch[1]).backward()
    optimizer.step()


def decay_by_hand(model, optimizer, batch):
    optimizer.zero_grad()
    mse_loss(model(batch[0]), batch[1]).backward()
    for parameter in model.parameters():
        parameter.grad.add_(parameter.detach(), alpha=0.1)
    optimizer.step()


def signs(model, optimizer, batch):
    optimizer.zero_grad()
    mse_loss(model(batch[0]), batch[1]).backward()
    for parameter in model.parameters():
        parameter.grad.sign_()
    optimizer.step()


def perturbed_weights(model, optimizer, batch):
    optimizer.zero_grad()
    mse_loss(model(batch[0]), batch[1]).backward()
    with torch.no_grad():
        model[0].weight.add_(0.1)
    optimizer.step()


def fewer_examples(model, optimizer, batch):
    plain(model, optimizer, (batch[0][:-1], batch[1][:-1]))


def a_sum(model, optimizer, batch):
    optimizer.zero_grad()
    mse_loss(model(batch[0]), batch[1], reduction="sum").backward()
    optimizer.step()


def divided(model, optimizer, batch):
    optimizer.zero_grad()
    (mse_loss(model(batch[0]), batch[1]) / 4).backward()
    optimizer.step()


def halved_afterwards(model, optimizer, batch):
    optimizer.zero_grad()
    mse_loss(model(batch[0]), batch[1]).backward()
    for parameter in model.parameters():
        parameter.grad.mul_(0.5)
    optimizer.step()


def hooked_afterwards(model, optimizer, batch):
    handle = model[0].weight.register_post_accumulate_grad_hook(lambda parameter: (parameter.grad.mul_(0.3), None)[1])
    plain(model, optimizer, batch)
    handle.remove()


def noise_before(model, optimizer, batch):
    plain(model, optimizer, (batch[0] + torch.randn_like(batch[0]), batch[1]))


UNFAITHFUL = {
    "smoothed targets": (smoothed, "the loss is another function"),
    "a second loss": (second_loss, "the loss is another function"),
    "mixed inputs": (mixed_up, "or the minibatch another one"),
    "two micro-batches": (two_micro_batches, "or the minibatch another one"),
    "noise added to gradients": (noise_added, "changed between the backward pass and the step"),
    "features that are detached": (stopped_features, "the loss is another function"),
    "decay by hand": (decay_by_hand, "changed between the backward pass and the step"),
    "signs of gradients": (signs, "changed between the backward pass and the step"),
    "weights changed after the backward pass": (perturbed_weights, "the loss is another function"),
    "fewer examples": (fewer_examples, "or the minibatch another one"),
    "a sum for a mean": (a_sum, r"the step's is 18 times that of the loss"),
    "a part of the loss": (divided, r"the step's is 0.25 times that of the loss"),
    "gradients halved afterwards": (halved_afterwards, "changed between the backward pass and the step"),
    "a hook after accumulation": (hooked_afterwards, "changed between the backward pass and the step"),
    "noise outside of the loss": (noise_before, "the loss is another function"),
}


@pytest.mark.parametrize("name", UNFAITHFUL)
def test_it_speaks_at_the_first_step(name):
    step, match = UNFAITHFUL[name]
    with pytest.raises(ValueError, match=rf"^the gradient of the first step, computed again.*{match}") as error:
        watch(step, steps=1)
    assert "\n" not in str(error.value)
    assert "check='off'" in str(error.value)
    found = watch(step, steps=1, check="off")  # the advice
    assert set(found) == {"ireg/sgd"}


def test_it_names_the_parameter_and_the_size():
    with pytest.raises(ValueError, match=r"differs by 3 of its norm from the one that SGD got, most in [02]\."):
        watch(divided, steps=1)


def test_updates_before_the_step_are_named():
    def first(model, optimizer, batch):
        optimizer.zero_grad()
        mse_loss(model(batch[0]), batch[1]).backward()

    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=LR)
    monitor = ireg.Monitor(model, optimizer, criterion=mse_loss)
    one, two, _ = batches()
    first(model, optimizer, one)
    monitor.update(one)
    optimizer.step()
    first(model, optimizer, two)
    with pytest.raises(ValueError, match=r"the first step.*call update\(batch\) after optimizer.step\(\)"):
        monitor.update(two)


def test_hooks_from_before_are_named():
    model = network()
    model[0].weight.register_post_accumulate_grad_hook(lambda parameter: (parameter.grad.mul_(0.3), None)[1])
    with pytest.raises(ValueError, match="the first step.*0.weight has hooks that are called once its gradient"):
        watch(plain, model)


def test_a_mode_that_was_set_back_is_named():
    def by_parts(model, batch):  # the model itself is not called, so that nobody sees its mode
        return mse_loss(model[2](model[1](model[0](batch[0]))), batch[1])

    def step(model, optimizer, batch):
        model.eval()
        optimizer.zero_grad()
        by_parts(model, batch).backward()
        optimizer.step()
        model.train()

    with pytest.raises(ValueError, match="the model was in eval mode in the step, and is in training mode where it is"):
        watch(step, network(nn.BatchNorm1d(4)), loss=by_parts)


def test_a_training_that_diverges_is_no_fault_of_the_loss():
    found = watch(plain, optimizer=lambda model: torch.optim.SGD(model.parameters(), lr=1e200))
    assert "check/noise" not in found
    assert found["check/replay"] == 0


def test_a_network_that_grows_between_windows():
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=LR)
    monitor = ireg.Monitor(model, optimizer, criterion=mse_loss, terms=["ireg/sgd"])
    for _ in range(2):
        plain(model, optimizer, batches()[0])
        monitor.update(batches()[0])
        assert monitor.compute()["check/replay"] == 0
        model.append(nn.Linear(3, 3).double())
        optimizer.add_param_group({"params": model[-1].parameters()})
        monitor.reset()


# Ways in which it is, however it looks.


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Linear(5, 5)
        self.last = nn.Linear(5, 3)
        self.again = self.first

    def forward(self, inputs):
        return self.last(torch.tanh(self.again(torch.tanh(self.first(inputs)))))


class Noisy(nn.Module):
    """Noise of one's own, drawn in training mode."""

    def forward(self, inputs):
        return inputs + torch.randn_like(inputs) if self.training else inputs


class FunctionalDropout(nn.Module):
    def forward(self, inputs):
        return dropout(inputs, 0.5, self.training)


class Recomputed(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(4, 4)

    def forward(self, inputs):
        return checkpoint(lambda x: torch.tanh(self.inner(x)), inputs, use_reentrant=False)


def hooked():
    model = network()
    model[0].weight.register_hook(lambda gradient: 0.3 * gradient)
    return model


def spectral():
    return nn.Sequential(nn.utils.parametrizations.spectral_norm(nn.Linear(5, 3).double()))


def clipped(bound):
    def step(model, optimizer, batch):
        optimizer.zero_grad()
        mse_loss(model(batch[0]), batch[1]).backward()
        nn.utils.clip_grad_norm_(model.parameters(), bound)
        optimizer.step()

    return step


def cut_off(model, optimizer, batch):
    optimizer.zero_grad()
    mse_loss(model(batch[0]), batch[1]).backward()
    nn.utils.clip_grad_value_(model.parameters(), 0.05)
    optimizer.step()


def by_closure(model, optimizer, batch):
    def closure():
        optimizer.zero_grad()
        loss = mse_loss(model(batch[0]), batch[1])
        loss.backward()
        return loss

    optimizer.step(closure)


def scaled(model, optimizer, batch):
    scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
    optimizer.zero_grad()
    scaler.scale(mse_loss(model(batch[0]), batch[1])).backward()
    scaler.step(optimizer)


def autocast(model, optimizer, batch):
    optimizer.zero_grad()
    with torch.autocast("cpu", torch.bfloat16):
        loss = mse_loss(model(batch[0]), batch[1])
    loss.backward()
    optimizer.step()


def in_eval_mode(model, optimizer, batch):
    model.eval()
    plain(model, optimizer, batch)
    model.train()


def frozen():
    model = network()
    model[0].requires_grad_(False)
    return model


HARMLESS = {
    "plain": lambda: watch(plain),
    "BatchNorm": lambda: watch(plain, network(nn.BatchNorm1d(4))),
    "dropout": lambda: watch(plain, network(nn.Dropout(0.5))),
    "functional dropout": lambda: watch(plain, network(FunctionalDropout())),
    "noise of one's own": lambda: watch(plain, network(Noisy())),
    "compiled": lambda: watch(plain, torch.compile(network(), backend="eager")),
    "compiled with dropout": lambda: watch(plain, torch.compile(network(nn.Dropout(0.5)), backend="aot_eager")),
    "tied": lambda: watch(plain, Tied().double()),
    "half precision": lambda: watch(plain, network().bfloat16(), data=batches(dtype=torch.bfloat16)),
    "autocast": lambda: watch(autocast, network().float(), data=batches(dtype=torch.float32)),
    "clipping by norm": lambda: watch(clipped(0.01)),
    "clipping that does not act": lambda: watch(clipped(100.0)),
    "clipping by value": lambda: watch(cut_off),
    "a closure": lambda: watch(by_closure),
    "scaled gradients that are unscaled": lambda: watch(scaled, network().float(), data=batches(dtype=torch.float32)),
    "gradient hooks": lambda: watch(plain, hooked()),
    "eval mode in the step": lambda: watch(in_eval_mode, network(nn.BatchNorm1d(4), nn.Dropout(0.5))),
    "frozen layers": lambda: watch(plain, frozen()),
    "spectral norm": lambda: watch(plain, spectral()),
    "recomputed activations": lambda: watch(plain, network(Recomputed())),
    "Adam": lambda: watch(plain, optimizer=lambda model: torch.optim.Adam(model.parameters(), lr=0.01)),
}


@pytest.mark.parametrize("name", HARMLESS)
@pytest.mark.filterwarnings("ignore")
def test_it_is_silent(name):
    found = HARMLESS[name]()
    assert found["check/replay"] <= 1e-6
    assert ("check/noise" in found) == (name == "noise of one's own")


# What follows from it.


def test_a_later_difference_marks_the_row_and_is_warned_of_once():
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=LR)
    monitor = ireg.Monitor(model, optimizer, criterion=mse_loss, terms=["ireg/sgd"])

    def train():
        for step in (plain, divided, divided, plain):
            step(model, optimizer, batches()[0])
            monitor.update(batches()[0])
            monitor.compute()
            monitor.reset()

    with pytest.warns(UserWarning, match="the gradient of step 2, computed again, differs by 3 of its norm") as warned:
        train()
    assert len(warned) == 1
    assert monitor.rows["check/replay"].tolist() == pytest.approx([0, 3, 3, 0], abs=1e-6)


@pytest.mark.parametrize(("check", "rows"), [("each", 2), ("first", 1), ("off", 0)])
def test_which_steps_are_computed_again(check, rows):
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=LR)
    monitor = ireg.Monitor(model, optimizer, criterion=mse_loss, terms=["ireg/sgd"], check=check)
    for _ in range(2):
        plain(model, optimizer, batches()[0])
        monitor.update(batches()[0])
        monitor.compute()
        monitor.reset()
    found = monitor.rows.get("check/replay")
    assert (0 if found is None else int(found.notna().sum())) == rows


def test_an_unknown_check_is_refused():
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=LR)
    for door in (
        lambda: ireg.Monitor(model, optimizer, criterion=mse_loss, check="once"),
        lambda: ireg.measure(model, batches(), optimizer=optimizer, criterion=mse_loss, check="once"),
        lambda: ireg.ImplicitRegularizationMonitor(check="once"),
    ):
        with pytest.raises(ValueError, match=f"check='once': must be one of {', '.join(CHECKS)}"):
            door()


def test_noise_of_ones_own_is_found_and_two_draws_are_offered():
    with pytest.warns(UserWarning, match=r"not known as noise.*mode='two_draws' has their means"):
        found = watch(plain, network(Noisy()))
    assert found["check/noise"] > 0.01
    model = network(Noisy())
    optimizer = torch.optim.SGD(model.parameters(), lr=LR)
    assert "check/noise" in ireg.measure(model, batches(), optimizer=optimizer, criterion=mse_loss)
    two = ireg.measure(model, batches(), optimizer=optimizer, criterion=mse_loss, mode="two_draws")
    assert "check/noise" not in two
    model.eval()
    assert "check/noise" not in ireg.measure(model, batches(), optimizer=optimizer, criterion=mse_loss)


def noisy(model, batch):
    return mse_loss(model(batch[0] + torch.randn_like(batch[0])), batch[1])


def test_a_loss_that_draws_before_the_model_is_compared_one_step_later():
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=LR)
    monitor = ireg.Monitor(model, optimizer, loss=noisy, terms=["ireg/sgd"])
    torch.rand(1)  # as a loader that begins an epoch
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for batch in batches():
            optimizer.zero_grad()
            noisy(model, batch).backward()
            optimizer.step()
            monitor.update(batch)
        found = monitor.compute()
    assert found["check/replay"] == 0
    assert found["check/noise"] > 0


def test_numbers_that_are_drawn_between_all_steps_are_named():
    def step(model, optimizer, batch):
        torch.rand(1)  # as an augmentation would
        optimizer.zero_grad()
        noisy(model, batch).backward()
        optimizer.step()

    with pytest.raises(ValueError, match="step 2.*draws random numbers that are others than in the step"):
        watch(step, loss=noisy)


def test_a_constant_factor_is_told_from_clipping_by_the_second_step():
    def multiplied(model, optimizer, batch):
        optimizer.zero_grad()
        loss = mse_loss(model(batch[0]), batch[1])
        loss.backward()
        norm = nn.utils.get_total_norm([parameter.grad for parameter in model.parameters()])
        factor = factors.setdefault("of all steps", float(0.25 / norm))  # the first norm becomes a round number
        for parameter in model.parameters():
            parameter.grad.mul_(factor)
        optimizer.step()

    factors = {}
    with pytest.raises(ValueError, match="step 2.*changed between the backward pass and the step"):
        watch(multiplied)


@pytest.mark.parametrize("penalty", [Minibatch, FullBatch])
def test_steps_with_a_penalty_are_compared_when_the_window_is_known(penalty):
    def train(given):
        model = network()
        optimizer = torch.optim.SGD(model.parameters(), lr=LR)
        monitor = ireg.Monitor(
            model, optimizer, criterion=mse_loss, terms=["ireg/sgd"], regularizer=penalty(strength=given)
        )
        objective = Objective(functional_loss(model, mse_loss), penalty(strength=0.3), batches())
        for batch in batches():
            optimizer.zero_grad()
            objective.evaluate(trained_parameters(model), batch).total.backward()
            optimizer.step()
            monitor.update(batch)
        return monitor.compute()

    assert train(0.3)["check/replay"] == 0
    with pytest.raises(ValueError, match="computed again, differs by"):
        train(0.6)


# The parts.


@pytest.mark.parametrize("dtype", TOLERANCE)
def test_the_tolerance_from_both_sides(dtype):
    gradient = {"w": torch.tensor([3.0, 4.0], dtype=torch.float64)}
    for factor, small in ((0.9, True), (1.1, False)):
        off = {"w": gradient["w"] + torch.tensor([0.0, 5 * factor * TOLERANCE[dtype]], dtype=torch.float64)}
        found = difference(off, gradient, None if dtype == torch.float64 else dtype)
        assert found.relative == pytest.approx(factor * TOLERANCE[dtype], rel=1e-6)
        assert found.is_small is small


def test_differences():
    one = {"a": torch.tensor([3.0]), "b": torch.tensor([4.0])}
    assert difference({"b": torch.tensor([4.0])}, one).relative == 0.6
    assert difference({"b": torch.tensor([4.0])}, one).most == "a"
    twice = {name: 2 * value for name, value in one.items()}
    assert difference(twice, one).is_factor
    assert not difference({"a": torch.tensor([-3.0]), "b": torch.tensor([-4.0])}, one).is_factor
    zero = {"a": torch.zeros(1)}
    assert difference(one, zero).relative == float("inf")
    assert difference(zero, zero).relative == 0
    nan = {"a": torch.tensor([float("nan"), 1.0])}
    assert difference(nan, nan).relative == 0  # a training that has diverged is faithful, too
    assert difference({"a": torch.tensor([float("nan"), 1.0])}, {"a": torch.ones(2)}).relative == float("inf")


def test_clipping_in_half_precision_and_of_the_largest_entry():
    before = {"w": torch.tensor([3.0, 4.0, 0.1])}
    assert clipping_of(before, {"w": before["w"] * 0.125}).factor == pytest.approx(0.125)  # the largest becomes 0.5
    assert clipping_of(before, {"w": before["w"] * 0.1234567}) is None
    half = {"w": before["w"].bfloat16()}
    assert clipping_of(half, {"w": half["w"] * 0.1234567}) is not None
    assert clipping_of({"w": torch.zeros(2)}, {"w": torch.zeros(2)}) is None


def test_measure_compares_with_the_models_own_pass():
    class Reading(nn.Module):
        """It reads half of its weights where nobody can put others."""

        def __init__(self):
            super().__init__()
            self.net = network()
            self.held = [self.net[0].weight]

        def forward(self, inputs):
            return self.net(inputs) + nn.functional.linear(inputs, self.held[0])[:, :3]

    model = Reading()
    optimizer = torch.optim.SGD(model.parameters(), lr=LR)
    with pytest.raises(ValueError, match=r"first minibatch at given weights differs by .* the loss reads weights"):
        ireg.measure(model, batches(), optimizer=optimizer, loss=lambda m, b: mse_loss(m(b[0]), b[1]))


def test_nothing_is_left_on_the_model():
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=LR)
    monitor = ireg.Monitor(model, optimizer, criterion=mse_loss, terms=["ireg/sgd"])
    plain(model, optimizer, batches()[0])
    monitor.update(batches()[0])
    assert not model._forward_pre_hooks
    assert not any(parameter._post_accumulate_grad_hooks for parameter in model.parameters())
    monitor.reset()
    # A window that has been asked for does not change the method by which another monitor measures.
    found = ireg.measure(model, batches(), optimizer=optimizer, criterion=mse_loss)
    assert len(model._forward_pre_hooks) == 1
    expected = (
        ireg.measure(copy.deepcopy(network()), batches(), optimizer=optimizer, criterion=mse_loss) if 0 else found
    )
    assert expected == found


def test_the_weights_are_bit_equal_with_and_without_it():
    ends = []
    for check in ("off", "each"):
        model = network(nn.BatchNorm1d(4), nn.Dropout(0.5), Noisy())
        optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            monitor = ireg.Monitor(model, optimizer, criterion=mse_loss, check=check)
            for _ in range(2):
                for batch in batches():
                    plain(model, optimizer, batch)
                    monitor.update(batch)
                monitor.compute()
                monitor.reset()
        ends.append((copy.deepcopy(model.state_dict()), torch.rand(3)))
    (one, stream), (other, same) = ends
    assert all(torch.equal(value, other[name]) for name, value in one.items())
    assert torch.equal(stream, same)


def test_hooks_of_parameters_act_on_measured_gradients():
    model = network()
    gradients = reference.minibatch_gradients(model, mse_loss, batches())
    for gradient in gradients:
        gradient["0.weight"] = 0.3 * gradient["0.weight"]
    model[0].weight.register_hook(lambda gradient: 0.3 * gradient)
    optimizer = torch.optim.SGD(model.parameters(), lr=LR)
    for arguments in ({"criterion": mse_loss}, {"loss": lambda m, b: mse_loss(m(b[0]), b[1])}):
        found = ireg.measure(model, batches(), optimizer=optimizer, terms=["ireg/sgd"], **arguments)
        assert found["ireg/sgd"] == pytest.approx(reference.sgd(gradients, LR), rel=1e-10, abs=0)
    with pytest.raises(ValueError, match="is no stack of Linear layers"):
        ireg.measure(model, batches(), optimizer=optimizer, criterion=mse_loss, method="ghost")


def test_classification_with_weights_and_smoothing():
    labels = [(inputs, targets.argmax(1)) for inputs, targets in batches()]

    def criterion(outputs, targets):
        return cross_entropy(outputs, targets, label_smoothing=0.1)

    def step(model, optimizer, batch):
        optimizer.zero_grad()
        criterion(model(batch[0]), batch[1]).backward()
        optimizer.step()

    assert watch(step, data=labels, criterion=criterion)["check/replay"] == 0
    with pytest.raises(ValueError, match="the loss is another function"):
        watch(step, data=labels, criterion=cross_entropy)
