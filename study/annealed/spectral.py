"""A penalty on the product of the layers' largest singular values."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ireg.core.types import Batch, LossFn, Params
from ireg.regularizers import Regularizer, SharedPart


@dataclass(frozen=True, kw_only=True)
class SpectralProduct(Regularizer):
    """Penalize the logarithm of `norm/spectral_product`: λ Σ_l ln σ₁(W_l), over the matrices.

    Example:
        >>> part, = SpectralProduct(strength=0.5).shared(lambda params, batch: torch.zeros(()), [])
        >>> value, gradient = part.value_and_gradient({"w": torch.tensor([[1.0, 0.0], [0.0, 2.0]])})
        >>> round(float(value), 4), gradient["w"].tolist()
        (0.3466, [[0.0, 0.0], [0.0, 0.25]])
    """

    of_minibatches: ClassVar[bool] = False

    def shared(self, loss: LossFn, batches: Sequence[Batch]) -> list[SharedPart]:
        """Return the part λ Σ_l ln σ₁(W_l)."""
        return [_LogOfProduct(self.strength)]


ITERATIONS = 50
"""Of the power method: an eigenvalue problem of each layer would take longer than the step."""


class _LogOfProduct:
    """λ Σ_l ln σ₁(W_l), with ∇ = λ u vᵀ/σ₁."""

    def __init__(self, strength: float) -> None:
        self.strength = strength

    @torch.no_grad()
    def value_and_gradient(self, params: Params) -> tuple[Tensor, Params]:
        total = torch.zeros(())
        gradient = {name: torch.zeros_like(value) for name, value in params.items()}
        for name, matrix in params.items():
            if matrix.ndim == 2:
                left, size, right = _largest(matrix)
                total = total + size.log()
                gradient[name] = self.strength * torch.outer(left, right) / size
        return self.strength * total, gradient

    def product(self, params: Params, direction: Params) -> Params:
        with torch.enable_grad():
            held = {name: value.detach().requires_grad_() for name, value in params.items()}
            squares = [torch.linalg.eigvalsh(value @ value.mT)[-1] for value in held.values() if value.ndim == 2]
            value = self.strength * torch.stack(squares).log().sum() / 2
            gradient = torch.autograd.grad(
                value, list(held.values()), create_graph=True, allow_unused=True, materialize_grads=True
            )
            along = torch.stack([(part * direction[name]).sum() for name, part in zip(held, gradient, strict=True)])
            found = torch.autograd.grad(along.sum(), list(held.values()), allow_unused=True, materialize_grads=True)
        return dict(zip(held, found, strict=True))


def _largest(matrix: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return u, σ₁ and v by the power method."""
    gram = matrix @ matrix.mT
    left = gram[:, gram.diagonal().argmax()]
    for _ in range(ITERATIONS):
        left = gram @ (left / left.norm())
    left = left / left.norm()
    right = matrix.mT @ left
    size = right.norm()
    return left, size, right / size
