"""The learning rate by steps, against torch's own schedulers, and which weights are decayed."""

from functools import partial

import pytest
import torch
from torch import nn
from torch.optim.lr_scheduler import CosineAnnealingLR, LinearLR, SequentialLR

from ireg.optim import Schedule, in_decay_groups

STEPS, WARMUP = 20, 4


def by_torch(after):
    """The rates of all steps by torch's schedulers: a warm-up, and what `after` makes of the optimizer."""
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.5)
    parts = [LinearLR(optimizer, 1 / WARMUP, 1.0, WARMUP - 1), after(optimizer)]
    scheduler = SequentialLR(optimizer, parts, [WARMUP])
    rates = []
    for _ in range(STEPS):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return rates


@pytest.mark.filterwarnings("ignore:The epoch parameter")
@pytest.mark.parametrize("final", [0.0, 0.1])
def test_rates_are_those_of_torchs_schedulers(final):
    cosine = by_torch(lambda optimizer: CosineAnnealingLR(optimizer, STEPS - WARMUP, eta_min=0.5 * final))
    linear = by_torch(lambda optimizer: LinearLR(optimizer, 1.0, final, STEPS - WARMUP))
    for name, expected in (("cosine", cosine), ("linear", linear)):
        schedule = Schedule(name, steps=STEPS, warmup=WARMUP, final=final)
        assert [0.5 * schedule(step) for step in range(STEPS)] == pytest.approx(expected, rel=1e-12)


def test_the_ends_of_a_schedule():
    assert [Schedule("constant", steps=4, warmup=2)(step) for step in range(4)] == [0.5, 1, 1, 1]
    for name in ("cosine", "linear"):
        schedule = Schedule(name, steps=10, final=0.25)
        assert (schedule(0), schedule(10), schedule(11)) == (1, 0.25, 0.25)
        assert 0.25 < schedule(9) < schedule(5) < 1


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"name": "steps", "steps": 3}, "schedule='steps': must be one of constant, cosine, linear"),
        ({"name": "cosine", "steps": 3, "warmup": 3}, "warmup=3: must be at least 0 and below 3"),
        ({"name": "cosine", "steps": 3, "warmup": -1}, "warmup=-1: must be"),
        ({"name": "cosine", "steps": 3, "final": 1.5}, r"final=1.5: must be in \[0, 1\]"),
    ],
)
def test_arguments_of_a_schedule_are_checked(arguments, match):
    with pytest.raises(ValueError, match=match):
        Schedule(**arguments)


def test_biases_and_normalizations_are_not_decayed():
    model = nn.Sequential(nn.Embedding(3, 4), nn.LayerNorm(4), nn.Linear(4, 2))
    optimizer = in_decay_groups(partial(torch.optim.AdamW, lr=0.1, weight_decay=0.5), model.parameters())
    before = {name: value.detach().clone() for name, value in model.named_parameters()}
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    for name, value in model.named_parameters():
        factor = 0.95 if name in ("0.weight", "2.weight") else 1.0
        torch.testing.assert_close(value.detach(), factor * before[name])


def test_a_model_without_biases_has_one_group():
    groups = in_decay_groups(partial(torch.optim.SGD, lr=0.1), nn.Linear(2, 2, bias=False).parameters()).param_groups
    assert len(groups) == 1
