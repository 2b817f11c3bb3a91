"""The one measuring path: a module, its minibatches, its loss and its optimizer become one number a term."""

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from ireg.core.functional import detached_parameters
from ireg.core.moments import Observer
from ireg.core.moments.needs import union_of_needs
from ireg.core.moving import moving_parameters
from ireg.core.optimizers import view
from ireg.core.snapshot import Snapshot
from ireg.core.types import Batch, LossFn, Params

Term = Callable[[Snapshot], Tensor | None]


def take_snapshot(
    module: nn.Module,
    batches: Sequence[Batch],
    *,
    loss: LossFn,
    optimizer: Optimizer,
    terms: Mapping[str, Term],
    initial: Params,
    generator: torch.Generator,
    method: str = "auto",
    observer: Observer | None = None,
) -> Snapshot:
    """Look at one moment of training, as far as the terms need it.

    Args:
        module: whose parameters; in the mode in which it is measured, see `ireg.core.functional.measuring`.
        batches: the minibatches that the terms are computed over.
        loss: of the module, as a function of its parameters.
        optimizer: of the module.
        terms: function by tag.
        initial: the parameters before training, by name.
        generator: random numbers for terms that draw.
        method: how gradient moments are computed, see `ireg.core.moments.gradient_moments`.
        observer: called with each minibatch's outputs when the moments are computed.

    Raises:
        ValueError: an optimizer that cannot be read, that moves nothing, or that a term is not made for.
    """
    seen = view(optimizer, moving_parameters(optimizer, dict(module.named_parameters()), loss, batches))
    return Snapshot(
        params=detached_parameters(module),
        initial=initial,
        loss=loss,
        batches=batches,
        optimizer=seen,
        generator=generator,
        needs=union_of_needs(terms.values(), seen),
        method=method,
        observer=observer,
    )


def evaluate(terms: Mapping[str, Term], snapshot: Snapshot) -> dict[str, float]:
    """Compute the terms at a snapshot, by tag; those that do not exist for the optimizer are left out."""
    values = {tag: term(snapshot) for tag, term in terms.items()}
    return {tag: float(value) for tag, value in values.items() if value is not None}
