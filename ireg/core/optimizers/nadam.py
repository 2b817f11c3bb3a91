"""NAdam: Adam whose numerator mixes the gradient and its mean.

| torch's form | a_n | η_e | L | T_d, d ≥ 1 |
|---|---|---|---|---|
| m ← βm + (1−β)g, the step is ((1−μ)g + μm)/(√v̂ + ε) | μ(1−β)βⁿ, and 1−μ more for n = 0 | η | μβ/(1−β) | μβᵈ |

μ = β(1 − ½ 0.96^{ψt}) rises from about β/2 to β, with torch's ψ = 0.004 within some 20,000 steps. It changes so slowly
that it counts as constant at each moment. torch's μ of the bare gradient is one step behind that of m, a difference of
at most ψβ/50. The bias correction of the first steps (1 less the product of all μ) is past like Adam's.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.optim import NAdam

from ireg.core.optimizers.adam import AdamView
from ireg.core.optimizers.memory import Memory, MomentumBuffer, SecondMoment
from ireg.core.optimizers.momentum import fading
from ireg.core.optimizers.view import Group, State, rule, steps_of


@rule("nadam", NAdam)
@dataclass(frozen=True, kw_only=True)
class NAdamView(AdamView):
    """The rule of `torch.optim.NAdam` (Dozat 2016).

    Attributes:
        share: μ of the running mean in the next step; None where parameters have different ones, as some were stepped
            more often than others.

    Example:
        >>> rule = NAdamView(lr=0.1, moving=("weight",), weight_decay=0.0, betas=(0.5, 0.9), eps=1e-8, share=0.5)
        >>> rule.memory.lag, rule.memory.tail_share(1)
        (0.5, 0.25)
    """

    share: float | None

    @classmethod
    def read(cls, group: Group, state: State, moving: Mapping[str, Tensor]) -> dict[str, Any]:
        """Read what Adam has, and μ of the next step."""
        beta, decay = float(group["betas"][0]), float(group["momentum_decay"])
        shares = {beta * (1 - 0.5 * 0.96 ** ((steps + 1) * decay)) for steps in steps_of(state).values()}
        return super().read(group, state, moving) | {"share": shares.pop() if len(shares) == 1 else None}

    @property
    def memory(self) -> Memory:
        """See the table above.

        Raises:
            ValueError: it remembers for ever (β = 1), or parameters have different μ.
        """
        beta, share = fading(self.kind, self.betas[0]), self._share()
        return Memory(effective_rate=self.lr, lag=share * beta / (1 - beta), decay=beta, tail_scale=share)

    @property
    def buffer(self) -> MomentumBuffer | None:
        """m, of which a share is in the step."""
        held = super().buffer
        return None if held is None else replace(held, ahead=self._share() * held.ahead)

    def buffer_rate(self, steps: int) -> float | None:
        """None: the bare gradient is in the step, too."""
        return None

    @property
    def divides_by(self) -> SecondMoment | None:
        """v, with gradient and m above it."""
        adams = super().divides_by
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
        """Do what Adam does, and make ψ → ψ/r.

        The extra gradient, a share 1 − μ of the step, falls with 1 − β.
        """
        super().refine(group, states, refinement)
        group["momentum_decay"] = group["momentum_decay"] / refinement

    @classmethod
    def state(cls, first: Tensor, second: Tensor) -> dict[str, Tensor]:
        """Both means, and a product of all μ that has run out."""
        return super().state(first, second) | {"mu_product": torch.tensor(0.0)}
