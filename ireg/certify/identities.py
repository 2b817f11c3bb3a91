"""All identities of curvature and of the norm's growth, certified to rounding."""

from collections.abc import Callable, Mapping
from functools import partial

from ireg.certify import curvature, growth
from ireg.certify.identity import Identity

IDENTITIES: Mapping[str, Callable[[], Identity]] = {
    **{f"growth of the norm: {name}": partial(growth.growth_of, make) for name, make in growth.OPTIMIZERS.items()},
    "growth of the norm: diffusion of SGD and momentum": growth.diffusion,
    "growth of the norm: homogeneous network": growth.homogeneity,
    "growth of the norm: before a normalization": growth.normalization,
    **{
        f"diagonal of H: {name}": partial(curvature.diagonal_of, make)
        for name, make in curvature.PIECEWISE_LINEAR.items()
    },
    "batch sharpness: a quadratic's own step": curvature.sharpness_of_minibatches,
    "variance of a trace's probes": curvature.variance_of_probes,
    "largest eigenvalue": curvature.largest_eigenvalue,
}
"""By name."""


def all_identities(chosen: Mapping[str, Callable[[], Identity]] = IDENTITIES) -> dict[str, Identity]:
    """Compute each identity, by its name."""
    return {name: make() for name, make in chosen.items()}
