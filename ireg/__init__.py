"""Measure the implicit regularization of stochastic optimizers.

`measure` computes the terms at one point of anybody's training, `Monitor` in a training loop, and
`ImplicitRegularizationMonitor` in a Lightning trainer. `load` reads the runs of this project's own experiments.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ireg.analysis.load import load
    from ireg.core.snapshot import Snapshot
    from ireg.lit.callback import ImplicitRegularizationMonitor
    from ireg.measurement import measure
    from ireg.monitor import Monitor

__version__ = "0.1.0"

__all__ = ["ImplicitRegularizationMonitor", "Monitor", "Snapshot", "load", "measure"]

_PLACES = {
    "ImplicitRegularizationMonitor": "ireg.lit.callback",
    "Monitor": "ireg.monitor",
    "Snapshot": "ireg.core.snapshot",
    "load": "ireg.analysis.load",
    "measure": "ireg.measurement",
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
    return sorted({*globals(), *__all__})
