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
        step: number of steps taken (0 for `sgd` and no state to count in).
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
            centered, or Adagrad's sum; None for `sgd` and before the first step.
    """

    kind: str
    lr: float
    step: int
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


def view(optimizer: Optimizer, names: Mapping[str, Tensor]) -> OptimizerView:
    """Read `optimizer` without changing it.

    Args:
        optimizer: one of torch's SGD, RMSprop, Adagrad, Adam, AdamW, with one parameter group.
        names: the parameters by name, as `dict(module.named_parameters())`; the optimizer must hold exactly these.

    Raises:
        ValueError: several parameter groups, another set of parameters, an optimizer of another class, or one that
            maximizes.
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
    if {id(parameter) for parameter in group["params"]} != {id(parameter) for parameter in names.values()}:
        raise ValueError(
            f"the optimizer holds {len(group['params'])} parameters that are not the {len(names)} named ones; "
            "give it all parameters of the module"
        )
    if group.get("maximize", False):
        raise ValueError("maximize=True: the terms are those of descent; minimize the negative loss instead")
    # A copy of the look-up: `optimizer.state` is a defaultdict, and reading it would add entries.
    state = {name: optimizer.state.get(parameter, {}) for name, parameter in names.items()}
    fields = {"lr": float(group["lr"]), "weight_decay": float(group["weight_decay"])}
    return OptimizerView(**(fields | reader(group, state, names)))


State = Mapping[str, Mapping[str, Any]]


def _slot(state: State, names: Mapping[str, Tensor], key: str) -> Params:
    """The state tensors under `key` by name, detached; zeros where the optimizer has not stepped yet."""
    slots = {name: state[name].get(key) for name in names}
    return {
        name: torch.zeros_like(names[name].detach()) if slot is None else slot.detach() for name, slot in slots.items()
    }


def _step(state: State) -> int:
    return max((int(slots["step"]) for slots in state.values() if "step" in slots), default=0)


def _sgd(group: Mapping[str, Any], state: State, names: Mapping[str, Tensor]) -> dict[str, Any]:
    momentum = float(group["momentum"])
    return {
        "kind": "sgd",
        "step": 0,
        "momentum": momentum,
        # Without a buffer torch dampens nothing.
        "dampening": float(group["dampening"]) if momentum else 0.0,
        "nesterov": bool(group["nesterov"]),
        "first_moment": _slot(state, names, "momentum_buffer") if momentum else None,
    }


def _rmsprop(group: Mapping[str, Any], state: State, names: Mapping[str, Tensor]) -> dict[str, Any]:
    momentum, step = float(group["momentum"]), _step(state)
    second = _slot(state, names, "square_avg")
    corrected = second
    if group["centered"]:
        means = _slot(state, names, "grad_avg")
        corrected = {name: value.addcmul(means[name], means[name], value=-1) for name, value in second.items()}
    return {
        "kind": "rmsprop",
        "step": step,
        "alpha": float(group["alpha"]),
        "eps": float(group["eps"]),
        "momentum": momentum,
        "centered": bool(group["centered"]),
        "first_moment": _slot(state, names, "momentum_buffer") if momentum else None,
        "second_moment": second,
        "corrected_second_moment": corrected if step else None,
    }


def _adagrad(group: Mapping[str, Any], state: State, names: Mapping[str, Tensor]) -> dict[str, Any]:
    step = _step(state)
    sums = _slot(state, names, "sum")
    return {
        "kind": "adagrad",
        "lr": float(group["lr"]) / (1 + max(step - 1, 0) * float(group["lr_decay"])),
        "step": step,
        "eps": float(group["eps"]),
        "second_moment": {name: value / max(step, 1) for name, value in sums.items()},
        "corrected_second_moment": sums if step else None,
    }


def _adam(group: Mapping[str, Any], state: State, names: Mapping[str, Tensor]) -> dict[str, Any]:
    step = _step(state)
    betas = tuple(float(beta) for beta in group["betas"])
    second = _slot(state, names, "exp_avg_sq")
    largest = _slot(state, names, "max_exp_avg_sq") if group["amsgrad"] else second
    correction = 1 - betas[1] ** step
    return {
        "kind": "adam",
        "step": step,
        "betas": betas,
        "eps": float(group["eps"]),
        "decoupled": bool(group["decoupled_weight_decay"]),
        "amsgrad": bool(group["amsgrad"]),
        "first_moment": _slot(state, names, "exp_avg"),
        "second_moment": second,
        "corrected_second_moment": {name: value / correction for name, value in largest.items()} if step else None,
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
