"""SGD, with heavy-ball momentum, dampened momentum or Nesterov's.

| torch's form | a_n | η_e | L | T_d, d ≥ 1 |
|---|---|---|---|---|
| SGD | 1, 0, 0, … | η | 0 | 0 |
| momentum β, dampening δ: b ← βb + (1−δ)g | (1−δ)βⁿ | η(1−δ)/(1−β) | β/(1−β) | βᵈ |
| Nesterov: the step is g + βb, b ← βb + g | βⁿ⁺¹, and 1 more for n = 0 | η/(1−β) | β²/(1−β) | βᵈ⁺¹ |
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from torch import Tensor
from torch.optim import SGD

from ireg.core.optimizers.memory import Memory, MomentumBuffer
from ireg.core.optimizers.momentum import fading, refine_momentum
from ireg.core.optimizers.rule import Group, Held, Rule, State, register, slot
from ireg.core.optimizers.schedule import Filter


@register("sgd", SGD)
@dataclass(frozen=True, kw_only=True)
class SGDRule(Rule):
    """The rule of `torch.optim.SGD`.

    Attributes:
        momentum: β; 0 without a buffer.
        dampening: δ: the buffer is β b + (1 − δ) g.
        nesterov: the step is g + β b instead of b.

    Example:
        >>> SGDRule(momentum=0.5).memory(lr=0.1)
        Memory(effective_rate=0.2, lag=1.0, decay=0.5, tail_scale=1.0)
    """

    momentum: float = 0.0
    dampening: float = 0.0
    nesterov: bool = False

    @classmethod
    def read(cls, group: Group, steps: Mapping[str, int]) -> Self:
        """Read the momentum's constants from torch's group; without a buffer it dampens nothing."""
        momentum = float(group["momentum"])
        dampening = float(group["dampening"]) if momentum else 0.0
        return cls(momentum=momentum, dampening=dampening, nesterov=bool(group["nesterov"]))

    def held(self, group: Group, state: State, moving: Mapping[str, Tensor]) -> Held:
        """Read the momentum buffer from torch's state."""
        return Held(first_moment=slot(state, moving, "momentum_buffer") if self.momentum else None)

    def memory(self, lr: float) -> Memory:
        """Return the memory of the table above."""
        beta = fading(self.kind, self.momentum)
        lag = beta / (1 - beta)
        rate = lr * (1 - self.dampening) / (1 - beta)
        if self.nesterov:
            return Memory(effective_rate=rate, lag=beta * lag, decay=beta, tail_scale=beta)
        return Memory(effective_rate=rate, lag=lag, decay=beta)

    def step_filter(self, lr: float) -> Filter:
        """Return the step along b, a sum, and for Nesterov's along g + βb."""
        beta = fading(self.kind, self.momentum)
        if self.nesterov:
            return Filter(bare=lr, held=lr * beta, gain=1.0, decay=beta)
        return Filter(bare=0.0, held=lr, gain=1 - self.dampening, decay=beta)

    def buffer(self, lr: float) -> MomentumBuffer | None:
        """Return the properties of b, which a constant gradient of 1 fills with (1 − δ)/(1 − β)."""
        if not self.momentum:
            return None
        beta = self.momentum
        return MomentumBuffer(
            decay=beta,
            gain=(1 - self.dampening) / (1 - beta),
            divided=False,
            ahead=lr * beta ** (2 if self.nesterov else 1) / (1 - beta),
        )

    def buffer_rate(self, lr: float, steps: int) -> float | None:
        """Return η; None for Nesterov's step, which has the last gradient once more."""
        return None if self.nesterov else lr

    @classmethod
    def refine(cls, group: Group, states: list[dict[str, Any]], refinement: int) -> None:
        """Refine momentum, rate and buffer in place."""
        refine_momentum(group, states, refinement)

    @classmethod
    def remembers(cls, group: Group) -> bool:
        """Return whether there is momentum."""
        return bool(group["momentum"])

    @classmethod
    def state(cls, first: Tensor, second: Tensor) -> dict[str, Tensor]:
        """Return torch's state with the momentum buffer."""
        return {"momentum_buffer": first}
