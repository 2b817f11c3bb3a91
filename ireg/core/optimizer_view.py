"""The only reader of torch optimizers' state."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.optim import SGD, Adagrad, Adam, AdamW, Optimizer, RMSprop

from ireg.core.types import Params


@dataclass(frozen=True, kw_only=True)
class OptimizerView:
    """What an optimizer holds, in the words of its update rule.

    Attributes:
        kind: `sgd`, `rmsprop`, `adagrad`, `adam` or `adamw`.
        lr: learning rate η of the last step (Adagrad's falls with `lr_decay`).
        moving: names of the parameters that it steps, see `ireg.core.moving`; what is held by name is held of these.
        momentum: β of the momentum buffer (`sgd`, `rmsprop`; 0 without one).
        dampening: δ of `sgd`: the buffer is β b + (1 − δ) g.
        nesterov: the step is g + β b instead of b (`sgd`).
        betas: (β, ρ) of `adam` and `adamw`.
        alpha: ρ of `rmsprop`.
        eps: ε; torch adds it *outside* the root, √v + ε. None where there is none.
        weight_decay: λ; λω is added to the gradient, or, decoupled, to what is taken off the weights.
        decoupled: which of the two (`adamw`).
        amsgrad: v is the largest so far (`adam`, `adamw`).
        centered: v is less the square of the mean gradient (`rmsprop`).
        first_moment: torch's momentum buffer or `exp_avg`, by name; zeros before the first step; None without one.
        second_moment: the running mean of squared gradients s_t, without bias correction, by name; zeros before the
            first step; None for `sgd`. For `rmsprop` and `adam` torch's `square_avg` and `exp_avg_sq`. Adagrad keeps
            the sum: here divided by the number of steps.
        corrected_second_moment: v̂, whose root the last step took: the second moment bias corrected, or its maximum, or
            centered, or Adagrad's sum. torch corrects each parameter's by its own number of steps. None for `sgd`, and
            as long as a moving parameter has not been stepped.
    """

    kind: str
    lr: float
    moving: tuple[str, ...]
    weight_decay: float
    momentum: float = 0.0
    dampening: float = 0.0
    nesterov: bool = False
    decoupled: bool = False
    amsgrad: bool = False
    centered: bool = False
    betas: tuple[float, float] | None = None
    alpha: float | None = None
    eps: float | None = None
    first_moment: Params | None = None
    second_moment: Params | None = None
    corrected_second_moment: Params | None = None


def view(optimizer: Optimizer, moving: Mapping[str, Tensor]) -> OptimizerView:
    """Read `optimizer` without changing it.

    Args:
        optimizer: one of torch's SGD, RMSprop, Adagrad, Adam, AdamW, with one parameter group.
        moving: the parameters that it steps, by name, as `ireg.core.moving.moving_parameters` finds them.

    Raises:
        ValueError: several parameter groups, a parameter that it does not hold, an optimizer of another class, one that
            maximizes, or one whose parameters have different learning rates.
    """
    if len(optimizer.param_groups) != 1:
        raise ValueError(
            f"{type(optimizer).__name__} has {len(optimizer.param_groups)} parameter groups: the terms are defined for "
            "one learning rate; give the optimizer all parameters in one group"
        )
    reader = _READERS.get(type(optimizer))
    if reader is None:
        known = ", ".join(sorted(cls.__name__ for cls in _READERS))
        raise ValueError(
            f"{type(optimizer).__name__}: unknown optimizer; known are {known}; add a reader for it to "
            "ireg/core/optimizer_view.py"
        )
    group = optimizer.param_groups[0]
    held = {id(parameter) for parameter in group["params"]}
    others = [name for name, parameter in moving.items() if id(parameter) not in held]
    if others:
        raise ValueError(f"{type(optimizer).__name__} does not hold {', '.join(others)}: name what it moves only")
    if group.get("maximize", False):
        raise ValueError("maximize=True: the terms are those of descent; minimize the negative loss instead")
    # A copy of the look-up: `optimizer.state` is a defaultdict, and reading it would add entries.
    state = {name: optimizer.state.get(parameter, {}) for name, parameter in moving.items()}
    fields: dict[str, Any] = {
        "lr": float(group["lr"]),
        "weight_decay": float(group["weight_decay"]),
        "moving": tuple(moving),
    }
    return OptimizerView(**(fields | reader(group, state, moving)))


State = Mapping[str, Mapping[str, Any]]


def _slot(state: State, names: Mapping[str, Tensor], key: str) -> Params:
    """The state tensors under `key` by name, detached; zeros where the optimizer has not stepped yet."""
    slots = {name: state[name].get(key) for name in names}
    return {
        name: torch.zeros_like(names[name].detach()) if slot is None else slot.detach() for name, slot in slots.items()
    }


def _steps(state: State) -> dict[str, int]:
    """How often each parameter has been stepped: torch counts one by one, as some are unfrozen later than others."""
    return {name: int(slots.get("step", 0)) for name, slots in state.items()}


def _sgd(group: Mapping[str, Any], state: State, names: Mapping[str, Tensor]) -> dict[str, Any]:
    momentum = float(group["momentum"])
    return {
        "kind": "sgd",
        "momentum": momentum,
        # Without a buffer torch dampens nothing.
        "dampening": float(group["dampening"]) if momentum else 0.0,
        "nesterov": bool(group["nesterov"]),
        "first_moment": _slot(state, names, "momentum_buffer") if momentum else None,
    }


def _rmsprop(group: Mapping[str, Any], state: State, names: Mapping[str, Tensor]) -> dict[str, Any]:
    momentum = float(group["momentum"])
    second = _slot(state, names, "square_avg")
    corrected = second
    if group["centered"]:
        means = _slot(state, names, "grad_avg")
        corrected = {name: value.addcmul(means[name], means[name], value=-1) for name, value in second.items()}
    return {
        "kind": "rmsprop",
        "alpha": float(group["alpha"]),
        "eps": float(group["eps"]),
        "momentum": momentum,
        "centered": bool(group["centered"]),
        "first_moment": _slot(state, names, "momentum_buffer") if momentum else None,
        "second_moment": second,
        "corrected_second_moment": corrected if all(_steps(state).values()) else None,
    }


def _adagrad(group: Mapping[str, Any], state: State, names: Mapping[str, Tensor]) -> dict[str, Any]:
    steps, decay = _steps(state), float(group["lr_decay"])
    if decay and len(set(steps.values())) > 1:
        raise ValueError(
            f"Adagrad with lr_decay={decay:g} and parameters stepped {min(steps.values())} to {max(steps.values())} "
            "times: their learning rates differ, and the terms are defined for one; set lr_decay=0"
        )
    sums = _slot(state, names, "sum")
    return {
        "kind": "adagrad",
        "lr": float(group["lr"]) / (1 + max(max(steps.values()) - 1, 0) * decay),
        "eps": float(group["eps"]),
        "second_moment": {name: value / max(steps[name], 1) for name, value in sums.items()},
        "corrected_second_moment": sums if all(steps.values()) else None,
    }


def _adam(group: Mapping[str, Any], state: State, names: Mapping[str, Tensor]) -> dict[str, Any]:
    steps = _steps(state)
    betas = tuple(float(beta) for beta in group["betas"])
    second = _slot(state, names, "exp_avg_sq")
    largest = _slot(state, names, "max_exp_avg_sq") if group["amsgrad"] else second
    corrected = None
    if all(steps.values()):
        corrected = {name: value / (1 - betas[1] ** steps[name]) for name, value in largest.items()}
    return {
        "kind": "adam",
        "betas": betas,
        "eps": float(group["eps"]),
        "decoupled": bool(group["decoupled_weight_decay"]),
        "amsgrad": bool(group["amsgrad"]),
        "first_moment": _slot(state, names, "exp_avg"),
        "second_moment": second,
        "corrected_second_moment": corrected,
    }


def _adamw(group: Mapping[str, Any], state: State, names: Mapping[str, Tensor]) -> dict[str, Any]:
    return _adam(group, state, names) | {"kind": "adamw"}


# By exact class: AdamW is a subclass of Adam, and an unknown subclass may update in another way.
_READERS: dict[type[Optimizer], Callable[..., dict[str, Any]]] = {
    SGD: _sgd,
    RMSprop: _rmsprop,
    Adagrad: _adagrad,
    Adam: _adam,
    AdamW: _adamw,
}
