"""The same optimizer with smaller steps: r steps of it take the time of one, and its memory is kept or shrinks.

**Memory kept**: it remembers for as long a time, r times as many steps. For a refinement r, per step:

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

**Memory shrinking**: η → η/r and nothing else. β, ρ, the moments and the step count stay, so that the optimizer
remembers as many steps as before, which take r times less time. With r → ∞ steps, minibatches and memory are gone: at
each moment m and v are those of an optimizer that has stood there for ever, and what is left is the flow

    ω̇ = −E[m φ(v)],  φ(v) = 1/(√v + ε)  (u + F of docs/theory.md, section 7, as far as F is small),

E over the orders at fixed weights. v does not average more as r grows: its fluctuation over about 1/(1−ρ) minibatches
is the optimizer's own, at any r, and stays. The moments that it starts with are forgotten after as many steps as ever,
in a time that falls like 1/r. Adagrad's sum and AMSGrad's maximum never fade, so that neither has such a limit.
"""

from collections.abc import Callable
from typing import Any

from torch.optim import SGD, Adagrad, Adam, AdamW, Optimizer, RMSprop

State = dict[str, Any]
MEMORIES = ("kept", "shrinking")
"""What small steps do to the memory."""


def refine(optimizer: Optimizer, refinement: int, memory: str = "kept") -> None:
    """Make r steps of the optimizer take the time of one, in place; r = 1 leaves it as it is to the last bit.

    Args:
        optimizer: whose steps.
        refinement: r.
        memory: one of `MEMORIES`.

    Raises:
        ValueError: an optimizer that no rule is known for, r below 1, another `memory`, or one that is to shrink and
            never fades.
    """
    if refinement < 1:
        raise ValueError(f"refinement={refinement}: must be at least 1")
    rule = _RULES.get(type(optimizer))
    if rule is None:
        known = ", ".join(sorted(cls.__name__ for cls in _RULES))
        raise ValueError(f"{type(optimizer).__name__}: not known how to refine its steps; known are {known}")
    if memory == "shrinking":
        if not all(_fades(type(optimizer), group) for group in optimizer.param_groups):
            raise ValueError(f"{type(optimizer).__name__}: its memory never fades, so that it cannot shrink")
        rule = _rate
    elif memory != "kept":
        raise ValueError(f"memory={memory!r}: must be one of {', '.join(MEMORIES)}")
    for group in optimizer.param_groups:
        rule(group, [optimizer.state[weight] for weight in group["params"] if weight in optimizer.state], refinement)


def can_shrink(optimizer: Optimizer) -> bool:
    """Whether there is a memory that shrinks with the steps: none of plain SGD's, nor one that never fades."""
    groups = optimizer.param_groups
    remembers = not isinstance(optimizer, SGD) or any(group["momentum"] for group in groups)
    return remembers and all(_fades(type(optimizer), group) for group in groups)


def _fades(kind: type[Optimizer], group: dict[str, Any]) -> bool:
    """Whether what is remembered is forgotten: a sum and a maximum never are."""
    return kind is not Adagrad and not group.get("amsgrad", False)


def _rate(group: dict[str, Any], _: list[State], refinement: int) -> None:
    group["lr"] = group["lr"] / refinement


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
