"""The one measuring path, from a network to one number a term.

It takes a module, its minibatches, its loss and its optimizer.
"""

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from ireg.core.functional import detached_parameters, functional_loss, measuring
from ireg.core.moments import Observer
from ireg.core.moments.needs import union_of_needs
from ireg.core.moving import moving_parameters
from ireg.core.optimizers import view
from ireg.core.snapshot import Snapshot, Term
from ireg.core.types import Batch, LossFn, Params


def measure(
    module: nn.Module,
    batches: Sequence[Batch],
    *,
    criterion: Callable[[Tensor, Tensor], Tensor],
    optimizer: Optimizer,
    terms: Mapping[str, Term],
    initial: Params | None = None,
    generator: torch.Generator | None = None,
    method: str = "auto",
) -> dict[str, float]:
    """Measure terms at the module's present weights, over these minibatches.

    The loss is the one that is descended, see `ireg.core.functional.measuring`. Neither the module nor its optimizer,
    nor any random stream, is changed.

    Args:
        module: called as `module(inputs)`.
        batches: pairs of inputs and targets.
        criterion: `(outputs, targets) -> 0-d tensor`, the mean over the examples of a minibatch.
        optimizer: of the module.
        terms: function by tag, of `ireg.terms` or your own.
        initial: the parameters before training, by name; by default the present ones.
        generator: random numbers for terms that draw; by default one with seed 0.
        method: how gradient moments are computed, see `ireg.core.moments.gradient_moments`.

    Returns:
        The values by tag, without those that do not exist for the optimizer.

    Raises:
        ValueError: an optimizer that cannot be read, that moves nothing, or that a term is not made for.

    Example:
        >>> from ireg.terms.implicit import sgd
        >>> module = nn.Linear(1, 1)
        >>> _ = module.load_state_dict({"weight": torch.tensor([[2.0]]), "bias": torch.tensor([0.0])})
        >>> value = measure(
        ...     module,
        ...     [(torch.ones(1, 1), torch.zeros(1, 1))],
        ...     criterion=nn.functional.mse_loss,
        ...     optimizer=torch.optim.SGD(module.parameters(), lr=0.1),
        ...     terms={"ireg/sgd": sgd},
        ... )
        >>> round(value["ireg/sgd"], 6)  # (η/4) ‖g‖² with g = (4, 4)
        0.8
    """
    with measuring(module):
        snapshot = take_snapshot(
            module,
            batches,
            loss=functional_loss(module, criterion),
            optimizer=optimizer,
            terms=terms,
            initial=detached_parameters(module) if initial is None else initial,
            generator=torch.Generator().manual_seed(0) if generator is None else generator,
            method=method,
        )
        return evaluate(terms, snapshot)


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
    """Take a snapshot of training, as far as the terms need it.

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
    """Compute the terms at a snapshot, by tag.

    Those that do not exist for the optimizer are left out.
    """
    values = {tag: term(snapshot) for tag, term in terms.items()}
    return {tag: float(value) for tag, value in values.items() if value is not None}
