"""NAdam, which is Adam with a numerator that mixes the gradient and its mean.

| torch's form | a_n | η_e | L | T_d, d ≥ 1 |
|---|---|---|---|---|
| m ← βm + (1−β)g, the step is ((1−μ)g + μm)/(√v̂ + ε) | μ(1−β)βⁿ, and 1−μ more for n = 0 | η | μβ/(1−β) | μβᵈ |

μ = β(1 − ½ 0.96^{ψt}) rises from about β/2 to β, with torch's ψ = 0.004 within some 20,000 steps. It changes so slowly
that it counts as constant at each moment. torch's μ of the bare gradient is one step behind that of m, a difference of
at most ψβ/50. The bias correction of the first steps (1 less the product of all μ) is past like Adam's.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Self

import torch
from torch import Tensor
from torch.optim import NAdam

from ireg.core.optimizers.adam import AdamRule
from ireg.core.optimizers.memory import Memory, MomentumBuffer, SecondMoment
from ireg.core.optimizers.momentum import fading
from ireg.core.optimizers.rule import Group, register


@register("nadam", NAdam)
@dataclass(frozen=True, kw_only=True)
class NAdamRule(AdamRule):
    """The rule of `torch.optim.NAdam` (Dozat 2016).

    Attributes:
        share: μ of the running mean in the next step; None where parameters have different ones, as some were stepped
            more often than others.

    Example:
        >>> memory = NAdamRule(betas=(0.5, 0.9), share=0.5).memory(lr=0.1)
        >>> memory.lag, memory.tail_share(1)
        (0.5, 0.25)
    """

    share: float | None

    @classmethod
    def read(cls, group: Group, steps: Mapping[str, int]) -> Self:
        """Read β, ρ, and μ of the next step, from torch's group and the steps taken."""
        (beta, rho), decay = group["betas"], float(group["momentum_decay"])
        shares = {float(beta) * (1 - 0.5 * 0.96 ** ((taken + 1) * decay)) for taken in steps.values()}
        return cls(betas=(float(beta), float(rho)), share=shares.pop() if len(shares) == 1 else None)

    def memory(self, lr: float) -> Memory:
        """Return the memory of the table above, with lag μβ/(1 − β) and tail shares μβᵈ.

        Raises:
            ValueError: it remembers for ever (β = 1), or parameters have different μ.
        """
        beta, share = fading(self.kind, self.betas[0]), self._share()
        return Memory(effective_rate=lr, lag=share * beta / (1 - beta), decay=beta, tail_scale=share)

    def buffer(self, lr: float) -> MomentumBuffer | None:
        """Return the properties of m, of which the share μ is in the step; None for β = 0."""
        held = super().buffer(lr)
        return None if held is None else replace(held, ahead=self._share() * held.ahead)

    def buffer_rate(self, lr: float, steps: int) -> float | None:
        """Return None, as the bare gradient is in the step, too."""
        return None

    def divides_by(self, eps: float) -> SecondMoment | None:
        """Return how the root of v divides the gradient and m."""
        adams = super().divides_by(eps)
        assert adams is not None
        return replace(adams, numerator_bare=1 - self._share())

    def _share(self) -> float:
        if self.share is None:
            raise ValueError(
                "nadam: its parameters have been stepped unequally often and have momenta of their own; the theory "
                "knows one"
            )
        return self.share

    @classmethod
    def refine(cls, group: Group, states: list[dict[str, Any]], refinement: int) -> None:
        """Refine as Adam does, and make ψ → ψ/r.

        The extra gradient, a share 1 − μ of the step, falls with 1 − β.
        """
        super().refine(group, states, refinement)
        group["momentum_decay"] = group["momentum_decay"] / refinement

    @classmethod
    def state(cls, first: Tensor, second: Tensor) -> dict[str, Tensor]:
        """Return torch's state with both means, and a product of all μ that has run out."""
        return super().state(first, second) | {"mu_product": torch.tensor(0.0)}
