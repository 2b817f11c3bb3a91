"""The gradients of all minibatches at weights that do not move, as vectors in double precision."""

from collections.abc import Sequence

import torch
from torch import Tensor

from ireg.core.complex_weights import with_outputs
from ireg.core.types import Batch, LossFn, Params
from ireg.core.wide import wide

STORED = 2**31
"""Bytes of gradients that are stored; of more each is computed again when it is asked for."""


class FrozenGradients:
    """g_k of each of m minibatches at fixed weights, as a vector (p,) in double precision.

    They are stored in the weights' own precision where m of them take at most `stored` bytes. Else each is computed
    again, and the memory is that of one. What a loss draws (masks) is drawn again each time it is computed.

    Args:
        loss: pure function `(params, batch) -> 0-d mean loss`.
        params: where; neither they nor any `.grad` are changed.
        batches: the m minibatches; sizes may differ.
        shift: what is added to every gradient, by name, like weight decay λω; None for nothing.
        stored: how many bytes of gradients may be stored.

    Raises:
        ValueError: no minibatches.

    Example:
        >>> def loss(params, batch):
        ...     return (params["w"] * batch[0]).square().mean() / 2
        >>> batches = [(torch.tensor([x]), torch.zeros(1)) for x in (1.0, 2.0)]
        >>> gradients = FrozenGradients(loss, {"w": torch.tensor([3.0])}, batches)  # x²w
        >>> float(gradients.of(1)), float(gradients.mean), float(gradients.square)  # of 3 and 12, 9 and 144
        (12.0, 7.5, 76.5)
    """

    def __init__(
        self,
        loss: LossFn,
        params: Params,
        batches: Sequence[Batch],
        shift: Params | None = None,
        *,
        stored: int = STORED,
    ) -> None:
        if len(batches) == 0:
            raise ValueError("gradients at fixed weights need at least one minibatch, got none")
        self._loss, self._batches = loss, batches
        self._weights = {name: value.detach().requires_grad_() for name, value in params.items()}
        self._shift = None if shift is None else wide(_flat([shift[name] for name in params]))
        size = sum(value.numel() * value.element_size() for value in params.values())
        self._kept: list[Tensor] | None = [] if size * len(batches) <= stored else None
        total = torch.zeros_like(wide(_flat(list(params.values()))))
        squares = torch.zeros_like(total)
        for number in range(len(batches)):
            if self._kept is not None:
                self._kept.append(self._compute(number))
            gradient = self.of(number)
            total += gradient
            squares.addcmul_(gradient, gradient)
        self.mean = total.div_(len(batches))
        """ḡ, (p,)."""
        self.square = squares.div_(len(batches))
        """s̄ = (1/m) Σ g_k⊙g_k, (p,)."""

    @property
    def num_batches(self) -> int:
        """The number m of minibatches."""
        return len(self._batches)

    @property
    def are_stored(self) -> bool:
        """Whether the gradients are stored, and not computed again."""
        return self._kept is not None

    def of(self, number: int) -> Tensor:
        """Return g_k, (p,), in double precision; it may not be changed in place."""
        gradient = wide(self._compute(number) if self._kept is None else self._kept[number])
        return gradient if self._shift is None else gradient + self._shift

    def _compute(self, number: int) -> Tensor:
        with torch.enable_grad():
            value, _ = with_outputs(self._loss, self._weights, self._batches[number])
        weights = list(self._weights.values())
        return _flat(torch.autograd.grad(value, weights, allow_unused=True, materialize_grads=True))


def _flat(tensors: Sequence[Tensor]) -> Tensor:
    return torch.cat([tensor.detach().flatten() for tensor in tensors])
