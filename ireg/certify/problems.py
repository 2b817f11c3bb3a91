"""Small smooth losses whose gradients and Hessians are known in closed form.

Minibatch k of m has the loss Ĉ_k(ω) = Σ_i ℓ_i(z_i), z = X_k ω − y_k, with ℓ(z) = z²/2 for its first rows and
ℓ(z) = log cosh z for the others: gradient X_kᵀ ℓ'(z), Hessian X_kᵀ diag ℓ''(z) X_k.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from ireg.core.types import Batch, Params

NAME = "w"
"""The name of the one parameter."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Problem:
    """A loss by minibatches, of points stacked as columns: (p, R) holds R independent copies of ω.

    Attributes:
        inputs: X, shape (m, n, p), float64.
        targets: y, shape (m, n).
        squares: number of rows that enter by z²/2.
        start: ω at time 0, shape (p,).
    """

    inputs: Tensor
    targets: Tensor
    squares: int
    start: Tensor

    @property
    def num_batches(self) -> int:
        """The number m of minibatches."""
        return len(self.inputs)

    @property
    def batches(self) -> list[Batch]:
        """The minibatches as `loss` takes them."""
        return list(zip(self.inputs, self.targets, strict=True))

    def loss(self, params: Params, batch: Batch) -> Tensor:
        """Compute Ĉ_k, summed over the columns.

        Its Hessian has a block for each column, so products with it are column by column.

        Args:
            params: the points (p, R) under `NAME`.
            batch: X_k (n, p) and y_k (n,).

        Returns:
            The loss, 0-d.
        """
        residuals = batch[0] @ params[NAME] - batch[1][:, None]
        return residuals[: self.squares].square().sum() / 2 + residuals[self.squares :].cosh().log().sum()

    def gradients(self, point: np.ndarray) -> np.ndarray:
        """Compute g_k, (m, p), at a point (p,)."""
        derivatives = self._residuals(point)
        # ℓ'(z) is z itself in the quadratic rows, and tanh z in the others.
        derivatives[:, self.squares :] = np.tanh(derivatives[:, self.squares :])
        return np.einsum("kni,kn->ki", self._arrays[0], derivatives)

    def hessians(self, point: np.ndarray) -> np.ndarray:
        """Compute H_k, (m, p, p), at a point (p,)."""
        residuals = self._residuals(point)
        curvatures = np.ones_like(residuals)
        curvatures[:, self.squares :] = np.cosh(residuals[:, self.squares :]) ** -2
        return np.einsum("kni,kn,knj->kij", self._arrays[0], curvatures, self._arrays[0])

    def column_gradients(self, weights: Tensor, which: Tensor) -> Tensor:
        """Compute the gradient at each column, on the minibatch that is named for it.

        Args:
            weights: the points, (p, R).
            which: the number of each column's minibatch, (R,).

        Returns:
            The gradients, (p, R).
        """
        rows, negative_targets = self._by_minibatch
        rows = rows.index_select(2, which)
        derivatives = (rows * weights).sum(1).add_(negative_targets.index_select(1, which))
        # As in `gradients`, but in place.
        derivatives[self.squares :].tanh_()
        return (rows * derivatives[:, None]).sum(0)

    @cached_property
    def _arrays(self) -> tuple[np.ndarray, np.ndarray]:
        return self.inputs.numpy(), self.targets.numpy()

    @cached_property
    def _by_minibatch(self) -> tuple[Tensor, Tensor]:
        """X and −y with the minibatch as the last dimension."""
        return self.inputs.permute(1, 2, 0).contiguous(), -self.targets.T.contiguous()

    def _residuals(self, point: np.ndarray) -> np.ndarray:
        rows, targets = self._arrays
        return rows @ point - targets


def log_cosh(*, seed: int, dimension: int = 2, rows: int = 3) -> Problem:
    """Draw a problem of one minibatch, Σ log cosh(Xω − y): smooth, convex, not quadratic.

    Args:
        seed: of X and y.
        dimension: p, at most 3.
        rows: n.
    """
    generator = torch.Generator().manual_seed(seed)
    return Problem(
        inputs=torch.randn(1, rows, dimension, generator=generator, dtype=torch.float64),
        targets=torch.randn(1, rows, generator=generator, dtype=torch.float64),
        squares=0,
        start=torch.tensor([0.7, -0.4, 0.5][:dimension], dtype=torch.float64),
    )


def quadratics(*, seed: int, num_batches: int = 4, dimension: int = 2, copies: int = 1) -> Problem:
    """Draw a problem of minibatches ½ ‖X_k ω − y_k‖², each of them `copies` times.

    Args:
        seed: of X and y.
        num_batches: different minibatches; the problem has `copies` times as many.
        dimension: p, at most 3, and the number of rows.
        copies: how often each minibatch stands there.
    """
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(num_batches, dimension, dimension, generator=generator, dtype=torch.float64)
    targets = torch.randn(num_batches, dimension, generator=generator, dtype=torch.float64)
    return Problem(
        inputs=inputs.repeat(copies, 1, 1),
        targets=targets.repeat(copies, 1),
        squares=dimension,
        start=torch.tensor([0.7, -0.4, 0.5][:dimension], dtype=torch.float64),
    )


def quadratics_and_log_cosh(*, seed: int, num_batches: int = 6, dimension: int = 3) -> Problem:
    """Draw a problem of minibatches with as many quadratic as log cosh rows.

    Args:
        seed: of X and y.
        num_batches: m.
        dimension: p, at most 3, and the number of rows of each kind.
    """
    generator = torch.Generator().manual_seed(seed)
    return Problem(
        inputs=torch.randn(num_batches, 2 * dimension, dimension, generator=generator, dtype=torch.float64)
        / dimension**0.5,
        targets=torch.randn(num_batches, 2 * dimension, generator=generator, dtype=torch.float64),
        squares=dimension,
        start=torch.tensor([0.7, -0.4, 0.5][:dimension], dtype=torch.float64),
    )
