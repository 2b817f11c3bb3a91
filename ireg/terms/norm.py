"""How large the solution is, and how far from its start."""

import torch
from torch import Tensor

from ireg.core.norms import multiplied, norm, norm_of, power_near
from ireg.core.params import dense, summable
from ireg.core.snapshot import Snapshot
from ireg.core.wide import wide


def l2(snapshot: Snapshot) -> Tensor:
    """Compute the norm ‖ω‖₂ of all parameters.

    Those that the optimizer does not move are included, whatever the type of their numbers. Of complex weights it is
    √Σ|ω_i|².
    """
    return norm(snapshot.params)


def distance(snapshot: Snapshot) -> Tensor:
    """Compute the distance from the initial parameters, ‖ω − ω₀‖₂."""
    initial = snapshot.initial
    # Of the type of sums first: differences of integers overflow, and those of half types are rounded.
    return norm({name: summable(value) - summable(initial[name]) for name, value in snapshot.params.items()})


def layers(snapshot: Snapshot) -> dict[str, Tensor]:
    """Compute the Frobenius norm ‖W_l‖_F of each weight matrix, by name.

    Weight matrices are the parameters of two or more dimensions, of linear layers, convolutions and embeddings. One
    without entries is left out.
    """
    return {name: norm_of(matrix) for name, matrix in _matrices(snapshot).items()}


def product(snapshot: Snapshot) -> Tensor | None:
    """Compute the product Π‖W_l‖_F over all weight matrices; None where there are none."""
    norms = [norm_of(matrix) for matrix in _matrices(snapshot).values()]
    return multiplied(norms) if norms else None


def spectral_product(snapshot: Snapshot) -> Tensor | None:
    """Compute the product Πσ₁(W_l) of the largest singular values of all weight matrices.

    A convolution's kernel is the matrix of its channels (out, in · height · width), which is not the matrix of the map
    between images. For stacks of Linear layers the product bounds how much an input's change may grow.

    Returns:
        The product, 0-d, in double precision; None where there are no weight matrices.

    Source: Bartlett, Foster & Telgarsky 2017, arXiv:1706.08498.
    """
    largest = []
    for matrix in _matrices(snapshot).values():
        short = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.mT
        if not bool(short.isfinite().all()):  # the decomposition refuses what is not
            largest.append(short.real.sum() * torch.nan)
            continue
        scale = power_near(short)  # a power of two: dividing by it is exact, and the squares below stay in range
        square = (short / scale) @ (short / scale).mH
        largest.append(torch.linalg.eigvalsh(square)[-1].sqrt() * scale)
    return multiplied(largest) if largest else None


def _matrices(snapshot: Snapshot) -> dict[str, Tensor]:
    """Return the weight matrices in double precision, as products of many norms are large.

    Those without an element are none: a layer of no width maps nothing.
    """
    return {
        name: wide(dense(value).flatten(1))
        for name, value in snapshot.params.items()
        if value.ndim > 1 and value.numel()
    }
