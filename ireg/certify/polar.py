"""Muon's two readings at one point: the exact polar factor, and steps of Newton and Schulz.

The closed form of docs/theory.md, section 19, has T = UVᵀ of a matrix UΣVᵀ and φ* = Σ σ_i. Five steps of Newton and
Schulz make of each singular value σ of M/‖M‖ a number p(σ) near 1, so that T = U p(Σ) Vᵀ. It is the same for multiples
of M, and ⟨M, T⟩ = Σ σ_i p(σ_i) stands in the place of φ*. As p is not flat, what finite steps add differs more than T.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.func import jvp

from ireg.certify.any_optimizer import network
from ireg.certify.steepest import newton_schulz
from ireg.core.norms import cosine, norm
from ireg.core.optimizers.steepest import nuclear, polar, polar_along
from ireg.core.params import add_scaled
from ireg.core.types import Params


@dataclass(frozen=True, kw_only=True)
class Readings:
    """Muon's closed form beside its own steps, at one gradient of some matrices.

    Attributes:
        potential: φ* = Σ σ_i, by singular values.
        of_steps: ⟨∇C, T⟩ with the steps of Newton and Schulz.
        velocity: ‖T_NS − T‖/‖T‖.
        size: ‖T_NS‖/‖T‖.
        velocity_alignment: the cosine of T_NS and T.
        correction: of DT[HT], what finite steps add up to η²(½ + L), the same relative difference.
        correction_size: the same ratio of norms.
        correction_alignment: the cosine of both.
    """

    potential: float
    of_steps: float
    velocity: float
    size: float
    velocity_alignment: float
    correction: float
    correction_size: float
    correction_alignment: float


def readings(gradient: Params, product: Callable[[Params], Params]) -> Readings:
    """Compare the exact polar factor with five steps of Newton and Schulz, in the gradient's precision.

    Args:
        gradient: ∇C, matrices by name.
        product: from a direction v to Hv, by name.

    Returns:
        Both readings. Momentum changes neither: on full batches it multiplies both corrections by the same number.

    Example:
        >>> matrix = {"w": torch.diag(torch.tensor([2.0, 1.0]).double())}
        >>> found = readings(matrix, lambda v: {"w": matrix["w"] @ v["w"].roll(1, 0)})
        >>> round(found.potential, 6), round(found.velocity_alignment, 3)
        (3.0, 0.973)
    """
    exact = {name: polar(value) for name, value in gradient.items()}
    steps = {name: newton_schulz(value) for name, value in gradient.items()}
    uphill, uphill_of_steps = product(exact), product(steps)
    bent = {name: polar_along(value, uphill[name]) for name, value in gradient.items()}
    bent_of_steps = {
        name: jvp(newton_schulz, (value,), (uphill_of_steps[name],))[1] for name, value in gradient.items()
    }
    inner = [(value * steps[name]).sum() for name, value in gradient.items()]
    return Readings(
        potential=float(torch.stack([nuclear(value) for value in gradient.values()]).sum()),
        of_steps=float(torch.stack(inner).sum()),
        velocity=_off(steps, exact),
        size=float(norm(steps) / norm(exact)),
        velocity_alignment=float(cosine(steps, exact)),
        correction=_off(bent_of_steps, bent),
        correction_size=float(norm(bent_of_steps) / norm(bent)),
        correction_alignment=float(cosine(bent_of_steps, bent)),
    )


def at_one_point() -> Readings:
    """Return the readings at the point that optimizers are certified at, of two matrices."""
    problem = network()
    return readings(problem.gradient(problem.start), lambda v: problem.product(problem.start, v))


def _off(one: Params, other: Params) -> float:
    difference: Tensor = norm(add_scaled(one, other, -1.0)) / norm(other)
    return float(difference)
