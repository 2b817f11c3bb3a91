"""What is read must be what the update rule says, by a recursion written here by hand."""

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from ireg.core.optimizers import rule_of, view
from tests.cases import EXACT

STEPS = 4
GRADIENTS = [torch.tensor([[1.0, -2.0]], dtype=torch.float64) * (step + 1) ** 0.5 for step in range(STEPS)]


def make(optimizer_class, **arguments):
    module = nn.Linear(2, 1, bias=False).double()
    return optimizer_class(module.parameters(), **arguments), dict(module.named_parameters())


def stepped(optimizer, names):
    for gradient in GRADIENTS:
        names["weight"].grad = gradient.clone()
        optimizer.step()
    return view(optimizer, names)


def running_mean(decay, power):
    value = torch.zeros(1, 2, dtype=torch.float64)
    for gradient in GRADIENTS:
        value = decay * value + (1 - decay) * gradient**power
    return value


def buffer(decay, gradients=GRADIENTS):
    value = torch.zeros(1, 2, dtype=torch.float64)
    for gradient in gradients:
        value = decay * value + gradient
    return value


def test_sgd():
    seen = stepped(*make(torch.optim.SGD, lr=0.1, weight_decay=0.0))
    assert (seen.kind, seen.lr, seen.rule.momentum, seen.weight_decay) == ("sgd", 0.1, 0.0, 0.0)
    assert (seen.first_moment, seen.second_moment, seen.buffer, seen.divides_by, seen.eps) == (None,) * 5


@pytest.mark.parametrize("nesterov", [False, True])
def test_momentum(nesterov):
    seen = stepped(*make(torch.optim.SGD, lr=0.1, momentum=0.8, nesterov=nesterov))
    assert (seen.kind, seen.rule.momentum, seen.second_moment) == ("sgd", 0.8, None)
    assert_close(seen.first_moment["weight"], buffer(0.8), **EXACT)


@pytest.mark.parametrize("centered", [False, True])
def test_rmsprop(centered):
    seen = stepped(*make(torch.optim.RMSprop, lr=0.1, alpha=0.7, eps=1e-3, weight_decay=0.0, centered=centered))
    assert (seen.kind, seen.rule.alpha, seen.eps, seen.rule.momentum) == ("rmsprop", 0.7, 1e-3, 0.0)
    assert seen.first_moment is None
    assert_close(seen.second_moment["weight"], running_mean(0.7, 2), **EXACT)


def test_rmsprop_with_momentum():
    seen = stepped(*make(torch.optim.RMSprop, lr=0.1, alpha=0.0, eps=1.0, momentum=0.5))
    scaled = [gradient / (gradient.abs() + 1.0) for gradient in GRADIENTS]  # alpha = 0: the root is |g|
    assert_close(seen.first_moment["weight"], buffer(0.5, scaled), **EXACT)


def test_adagrad_holds_the_mean_over_its_steps():
    seen = stepped(*make(torch.optim.Adagrad, lr=0.1, eps=1e-4))
    assert (seen.kind, seen.eps) == ("adagrad", 1e-4)
    assert_close(seen.second_moment["weight"], sum(gradient**2 for gradient in GRADIENTS) / STEPS, **EXACT)


@pytest.mark.parametrize("kind", ["Adam", "AdamW"])
def test_adam(kind):
    seen = stepped(*make(getattr(torch.optim, kind), lr=0.1, betas=(0.6, 0.9), eps=1e-5, weight_decay=0.25))
    assert (seen.kind, seen.rule.betas, seen.eps) == (kind.lower(), (0.6, 0.9), 1e-5)
    assert seen.weight_decay == 0.25
    if kind == "AdamW":  # decoupled: the moments see the bare gradient
        assert_close(seen.first_moment["weight"], running_mean(0.6, 1), **EXACT)
        assert_close(seen.second_moment["weight"], running_mean(0.9, 2), **EXACT)


@pytest.mark.parametrize(
    ("optimizer_class", "arguments"),
    [
        (torch.optim.SGD, {"momentum": 0.9}),
        (torch.optim.RMSprop, {"momentum": 0.9}),
        (torch.optim.Adagrad, {}),
        (torch.optim.Adam, {}),
        (torch.optim.AdamW, {}),
        (torch.optim.NAdam, {}),
    ],
)
def test_before_the_first_step_there_are_zeros_and_reading_adds_nothing(optimizer_class, arguments):
    optimizer, names = make(optimizer_class, lr=0.1, **arguments)
    entries = len(optimizer.state)
    seen = view(optimizer, names)
    assert seen.corrected_second_moment is None
    for moment in (seen.first_moment, seen.second_moment):
        if moment is not None:
            assert torch.equal(moment["weight"], torch.zeros(1, 2, dtype=torch.float64))
    assert (seen.first_moment, seen.second_moment) != (None, None)
    assert len(optimizer.state) == entries


def in_groups(optimizer_class, weight=None, bias=None, **arguments):
    module = nn.Linear(2, 1)
    groups = [{"params": [module.weight], **(weight or {})}, {"params": [module.bias], **(bias or {})}]
    return optimizer_class(groups, **{"lr": 0.1, **arguments}), dict(module.named_parameters())


def test_groups_have_rates_and_decays_of_their_own():
    seen = view(*in_groups(torch.optim.SGD, bias={"lr": 0.4, "weight_decay": 0.5}))
    assert (seen.kind, seen.lr, seen.weight_decay) == ("sgd", 0.4, 0.5)
    assert_close(seen.shares, {"weight": torch.full((1, 2), 0.25), "bias": torch.ones(1)}, rtol=0, atol=0)
    assert (seen.decays, seen.uniform) == ({"weight": 0.0, "bias": 0.5}, False)


def test_groups_that_are_alike_are_one():
    seen = view(*in_groups(torch.optim.SGD))
    assert (seen.lr, seen.shares, seen.decays, seen.rates, seen.uniform) == (0.1, None, None, None, True)


def test_a_group_that_holds_nothing_that_moves_does_not_matter():
    optimizer, names = in_groups(torch.optim.SGD, bias={"lr": 0.4, "momentum": 0.9})
    seen = view(optimizer, {"weight": names["weight"]})
    assert (seen.kind, seen.lr, seen.shares) == ("sgd", 0.1, None)


def test_groups_that_differ_in_more_have_no_rule():
    seen = view(*in_groups(torch.optim.SGD, bias={"momentum": 0.9}))
    assert (seen.rule, seen.kind) == (None, "unknown")
    assert seen.reason == "SGD: its parameter groups differ in momentum, for which no modified loss is known"


def test_rates_of_the_steps():
    optimizer, names = in_groups(torch.optim.SGD, bias={"lr": 0.4})
    seen = view(optimizer, names, [(0.1, 0.2), (0.3, 0.6)])
    assert (seen.lr, seen.rates) == (pytest.approx(0.4), (0.2, 0.6))
    assert_close(seen.shares["weight"], torch.full((1, 2), 0.5))
    total, squares = 0.8, 0.04 + 0.36
    assert seen.step_factors(2) == pytest.approx(
        (squares / (4 * total) / (0.4 / 4), (total**2 - squares) / (4 * total) / (0.4 / 4))
    )
    with pytest.raises(ValueError, match="2 rates for 3 minibatches"):
        seen.step_factors(3)
    assert view(optimizer, names, [(0.1, 0.4)] * 3).rates is None


@pytest.mark.parametrize(
    ("rates", "match"),
    [
        ([(0.1, 0.4), (0.2, 0.4)], "change by different factors within the epoch"),
        ([(float("nan"), 0.4)], "must be finite numbers of at least 0"),
        ([(-0.1, 0.4)], "must be finite numbers of at least 0"),
    ],
)
def test_rates_without_a_modified_loss_are_refused(rates, match):
    optimizer, names = in_groups(torch.optim.SGD)
    with pytest.raises(ValueError, match=match):
        view(optimizer, names, rates)


def test_unknown_optimizers_have_no_rule_subclasses_too():
    class Mine(torch.optim.SGD):
        pass

    for unknown in (torch.optim.Rprop, Mine):
        optimizer, names = make(unknown, lr=0.1)
        seen = view(optimizer, names)
        assert (seen.lr, seen.moving, seen.has_rule) == (0.1, ("weight",), False)
        for get in ("memory", "buffer", "divides_by", "filtered_by", "edge"):
            with pytest.raises(ValueError, match=f"{unknown.__name__}: no rule is known for it"):
                getattr(seen, get)
        with pytest.raises(ValueError, match=f"{unknown.__name__}: unknown optimizer; known are Adagrad, Adam, "):
            rule_of(unknown)


def test_what_is_not_held_is_refused():
    module = nn.Linear(2, 1)
    optimizer = torch.optim.SGD([module.weight], lr=0.1)
    with pytest.raises(ValueError, match="SGD does not hold bias: name what it moves only"):
        view(optimizer, dict(module.named_parameters()))


def two_weights(optimizer_class, **arguments):
    """Two weights, of which the second begins to be stepped at the third step."""
    first, second = nn.Parameter(torch.tensor([2.0])), nn.Parameter(torch.tensor([5.0]))
    optimizer = optimizer_class([first, second], lr=0.1, **arguments)
    for step in range(4):
        first.grad, second.grad = torch.tensor([3.0]), torch.tensor([3.0]) if step >= 2 else None
        optimizer.step()
    return optimizer, {"first": first, "second": second}


def test_bias_correction_is_by_each_parameters_own_steps():
    seen = view(*two_weights(torch.optim.Adam, betas=(0.5, 0.9)))
    for value in seen.corrected_second_moment.values():
        assert_close(value, torch.tensor([9.0]))
    assert_close(seen.second_moment["second"], torch.tensor([9 * (1 - 0.9**2)]))


@pytest.mark.parametrize("optimizer_class", [torch.optim.Adam, torch.optim.RMSprop, torch.optim.Adagrad])
def test_a_parameter_that_was_never_stepped_has_no_preconditioner(optimizer_class):
    optimizer, names = two_weights(optimizer_class)
    third = nn.Parameter(torch.tensor([1.0]))
    optimizer.param_groups[0]["params"].append(third)
    assert view(optimizer, names).corrected_second_moment is not None
    assert view(optimizer, names | {"third": third}).corrected_second_moment is None


def test_means_of_adagrad_are_by_each_parameters_own_steps():
    seen = view(*two_weights(torch.optim.Adagrad))
    for value in seen.second_moment.values():
        assert_close(value, torch.tensor([9.0]))


def test_adagrad_with_rates_that_differ_is_refused():
    with pytest.raises(ValueError, match=r"lr_decay=0.5 and parameters stepped 2 to 4 times.*set lr_decay=0"):
        view(*two_weights(torch.optim.Adagrad, lr_decay=0.5))


def test_maximizing_is_refused():
    optimizer, names = make(torch.optim.Adam, lr=0.1, maximize=True)
    with pytest.raises(ValueError, match="maximize=True: the terms are those of descent; minimize the negative loss"):
        view(optimizer, names)


@pytest.mark.parametrize(
    ("optimizer_class", "arguments", "field"),
    [
        (torch.optim.SGD, {"momentum": 0.9, "nesterov": True}, "nesterov"),
        (torch.optim.RMSprop, {"centered": True}, "centered"),
        (torch.optim.Adam, {"amsgrad": True}, "amsgrad"),
        (torch.optim.Adam, {"decoupled_weight_decay": True}, "decoupled"),
        (torch.optim.AdamW, {}, "decoupled"),
    ],
)
def test_variants_of_the_update_rule(optimizer_class, arguments, field):
    flags = ("nesterov", "centered", "amsgrad", "decoupled")
    seen = view(*make(optimizer_class, lr=0.1, **arguments))
    assert [flag for flag in flags if getattr(seen.rule, flag, False) or getattr(seen, flag, False)] == [field]


def test_nadams_share_of_the_mean_is_that_of_the_next_step():
    seen = stepped(*make(torch.optim.NAdam, lr=0.1, betas=(0.8, 0.9), momentum_decay=2.0))
    assert seen.rule.share == pytest.approx(0.8 * (1 - 0.5 * 0.96 ** (2.0 * (STEPS + 1))), rel=1e-14)
    assert seen.memory.tail_scale == seen.rule.share


def test_nadams_momenta_that_differ_are_no_memory():
    module = nn.Linear(2, 1)
    optimizer, names = torch.optim.NAdam(module.parameters()), dict(module.named_parameters())
    module.weight.grad = torch.ones_like(module.weight)
    optimizer.step()
    seen = view(optimizer, names)
    for what in ("memory", "buffer", "divides_by"):
        with pytest.raises(ValueError, match="nadam: its parameters have been stepped unequally often"):
            getattr(seen, what)


def test_dampening_is_that_of_a_buffer():
    assert view(*make(torch.optim.SGD, lr=0.1, momentum=0.9, dampening=0.25)).rule.dampening == 0.25
    assert view(*make(torch.optim.SGD, lr=0.1, dampening=0.25)).rule.dampening == 0.0


def test_the_rate_of_adagrad_is_that_of_its_last_step():
    optimizer, names = make(torch.optim.Adagrad, lr=0.1, lr_decay=0.5)
    assert view(optimizer, names).lr == 0.1
    assert stepped(optimizer, names).lr == pytest.approx(0.1 / (1 + 0.5 * (STEPS - 1)))
