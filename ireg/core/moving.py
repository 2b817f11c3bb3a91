"""Which parameters an optimizer moves: those that the terms are about."""

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from ireg.core.types import Batch, LossFn


def moving_parameters(
    optimizer: Optimizer, named: Mapping[str, nn.Parameter], loss: LossFn, batches: Iterable[Batch]
) -> dict[str, nn.Parameter]:
    """Find the parameters that a step of the optimizer changes, by name.

    torch steps a parameter, and decays it, if three things hold:

    - one of the optimizer's groups holds it;
    - it requires a gradient: frozen parameters do not;
    - the loss depends on it: torch passes over a parameter without gradient, weight decay included.

    A parameter that some minibatches use and others do not is moving. Its gradient is 0 in the others.

    Args:
        optimizer: any of `torch.optim`.
        named: the module's parameters, as `dict(module.named_parameters())`.
        loss: pure function `(params, batch) -> 0-d mean loss`.
        batches: the minibatches; they are looked at one by one until every candidate has been used.

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
    used = _used(loss, candidates, batches)
    if not used:
        raise ValueError(
            f"{type(optimizer).__name__} moves no parameter: of {len(named)} it holds {len(held)}, "
            f"of which {len(candidates)} require a gradient and none is used by the loss; unfreeze one that it holds"
        )
    return {name: value for name, value in candidates.items() if name in used}


def _used(loss: LossFn, candidates: Mapping[str, Tensor], batches: Iterable[Batch]) -> set[str]:
    """The names of those that the loss of some minibatch depends on."""
    weights = {name: value.detach().requires_grad_() for name, value in candidates.items()}
    names = {id(weight): name for name, weight in weights.items()}
    used: set[str] = set()
    for batch in batches:
        if len(used) == len(names):
            break
        with torch.enable_grad():
            value = loss(weights, batch)
        if not isinstance(value, Tensor) or value.ndim or not value.is_floating_point():
            found = f"{value.dtype} of shape {tuple(value.shape)}" if isinstance(value, Tensor) else repr(value)
            raise ValueError(f"the loss of a minibatch is {found}; must be one number, the mean over its examples")
        used |= {names[leaf] for leaf in _leaves(value) if leaf in names}
    return used


def _leaves(value: Tensor) -> set[int]:
    """Return the identities of the leaves of a value's graph."""
    leaves, seen, waiting = set(), set(), [value.grad_fn]
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if hasattr(node, "variable"):
            leaves.add(id(node.variable))
        waiting += [function for function, _ in node.next_functions]
    return leaves
