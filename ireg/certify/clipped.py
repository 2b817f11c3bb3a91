"""Clipping as a map of the step: ½ + L for SGD and momentum, and Adam's ramp through the clip.

A clipped gradient is T(g) = ∇φ*(g), φ* Huber's function of the gradient's norm, or of each entry. SGD and momentum then
follow ω̇ = −T(∇C̃) to first order, in time n η_e, with the modified loss

    C̃ = C + η_e (½ + L) φ*(∇C).

Within Adam the clip is no map of what is stepped, and its flow has no loss; the ramp of `ireg.core.ramp` goes through
the clip. By norm the gradient is beyond the bound at all points, where T is smooth. By value the cut is smoothed.

Derived and certified here (docs/theory.md, section 19).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from torch import Tensor, nn
from torch.optim import SGD, Adam, Optimizer

from ireg.certify.any_optimizer import MODIFIED, PLAIN, MakeAt, accuracy
from ireg.certify.exchange import Order
from ireg.certify.steepest import AS, wrong_constants
from ireg.core.clipping import Clip
from ireg.core.ramp import Make

BY_NORM = Clip(0.1)
"""Below the gradient's norm at all points."""
BOUND, SMOOTHING = 0.3, 0.1
"""By value: between the entries of the gradient."""
MOMENTUM = 0.8
LEFT_OUT = "clip left out"


def cut(value: Tensor) -> Tensor:
    """Cut off entries at the bound c, smoothed: ½ (√((x + c)² + s²) − √((x − c)² + s²)), within ±c."""
    over, under = ((value + side * BOUND).square().add(SMOOTHING**2).sqrt() for side in (1, -1))
    return (over - under) / 2


def cut_before(make: Make) -> Make:
    """Return what makes the same optimizer, with gradients cut off before each of its steps."""

    def made(parameters: list[nn.Parameter]) -> Optimizer:
        optimizer = make(parameters)
        optimizer.register_step_pre_hook(lambda *_: _cut_all(parameters))
        return optimizer

    return made


def _cut_all(parameters: list[nn.Parameter]) -> None:
    for parameter in parameters:
        assert parameter.grad is not None
        parameter.grad = cut(parameter.grad)


def sgd(momentum: float) -> MakeAt:
    """Return what makes SGD with a momentum at any rate."""
    return lambda rate: lambda parameters: SGD(parameters, lr=rate, momentum=momentum)


def adam(rate: float) -> Make:
    """Return what makes Adam."""
    return lambda parameters: Adam(parameters, lr=rate, betas=(0.6, 0.8))


@dataclass(frozen=True, kw_only=True)
class Clipped:
    """One optimizer whose gradients are clipped.

    Attributes:
        make: makes it without the clip, at any rate.
        through: what puts the clip before its steps.
        factors: wrong multiples of the correction, by name.
        left_out: whether a control is the correction of the optimizer without the clip.
    """

    make: MakeAt
    through: Callable[[Make], Make]
    factors: Mapping[str, float] = field(default_factory=dict)
    left_out: bool = False


def _of_sgd(through: Callable[[Make], Make], momentum: float) -> Clipped:
    wrong = wrong_constants(momentum / (1 - momentum))
    return Clipped(
        make=sgd(momentum),
        through=through,
        factors={name: value for name, value in wrong.items() if value not in (0, 1)},
    )


CASES: Mapping[str, Clipped] = {
    "SGD, clipped by norm": _of_sgd(BY_NORM.made, 0.0),
    "momentum, clipped by norm": _of_sgd(BY_NORM.made, MOMENTUM),
    "SGD, clipped by value, smoothed": _of_sgd(cut_before, 0.0),
    "momentum, clipped by value, smoothed": _of_sgd(cut_before, MOMENTUM),
    "Adam, clipped by norm, from own steps": Clipped(make=adam, through=BY_NORM.made, left_out=True),
    "Adam, clipped by value, smoothed, from own steps": Clipped(make=adam, through=cut_before, left_out=True),
}


def certify_clipped(name: str) -> Order:
    """Certify one optimizer; the plain flow, wrong constants, and the clip left out are controls."""
    case = CASES[name]
    others = {LEFT_OUT: case.make} if case.left_out else {}
    found = accuracy(lambda rate: case.through(case.make(rate)), name, factors=case.factors, others=others)
    if found.reason:
        raise ArithmeticError(f"{name}: {found.reason}")
    controls = {key: value for key, value in found.slopes.items() if key in (PLAIN, *case.factors, *others)}
    return Order(order=AS, slope=found.slopes[MODIFIED], controls=controls)


def all_clipped() -> dict[str, Order]:
    """Certify all, by name."""
    return {name: certify_clipped(name) for name in CASES}
