"""A loss whose minibatches are those of all ranks."""

from __future__ import annotations

import time
from collections import Counter
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as distributed
from torch import Tensor, nn
from torch.distributed import distributed_c10d
from torch.nn.parallel import DistributedDataParallel

from ireg.core.functional import ModuleLoss, StepLoss
from ireg.core.sharded import mesh_of
from ireg.core.types import Batch, Params

PATIENCE = timedelta(minutes=5)
"""How long one rank waits for the others to measure."""


POLL = 0.002
"""Seconds between two looks."""


class MeanOverRanks:
    """The mean of a loss over the ranks of a process group, each with a minibatch of its own.

    A step of `DistributedDataParallel` descends it: gradients of any order are the means over the ranks, and so is the
    value. All ranks must evaluate and differentiate it together.

    Args:
        loss: of this rank's minibatch.
        group: the ranks; None for all.
    """

    def __init__(self, loss: ModuleLoss | StepLoss, group: Any = None) -> None:
        self.loss = loss
        self.module = loss.module
        self.group = group

    def __call__(self, params: Params, batch: Batch) -> Tensor:
        """Return the mean loss over the ranks, 0-d."""
        shared = _Shared.apply(self.group, *params.values())
        value: Tensor = _Mean.apply(self.loss(dict(zip(params, shared, strict=True)), batch), self.group)
        return value


def require_all_ranks(group: Any) -> None:
    """Check that all ranks have come here, before one waits for the others for ever.

    They count themselves in the store by which they have found each other, so that nothing of the training is touched.

    Raises:
        ValueError: a rank has not come within `PATIENCE`.
    """
    store, size = distributed_c10d._get_default_store(), distributed.get_world_size(group)
    name = f"ireg/{group.group_name}/{_visits[group.group_name]}"
    store.add(name, 1)
    end = time.monotonic() + PATIENCE.total_seconds()
    while (here := store.add(name, 0)) < size:
        if time.monotonic() > end:
            store.add(name, -1)
            raise ValueError(
                f"{size - here} of {size} ranks do not measure within {PATIENCE.total_seconds():g} s: the minibatches "
                "of a step are those of all ranks; measure on all of them"
            )
        time.sleep(POLL)
    _visits[group.group_name] += 1


_visits: Counter[str] = Counter()
"""How often this process has measured with the others of a group."""


def mean_over(value: Tensor, group: Any) -> Tensor:
    """Return the mean of a tensor over the ranks of a group; it has no graph."""
    total = value.clone()
    distributed.all_reduce(total, group=group)
    return total / distributed.get_world_size(group)


def decision_of_first(choice: bool, group: Any) -> bool:
    """Return what the first rank has chosen, so that all ranks do the same.

    What depends on a clock differs from rank to rank, and a rank that measures would wait for one that does not.

    Args:
        choice: this rank's.
        group: the ranks, all of which ask; None for a process of its own.
    """
    if group is None:
        return choice
    store = distributed_c10d._get_default_store()
    name = f"ireg/{group.group_name}/decision/{_decisions[group.group_name]}"
    _decisions[group.group_name] += 1
    if distributed.get_rank(group) == 0:
        store.set(name, "yes" if choice else "no")
    return bool(store.get(name) == b"yes")


_decisions: Counter[str] = Counter()
"""How often this process has asked the first of a group."""


def ranks_of(model: Any) -> Any:
    """Return the process group of a model that several ranks train together; None for all else.

    Raises:
        ValueError: weights are sharded along several dimensions of a mesh that leaves ranks out.
    """
    model = getattr(model, "_orig_mod", model)
    if isinstance(model, DistributedDataParallel):
        group = model.process_group
    elif isinstance(model, nn.Module) and (mesh := mesh_of(model)) is not None:
        group = _group_of(mesh)
    else:
        return None
    return group if distributed.get_world_size(group) > 1 else None


def _group_of(mesh: Any) -> Any:
    """Return the process group of all ranks of a mesh."""
    if mesh.ndim == 1:
        return mesh.get_group()
    if mesh.size() != distributed.get_world_size():
        raise ValueError(
            f"the weights are sharded over a mesh of {mesh.size()} of {distributed.get_world_size()} ranks in "
            f"{mesh.ndim} dimensions; shard them over all ranks, or along one dimension"
        )
    return distributed.group.WORLD


class _Shared(torch.autograd.Function):
    """Weights as they are; their gradients are the means over the ranks."""

    @staticmethod
    def forward(ctx: Any, group: Any, *weights: Tensor) -> tuple[Tensor, ...]:
        ctx.group = group
        return tuple(weight.view_as(weight) for weight in weights)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Any, ...]:
        # One message: ranks that leave out different weights would else wait for each other.
        flat = torch.cat([gradient.reshape(-1) for gradient in gradients])
        parts = _Mean.apply(flat, ctx.group).split([gradient.numel() for gradient in gradients])
        return (None, *(part.view_as(gradient) for part, gradient in zip(parts, gradients, strict=True)))


class _Mean(torch.autograd.Function):
    """The mean of a tensor over the ranks; what is differentiated by it is the same on all of them."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, group: Any) -> Tensor:
        return mean_over(value, group)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient, None
