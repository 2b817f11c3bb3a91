"""Estimates of moments from a random sample of the minibatches.

With k of m minibatches drawn without replacement, ḡ_S and s² = Σ_S ‖g_j − ḡ_S‖²/(k − 1) of the sample,

    (1/m) Σ ‖g_k‖² ≈ (1/k) Σ_S ‖g_j‖²,    ‖ḡ‖² ≈ ‖ḡ_S‖² − (1/k − 1/m) s²,

both without bias, in any norm ‖v‖²_P = vᵀPv. The second may be negative. Their sums and differences inherit that: the
variance is estimated by (m − 1)/m · s². Independent minibatches are a sample of infinitely many: 1/m is 0.

Each estimate comes with its values on the sample without one minibatch, which give a standard error (jackknife).

Source: Cochran 1977, Sampling Techniques, sections 2.3 and 2.4; Efron & Stein 1981 for the jackknife. docs/theory.md,
section 9.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection

import torch
from torch import Tensor

from ireg.core.types import Params
from ireg.core.wide import wide

SMALLEST = 3
"""Minibatches in a sample: without one of them, two must be left to differ."""

STANDARD_ERROR = "_se"
"""Ending of the tag of an estimate's standard error."""

Shift = Callable[[Params], Params]
"""Adds an offset o to a gradient, by name."""


class SampledGradients(ABC):
    """The gradients of k minibatches, drawn at random from an epoch's m.

    The methods' results are estimates with their jackknife values, of shape (1 + k,): first that of the whole sample,
    then that without each of its minibatches. They add up, and scale, like numbers.

    Args:
        size: k.
        population: m; infinite for independent draws.
        method: how they were computed.
    """

    def __init__(self, size: int, population: float, method: str) -> None:
        self.size = size
        self.population = population
        self.method = method

    def mean_square(self, scale: Params | None) -> Tensor:
        """Estimate (1/m) Σ ‖g_k‖²_P.

        Args:
            scale: P; None for the identity.
        """
        return self._means(self._norms(scale))

    def mean_square_of_product(self, factor: Params) -> Tensor:
        """Estimate (1/m) Σ ‖f ⊙ g_k‖², in double precision."""
        return self._means(self._norms_of_products(factor))

    @abstractmethod
    def square_of_mean(self, scale: Params | None, shift: Shift | None = None) -> Tensor:
        """Estimate ‖ḡ + o‖²_P.

        Args:
            scale: P; None for the identity.
            shift: adds o to a gradient; None for o = 0.
        """

    @abstractmethod
    def of(self, names: Collection[str]) -> "SampledGradients":
        """Return the same of some of the parameters."""

    @abstractmethod
    def _norms(self, scale: Params | None) -> Tensor:
        """Return ‖g_j‖²_P, (k,)."""

    @abstractmethod
    def _norms_of_products(self, factor: Params) -> Tensor:
        """Return ‖f ⊙ g_j‖², (k,)."""

    def _means(self, values: Tensor) -> Tensor:
        """Return the mean of k values, then the k means without one of them, (1 + k,)."""
        total = values.sum()
        return torch.cat([total[None] / self.size, (total - values) / (self.size - 1)])

    def _squares(self, total: Tensor, along: Tensor, own: Tensor) -> Tensor:
        """Return ‖ḡ_S‖², and the same without each of the minibatches, (1 + k,).

        Args:
            total: ‖G‖² of the sum G = Σ g_j, 0-d.
            along: ⟨g_j, G⟩, (k,).
            own: ‖g_j‖², (k,).
        """
        # Of the matrix of products: its sum, then its sum without row and column j, whose crossing counts once.
        return torch.cat([total[None], total - 2 * along + own]) / self._left(total).square()

    def _without_noise(self, square: Tensor, noisy: Tensor, mean_square: Tensor) -> Tensor:
        """Free ‖ḡ_S + o‖² of the sample's noise, (1/k − 1/m) s².

        Args:
            square: what is freed, (1 + k,).
            noisy: ‖ḡ_S + o‖² for any o, (1 + k,).
            mean_square: (1/k) Σ ‖g_j + o‖² for the same o, (1 + k,).
        """
        left = self._left(square)
        variance = (mean_square - noisy) * left / (left - 1)
        return square - (1 / left - 1 / self.population) * variance

    def _left(self, like: Tensor) -> Tensor:
        """Return the number of minibatches in each estimate, (1 + k,)."""
        left = torch.tensor([float(self.size)] + [self.size - 1.0] * self.size, dtype=torch.float64)
        return left.to(like.device)


def standard_error(estimate: Tensor, population: float) -> float:
    """Return an estimate's standard error, by the jackknife.

    It is √((1 − k/m) (k − 1)/k Σ_j (e_j − ē)²) with e_j the estimates without minibatch j; on the mean over all
    samples, the square is the variance of a mean, and at least that of a square of a mean.

    Args:
        estimate: what the methods of `SampledGradients` return, or a linear function of it.
        population: m; infinite for independent draws.

    Raises:
        ValueError: it is one number.
    """
    if estimate.ndim != 1:
        raise ValueError(
            f"an estimate from a sample has shape {tuple(estimate.shape)}; must be a linear function of what "
            "snapshot.gradients return"
        )
    without = wide(estimate[1:])
    size = len(without)
    spread = (without - without.mean()).square().sum() * (size - 1) / size
    return math.sqrt((1 - size / population) * float(spread))
