"""Permutations of hidden units, which leave a network what it computes.

Two networks are matched by the weights: layer by layer, the permutation of hidden units with the largest inner product
of the weights before and behind them, until nothing changes (Ainsworth et al. 2023, arXiv:2209.04836).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn

from ireg.core.moments.linear import leaves_of
from ireg.core.types import Params

ELEMENTWISE = (
    nn.ReLU,
    nn.Tanh,
    nn.GELU,
    nn.SiLU,
    nn.Softplus,
    nn.Sigmoid,
    nn.ELU,
    nn.LeakyReLU,
    nn.Identity,
    nn.Dropout,
)
"""Functions of single numbers, with which a permutation of units commutes."""

ROUNDS = 100
"""Sweeps over the layers, at most: each raises the inner product, so that few are enough."""


def layers_of(module: nn.Module, input_dimensions: int) -> list[str] | None:
    """List the prefixes of a stack of Linear layers.

    Args:
        module: the network.
        input_dimensions: of a minibatch of inputs.

    Returns:
        The prefixes in the order of use; None for other networks, whose permutations are not known here.
    """
    leaves = leaves_of(module, input_dimensions)
    if leaves is None:
        return None
    prefixes = [prefix for prefix, leaf in leaves if isinstance(leaf, nn.Linear)]
    between = leaves[leaves.index(next(leaf for leaf in leaves if isinstance(leaf[1], nn.Linear))) :]
    known = all(isinstance(leaf, (nn.Linear, *ELEMENTWISE)) for _, leaf in between)
    return prefixes if known else None


def permuted(params: Params, layers: Sequence[str], permutations: Sequence[Tensor]) -> Params:
    """Permute the hidden units of a stack of Linear layers.

    Args:
        params: by name.
        layers: prefixes, in the order of use.
        permutations: of the units after each layer but the last: unit i of the result is unit π(i).

    Example:
        >>> weights = {"0.weight": torch.tensor([[1.0], [2.0]]), "1.weight": torch.tensor([[3.0, 4.0]])}
        >>> permuted(weights, ["0.", "1."], [torch.tensor([1, 0])])
        {'0.weight': tensor([[2.],
                [1.]]), '1.weight': tensor([[4., 3.]])}
    """
    moved = dict(params)
    for position, prefix in enumerate(layers):
        for name in (f"{prefix}weight", f"{prefix}bias"):
            if name in moved and position < len(permutations):
                moved[name] = moved[name][permutations[position]]
        if position:
            moved[f"{prefix}weight"] = moved[f"{prefix}weight"][:, permutations[position - 1]]
    return moved


def matched(fixed: Params, params: Params, layers: Sequence[str]) -> Params:
    """Permute hidden units so that the weights are as near fixed ones as the search gets them.

    Args:
        fixed: the other network's weights, by name.
        params: what is permuted.
        layers: prefixes, in the order of use.
    """
    widths = [len(params[f"{prefix}weight"]) for prefix in layers[:-1]]
    permutations = [torch.arange(width) for width in widths]
    for _ in range(ROUNDS):
        changed = False
        for position in range(len(widths)):
            identity = [*permutations[:position], torch.arange(widths[position]), *permutations[position + 1 :]]
            gains = _gains(fixed, permuted(params, layers, identity), layers, position)
            chosen = torch.from_numpy(linear_sum_assignment(gains.double().cpu().numpy(), maximize=True)[1])
            before = gains[torch.arange(len(gains)), permutations[position]].sum()
            after = gains[torch.arange(len(gains)), chosen].sum()
            # Gains that are equal but for rounding would exchange the same units in every round.
            if float(after - before) > 1e-9 * abs(float(before)):
                permutations[position], changed = chosen, True
        if not changed:
            break
    return permuted(params, layers, permutations)


def _gains(fixed: Params, params: Params, layers: Sequence[str], position: int) -> Tensor:
    """Compute the inner products with unit j in the place of unit i, (width, width)."""
    prefix, behind = layers[position], layers[position + 1]
    gains = fixed[f"{prefix}weight"] @ params[f"{prefix}weight"].T
    gains = gains + fixed[f"{behind}weight"].T @ params[f"{behind}weight"]
    if f"{prefix}bias" in params:
        gains = gains + torch.outer(fixed[f"{prefix}bias"], params[f"{prefix}bias"])
    return gains
