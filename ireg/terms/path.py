"""How the norm has grown: along the weights, or by diffusion.

Over the steps s_t = ω_t − ω_{t+1} of the epoch that has just ended, whatever the optimizer,

    ‖ω_e‖² − ‖ω_{e−1}‖² = Σ_t −2⟨ω_t, s_t⟩ + Σ_t ‖s_t‖²,

a radial and a diffusive part. The settled terms are the same of the settled weights y_t, those once the optimizer's
buffer has run out: their steps are −η_e P g_k, and do not repeat each other. Without memory y = ω.

Source: docs/theory.md, section 13.
"""

import torch
from torch import Tensor

from ireg.core.moments.needs import along_path
from ireg.core.path import Growth
from ireg.core.snapshot import Snapshot


@along_path
def radial(snapshot: Snapshot) -> Tensor | None:
    """Return the growth of ‖ω‖² along the weights, Σ_t −2⟨ω_t, s_t⟩."""
    return None if snapshot.path is None else _number(snapshot.path.weights.radial)


@along_path
def diffusive(snapshot: Snapshot) -> Tensor | None:
    """Return the growth of ‖ω‖² by the steps' own length, Σ_t ‖s_t‖².

    For SGD it is 4mη times the mean of `ireg/sgd`'s quantity along the path.
    """
    return None if snapshot.path is None else _number(snapshot.path.weights.diffusive)


@along_path
def whole(snapshot: Snapshot) -> Tensor | None:
    """Return the squared length of the epoch's whole step, ‖ω_e − ω_{e−1}‖².

    Of independent steps without drift it is `diffusive` on average. It is less where they cancel within the epoch.
    """
    return None if snapshot.path is None else _number(snapshot.path.weights.whole)


@along_path
def settled_radial(snapshot: Snapshot) -> Tensor | None:
    """Return the growth of ‖y‖² along the settled weights y."""
    growth = _settled(snapshot)
    return None if growth is None else _number(growth.radial)


@along_path
def settled_diffusive(snapshot: Snapshot) -> Tensor | None:
    """Return the growth of ‖y‖² by the length of the settled weights' steps.

    For fixed P it is η_e² Σ_t ‖P g_t‖².
    """
    growth = _settled(snapshot)
    return None if growth is None else _number(growth.diffusive)


@along_path
def settled_whole(snapshot: Snapshot) -> Tensor | None:
    """Return the squared length of the settled weights' whole step."""
    growth = _settled(snapshot)
    return None if growth is None else _number(growth.whole)


def _settled(snapshot: Snapshot) -> Growth | None:
    return None if snapshot.path is None else snapshot.path.settled


def _number(value: float) -> Tensor:
    return torch.tensor(value, dtype=torch.float64)
