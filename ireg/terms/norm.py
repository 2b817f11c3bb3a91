"""How large the solution is, and how far from its start."""

import torch
from torch import Tensor

from ireg.core.params import squared_norm
from ireg.core.snapshot import Snapshot


def l2(snapshot: Snapshot) -> Tensor:
    """The norm ‖ω‖₂ of all parameters.

    Those that the optimizer does not move are included.
    """
    return squared_norm(snapshot.params).sqrt()


def distance(snapshot: Snapshot) -> Tensor:
    """The distance from the initial parameters: ‖ω − ω₀‖₂."""
    return squared_norm({name: value - snapshot.initial[name] for name, value in snapshot.params.items()}).sqrt()


def layers(snapshot: Snapshot) -> dict[str, Tensor]:
    """The Frobenius norm ‖W_l‖_F of each weight matrix, by name.

    Weight matrices are the parameters of two or more dimensions: of linear layers, convolutions and embeddings.
    """
    return {name: matrix.norm() for name, matrix in _matrices(snapshot).items()}


def product(snapshot: Snapshot) -> Tensor:
    """The product Π‖W_l‖_F over all weight matrices."""
    return torch.stack([matrix.norm() for matrix in _matrices(snapshot).values()]).prod()


def spectral_product(snapshot: Snapshot) -> Tensor:
    """The product Πσ₁(W_l) of the largest singular values of all weight matrices.

    A convolution's kernel is the matrix of its channels (out, in · height · width), which is not the matrix of the map
    between images. For stacks of Linear layers the product bounds how much an input's change may grow.

    Source: Bartlett, Foster & Telgarsky 2017, arXiv:1706.08498.
    """
    largest = []
    for matrix in _matrices(snapshot).values():
        short = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.mT
        finite = bool(short.isfinite().all())  # the decomposition refuses what is not
        largest.append(torch.linalg.eigvalsh(short @ short.mT)[-1].sqrt() if finite else short.sum() * torch.nan)
    return torch.stack(largest).prod()


def _matrices(snapshot: Snapshot) -> dict[str, Tensor]:
    """The weight matrices, in double precision: products of many norms are large.

    Those without an element are none: a layer of no width maps nothing.
    """
    return {
        name: value.flatten(1).double() for name, value in snapshot.params.items() if value.ndim > 1 and value.numel()
    }
