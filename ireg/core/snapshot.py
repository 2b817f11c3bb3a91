"""What a term may look at: one moment of training."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch

from ireg.core.moments import gradient_moments
from ireg.core.optimizer_view import OptimizerView
from ireg.core.sums import EVERYTHING, GradientMoments, Need, Observer
from ireg.core.types import Batch, LossFn, Params


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """The state of training at one moment, and what is derived from it, computed once for all terms.

    Attributes:
        params: the parameters ω, detached.
        initial: the parameters before training, ω₀.
        loss: the mean loss of a minibatch as a function of the parameters, in eval mode.
        batches: the minibatches of the epoch that has just ended (before training: of the first).
        optimizer: what the optimizer holds.
        generator: random numbers for estimators; its own stream.
        needs: what the moments are asked for, the union of what the terms need.
        method: how the moments are computed, see `gradient_moments`.
        observer: called with each minibatch's outputs when the moments are computed.
    """

    params: Params
    initial: Params
    loss: LossFn
    batches: Sequence[Batch]
    optimizer: OptimizerView
    generator: torch.Generator
    needs: Need = EVERYTHING
    method: str = "auto"
    observer: Observer | None = None

    @cached_property
    def moments(self) -> GradientMoments:
        """Moments of the minibatch gradients at `params`: one pass over the data for all terms."""
        return gradient_moments(
            self.loss, self.params, self.batches, needs=self.needs, method=self.method, observer=self.observer
        )
