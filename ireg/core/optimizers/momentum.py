"""The parts that the momentum of SGD and of RMSProp share."""

from typing import Any

from ireg.core.optimizers.rule import Group


def fading(kind: str, beta: float) -> float:
    """Return β, if the memory that it multiplies fades.

    Args:
        kind: the rule's name.
        beta: β.

    Raises:
        ValueError: β is 1 or more, so that nothing is ever forgotten.
    """
    if not 0.0 <= beta < 1.0:
        raise ValueError(f"{kind} with momentum {beta:g}: its memory must fade; choose a value in [0, 1)")
    return beta


def refine_momentum(group: Group, states: list[dict[str, Any]], refinement: int) -> None:
    """Refine rate, momentum and buffer in place, so that r steps take the time of one.

    β → β^{1/r}, η → (η/r) s and the buffer → buffer/s, with s = (1 − β^{1/r})/(1 − β).
    """
    # torch's buffer b ← βb + (1−δ)g settles at (1−δ)g/(1−β), which is 1/s times as large with β^{1/r}. With both
    # factors ηb is 1/r of what it was.
    fine = group["momentum"] ** (1 / refinement)
    share = (1 - fine) / (1 - group["momentum"])
    group["lr"] = group["lr"] * share / refinement
    group["momentum"] = fine
    for state in states:
        if state.get("momentum_buffer") is not None:
            state["momentum_buffer"] = state["momentum_buffer"] / share


def refine_count(states: list[dict[str, Any]], refinement: int) -> None:
    """Make the count of steps r times as large, in place."""
    for state in states:
        state["step"] = state["step"] * refinement
