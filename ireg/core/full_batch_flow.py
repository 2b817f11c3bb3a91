"""What finite steps do on full batches, where the mean flow with minibatches is not known.

The leading step Δ and the correction ηc are those of docs/theory.md: of section 19 in closed form, where the optimizer
is known to descend steepest in a norm, else of section 18, from its own steps.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from ireg.core.clipping import NORM, Clip
from ireg.core.large import LARGE, is_large
from ireg.core.norms import widened
from ireg.core.optimizers import OptimizerState
from ireg.core.ramp import NoFlowError, lowest_precision, respond
from ireg.core.types import Params

TOLERANCE = 1e-2
"""Of the ramp, whose error is about the square of it: the numbers are strengths and cosines."""
MOST = 2**14
"""Steps in which a memory has to fade."""
WORK = 2**29
"""Weights times such steps, at most: some ten times as many are taken for a row, and take seconds."""


@dataclass(frozen=True, kw_only=True)
class FullBatchFlow:
    """The flow of full batches, by parameter name, in what one step takes off the weights.

    Attributes:
        leading: Δ.
        correction: ηc.
        squares_gradient: ∇½‖∇C‖² = H∇C.
    """

    leading: Params
    correction: Params
    squares_gradient: Params


def full_batch_flow(
    optimizer: OptimizerState,
    weights: Params,
    gradient: Params,
    product: Callable[[Params], Params],
    clip: Clip | None = None,
) -> FullBatchFlow:
    """Compute what finite steps add on full batches.

    Args:
        optimizer: any.
        weights: ω, what it moves.
        gradient: ∇C.
        product: from a direction v to Hv, by name.
        clip: how gradients are clipped before its steps.

    Raises:
        NoFlowError: there is no such flow, or it takes too long to find it.
    """
    large = is_large(weights)
    weights, gradient = widened(weights), widened(gradient)
    steepest = optimizer.steepest
    # The sign and the polar factor are the same for a gradient that is multiplied by one number.
    if steepest is not None and steepest.decoupled and (clip is None or clip.by == NORM):
        leading = steepest.leading(weights, gradient)
        correction = steepest.correction(gradient, leading, product(leading))
    elif optimizer.make is None:
        raise NoFlowError("steps of several optimizers are not taken together")
    elif large:
        raise NoFlowError(f"its own steps are not taken for more than {LARGE // 2**20} MiB of weights")
    else:
        make = optimizer.make if clip is None else clip.made(optimizer.make)
        coarse = lowest_precision(make, weights, gradient)
        if coarse is not None:
            raise NoFlowError(f"its steps compute in {coarse}, which rounds off what finite steps add")
        most = min(MOST, WORK // max(1, sum(value.numel() for value in weights.values())))
        found = respond(make, weights, gradient, product, tolerance=TOLERANCE, most=most)
        if not found.strength:
            raise NoFlowError("a step does not respond to small changes of the gradient, as a sign does not")
        leading, correction = found.leading, found.correction
    return FullBatchFlow(leading=leading, correction=correction, squares_gradient=product(gradient))
