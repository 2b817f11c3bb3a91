"""The same optimizer with smaller steps: r steps of it take the time of one, and it remembers for as long.

For a refinement r, per step:

| optimizer | becomes |
|---|---|
| SGD | η → η/r |
| momentum β (SGD's, RMSProp's; Nesterov too) | β → β^{1/r}, η → (η/r) s, buffer → buffer/s, s = (1−β^{1/r})/(1−β) |
| RMSProp's second moment | ρ → ρ^{1/r}; the mean itself stays |
| Adam, AdamW | η → η/r, β → β^{1/r}, ρ → ρ^{1/r}, step count → r times; the means stay |
| Adagrad | sum → r times, ε → ε√r, η → η/√r, step count → r times, its decay → 1/r of it |

The factor s keeps what moves the weights equal in time: torch's buffer b ← βb + (1−δ)g settles at (1−δ)g/(1−β), so the
rate η_e = η(1−δ)/(1−β) becomes η_e/r, and the buffer means the same velocity. Adam's bias correction 1 − ρ^t goes on as
it was, since (ρ^{1/r})^{rt} = ρ^t. Adagrad's sum grows r times as fast, and η/(√v + ε) is left as it was. With r → ∞
what is left is the optimizer in continuous time, without steps and without minibatches; Nesterov's extra gradient, a
share 1 − β^{1/r} of its step, vanishes with the steps.
"""

from collections.abc import Callable
from typing import Any

from torch.optim import SGD, Adagrad, Adam, AdamW, Optimizer, RMSprop

State = dict[str, Any]


def refine(optimizer: Optimizer, refinement: int) -> None:
    """Make r steps of the optimizer take the time of one, in place; r = 1 leaves it as it is to the last bit.

    Raises:
        ValueError: an optimizer that no rule is known for, or r below 1.
    """
    if refinement < 1:
        raise ValueError(f"refinement={refinement}: must be at least 1")
    rule = _RULES.get(type(optimizer))
    if rule is None:
        known = ", ".join(sorted(cls.__name__ for cls in _RULES))
        raise ValueError(f"{type(optimizer).__name__}: not known how to refine its steps; known are {known}")
    for group in optimizer.param_groups:
        rule(group, [optimizer.state[weight] for weight in group["params"] if weight in optimizer.state], refinement)


def _momentum(group: dict[str, Any], states: list[State], refinement: int) -> None:
    """Rate, momentum and buffer of SGD and RMSProp."""
    fine = group["momentum"] ** (1 / refinement)
    share = (1 - fine) / (1 - group["momentum"])
    group["lr"] = group["lr"] * share / refinement
    group["momentum"] = fine
    for state in states:
        if state.get("momentum_buffer") is not None:
            state["momentum_buffer"] = state["momentum_buffer"] / share


def _rmsprop(group: dict[str, Any], states: list[State], refinement: int) -> None:
    _momentum(group, states, refinement)
    group["alpha"] = group["alpha"] ** (1 / refinement)
    _count(states, refinement)


def _adagrad(group: dict[str, Any], states: list[State], refinement: int) -> None:
    group["lr"] = group["lr"] / refinement**0.5
    group["eps"] = group["eps"] * refinement**0.5
    group["lr_decay"] = group["lr_decay"] / refinement
    for state in states:
        state["sum"] = state["sum"] * refinement
    _count(states, refinement)


def _adam(group: dict[str, Any], states: list[State], refinement: int) -> None:
    group["lr"] = group["lr"] / refinement
    group["betas"] = tuple(beta ** (1 / refinement) for beta in group["betas"])
    _count(states, refinement)


def _count(states: list[State], refinement: int) -> None:
    for state in states:
        state["step"] = state["step"] * refinement


_RULES: dict[type[Optimizer], Callable[[dict[str, Any], list[State], int], None]] = {
    SGD: _momentum,
    RMSprop: _rmsprop,
    Adagrad: _adagrad,
    Adam: _adam,
    AdamW: _adam,
}
