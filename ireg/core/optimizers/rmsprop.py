"""RMSProp, with momentum of g/(√v + ε) if asked for.

| torch's form | a_n | η_e | L | T_d, d ≥ 1 |
|---|---|---|---|---|
| RMSProp; momentum β of g/(√v + ε): b ← βb + g/(√v + ε) | βⁿ | η/(1−β) | β/(1−β) | βᵈ |
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Self

import torch
from torch import Tensor
from torch.optim import RMSprop

from ireg.core.optimizers.memory import Memory, MomentumBuffer, SecondMoment
from ireg.core.optimizers.momentum import fading, refine_count, refine_momentum
from ireg.core.optimizers.rule import LONG_AGO, Group, Held, Rule, State, register, slot, steps_of
from ireg.core.optimizers.schedule import Filter
from ireg.core.optimizers.second_moment import fading_mean


@register("rmsprop", RMSprop)
@dataclass(frozen=True, kw_only=True)
class RMSpropRule(Rule):
    """The rule of `torch.optim.RMSprop`.

    Attributes:
        alpha: ρ.
        momentum: β of the momentum buffer; 0 without one.
        centered: v is less the square of the mean gradient.

    Example:
        >>> rule = RMSpropRule(alpha=0.9)
        >>> rule.divides_by(eps=1e-8).decay, rule.memory(lr=0.1).lag
        (0.9, 0.0)
    """

    alpha: float
    momentum: float = 0.0
    centered: bool = False

    @classmethod
    def read(cls, group: Group, steps: Mapping[str, int]) -> Self:
        """Read ρ, the momentum and whether v is centered from torch's group."""
        alpha, momentum = float(group["alpha"]), float(group["momentum"])
        return cls(alpha=alpha, momentum=momentum, centered=bool(group["centered"]))

    def held(self, group: Group, state: State, moving: Mapping[str, Tensor]) -> Held:
        """Read ε, the buffer, and the means of gradients and squares from torch's state."""
        corrected = second = slot(state, moving, "square_avg")
        if self.centered:
            means = slot(state, moving, "grad_avg")
            corrected = {name: value.addcmul(means[name], means[name], value=-1) for name, value in second.items()}
        return Held(
            eps=float(group["eps"]),
            first_moment=slot(state, moving, "momentum_buffer") if self.momentum else None,
            second_moment=second,
            corrected_second_moment=corrected if all(steps_of(state).values()) else None,
        )

    def memory(self, lr: float) -> Memory:
        """Return the memory of the table above, with rate η/(1 − β) and lag β/(1 − β)."""
        beta = fading(self.kind, self.momentum)
        return Memory(effective_rate=lr / (1 - beta), lag=beta / (1 - beta), decay=beta)

    def step_filter(self, lr: float) -> Filter:
        """Return the step along b, a sum of what is divided."""
        return Filter(bare=0.0, held=lr, gain=1.0, decay=fading(self.kind, self.momentum))

    def buffer(self, lr: float) -> MomentumBuffer | None:
        """Return the properties of b, whose gradients are divided already; None without momentum."""
        if not self.momentum:
            return None
        beta = self.momentum
        return MomentumBuffer(decay=beta, gain=1 / (1 - beta), divided=True, ahead=lr * beta / (1 - beta))

    def divides_by(self, eps: float) -> SecondMoment | None:
        """Return how the root of v divides the gradient, which momentum filters and delays afterwards."""
        decay = fading_mean(self.kind, None if self.centered else self.alpha)
        return SecondMoment(decay=decay, eps=eps, numerator_decay=0.0, lag_after=self.memory(1.0).lag)

    def filtered_by(self, eps: float) -> SecondMoment | None:
        """Return how the root of v divides the gradient, also where v is centered."""
        if not self.centered:
            return self.divides_by(eps)
        plain = replace(self, centered=False).divides_by(eps)
        assert plain is not None
        return replace(plain, centered=True)

    @classmethod
    def refine(cls, group: Group, states: list[dict[str, Any]], refinement: int) -> None:
        """Refine momentum and rate in place, with ρ → ρ^{1/r}; the mean of squares stays."""
        refine_momentum(group, states, refinement)
        group["alpha"] = group["alpha"] ** (1 / refinement)
        refine_count(states, refinement)

    @classmethod
    def state(cls, first: Tensor, second: Tensor) -> dict[str, Any]:
        """Return torch's state with the mean of squares and the buffer; it has no bias correction."""
        return {"step": torch.tensor(LONG_AGO), "square_avg": second, "momentum_buffer": first}
