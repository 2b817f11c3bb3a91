"""Muon for hidden matrices, and AdamW for all other weights, as one optimizer."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.optim import AdamW, Muon

from ireg.core.several import SeveralOptimizers
from ireg.optim.decay_groups import in_decay_groups


class MuonAdamW(SeveralOptimizers):
    """Muon and AdamW on one model, with one learning rate.

    A step is one of each. Muon's is scaled as Liu et al. 2025 do it, ω ← ω − 0.2 η √max(rows, columns) NS(b), NS the
    orthogonalized momentum, so that rates and decays that suit AdamW suit both. Terms are measured of each part and
    jointly, as of several optimizers.

    Args:
        params: of a model, in its order.
        lr: η of both.
        hidden: positions of Muon's weights among `params`, as `hidden_matrices` gives them; by default all matrices.
        momentum: of Muon.
        betas: of AdamW.
        eps: of AdamW.
        weight_decay: λ of both, decoupled: ω ← ω − η λ ω.
        decay_matrices_alone: leave weights of one dimension without decay, see `in_decay_groups`.

    Raises:
        ValueError: a hidden weight is no matrix, or there is no such position.

    Source: Jordan et al. 2024, "Muon: An optimizer for hidden layers in neural networks"; Liu et al. 2025,
        arXiv:2502.16982, equation 4.

    Example:
        >>> model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 2))
        >>> optimizer = MuonAdamW(model.parameters(), lr=1e-3, hidden=hidden_matrices(model))
        >>> [sum(len(group["params"]) for group in part.param_groups) for part in optimizer.parts]
        [2, 4]
    """

    def __init__(
        self,
        params: Iterable[nn.Parameter],
        lr: float = 1e-3,
        *,
        hidden: Collection[int] | None = None,
        momentum: float = 0.95,
        betas: Sequence[float] = (0.9, 0.95),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        decay_matrices_alone: bool = False,
    ) -> None:
        held = list(params)
        chosen = [place for place, value in enumerate(held) if value.ndim == 2] if hidden is None else sorted(hidden)
        for place in chosen:
            if not 0 <= place < len(held) or held[place].ndim != 2:
                raise ValueError(f"hidden={place}: must be the position of a matrix among {len(held)} parameters")
        others = [value for place, value in enumerate(held) if place not in set(chosen)]
        parts: list[torch.optim.Optimizer] = []
        if chosen:
            matrices = [held[place] for place in chosen]
            parts.append(
                Muon(matrices, lr=lr, momentum=momentum, weight_decay=weight_decay, adjust_lr_fn="match_rms_adamw")
            )
        if others or not chosen:
            adamw = partial(AdamW, lr=lr, betas=(betas[0], betas[1]), eps=eps, weight_decay=weight_decay)
            parts.append(in_decay_groups(adamw, others) if decay_matrices_alone else adamw(others))
        super().__init__(parts)
        self.defaults: dict[str, Any] = {}

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Take a step of each part.

        Args:
            closure: computes the loss and its gradients first.

        Returns:
            What the closure returns.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for part in self.parts:
            part.step()
        return loss

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forget the gradients."""
        for part in self.parts:
            part.zero_grad(set_to_none)

    def state_dict(self) -> dict[str, Any]:
        """Return the state of each part, in their order."""
        return {"parts": [part.state_dict() for part in self.parts]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take what `state_dict` has returned.

        Raises:
            ValueError: it is of another number of parts.
        """
        for part, state in zip(self.parts, state_dict["parts"], strict=True):
            part.load_state_dict(state)


def hidden_matrices(model: nn.Module) -> tuple[int, ...]:
    """List the hidden matrices of a model: weights of linear layers, without the last of them.

    Embeddings, the last layer, kernels of convolutions, and all that is no matrix are left to another optimizer.

    Args:
        model: whose layers are looked at, in the order of their definition.

    Returns:
        Positions among `model.parameters()`.

    Example:
        >>> hidden_matrices(nn.Sequential(nn.Embedding(9, 4), nn.Linear(4, 4), nn.Linear(4, 9)))
        (1,)
    """
    linear = [module.weight for module in model.modules() if isinstance(module, nn.Linear)]
    hidden = {id(weight) for weight in linear[:-1]} - {id(linear[-1]) if linear else 0}
    return tuple(place for place, value in enumerate(model.parameters()) if id(value) in hidden)
