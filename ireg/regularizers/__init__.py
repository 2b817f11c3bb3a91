"""Explicit penalties on gradient, weights, and the loss nearby.

With C = (1/m) Σ Ĉ_k, g_k = ∇Ĉ_k of minibatch k of m, ḡ = ∇C:

| class | penalty R | source |
|---|---|---|
| `Minibatch` | (λ/4) (1/m) Σ ‖g_k‖² | Smith et al. 2021, arXiv:2101.12176 |
| `Micro` | the same of micro-batches of b examples | Geiping et al. 2022, arXiv:2109.14119 |
| `FullBatch` | (λ/4) ‖ḡ‖² | Barrett & Dherin 2021, arXiv:2009.11162 |
| `Norm` | ρ (1/m) Σ ‖g_k‖ | Zhao et al. 2022, arXiv:2202.03599 |
| `MomentumLike` | (η_e/4) [2L ‖ḡ‖² − τ (1/m) Σ ‖g_k − ḡ‖²] | docs/theory.md, section 14 |
| `L2` | (λ/2) ‖ω‖² | |
| `SAM` | (1/m) Σ Ĉ_k(ω + ρ g_k/‖g_k‖) − C | Foret et al. 2021, arXiv:2010.01412 |
| `ASAM` | (1/m) Σ Ĉ_k(ω + ρ ω²g_k/‖ωg_k‖) − C | Kwon et al. 2021, arXiv:2102.11600 |

The strength is an absolute number. It does not follow a learning rate that changes.

SGD at rate η with `Minibatch(strength=λ)` follows C + ((η + λ)/4) (1/m) Σ ‖g_k‖². So r epochs at the rate η₀/r with
λ = η₀ (1 − 1/r) follow the mean path of one epoch at η₀ without penalty, to second order: `python -m ireg.verify`.

Micro-batches are also those of Novack et al. 2022, arXiv:2211.15853.
"""

from ireg.regularizers.base import METHODS, Penalized, Regularizer, SharedPart
from ireg.regularizers.penalties import ASAM, L2, SAM, FullBatch, Micro, Minibatch, MomentumLike, Norm

__all__ = [
    "ASAM",
    "L2",
    "METHODS",
    "SAM",
    "FullBatch",
    "Micro",
    "Minibatch",
    "MomentumLike",
    "Norm",
    "Penalized",
    "Regularizer",
    "SharedPart",
]
