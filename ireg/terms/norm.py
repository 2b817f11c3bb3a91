"""How large the solution is, and how far from its start."""

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
