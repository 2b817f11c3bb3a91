"""Adagrad, which divides by the root of the sum of all squared gradients."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor
from torch.optim import Adagrad

from ireg.core.optimizers.memory import Memory, MomentumBuffer, SecondMoment
from ireg.core.optimizers.momentum import refine_count
from ireg.core.optimizers.rule import Group, Held, Rule, State, register, slot, steps_of
from ireg.core.optimizers.second_moment import fading_mean


@register("adagrad", Adagrad)
@dataclass(frozen=True, kw_only=True)
class AdagradRule(Rule):
    """The rule of `torch.optim.Adagrad`, ω ← ω − ηg/(√Σg² + ε).

    η falls with `lr_decay`, and the sum never fades.

    Example:
        >>> AdagradRule().memory(lr=0.1).effective_rate
        0.1
    """

    @classmethod
    def read(cls, group: Group, steps: Mapping[str, int]) -> Self:
        """Return the rule, which has no constants to read."""
        return cls()

    @classmethod
    def rate(cls, group: Group, steps: Mapping[str, int]) -> float:
        """Return the learning rate η/(1 + (t − 1) `lr_decay`) of step t.

        Raises:
            ValueError: parameters have different learning rates, as some were stepped more often than others.
        """
        decay = float(group["lr_decay"])
        if decay and len(set(steps.values())) > 1:
            raise ValueError(
                f"Adagrad with lr_decay={decay:g} and parameters stepped {min(steps.values())} to "
                f"{max(steps.values())} times: their learning rates differ, and the terms are defined for one; set "
                "lr_decay=0"
            )
        return float(group["lr"]) / (1 + max(max(steps.values()) - 1, 0) * decay)

    def held(self, group: Group, state: State, moving: Mapping[str, Tensor]) -> Held:
        """Read ε and the sum of squares from torch's state."""
        steps, sums = steps_of(state), slot(state, moving, "sum")
        return Held(
            eps=float(group["eps"]),
            second_moment={name: value / max(steps[name], 1) for name, value in sums.items()},
            corrected_second_moment=sums if all(steps.values()) else None,
        )

    def memory(self, lr: float) -> Memory:
        """Return a memory of the last gradient alone, with rate η and lag 0."""
        return Memory(effective_rate=lr, lag=0.0, decay=0.0)

    def buffer(self, lr: float) -> MomentumBuffer | None:
        """Return None, as there is no buffer."""
        return None

    def divides_by(self, eps: float) -> SecondMoment | None:
        """Refuse to give a decay, as a sum is no fading mean.

        Raises:
            ValueError: always.
        """
        fading_mean(self.kind, None)
        return None

    @classmethod
    def refine(cls, group: Group, states: list[dict[str, Any]], refinement: int) -> None:
        """Make r steps take the time of one, with η/(√v + ε) at 1/r of what it was.

        The sum becomes r times as large, ε → ε√r, η → η/√r, and `lr_decay` → `lr_decay`/r.
        """
        group["lr"] = group["lr"] / refinement**0.5
        group["eps"] = group["eps"] * refinement**0.5
        group["lr_decay"] = group["lr_decay"] / refinement
        for state in states:
            state["sum"] = state["sum"] * refinement
        refine_count(states, refinement)

    @classmethod
    def fades(cls, group: Group) -> bool:
        """Return False, as a sum never fades."""
        return False

    @classmethod
    def state(cls, first: Tensor, second: Tensor) -> dict[str, Tensor]:
        """Return the sum after one step; the count of steps matters to `lr_decay` alone."""
        return {"step": torch.tensor(1.0), "sum": second}
