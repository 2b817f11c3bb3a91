"""Products with the Hessian of C by central differences of gradients.

Where only a gradient is known, as of the model's own passes,

    H v ≈ ‖v‖ (∇C(ω + h v/‖v‖) − ∇C(ω − h v/‖v‖)) / (2h),    h = u^(1/3) (1 + max |ω_i|),

with u the unit roundoff of the weights' type. The error is that of the difference quotient, (h²/6) ∇⁴C[v̂, v̂, v̂], and of
rounding, of size u ‖∇C‖/h. A step of size u^(1/3) makes both of size u^(2/3). The scale is that of a single weight, and
does not grow with their number. Along an eigenvector the curvature changes over steps of size 1, however many weights
there are.

Source: Nocedal & Wright 2006, Numerical Optimization, section 8.1, for u^(1/3).
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence

import torch
from torch import Tensor

from ireg.core.hessian import MeanHessian
from ireg.core.norms import inner
from ireg.core.own_passes import OwnPasses
from ireg.core.params import displaced, summable, wide_squared_norm
from ireg.core.types import Batch, LossFn, Params
from ireg.core.wide import wide

DOUBTFUL = 0.05
"""Estimated relative error of a product above which a warning is given."""


class DifferencedHessian:
    """The Hessian H of C at a point, as products with vectors, by differences of gradients.

    It has the methods of `ireg.core.hessian.MeanHessian`. The weights are restored from copies after each product. The
    error of the first product is estimated, which takes two passes over the minibatches more.

    Attributes:
        products: how many have been computed.
        error: of the first product, as `error_along` estimates it; None before it.

    Args:
        loss: by the model's own passes.
        params: where, and by which parameters.
        batches: the minibatches; sizes may differ.

    Raises:
        ValueError: weights of a half type, which cannot be moved by a small step.

    Example:
        >>> from torch import nn
        >>> model = nn.Linear(1, 1, bias=False).double()
        >>> loss = OwnPasses(model, model, lambda model, batch: (model(batch).pow(4).mean(), None))
        >>> weights = {"weight": torch.ones(1, 1).double()}
        >>> hessian = DifferencedHessian(loss, weights, [torch.ones(1, 1).double()])
        >>> round(float(hessian(weights)["weight"]), 6)  # 12 w²
        12.0
    """

    def __init__(self, loss: OwnPasses, params: Params, batches: Sequence[Batch]) -> None:
        for name, value in params.items():
            if value.dtype.itemsize < torch.float32.itemsize:
                raise ValueError(
                    f"{name} is {value.dtype}: a step of the size that differences need is lost in it; leave curvature "
                    "out, or keep the weights in float32"
                )
        self.loss = loss
        self.params = params
        self.batches = batches
        self.products = 0
        self.error: float | None = None

    @property
    def step(self) -> float:
        """The step h, in the units of the weights."""
        largest = max((float(value.abs().max()) for value in self.params.values() if value.numel()), default=0.0)
        unit = max(torch.finfo(value.dtype).eps for value in self.params.values())
        return (unit / 2) ** (1 / 3) * (1 + largest)

    def __call__(self, direction: Params, total: Params | None = None) -> Params:
        """Compute H v, by name.

        Args:
            direction: v, by name.
            total: zeros by name, to which the product is added; by default new ones.
        """
        self.products += 1
        product = self._differences(direction, self.step)
        if self.error is None:
            self.error = self._error(product, direction)
            if self.error > DOUBTFUL:
                warnings.warn(
                    f"products with the Hessian by differences of gradients are off by about {self.error:.1g} of "
                    "themselves: the loss bends within the step, or rounding is large; take double precision, or a "
                    "method other than backward",
                    UserWarning,
                    stacklevel=2,
                )
        if total is None:
            return product
        for name, value in product.items():
            total[name] += value
        return total

    def along(self, direction: Params) -> Tensor:
        """Compute vᵀ H v, 0-d.

        Args:
            direction: v, by name.
        """
        return inner(direction, self(direction))

    def gradient(self, weights: Tensor) -> Params:
        """Compute Σ_k c_k g_k, the gradient of a weighted sum of minibatch losses, by name.

        Args:
            weights: c, (m,).
        """
        return self._gradient(self.params, weights.tolist())

    def error_along(self, direction: Params) -> float:
        """Estimate the relative error of a product.

        It is ‖D(h) − D(2h)‖/‖D(h)‖ with D(h) the product by the step h: three times the error of the difference
        quotient, and that of rounding.

        Args:
            direction: v, by name.
        """
        return self._error(self._differences(direction, self.step), direction)

    def _error(self, product: Params, direction: Params) -> float:
        twice = self._differences(direction, 2 * self.step)
        off = wide_squared_norm({name: value - twice[name] for name, value in product.items()})
        size = float(wide_squared_norm(product))
        return math.sqrt(float(off) / size) if size else math.sqrt(float(off))

    def curvatures(self, direction: Params) -> Tensor:
        """Compute vᵀ H_k v of each minibatch, (m,), in double precision.

        Args:
            direction: v, by name.
        """
        return torch.stack([self._of([batch]).along(direction) for batch in self.batches]).double()

    def batch_sharpness(self) -> Tensor:
        """Compute (1/m) Σ_k g_kᵀ H_k g_k / ‖g_k‖² over all minibatches, 0-d, in double precision.

        A minibatch whose gradient is 0 counts as 0.
        """
        total = wide(next(iter(self.params.values())).new_zeros(()))
        for batch in self.batches:
            alone = self._of([batch])
            gradient = alone.gradient(torch.ones(1))
            square = float(wide_squared_norm(gradient))
            if square:
                total += wide(alone.along(gradient)) / square
        return total / len(self.batches)

    def _of(self, batches: Sequence[Batch]) -> DifferencedHessian:
        """Return the same of other minibatches, whose error is not estimated."""
        other = DifferencedHessian(self.loss, self.params, batches)
        other.error = 0.0
        return other

    def _differences(self, direction: Params, step: float) -> Params:
        """Compute H v by the differences of a step."""
        length = math.sqrt(float(wide_squared_norm(direction)))
        if not length:
            return {name: torch.zeros_like(value) for name, value in self.params.items()}
        count = len(self.batches)
        ahead, behind = (
            self._gradient(displaced(self.params, direction, sign * step / length), [1 / count] * count)
            for sign in (1, -1)
        )
        return {name: (value - behind[name]) * (length / (2 * step)) for name, value in ahead.items()}

    def _gradient(self, params: Params, weights: Sequence[float]) -> Params:
        total = {name: torch.zeros_like(value) for name, value in self.params.items()}
        with self.loss.opened(params):
            for weight, batch in zip(weights, self.batches, strict=True):
                for name, gradient in self.loss.passes(batch)[2].items():
                    if name in total:
                        total[name].add_(summable(gradient), alpha=weight)
        return total


def hessian_of(loss: LossFn, params: Params, batches: Sequence[Batch]) -> MeanHessian | DifferencedHessian:
    """Return the Hessian of C, by differences where the loss has no second derivatives."""
    if isinstance(loss, OwnPasses):
        return DifferencedHessian(loss, params, batches)
    return MeanHessian(loss, params, batches)
