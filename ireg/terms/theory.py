"""How much, and in which direction, finite step and memory change an optimizer's mean path.

With the mean flow ω̇ = −(u + M + V + F) of the optimizer, u the leading velocity, X = M + V + F, and
Q = (1/m) Σ ‖g_k‖², the quantity that SGD's regularizer penalizes. For SGD X = (η/4) ∇Q, so its alignment is 1; for
others the two numbers say what the correction is against the leading flow, and whether it pushes Q down or up, in one
unit for all optimizers. Weight decay, if there is any, is in the loss and its gradients.

With `sampling="independent"` SGD's X is (η/2) H∇C, and its alignment is below 1. X is then mostly
free of the window's noise, but the norms of X, u and ∇Q are not: a strength from few minibatches is biased.

They are measured at the point alone, from the optimizer's hyperparameters and not from its state, past the transient
of the first steps. The expansion holds while the strength is small: from `ireg.catalogue.VALID_STRENGTH` on it says
nothing.

Where the mean flow is not known, as of Lion, of a class of somebody's, or of groups with rates of their own, the two
numbers of the whole are those of full batches, as `ireg/strength/full_batch` and `ireg/alignment/full_batch`: in closed
form for steepest descent in a norm, else from the optimizer's own steps (docs/theory.md, sections 18 and 19). There X
is what finite steps add, and the cosine is with ∇‖∇C‖². What minibatches add is not in them. Where there is no such
flow either, a line says why.

F is also computed without the expansion, at rate 0 (docs/theory.md, section 16): `strength_exact` and
`alignment_exact`. Where F's strength differs from the exact one, the expansion in v's fluctuation does not hold.

Source: docs/theory.md, section 7, where it is derived and certified; for full batches Cattaneo, Klusowski & Shigida
2024, arXiv:2309.00079.
"""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from ireg.core.full_batch_flow import FullBatchFlow
from ireg.core.mean_flow import MeanFlow, moments_needed, require_uniform
from ireg.core.moments.needs import NOTHING, Need, needs
from ireg.core.norms import cosine, norm, ratio
from ireg.core.optimizers import OptimizerState
from ireg.core.optimizers.steepest import Steepest
from ireg.core.params import by_name
from ireg.core.snapshot import Snapshot
from ireg.core.steepest_noise import expanded_noise
from ireg.core.types import Params
from ireg.core.wide import wide

Value = Tensor | Mapping[str, Tensor] | None
PARTS = ("whole", "memory", "lag", "fluctuation")


def _known(part: str) -> str:
    """Return the name of a part.

    Raises:
        ValueError: it is unknown.
    """
    if part not in PARTS:
        raise ValueError(f"part={part!r}: unknown; choose one of {', '.join(PARTS)}")
    return part


ROUNDING = 1e-14
"""Of the exact F over u, which is computed in double precision: 2e-16 was measured where all minibatches are alike."""

FULL_BATCH = "full_batch"
"""What numbers of full batches are called after their tag."""


def _flow_needed(optimizer: OptimizerState) -> Need:
    try:
        return moments_needed(optimizer)
    except ValueError:  # the flow of full batches, then
        return Need.MEAN


def _of_full_batches(snapshot: Snapshot, part: str, number: Callable[[FullBatchFlow], Tensor | None]) -> Value:
    """Compute a number of the flow of full batches; there is one of the whole alone."""
    flow = snapshot.full_batch_flow if _known(part) == "whole" else None
    if flow is None:
        return None
    value = number(flow)
    return None if value is None else {FULL_BATCH: value}


def _part(flow: MeanFlow, part: str) -> Params | None:
    """Return X or one of its parts; None for a part that the optimizer does not have.

    Raises:
        ValueError: an unknown part.
    """
    vectors = {"whole": flow.correction, "memory": flow.memory, "lag": flow.lag, "fluctuation": flow.fluctuation}
    return vectors[_known(part)]


def _expanded(snapshot: Snapshot, steepest: Steepest) -> Tensor | None:
    """Compute ‖F‖/‖u‖ of steepest descent to second order in noise; None for a sign or one minibatch."""
    if len(snapshot.batches) == 1:
        return None
    found = expanded_noise(snapshot.frozen_gradients, steepest, snapshot.moving, sampling=snapshot.sampling)
    return None if found is None else norm({"F": found[1]}) / norm({"u": found[0]})


def _full_batch_cosine(flow: FullBatchFlow) -> Tensor | None:
    if not norm(flow.correction) or not norm(flow.squares_gradient):
        return None
    return cosine(flow.correction, flow.squares_gradient)


@needs(_flow_needed)
def strength(snapshot: Snapshot, *, part: str = "whole") -> Value:
    """Compute the size of the correction relative to the leading velocity, ‖X‖/‖u‖.

    Args:
        snapshot: where.
        part: `whole` (X), `memory` (M), `lag` (V) or `fluctuation` (F), of which it is then the size.

    Returns:
        The ratio, 0-d, without unit; that of full batches by its name, where no mean flow is known. None for a part
        that the optimizer does not have (V and F of SGD). Of Muon F is known, too, and of a sign there is none.

    Source and validity: see `ireg.terms.theory`.

    Raises:
        ValueError: an unknown part.
    """
    if not snapshot.has_mean_flow:
        steepest = snapshot.optimizer.steepest
        if steepest is not None and part == "fluctuation":
            return _expanded(snapshot, steepest)
        return _of_full_batches(snapshot, part, lambda flow: ratio(flow.correction, flow.leading))
    vector = _part(snapshot.mean_flow, part)
    return None if vector is None else ratio(vector, snapshot.mean_flow.leading)


@needs(_flow_needed)
def alignment(snapshot: Snapshot, *, part: str = "whole") -> Value:
    """Compute the cosine of the correction and ∇Q, ⟨X, ∇Q⟩/(‖X‖ ‖∇Q‖).

    Above 0 the correction pushes Q = (1/m) Σ ‖g_k‖² down, which is implicit regularization. Below 0 it pushes Q up.

    Args:
        snapshot: where.
        part: `whole` (X), `memory` (M), `lag` (V) or `fluctuation` (F), of which it is then the cosine.

    Returns:
        The cosine, 0-d, in [−1, 1]; that of full batches by its name, where no mean flow is known. None for a part that
        the optimizer does not have (V and F of SGD), where nothing is added, and of an F within rounding.

    Source and validity: see `ireg.terms.theory`.

    Raises:
        ValueError: an unknown part.
    """
    if not snapshot.has_mean_flow:
        return _of_full_batches(snapshot, part, _full_batch_cosine)
    vector, gradient = _part(snapshot.mean_flow, part), snapshot.mean_flow.squares_gradient
    if vector is None or (part == "fluctuation" and is_rounding(vector, snapshot.mean_flow.leading)):
        return None
    return cosine(vector, gradient)


def is_rounding(fluctuation: Params, leading: Params) -> bool:
    """Say whether F is not larger than rounding makes it where all minibatches are alike.

    The gradients' rounding gives a ‖F‖/‖u‖ below the smallest step of their type (measured: 3e-10 of 1.2e-7 in single
    precision, 8e-19 of 2.2e-16 in double). Its direction would be a random one.
    """
    kind = next(iter(leading.values())).dtype
    return float(ratio(fluctuation, leading)) <= torch.finfo(kind).eps


def _noise_needed(optimizer: OptimizerState) -> Need:
    """Return what the exact F needs of the moments, which is nothing.

    Raises:
        ValueError: parameter groups differ, a second moment that never settles (Adagrad, AMSGrad), or no rule.
    """
    if optimizer.steepest is None:
        require_uniform(optimizer)
        _ = optimizer.filtered_by
    return NOTHING


@needs(_noise_needed)
def strength_exact(snapshot: Snapshot) -> Tensor | None:
    """Compute the size of F at rate 0 over the leading velocity, ‖F‖/‖u‖, without an expansion.

    Of Muon and Lion it is ‖E T(ḡ + ξ) − T(ḡ)‖/‖T(ḡ) + λω‖, T the map of a step, ξ the noise in its filtered gradient
    and λ the decoupled decay. ‖F‖² is free of the bias by noise of the drawn orders, and 0 where noise is all there is.
    None for SGD and momentum, and with a single minibatch. Centered RMSProp has it, too.

    Source: docs/theory.md, section 16.

    Raises:
        ValueError: an optimizer whose second moment never settles, or parameter groups that differ.
    """
    noise = snapshot.fluctuation
    return None if noise is None else noise.mean.new_tensor(noise.square).sqrt() / norm({"u": noise.leading})


def _exact_alignment_needed(optimizer: OptimizerState) -> Need:
    _noise_needed(optimizer)
    return NOTHING if optimizer.steepest is not None else moments_needed(optimizer)


@needs(_exact_alignment_needed)
def alignment_exact(snapshot: Snapshot) -> Tensor | None:
    """Compute the cosine of F at rate 0 and ∇Q, ⟨F, ∇Q⟩/(‖F‖ ‖∇Q‖), without an expansion.

    ‖F‖ is that of `strength_exact`: noise of the drawn orders does not make the cosine smaller. Where it is most of F,
    the estimate may lie beyond ±1. None where `strength_exact` is none, 0 or within rounding, and of Muon and Lion.

    Source: docs/theory.md, section 16.

    Raises:
        ValueError: an optimizer whose mean flow is not known.
    """
    noise = snapshot.fluctuation
    if noise is None or snapshot.optimizer.steepest is not None:
        return None
    if noise.square <= (ROUNDING * float(norm({"u": noise.leading}))) ** 2:
        return None
    squares = {name: wide(value) for name, value in snapshot.mean_flow.squares_gradient.items()}
    # `cosine` divides by the norm of the estimated mean, in which the noise of the orders is. Multiplied by this it is
    # divided by ‖F‖ without that noise.
    noisy = noise.mean.square().sum() / noise.square
    return cosine(by_name(noise.mean, snapshot.moving), squares) * noisy.sqrt()
