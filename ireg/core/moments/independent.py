"""Estimates of a population's moments, from all minibatches of a window.

Minibatches that are drawn with replacement, or come from a stream, are k independent draws from a population without
end. With s² = Σ ‖g_j − ḡ‖²_P/(k − 1) of the window,

    E ‖g‖²_P ≈ (1/k) Σ ‖g_j‖²_P,    ‖∇C‖²_P ≈ ‖ḡ‖²_P − s²/k,

both without bias, for equal chances and any norm. It is the limit m → ∞ of `ireg.core.moments.sample`, and needs the
sums of the window only: s² = k/(k − 1) · ((1/k) Σ ‖g_j‖²_P − ‖ḡ‖²_P). The estimate of ‖∇C‖² may be negative.
"""

from collections.abc import Callable, Collection
from dataclasses import dataclass

from torch import Tensor

from ireg.core.drawing import require_several
from ireg.core.moments.draws import DrawnMoments
from ireg.core.moments.sums import GradientMoments
from ireg.core.types import Params


@dataclass(frozen=True, kw_only=True)
class IndependentMoments:
    """Estimates of a population's moments, from those of k independent minibatches.

    Attributes:
        window: the moments over the k minibatches.
        size: k.
    """

    window: GradientMoments | DrawnMoments
    size: int

    @property
    def method(self) -> str:
        """The name of the method that computed the gradients."""
        return self.window.method

    def of(self, names: Collection[str]) -> "IndependentMoments":
        """Return the same of some of the parameters."""
        return IndependentMoments(window=self.window.of(names), size=self.size)

    def mean_square(self, scale: Params | None) -> Tensor:
        """Estimate E ‖g‖²_P, 0-d; None is the identity."""
        return self.window.mean_square(scale)

    def mean_square_of_product(self, factor: Params) -> Tensor:
        """Estimate E ‖f ⊙ g‖², 0-d."""
        return self.window.mean_square_of_product(factor)

    def square_of_mean(self, scale: Params | None, shift: Callable[[Params], Params] | None = None) -> Tensor:
        """Estimate ‖∇C + o‖²_P, 0-d: ‖ḡ + o‖²_P − s²/k.

        It needs what `mean_square` and the window's `square_of_mean` do.

        Args:
            scale: P; None for the identity.
            shift: adds o to a gradient; None for o = 0.

        Raises:
            ValueError: there are fewer than two minibatches.
        """
        require_several(self.size)
        whole = self.window.square_of_mean(scale)
        noise = (self.window.mean_square(scale) - whole) / (self.size - 1)
        return (whole if shift is None else self.window.square_of_mean(scale, shift)) - noise
