"""Several optimizers of one model: each one's terms, and their sums, from one pass."""

import pytest
import torch
from torch import nn
from torch.nn.functional import mse_loss
from torch.optim.swa_utils import AveragedModel

import ireg
from ireg.catalogue import SETS
from ireg.core.several import SeveralOptimizers
from ireg.core.wrappers import rate_of, unwrapped
from ireg.regularizers import FullBatch

TAGS = ["ireg/sgd", "ireg/full_batch", "ireg/minibatch_variance", "ireg/own", "norm/l2", "curvature/lambda_max"]
SUMS = TAGS[:4]


class Counting(nn.Sequential):
    calls = 0

    def forward(self, inputs):
        self.calls += 1
        return super().forward(inputs)


class OwnRule(torch.optim.SGD):
    """A class that no rule is known for."""


def network():
    torch.manual_seed(0)
    return Counting(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)).double()


def batches(count=4):
    generator = torch.Generator().manual_seed(1)
    return [tuple(torch.randn(6, size, generator=generator).double() for size in (4, 3)) for _ in range(count)]


def two(model, first=torch.optim.SGD):
    return [
        first(model[0].parameters(), lr=0.1, momentum=0.9),
        torch.optim.AdamW(model[2].parameters(), lr=0.01, weight_decay=0.1),
    ]


def train(model, optimizers, monitor=None, loss=mse_loss, data=None):
    for number, (inputs, targets) in enumerate(batches() if data is None else data):
        loss(model(inputs), targets).backward()
        for optimizer in optimizers:
            if number % getattr(optimizer, "every", 1) == 0:
                optimizer.step()
            optimizer.zero_grad()  # before the others step
        if monitor is not None:
            monitor.update((inputs, targets))
    return {} if monitor is None else monitor.compute()


def test_each_is_what_it_is_alone_and_sums_are_those_of_a_joint_step():
    model = network()
    optimizers = two(model)
    monitor = ireg.Monitor(model, optimizers, criterion=mse_loss, terms=TAGS)
    values = train(model, optimizers, monitor)
    assert values["check/replay"] <= 1e-10
    for name, optimizer in zip(("SGD", "AdamW"), optimizers, strict=True):
        alone = ireg.measure(model, batches(), optimizer=optimizer, criterion=mse_loss, terms=SUMS)
        assert {tag: values[f"{tag}/{name}"] for tag in SUMS} == pytest.approx(alone, rel=1e-12, abs=0)
    for tag in SUMS:
        assert values[tag] == pytest.approx(values[f"{tag}/SGD"] + values[f"{tag}/AdamW"], rel=1e-12, abs=0)
    # By hand: each weight with its own rate.
    total = 0.0
    for inputs, targets in batches():
        model.zero_grad()
        mse_loss(model(inputs), targets).backward()
        total += sum(
            float(value.grad.square().sum()) * group["lr"] / 4
            for optimizer in optimizers
            for group in optimizer.param_groups
            for value in group["params"]
        )
    assert values["ireg/sgd"] == pytest.approx(total / 4, rel=1e-12, abs=0)
    whole = torch.optim.SGD(model.parameters(), lr=0.1)
    model.zero_grad()
    joint = ireg.measure(model, batches(), optimizer=whole, criterion=mse_loss, terms=["curvature/lambda_max"])
    assert values["curvature/lambda_max"] == pytest.approx(joint["curvature/lambda_max"], rel=1e-6)
    assert not {"norm/l2/SGD", "curvature/lambda_max/SGD"} & values.keys()


@pytest.mark.parametrize("arguments", [{}, {"population": 9}, {"sampling": "independent"}], ids=str)
def test_ratios_are_of_all_weights_and_of_each_optimizers_and_no_sums(arguments):
    model = network()
    optimizers = two(model)
    train(model, optimizers)
    tags = [tag for tag in SETS["noise"] if tag.startswith("noise/")]
    given = {"criterion": mse_loss, "terms": tags, **arguments}
    values = ireg.measure(model, batches(), optimizer=optimizers, **given)
    for name, optimizer in zip(("SGD", "AdamW"), optimizers, strict=True):
        alone = ireg.measure(model, batches(), optimizer=optimizer, **given)
        of_each = {tag.replace(f"/{name}", ""): value for tag, value in values.items() if f"/{name}" in tag}
        assert of_each == pytest.approx(alone, rel=1e-9, abs=0)
        assert {"noise/trace", "noise/angle"} <= {*of_each}
    whole = ireg.measure(model, batches(), optimizer=torch.optim.SGD(model.parameters(), lr=0.1), **given)
    for tag in {"noise/scale", "noise/signal_to_noise", "noise/trace", "noise/square"} & {*whole}:
        assert values[tag] == pytest.approx(whole[tag], rel=1e-9, abs=0), tag
    assert values["noise/trace"] == pytest.approx(values["noise/trace/SGD"] + values["noise/trace/AdamW"], rel=1e-9)
    assert not {"noise/scale_own", "noise/update_ratio", "noise/angle", "noise/equilibrium"} & {
        *values
    }  # no joint rule


@pytest.mark.parametrize("arguments", [{}, {"population": 9}, {"sampling": "independent"}], ids=str)
@pytest.mark.parametrize("by", ["layer", "group"])
def test_parts_are_those_of_each_optimizer(by, arguments):
    model = network()
    optimizers = two(model)
    optimizers[0] = torch.optim.SGD([{"params": [value]} for value in model[0].parameters()], lr=0.1, momentum=0.9)
    train(model, optimizers)
    given = {"criterion": mse_loss, "terms": [*SUMS, "noise/scale"], "by": by, **arguments}
    values = ireg.measure(model, batches(), optimizer=optimizers, **given)
    parts = {"layer": [["0"], ["2"]], "group": [["0", "1"], ["0"]]}[by]
    for name, optimizer, own in zip(("SGD", "AdamW"), optimizers, parts, strict=True):
        alone = ireg.measure(model, batches(), optimizer=optimizer, **given)
        assert {f"ireg/sgd/{part}" for part in own} <= {*alone}
        of_each = {tag.replace(f"/{name}", ""): value for tag, value in values.items() if f"/{name}" in tag}
        assert of_each == pytest.approx(alone, rel=1e-9, abs=0)
    assert "ireg/sgd/0" not in values  # of which optimizer it would not say


def test_one_pass_serves_all():
    model = network()
    optimizers = two(model)
    train(model, optimizers)
    calls = []
    for given in (optimizers[0], optimizers):
        model.calls = 0
        arguments = {"optimizer": given, "criterion": mse_loss, "terms": SUMS, "method": "loop", "check": "off"}
        with torch.no_grad():
            wanted = ireg.measure(model, batches(), **arguments)
        assert wanted
        calls.append(count_of_passes(model, arguments))
    assert calls[0] == calls[1] > 0


def count_of_passes(model, arguments):
    calls = []

    def criterion(outputs, targets):
        calls.append(1)
        return mse_loss(outputs, targets)

    ireg.measure(model, batches(), **(arguments | {"criterion": criterion}))
    return len(calls)


def test_estimates_add_up_with_their_errors():
    model = network()
    optimizers = two(model)
    train(model, optimizers)
    values = ireg.measure(
        model, batches(8), optimizer=optimizers, criterion=mse_loss, terms=["ireg/own"], num_batches=5
    )
    assert values["ireg/own"] == pytest.approx(values["ireg/own/SGD"] + values["ireg/own/AdamW"], rel=1e-12)
    assert 0 < values["ireg/own_se"] <= values["ireg/own/SGD_se"] + values["ireg/own/AdamW_se"]


def test_a_sum_needs_all_of_them():
    model = network()
    optimizers = two(model, OwnRule)
    train(model, optimizers)
    values = ireg.measure(model, batches(), optimizer=optimizers, criterion=mse_loss, terms=["ireg/own", "ireg/sgd"])
    assert values.keys() == {"ireg/own/AdamW", "ireg/sgd", "ireg/sgd/OwnRule", "ireg/sgd/AdamW"}
    optimizers[1] = OwnRule(model[2].parameters(), lr=0.2)
    values = ireg.measure(model, batches(), optimizer=optimizers, criterion=mse_loss, terms=["ireg/sgd"])
    assert values.keys() == {"ireg/sgd", "ireg/sgd/0", "ireg/sgd/1"}


def test_a_step_is_one_of_each_however_often_they_step():
    model = network()
    optimizers = two(model)
    optimizers[1].every = 2
    monitor = ireg.Monitor(model, optimizers, criterion=mse_loss, terms=["ireg/sgd"])
    values = train(model, optimizers, monitor)
    assert monitor.steps == 4
    assert values["check/replay"] <= 1e-10
    seen = []
    both = SeveralOptimizers(optimizers)
    both.register_step_pre_hook(lambda *_: seen.append("before"))
    both.register_step_post_hook(lambda *_: seen.append("after"))
    for optimizer in (optimizers[0], optimizers[0], optimizers[1]):
        optimizer.step()
    assert seen == ["before", "after", "before", "after"]


def test_the_guard_compares_the_gradient_of_all():
    model = network()
    optimizers = two(model)
    monitor = ireg.Monitor(model, optimizers, criterion=lambda *pair: 2 * mse_loss(*pair), terms=["ireg/sgd"])
    with pytest.raises(ValueError, match=r"the step's is 0.5 times that of the loss"):
        train(model, optimizers, monitor)


def test_rates_that_change_by_other_factors():
    model = network()
    optimizers = two(model)
    monitor = ireg.Monitor(model, optimizers, criterion=mse_loss, terms=["ireg/sgd"])
    for batch in batches():
        optimizers[0].param_groups[0]["lr"] *= 0.5
        train(model, optimizers, monitor, data=[batch])
    row = monitor.rows.iloc[-1]
    assert row["ireg/sgd"] == pytest.approx(row["ireg/sgd/SGD"] + row["ireg/sgd/AdamW"], rel=1e-12)


def test_what_has_no_meaning_is_refused():
    model = network()
    optimizers = two(model)
    train(model, optimizers)
    arguments = {"criterion": mse_loss}
    with pytest.warns(UserWarning, match="SGD and AdamW step together, and no mean flow of a joint step is known; nor"):
        assert ireg.measure(model, batches(), optimizer=optimizers, terms=["ireg/strength"], **arguments) == {}
    with pytest.raises(ValueError, match="a regularizer is measured with one optimizer, not with SGD and AdamW"):
        ireg.measure(model, batches(), optimizer=optimizers, regularizer=FullBatch(strength=0.1), **arguments)
    with pytest.raises(ValueError, match="SGD and AdamW hold 2 parameters in common; give each to one of them"):
        ireg.measure(
            model, batches(), optimizer=[*two(model)[:1], torch.optim.AdamW(model[0].parameters())], **arguments
        )
    with pytest.raises(ValueError, match="optimizer is a list"):
        ireg.measure(model, batches(), optimizer=[], **arguments)
    assert unwrapped([optimizers[0]]) is optimizers[0]


def test_an_average_of_weights_is_measured_as_the_message_says():
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    averaged = AveragedModel(model)
    with pytest.raises(
        ValueError, match=r"AveragedModel holds an average .* by ireg.gradient_moments\(averaged.module"
    ):
        ireg.measure(averaged, batches(), optimizer=optimizer, criterion=mse_loss)
    found = ireg.gradient_moments(averaged.module, batches(), criterion=mse_loss)
    expected = ireg.gradient_moments(model, batches(), criterion=mse_loss)
    torch.testing.assert_close(found.sq_norms, expected.sq_norms)


class Distance(torch.optim.Optimizer):
    """Steps of d · lr, with d in its group, as D-Adaptation and Prodigy have it."""

    def __init__(self, parameters, d):
        super().__init__(parameters, {"lr": 1.0, "d": d})

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            for value in group["params"]:
                value -= group["d"] * group["lr"] * value.grad
            group["d"] *= 2


def test_the_rate_of_a_rate_free_optimizer_is_that_of_its_steps():
    model = network()
    optimizer = Distance(model.parameters(), d=0.05)
    monitor = ireg.Monitor(model, optimizer, criterion=mse_loss, terms=["ireg/sgd"])
    values = train(model, [optimizer], monitor, data=batches()[:1])
    sgd = torch.optim.SGD(model.parameters(), lr=0.05)  # that of the step, before d has doubled
    expected = ireg.measure(model, batches()[:1], optimizer=sgd, criterion=mse_loss, terms=["ireg/sgd"])
    assert values["ireg/sgd"] == pytest.approx(expected["ireg/sgd"], rel=1e-12)
    assert rate_of({"lr": 0.5, "d": {"no": "number"}}) == 0.5
