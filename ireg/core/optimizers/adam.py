"""Adam and AdamW, with their memory.

| torch's form | a_n | η_e | L | T_d, d ≥ 1 |
|---|---|---|---|---|
| m ← βm + (1−β)g, the step is m/(√v̂ + ε) | (1−β)βⁿ | η | β/(1−β) | βᵈ |

The memory does not hold decoupled weight decay λ. That multiplies the whole loss by 1 − ηLλ: a slower clock on the same
path.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor
from torch.optim import Adam, AdamW

from ireg.core.large import computed
from ireg.core.optimizers.memory import Memory, MomentumBuffer, SecondMoment, reciprocal_root
from ireg.core.optimizers.momentum import fading, refine_count
from ireg.core.optimizers.rule import LONG_AGO, Group, Held, Rule, State, register, slot, steps_of
from ireg.core.optimizers.second_moment import fading_mean


@register("adam", Adam)
@dataclass(frozen=True, kw_only=True)
class AdamRule(Rule):
    """The rule of `torch.optim.Adam`.

    Attributes:
        betas: (β, ρ).
        amsgrad: v is the largest so far.

    Example:
        >>> rule = AdamRule(betas=(0.5, 0.9))
        >>> rule.memory(lr=0.1).lag, rule.divides_by(eps=1e-8).decay
        (1.0, 0.9)
    """

    betas: tuple[float, float]
    amsgrad: bool = False

    @classmethod
    def read(cls, group: Group, steps: Mapping[str, int]) -> Self:
        """Read β, ρ, and whether v is the largest so far, from torch's group."""
        first, second = group["betas"]
        return cls(betas=(float(first), float(second)), amsgrad=bool(group.get("amsgrad", False)))

    @classmethod
    def decouples(cls, group: Group) -> bool:
        """Return whether weight decay is decoupled, as AdamW's always is."""
        return bool(group["decoupled_weight_decay"])

    def held(self, group: Group, state: State, moving: Mapping[str, Tensor]) -> Held:
        """Read ε, both means and the corrected second moment from torch's state."""
        steps, second = steps_of(state), slot(state, moving, "exp_avg_sq")
        largest = slot(state, moving, "max_exp_avg_sq") if self.amsgrad else second
        corrected = None
        if all(steps.values()):
            corrected = computed(largest, lambda name: largest[name] / (1 - self.betas[1] ** steps[name]))
        return Held(
            eps=float(group["eps"]),
            first_moment=slot(state, moving, "exp_avg"),
            second_moment=second,
            corrected_second_moment=corrected,
        )

    def memory(self, lr: float) -> Memory:
        """Return the memory of the table above, with lag β/(1 − β) and tail shares βᵈ."""
        beta = fading(self.kind, self.betas[0])
        return Memory(effective_rate=lr, lag=beta / (1 - beta), decay=beta)

    def buffer(self, lr: float) -> MomentumBuffer | None:
        """Return the properties of m, which is divided as a whole; None for β = 0, where m is the gradient."""
        beta = self.betas[0]
        if not beta:
            return None
        return MomentumBuffer(decay=beta, gain=1.0, divided=False, ahead=lr * beta / (1 - beta))

    def buffer_rate(self, lr: float, steps: int) -> float | None:
        """Return η/(1 − βᵗ), by the bias correction of m; None before the first step."""
        return lr / (1 - self.betas[0] ** steps) if steps else None

    @classmethod
    def scaled_buffer(cls, group: Group, slots: Mapping[str, Any]) -> Tensor:
        """Return P m, with the second moment corrected as torch does it."""
        second = slots["max_exp_avg_sq" if group.get("amsgrad", False) else "exp_avg_sq"]
        root = (second / (1 - float(group["betas"][1]) ** int(slots["step"]))).sqrt_()
        return reciprocal_root(root, float(group["eps"])).mul_(slots["exp_avg"])

    def divides_by(self, eps: float) -> SecondMoment | None:
        """Return how the root of v divides m."""
        decay = fading_mean(self.kind, None if self.amsgrad else self.betas[1])
        return SecondMoment(decay=decay, eps=eps, numerator_decay=self.betas[0])

    @classmethod
    def refine(cls, group: Group, states: list[dict[str, Any]], refinement: int) -> None:
        """Make r steps take the time of one, by η → η/r, β → β^{1/r} and ρ → ρ^{1/r}.

        The count becomes r times as large, and the means stay. Bias correction stays what it was, since
        (ρ^{1/r})^{rt} = ρ^t.
        """
        group["lr"] = group["lr"] / refinement
        group["betas"] = tuple(beta ** (1 / refinement) for beta in group["betas"])
        refine_count(states, refinement)

    @classmethod
    def fades(cls, group: Group) -> bool:
        """Return whether v fades; AMSGrad's maximum never does."""
        return not group.get("amsgrad", False)

    @classmethod
    def state(cls, first: Tensor, second: Tensor) -> dict[str, Tensor]:
        """Return torch's state with both means, past all bias correction."""
        return {"step": torch.tensor(LONG_AGO), "exp_avg": first, "exp_avg_sq": second}


@register("adamw", AdamW)
@dataclass(frozen=True, kw_only=True)
class AdamWRule(AdamRule):
    """The rule of `torch.optim.AdamW`: Adam with decoupled weight decay."""
