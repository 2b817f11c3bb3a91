"""The two coefficients at rates that change: at one rate those of before, else sums over all pairs of steps."""

import math
import operator
from itertools import accumulate

import pytest
import torch

from ireg.core.optimizers import OptimizerState, view
from ireg.core.optimizers.adam import AdamRule
from ireg.core.optimizers.nadam import NAdamRule
from ireg.core.optimizers.rmsprop import RMSpropRule
from ireg.core.optimizers.schedule import pair_coefficients
from ireg.core.optimizers.sgd import SGDRule

RULES = {
    "sgd": SGDRule(),
    "momentum": SGDRule(momentum=0.9, dampening=0.3),
    "nesterov": SGDRule(momentum=0.8, nesterov=True),
    "rmsprop": RMSpropRule(alpha=0.9, momentum=0.5),
    "adam": AdamRule(betas=(0.9, 0.999)),
    "nadam": NAdamRule(betas=(0.7, 0.9), share=0.6),
}


def state(rule, **fields):
    return OptimizerState(lr=0.1, moving=("w",), weight_decay=0.0, rule=rule, **fields)


@pytest.mark.parametrize("count", [1, 2, 5, 157])
@pytest.mark.parametrize("name", RULES)
def test_one_rate(name, count):
    """The closed form, also of windows of other than m steps."""
    rule = RULES[name]
    expected = state(rule).own_coefficients(count)
    for steps in (count, 3 * count, count // 2 + 1):
        found = pair_coefficients([rule.step_filter(0.1)] * steps, count)
        assert found == pytest.approx(expected, rel=1e-12, abs=0)


def by_pairs(rates, momenta, *, nesterov=False, past=100):
    """(A, B) of momentum from what each step takes of each gradient, directly from the definition."""
    m = len(rates)
    rates, momenta = [*rates, *[rates[-1]] * past], [*[momenta[0]] * past, *momenta, *[momenta[-1]] * past]
    kept = list(accumulate(momenta, operator.mul))  # step s has what step s − 1 has kept, times its own momentum

    def weight(step, gradient):
        """What a step takes of a gradient, of which those below 0 are from before, at the first momentum."""
        if gradient > step:
            return 0.0
        between = kept[past + step] / kept[past + gradient]
        return rates[step] * ((gradient == step) + momenta[past + step] * between if nesterov else between)

    moved = [sum(weight(step, gradient) for step in range(gradient, m + past)) for gradient in range(m)]
    taken = [sum(weight(step, s) for s in range(t) for step in range(s, t)) for t in range(m)]
    left = [sum(weight(step, s) for s in range(-past, 0) for step in range(t, m + past)) for t in range(m)]
    total = sum(moved)
    first = sum(c * (within - before) for c, within, before in zip(moved, taken, left, strict=True))
    second = sum(c * within for c, within in zip(moved, taken, strict=True))
    return (total**2 / 2 - first) / (2 * total), second / (2 * (m - 1) * total)


@pytest.mark.parametrize("nesterov", [False, True])
@pytest.mark.parametrize("momenta", [(0.5, 0.5, 0.5), (0.3, 0.6, 0.4)], ids=["rates change", "momentum, too"])
def test_sums_over_all_pairs(momenta, nesterov):
    rates = (0.2, 0.01, 0.09)
    rules = [SGDRule(momentum=momentum, nesterov=nesterov) for momentum in momenta]
    found = state(rules[-1], rates=rates, rules=tuple(rules)).own_coefficients(3)
    assert found == pytest.approx(by_pairs(rates, momenta, nesterov=nesterov), rel=1e-12, abs=0)


def test_without_memory_they_are_sgds():
    rates = (0.2, 0.01, 0.09)
    seen = state(SGDRule(), rates=rates)
    total, squares = sum(rates), sum(rate**2 for rate in rates)
    expected = squares / (4 * total), (total**2 - squares) / (8 * total)
    assert seen.own_coefficients(3) == pytest.approx(expected, rel=1e-12, abs=0)
    assert [0.1 / 4 * factor for factor in seen.step_factors(3)] == pytest.approx(expected, rel=1e-12, abs=0)


def test_the_last_rate_stays():
    """A window that ends at rate 0 leaves the buffer unused: gradients count for what later steps take of them."""
    of_mean, of_variance = state(SGDRule(momentum=0.5), rates=(0.2, 0.0)).own_coefficients(2)
    # c = 0.2 and 0. Before the first step the buffer holds 2 g, half of which is left, worth 0.2.
    assert of_mean == pytest.approx((0.04 + 2 * 0.2 * 0.2) / 0.8, rel=1e-12)
    assert of_variance == pytest.approx(0.0, abs=1e-17)


def test_a_part_of_an_epochs_steps():
    """T and S are those of m such steps, and the epoch's share of the buffer is that of m steps."""
    seen = state(SGDRule(momentum=0.5), rates=(0.15, 0.05))
    with pytest.raises(ValueError, match="2 rates for 8 minibatches; each minibatch needs its step's"):
        seen.own_coefficients(8)
    of_mean, of_variance = seen.own_coefficients(8, of_some_steps=True)
    assert of_mean == pytest.approx(seen.own_coefficients(2)[0], rel=1e-12)
    total, squares, within = 4 * 0.3, 4 * 0.05, 4 * 0.05 * (1 - (2 - 2 / 256) / 8)
    assert of_variance == pytest.approx((total**2 - squares - 2 * within) / (28 * total), rel=1e-12)


def test_nothing_moves_with_a_dampening_of_one():
    assert state(SGDRule(momentum=0.5, dampening=1.0), rates=(0.15, 0.05)).own_coefficients(2) == (0.0, 0.0)


def test_without_a_rule():
    with pytest.raises(ValueError, match="no rule is known for the optimizer"):
        state(None, rates=(0.1, 0.2)).own_coefficients(2)


def test_momenta_are_read_off_each_step():
    weight = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([weight], lr=0.1, momentum=0.9)
    said = [[{"lr": 0.1, "momentum": momentum}] for momentum in (0.5, 0.7)]
    rates = [(0.1,), (0.1,)]
    seen = view(optimizer, {"w": weight}, rates, said)
    assert (seen.rates, seen.rule) == (None, SGDRule(momentum=0.7))
    assert seen.rules == (SGDRule(momentum=0.5), SGDRule(momentum=0.7))
    assert seen.own_coefficients(2) == pytest.approx(by_pairs((0.1, 0.1), (0.5, 0.7)), rel=1e-12, abs=0)
    assert view(optimizer, {"w": weight}, rates, said[1:] * 2).rules is None
    assert view(optimizer, {"w": weight}, rates, [said[0] * 2, said[0]]).rules is None  # a group has left
    assert view(optimizer, {"w": weight}, rates, [said[0], said[0] * 2]).rule == SGDRule(momentum=0.9)


COSINE = [(1 + math.cos(math.pi * step / 1570)) / 2 for step in range(9 * 157, 1570)]


@pytest.mark.parametrize(
    ("rates", "of_mean", "of_variance"),
    [
        (COSINE, -0.374, 0.260),
        ([*[1.0] * 78, *[0.1] * 79], 1 / 1.552 - 1, 1 / 0.840 - 1),
        (
            [min((t + 1) / 16, (1 + math.cos(math.pi * max(t - 16, 0) / 141)) / 2) for t in range(157)],
            1 / 1.437 - 1,
            None,
        ),
    ],
    ids=["last epoch of ten", "step to a tenth", "warm-up and cosine"],
)
def test_how_far_off_the_mean_rate_was(rates, of_mean, of_variance):
    """The figures of docs/theory.md, section 8, at β = 0.9 and m = 157."""
    rule = SGDRule(momentum=0.9)
    mean = sum(rates) / len(rates)
    at_mean = OptimizerState(lr=mean, moving=("w",), weight_decay=0.0, rule=rule).own_coefficients(157)
    found = pair_coefficients([rule.step_filter(rate) for rate in rates], 157)
    assert at_mean[0] / found[0] - 1 == pytest.approx(of_mean, abs=1e-3)
    if of_variance is not None:
        assert at_mean[1] / found[1] - 1 == pytest.approx(of_variance, abs=2e-3)
