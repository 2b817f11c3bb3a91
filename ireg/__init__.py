"""Measure the implicit regularization of stochastic optimizers.

`measure` computes the terms at one point of anybody's training, `Monitor` in a training loop, and
`ImplicitRegularizationMonitor` in a Lightning trainer. `load` reads the runs of this project's own experiments.
`gradient_moments`, `Hessian`, `top_eigenvalue` and `snapshot` are the engine that the terms are made with.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ireg.analysis.compare import compare
    from ireg.analysis.load import load
    from ireg.certify.derivatives import derivative_errors
    from ireg.commands.from_python import sweep
    from ireg.core.clipping import Clip
    from ireg.core.drawing import sampling_of
    from ireg.core.functional import functional_loss
    from ireg.core.moments import GradientMoments, NotServedError, kind
    from ireg.core.moments.needs import Need, needs
    from ireg.core.snapshot import Snapshot
    from ireg.cost import Cost, estimate_cost
    from ireg.engine import Hessian, TopEigenvalue, gradient_moments, snapshot, top_eigenvalue
    from ireg.flow import ModifiedFlow, modified_flow
    from ireg.lit.callback import ImplicitRegularizationMonitor
    from ireg.measured import Measurement
    from ireg.measurement import measure
    from ireg.monitor import Monitor
    from ireg.objective import Objective
    from ireg.regularizers import Regularizer
    from ireg.terms.noise import NoiseScale, noise_of_two_sizes

__version__ = "0.2.0"

__all__ = [
    "Clip",
    "Cost",
    "GradientMoments",
    "Hessian",
    "ImplicitRegularizationMonitor",
    "Measurement",
    "ModifiedFlow",
    "Monitor",
    "Need",
    "NoiseScale",
    "NotServedError",
    "Objective",
    "Regularizer",
    "Snapshot",
    "TopEigenvalue",
    "compare",
    "derivative_errors",
    "estimate_cost",
    "functional_loss",
    "gradient_moments",
    "kind",
    "load",
    "measure",
    "modified_flow",
    "needs",
    "noise_of_two_sizes",
    "sampling_of",
    "snapshot",
    "sweep",
    "top_eigenvalue",
]

_PLACES = {
    "Clip": "ireg.core.clipping",
    "Cost": "ireg.cost",
    "GradientMoments": "ireg.core.moments",
    "Hessian": "ireg.engine",
    "ImplicitRegularizationMonitor": "ireg.lit.callback",
    "Measurement": "ireg.measured",
    "ModifiedFlow": "ireg.flow",
    "Monitor": "ireg.monitor",
    "Need": "ireg.core.moments.needs",
    "NoiseScale": "ireg.terms.noise",
    "NotServedError": "ireg.core.moments",
    "Objective": "ireg.objective",
    "Regularizer": "ireg.regularizers",
    "Snapshot": "ireg.core.snapshot",
    "TopEigenvalue": "ireg.engine",
    "compare": "ireg.analysis.compare",
    "derivative_errors": "ireg.certify.derivatives",
    "estimate_cost": "ireg.cost",
    "functional_loss": "ireg.core.functional",
    "gradient_moments": "ireg.engine",
    "kind": "ireg.core.moments",
    "load": "ireg.analysis.load",
    "measure": "ireg.measurement",
    "modified_flow": "ireg.flow",
    "needs": "ireg.core.moments.needs",
    "noise_of_two_sizes": "ireg.terms.noise",
    "sampling_of": "ireg.core.drawing",
    "snapshot": "ireg.engine",
    "sweep": "ireg.commands.from_python",
    "top_eigenvalue": "ireg.engine",
}


def __getattr__(name: str) -> Any:
    """Import what a name stands for at its first use.

    torch takes seconds.
    """
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(_PLACES[name]), name)
    return value


def __dir__() -> list[str]:
    """List the public names, imported or not."""
    return sorted(__all__)
