"""Adagrad: it divides by the root of all squared gradients' sum."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.optim import Adagrad

from ireg.core.optimizers.memory import Memory, MomentumBuffer, SecondMoment
from ireg.core.optimizers.momentum import refine_count
from ireg.core.optimizers.second_moment import fading_mean
from ireg.core.optimizers.view import Group, OptimizerView, State, rule, slot, steps_of


@rule("adagrad", Adagrad)
@dataclass(frozen=True, kw_only=True)
class AdagradView(OptimizerView):
    """The rule of `torch.optim.Adagrad`: ω loses ηg/(√Σg² + ε).

    η falls with `lr_decay`, and the sum never fades.

    Example:
        >>> AdagradView(lr=0.1, moving=("weight",), weight_decay=0.0, eps=1e-10).memory.effective_rate
        0.1
    """

    @classmethod
    def read(cls, group: Group, state: State, moving: Mapping[str, Tensor]) -> dict[str, Any]:
        """Read the rate of the last step, and the sum of squares.

        Raises:
            ValueError: parameters have different learning rates, as some were stepped more often than others.
        """
        steps, decay = steps_of(state), float(group["lr_decay"])
        if decay and len(set(steps.values())) > 1:
            raise ValueError(
                f"Adagrad with lr_decay={decay:g} and parameters stepped {min(steps.values())} to "
                f"{max(steps.values())} times: their learning rates differ, and the terms are defined for one; set "
                "lr_decay=0"
            )
        sums = slot(state, moving, "sum")
        return {
            "lr": float(group["lr"]) / (1 + max(max(steps.values()) - 1, 0) * decay),
            "eps": float(group["eps"]),
            "second_moment": {name: value / max(steps[name], 1) for name, value in sums.items()},
            "corrected_second_moment": sums if all(steps.values()) else None,
        }

    @property
    def memory(self) -> Memory:
        """No gradient but the last is in the step."""
        return Memory(effective_rate=self.lr, lag=0.0, decay=0.0)

    @property
    def buffer(self) -> MomentumBuffer | None:
        """There is none."""
        return None

    @property
    def divides_by(self) -> SecondMoment | None:
        """A sum is no fading mean.

        Raises:
            ValueError: always.
        """
        fading_mean(self.kind, None)
        return None

    @classmethod
    def refine(cls, group: Group, states: list[dict[str, Any]], refinement: int) -> None:
        """Make the sum r times as large; keep η/(√v + ε).

        ε → ε√r, η → η/√r, and `lr_decay` → 1/r of it.
        """
        group["lr"] = group["lr"] / refinement**0.5
        group["eps"] = group["eps"] * refinement**0.5
        group["lr_decay"] = group["lr_decay"] / refinement
        for state in states:
            state["sum"] = state["sum"] * refinement
        refine_count(states, refinement)

    @classmethod
    def fades(cls, group: Group) -> bool:
        """A sum never does."""
        return False

    @classmethod
    def state(cls, first: Tensor, second: Tensor) -> dict[str, Tensor]:
        """The sum, after a step: the count is only for `lr_decay`."""
        return {"step": torch.tensor(1.0), "sum": second}
