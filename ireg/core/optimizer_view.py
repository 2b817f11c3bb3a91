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
        lr: learning rate η.
        step: number of steps taken (0 for `sgd` and no state to count in).
        momentum: β of the momentum buffer (`sgd`, `rmsprop`; 0 without one).
        betas: (β, ρ) of `adam` and `adamw`.
        alpha: ρ of `rmsprop`.
        eps: ε; torch adds it *outside* the root, √v + ε. None where there is none.
        weight_decay: λ; added to the gradient, for `adamw` decoupled from it.
        first_moment: torch's momentum buffer or `exp_avg`, by name; zeros before the first step; None without one.
        second_moment: the running mean of squared gradients s_t, without bias correction, by name; zeros before the
            first step; None for `sgd`. For `rmsprop` and `adam` torch's `square_avg` and `exp_avg_sq`. Adagrad keeps
            the sum: here divided by the number of steps.
    """

    kind: str
    lr: float
    step: int
    weight_decay: float
    momentum: float = 0.0
    betas: tuple[float, float] | None = None
    alpha: float | None = None
    eps: float | None = None
    first_moment: Params | None = None
    second_moment: Params | None = None


def view(optimizer: Optimizer, names: Mapping[str, Tensor]) -> OptimizerView:
    """Read `optimizer` without changing it.

    Args:
        optimizer: one of torch's SGD, RMSprop, Adagrad, Adam, AdamW, with one parameter group.
        names: the parameters by name, as `dict(module.named_parameters())`; the optimizer must hold exactly these.

    Raises:
        ValueError: several parameter groups, another set of parameters, or an optimizer of another class.
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
    # A copy of the look-up: `optimizer.state` is a defaultdict, and reading it would add entries.
    state = {name: optimizer.state.get(parameter, {}) for name, parameter in names.items()}
    fields = reader(group, state, names)
    return OptimizerView(lr=float(group["lr"]), weight_decay=float(group["weight_decay"]), **fields)


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
    first = _slot(state, names, "momentum_buffer") if momentum else None
    return {"kind": "sgd", "step": 0, "momentum": momentum, "first_moment": first}


def _rmsprop(group: Mapping[str, Any], state: State, names: Mapping[str, Tensor]) -> dict[str, Any]:
    momentum = float(group["momentum"])
    return {
        "kind": "rmsprop",
        "step": _step(state),
        "alpha": float(group["alpha"]),
        "eps": float(group["eps"]),
        "momentum": momentum,
        "first_moment": _slot(state, names, "momentum_buffer") if momentum else None,
        "second_moment": _slot(state, names, "square_avg"),
    }


def _adagrad(group: Mapping[str, Any], state: State, names: Mapping[str, Tensor]) -> dict[str, Any]:
    step = _step(state)
    sums = _slot(state, names, "sum")
    return {
        "kind": "adagrad",
        "step": step,
        "eps": float(group["eps"]),
        "second_moment": {name: value / max(step, 1) for name, value in sums.items()},
    }


def _adam(group: Mapping[str, Any], state: State, names: Mapping[str, Tensor]) -> dict[str, Any]:
    return {
        "kind": "adam",
        "step": _step(state),
        "betas": tuple(float(beta) for beta in group["betas"]),
        "eps": float(group["eps"]),
        "first_moment": _slot(state, names, "exp_avg"),
        "second_moment": _slot(state, names, "exp_avg_sq"),
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
