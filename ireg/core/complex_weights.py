"""Complex weights as pairs of real ones.

torch's gradient of a real loss by a complex weight ω = a + ib is ∂C/∂a + i ∂C/∂b, twice the conjugate Wirtinger
derivative: ω − η · gradient is the descent of a and b as two real weights. So ‖g‖² = Σ|g_i|² is that of the real
weights, and so is (η/4) ‖g‖². Optimizers with a second moment have one of a and one of b (`torch.view_as_real`).

What is differentiated is therefore real: `Snapshot.moving` holds a and b of each complex weight in a last dimension of
2, see `ireg.core.params.as_reals`, and the loss is a function of these.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ireg.core.functional import loss_and_outputs
from ireg.core.types import Batch, LossFn, Params


class LossByReals:
    """The loss of complex weights, by real and imaginary parts.

    It is called as `loss(params, batch)`. A complex weight may be given as it is, or as a real tensor (…, 2).

    Args:
        loss: pure function `(params, batch) -> 0-d mean loss` of the complex weights.
        names: of the complex weights.

    Example:
        >>> def loss(params, batch):
        ...     return params["w"].abs().square().sum()
        >>> float(LossByReals(loss, frozenset({"w"}))({"w": torch.tensor([[3.0, 4.0]])}, None))
        25.0
    """

    def __init__(self, loss: LossFn, names: frozenset[str]) -> None:
        self.loss = loss
        self.names = names

    def __call__(self, params: Params, batch: Batch) -> Tensor:
        """Return the mean loss of a minibatch, 0-d."""
        return self.loss(self._as_held(params), batch)

    def with_outputs(self, params: Params, batch: Batch) -> tuple[Tensor, Tensor | None]:
        """Return the mean loss, 0-d, and the outputs; None where the loss has none."""
        return loss_and_outputs(self.loss, self._as_held(params), batch)

    def _as_held(self, params: Params) -> Params:
        return {
            name: torch.view_as_complex(value) if name in self.names and not value.is_complex() else value
            for name, value in params.items()
        }


def loss_by_reals(loss: LossFn, params: Params) -> LossFn:
    """Return the loss as a function of real weights; the loss itself where all weights are real."""
    names = frozenset(name for name, value in params.items() if value.is_complex())
    return LossByReals(loss, names) if names else loss


def with_outputs(loss: LossFn, params: Params, batch: Batch) -> tuple[Tensor, Tensor | None]:
    """Compute a minibatch's loss, 0-d, and its outputs; None where the loss has none."""
    return loss.with_outputs(params, batch) if isinstance(loss, LossByReals) else loss_and_outputs(loss, params, batch)


def as_given(loss: LossFn) -> LossFn:
    """Return the loss as a function of the weights as the network holds them."""
    return loss.loss if isinstance(loss, LossByReals) else loss
