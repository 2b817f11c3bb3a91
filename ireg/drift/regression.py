"""The measured drift D compared with the predicted one, in numbers with standard errors.

Every number is a function of the inner products of the pairs' drifts, the predictions, −∇Q and the leading flow's own
displacement. Squared norms of D are taken over products of different pairs, so that noise does not add to them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from ireg.statistics import Estimate, Sample, jackknife


def compare(drifts: Sequence[Tensor], vectors: Mapping[str, Tensor]) -> dict[str, Estimate]:
    """Compute the numbers of `numbers`, with standard errors.

    Args:
        drifts: D of each pair of orders.
        vectors: the predictions `d_…`, `downhill` (−∇Q), `leading` (the leading flow's displacement) and `halving` (how
            far half as many steps leave its end away).
    """
    names = list(vectors)
    stacked = torch.stack([*drifts, *vectors.values()])
    # All that follows is a function of inner products: the vectors, of 400,000 numbers each, are read only here.
    products = (stacked @ stacked.T).numpy()  # (pairs + vectors, pairs + vectors)
    pairs = list(range(len(drifts)))

    def record(chosen: Sequence[int]) -> np.ndarray:
        """Compute the products of the mean drift and the vectors.

        The drift's product with itself is over different pairs.
        """
        rows = products[np.ix_(chosen, chosen)]
        count = len(chosen)
        # E⟨D_i, D_j⟩ = ‖E D‖² for i ≠ j. A pair's product with itself would add its variance.
        own = (rows.sum() - np.trace(rows)) / (count * (count - 1))
        cross = products[np.ix_(chosen, range(len(pairs), len(products)))].mean(0)
        rest = products[len(pairs) :, len(pairs) :]
        return np.block([[np.array([[own]]), cross[None]], [cross[:, None], rest]])

    sample = Sample(record(pairs), [record([other for other in pairs if other != pair]) for pair in pairs])
    return jackknife(lambda records: numbers(records["orders"], names), {"orders": sample})


def numbers(products: np.ndarray, names: Sequence[str]) -> dict[str, float]:
    """Compute strength, alignment and coefficients of a drift from inner products.

    Args:
        products: of D and the vectors with each other, D first.
        names: of the vectors.

    Returns:
        `strength`: ‖D‖ over the leading flow's displacement, and `strength predicted`, of Σ d. `alignment`: cosine of D
        and −∇Q at half of the time, and `alignment predicted`. `cosine`: of D and Σ d. `k`: the coefficient of D ≈ kΣd,
        and `k_…` those of the fit of each part. `residual`: share of ‖D‖² that the fit leaves;
        `residual of theory`: what k = 1 leaves. `halving`: the share of ‖D‖² that the leading flow's own error may be,
        from half as many steps, and `halving k_…` by how much it moves the coefficients.
    """
    parts = [1 + index for index, name in enumerate(names) if name.startswith("d_")]
    downhill, leading, halving = (1 + names.index(name) for name in ("downhill", "leading", "halving"))
    size = max(float(products[0, 0]), 0.0)  # an estimate of a square by different pairs may fall below 0
    inner, cross = products[np.ix_(parts, parts)], products[0, parts]
    # Least squares over all weights by the normal equations, of D and of the leading flow's own error in one solve.
    # Parts that point in nearly one direction share a coefficient: rcond.
    fit, moved = np.linalg.lstsq(inner, np.stack([cross, products[halving, parts]], axis=1), rcond=1e-12)[0].T
    sum_size = float(inner.sum())

    def left(factors: np.ndarray) -> float:
        # ‖D − Σ k d‖²/‖D‖², multiplied out.
        return float(products[0, 0] - 2 * factors @ cross + factors @ inner @ factors) / size if size else math.nan

    def cosine(product: float, square: float, other: float) -> float:
        return float(product) / math.sqrt(square * other) if square * other > 0 else math.nan

    return {
        "strength": math.sqrt(size / products[leading, leading]),
        "strength predicted": math.sqrt(sum_size / products[leading, leading]),
        "alignment": cosine(products[0, downhill], size, products[downhill, downhill]),
        "alignment predicted": cosine(products[parts, downhill].sum(), sum_size, products[downhill, downhill]),
        "cosine": cosine(cross.sum(), size, sum_size),
        "k": float(cross.sum()) / sum_size if sum_size else math.nan,
        **{f"k_{names[part - 1].removeprefix('d_')}": float(k) for part, k in zip(parts, fit, strict=True)},
        **{f"halving k_{names[part - 1].removeprefix('d_')}": float(k) for part, k in zip(parts, moved, strict=True)},
        "halving": float(products[halving, halving]) / size if size else math.nan,
        "residual": left(fit),
        "residual of theory": left(np.ones(len(parts))),
    }
