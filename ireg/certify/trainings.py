"""Small trainings whose logged numbers are certified.

Among them are all rules, groups, schedules, decays, penalties and several networks.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import SGD, Adadelta, Adagrad, Adam, AdamW, NAdam, Optimizer, RMSprop

from ireg import regularizers
from ireg.certify.identity import network
from ireg.certify.textbook import Function, Pair, gradient
from ireg.core.path import Path, PathRecorder
from ireg.core.random import named_generator
from ireg.regularizers import Regularizer

RATE = 0.05
SIZES = (5, 5, 5, 3)
"""Examples in each minibatch of the epoch: the last is smaller."""
CLASSES = 3


@dataclass(frozen=True, kw_only=True)
class Training:
    """Two epochs of a small network, measured over the second.

    Attributes:
        optimizer: of the module.
        model: of the network.
        sizes: of the minibatches.
        schedule: factors of the rates of the second epoch's steps.
        regularizer: an explicit penalty that is measured, too.
        penalty: the same by definition: from the minibatches' losses to R_k of each, less what all share, and to that.
        epochs: of steps; 0 measures before the first.
        flow: whether the mean flow is known.
    """

    optimizer: Callable[[nn.Module], Optimizer]
    model: Callable[[], nn.Module]
    sizes: Sequence[int] = SIZES
    schedule: Sequence[float] | None = None
    regularizer: Regularizer | None = None
    penalty: Penalty | None = None
    epochs: int = 2
    flow: bool = True


@dataclass(frozen=True, kw_only=True)
class Trained:
    """What a training leaves: the network, its optimizer, and a record of all steps.

    Attributes:
        module: as it is now.
        optimizer: its.
        initial: the weights before training, by name.
        batches: of the epoch.
        path: what the product has recorded of the second epoch.
        rates: of each step of the second epoch, by group.
        gradients: `.grad` of every step, by name; weight decay is not in them.
        weights: before every step and after the last, by name.
        epoch: the weights from the second epoch's start on, each as one vector of all that the optimizer holds.
    """

    module: nn.Module
    optimizer: Optimizer
    initial: dict[str, Tensor]
    batches: list[Pair]
    path: Path | None
    rates: list[list[float]]
    gradients: list[dict[str, Tensor]] = field(default_factory=list)
    weights: list[dict[str, Tensor]] = field(default_factory=list)
    epoch: list[Tensor] = field(default_factory=list)


def held(optimizer: Optimizer) -> Tensor:
    """Join all weights that an optimizer holds into one vector."""
    return torch.cat([value.detach().flatten() for group in optimizer.param_groups for value in group["params"]])


def images(sizes: Sequence[int]) -> list[Pair]:
    """Draw minibatches of random inputs of four numbers, with labels of three classes.

    Args:
        sizes: the examples in each.

    Returns:
        Inputs (n, 4) and labels (n,) of each, the same every time.
    """
    generator = named_generator("logged")
    return [
        (
            torch.randn(size, 4, generator=generator, dtype=torch.float64),
            torch.randint(CLASSES, (size,), generator=generator),
        )
        for size in sizes
    ]


def train(training: Training, settle: Callable[[Optimizer], Tensor]) -> tuple[Trained, list[Tensor]]:
    """Take the steps of a training.

    Args:
        training: what is trained, and how.
        settle: returns an optimizer's settled weights as one vector, see `steps.run_out`.

    Returns:
        What is left, and the settled weights of its last epoch, before its first step and after each.
    """
    module = network(training.model)
    named = dict(module.named_parameters())
    optimizer, batches = training.optimizer(module), images(training.sizes)
    base = [group["lr"] for group in optimizer.param_groups]
    initial = {name: value.detach().clone() for name, value in named.items()}
    rates = [[rate * factor for rate in base] for factor in training.schedule or [1.0] * len(batches)]
    gradients, weights, epoch, settled = [], [], [], []
    recorder = PathRecorder(optimizer)
    for number in range(training.epochs):
        last = number == training.epochs - 1
        if last:
            recorder.start()
            epoch.append(held(optimizer))
            settled.append(settle(optimizer))
        for (inputs, labels), step in zip(batches, rates, strict=True):
            for group, rate in zip(optimizer.param_groups, step if last else base, strict=True):
                group["lr"] = rate
            optimizer.zero_grad()
            nn.functional.cross_entropy(module(inputs), labels).backward()
            weights.append({name: value.detach().clone() for name, value in named.items()})
            gradients.append({name: value.grad.clone() for name, value in named.items() if value.grad is not None})
            optimizer.step()
            if last:
                epoch.append(held(optimizer))
                settled.append(settle(optimizer))
    trained = Trained(
        module=module, optimizer=optimizer, initial=initial, batches=batches, path=recorder.path(), rates=rates,
        gradients=gradients, weights=weights, epoch=epoch,
    )  # fmt: skip
    return trained, settled


# Networks


def _tanh() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, CLASSES))


def _relu() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, CLASSES))


def _normalized() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3), nn.Tanh(), nn.Linear(3, CLASSES))


def _frozen() -> nn.Module:
    module = _tanh()
    module.get_parameter("0.bias").requires_grad_(False)
    return module


# Optimizers


def _one(kind: Callable[..., Optimizer], **arguments: Any) -> Callable[[nn.Module], Optimizer]:
    """Put all parameters in one group."""
    return lambda module: kind(module.parameters(), **{"lr": RATE, **arguments})


def _two(
    kind: Callable[..., Optimizer], *, decays: tuple[float, float] = (0.0, 0.0), **arguments: Any
) -> Callable[[nn.Module], Optimizer]:
    """Put the first layer in its own group, at 0.3 of the rate."""

    def make(module: nn.Module) -> Optimizer:
        first, *others = module.children()
        groups = [
            {"params": list(first.parameters()), "lr": 0.3 * RATE, "weight_decay": decays[0]},
            {
                "params": [value for other in others for value in other.parameters()],
                "lr": RATE,
                "weight_decay": decays[1],
            },
        ]
        return kind(groups, **arguments)

    return make


# Penalties by definition: R_k of each minibatch, and what all of them share. STRENGTH is λ, ρ or η_e.

STRENGTH = 0.2
Penalty = Callable[[Sequence[Function]], tuple[list[Function], Function | None]]


def _square(function: Function, vector: Tensor) -> Tensor:
    """Compute ‖∇f‖² with its graph."""
    point = vector if vector.requires_grad else vector.detach().requires_grad_()
    return gradient(function, point, create_graph=True).square().sum()


def _squared(function: Function, factor: float, vector: Tensor) -> Tensor:
    """Compute (λ/4) ‖∇f‖², λ the factor."""
    return factor / 4 * _square(function, vector)


def _length(function: Function, vector: Tensor) -> Tensor:
    """Compute ρ ‖∇f‖."""
    return STRENGTH * _square(function, vector).sqrt()


def _mean(losses: Sequence[Function]) -> Function:
    return lambda vector: torch.stack([loss(vector) for loss in losses]).mean()


def _each(losses: Sequence[Function]) -> tuple[list[Function], Function | None]:
    return [partial(_squared, loss, STRENGTH) for loss in losses], None


def _norm(losses: Sequence[Function]) -> tuple[list[Function], Function | None]:
    return [partial(_length, loss) for loss in losses], None


def _whole(losses: Sequence[Function]) -> tuple[list[Function], Function | None]:
    return [], partial(_squared, _mean(losses), STRENGTH)


def _ridge(losses: Sequence[Function]) -> tuple[list[Function], Function | None]:
    return [], lambda vector: STRENGTH / 2 * vector.square().sum()


def _momentum(losses: Sequence[Function]) -> tuple[list[Function], Function | None]:
    """Return the parts of (η_e/4) [2L ‖ḡ‖² − τ Var] at β = ½ and m = 4: L = 1, τ = (3/2 + 2/4 + 1/8)/6."""
    lag, common = 1.0, (3 / 2 + 2 / 4 + 1 / 8) / 6
    each: list[Function] = [partial(_squared, loss, -STRENGTH * common) for loss in losses]
    return each, partial(_squared, _mean(losses), STRENGTH * (2 * lag + common))


_SGD = partial(Training, optimizer=_one(SGD), model=_tanh)
_ADAM: dict[str, Any] = {"betas": (0.7, 0.9), "eps": 1e-2}

TRAININGS: Mapping[str, Training] = {
    "sgd": _SGD(),
    "sgd, before the first step": _SGD(epochs=0),
    "sgd, L2 decay, ReLU": _SGD(optimizer=_one(SGD, weight_decay=0.3), model=_relu),
    "sgd, BatchNorm": _SGD(model=_normalized),
    "sgd, a frozen parameter": _SGD(model=_frozen),
    "sgd, rates that change": _SGD(schedule=(1.0, 0.5, 2.0, 1.5)),
    "sgd, groups": _SGD(optimizer=_two(SGD), flow=False),
    "sgd, groups with rates that change, and decays": _SGD(
        optimizer=_two(SGD, decays=(0.2, 0.5)), schedule=(2.0, 1.5, 1.0, 0.5), flow=False
    ),
    "sgd, one minibatch": _SGD(sizes=(18,)),
    "momentum, dampened, L2 decay": _SGD(optimizer=_one(SGD, momentum=0.8, dampening=0.3, weight_decay=0.2)),
    "momentum, ReLU": _SGD(optimizer=_one(SGD, momentum=0.5, lr=0.2), model=_relu),
    "momentum, rates that change": _SGD(optimizer=_one(SGD, momentum=0.8), schedule=(1.0, 0.2, 2.0, 0.5)),
    "nesterov, L2 decay, rates that fall": _SGD(
        optimizer=_one(SGD, momentum=0.6, nesterov=True, weight_decay=0.2), schedule=(2.0, 1.0, 0.5, 0.1)
    ),
    "momentum, groups": _SGD(optimizer=_two(SGD, momentum=0.6), flow=False),
    "nesterov, BatchNorm": _SGD(optimizer=_one(SGD, momentum=0.8, nesterov=True), model=_normalized),
    "rmsprop, L2 decay": _SGD(optimizer=_one(RMSprop, alpha=0.9, eps=1e-2, weight_decay=0.2)),
    "rmsprop, momentum": _SGD(optimizer=_one(RMSprop, alpha=0.8, eps=1e-2, momentum=0.5)),
    "rmsprop, centered": _SGD(optimizer=_one(RMSprop, alpha=0.7, eps=1e-2, centered=True), flow=False),
    "adagrad": _SGD(
        optimizer=_one(Adagrad, eps=1e-2, lr_decay=0.3, initial_accumulator_value=0.2), model=_relu, flow=False
    ),
    "adam": _SGD(optimizer=_one(Adam, **_ADAM)),
    "adam, L2 decay, BatchNorm": _SGD(optimizer=_one(Adam, weight_decay=0.2, **_ADAM), model=_normalized),
    "adam, AMSGrad, groups": _SGD(optimizer=_two(Adam, amsgrad=True, **_ADAM), flow=False),
    "adam, before the first step": _SGD(optimizer=_one(Adam, **_ADAM), epochs=0),
    "adamw, decay": _SGD(optimizer=_one(AdamW, weight_decay=0.3, **_ADAM)),
    "adamw, groups with rates that change": _SGD(
        optimizer=_two(AdamW, decays=(0.2, 0.5), **_ADAM), schedule=(0.1, 0.5, 1.0, 2.0), flow=False
    ),
    "adamw, groups with decays": _SGD(optimizer=_two(AdamW, decays=(0.2, 0.5), **_ADAM), flow=False),
    "nadam": _SGD(optimizer=_one(NAdam, momentum_decay=0.5, **_ADAM)),
    "adadelta, no rule": _SGD(optimizer=_one(Adadelta), flow=False),
    "sgd, penalty of minibatches": _SGD(regularizer=regularizers.Minibatch(strength=STRENGTH), penalty=_each),
    "momentum, penalty of minibatches": _SGD(
        optimizer=_one(SGD, momentum=0.5), regularizer=regularizers.Minibatch(strength=STRENGTH), penalty=_each
    ),
    "adam, penalty of the norm": _SGD(
        optimizer=_one(Adam, **_ADAM), regularizer=regularizers.Norm(strength=STRENGTH), penalty=_norm
    ),
    "rmsprop, penalty of the full batch": _SGD(
        optimizer=_one(RMSprop, alpha=0.9, eps=1e-2),
        regularizer=regularizers.FullBatch(strength=STRENGTH),
        penalty=_whole,
    ),
    "sgd, momentum's penalty": _SGD(
        regularizer=regularizers.MomentumLike(strength=STRENGTH, momentum=0.5), penalty=_momentum
    ),
    "adam, L2 penalty": _SGD(
        optimizer=_one(Adam, **_ADAM), regularizer=regularizers.L2(strength=STRENGTH), penalty=_ridge
    ),
}
"""By name."""
