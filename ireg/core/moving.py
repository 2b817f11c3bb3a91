"""Which parameters an optimizer moves: those that the terms are about."""

from collections.abc import Collection, Iterable, Mapping

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from ireg.core.graph import Graph
from ireg.core.sharded import whole
from ireg.core.types import Batch, LossFn


def moving_parameters(
    optimizer: Optimizer,
    named: Mapping[str, nn.Parameter],
    loss: LossFn,
    batches: Iterable[Batch],
    stepped: Collection[int] | None = None,
    used: Collection[str] = (),
) -> dict[str, nn.Parameter]:
    """Find the parameters that a step of the optimizer changes, by name.

    torch steps a parameter, and decays it, if three things hold:

    - one of the optimizer's groups holds it;
    - it requires a gradient: frozen parameters do not;
    - the loss depends on it: torch passes over a parameter without gradient, weight decay included.

    A parameter that some minibatches use and others do not is moving. Its gradient is 0 in the others. Where the steps
    have been seen, a parameter that had no gradient in any of them is not moving, whatever the loss depends on.

    Args:
        optimizer: any of `torch.optim`.
        named: the module's parameters, as `dict(module.named_parameters())`.
        loss: pure function `(params, batch) -> 0-d mean loss`.
        batches: the minibatches; they are looked at one by one until every candidate has been used.
        stepped: identities of the parameters that had a gradient in a step; None where no step has been seen.
        used: names of parameters that the loss is known to depend on, so that no minibatch needs to be looked at.

    Returns:
        The parameters by name, at least one, in the order of `named`.

    Raises:
        ValueError: the optimizer holds a parameter that is not named, nothing moves, or the loss is no single number.

    Example:
        >>> from ireg.core.functional import functional_loss
        >>> module = nn.Linear(1, 1)
        >>> module.bias.requires_grad_(False)
        Parameter containing:
        ...
        >>> batch = torch.ones(1, 1), torch.zeros(1, 1)
        >>> loss = functional_loss(module, nn.functional.mse_loss)
        >>> optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
        >>> list(moving_parameters(optimizer, dict(module.named_parameters()), loss, [batch]))
        ['weight']
    """
    held = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
    foreign = len(held - {id(parameter) for parameter in named.values()})
    if foreign:
        raise ValueError(
            f"{type(optimizer).__name__} holds {foreign} parameters that are not among the {len(named)} of the module; "
            "give it parameters of this module only"
        )
    candidates = {name: value for name, value in named.items() if id(value) in held and value.requires_grad}
    if stepped is not None:
        candidates = {name: value for name, value in candidates.items() if id(value) in stepped}
    used = {name for name in candidates if name in used}
    used |= _used(loss, {name: value for name, value in candidates.items() if name not in used}, batches)
    if not used:
        raise ValueError(
            f"{type(optimizer).__name__} moves no parameter: of {len(named)} it holds {len(held)}, "
            f"of which {len(candidates)} require a gradient and none is used by the loss; unfreeze one that it holds"
        )
    return {name: value for name, value in candidates.items() if name in used}


def _used(loss: LossFn, candidates: Mapping[str, Tensor], batches: Iterable[Batch]) -> set[str]:
    """Return the names of those that the loss of some minibatch depends on."""
    weights = {name: whole(value.detach()).requires_grad_() for name, value in candidates.items()}
    names = {id(weight): name for name, weight in weights.items()}
    used: set[str] = set()
    for batch in batches:
        if len(used) == len(names):
            break
        with torch.enable_grad():
            value = loss(weights, batch)
        used |= {names[leaf] for leaf in Graph(value).leaves if leaf in names}
    return used
