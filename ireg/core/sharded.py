"""Weights that are sharded over ranks, whole and as the part of one rank.

`fully_shard` makes each parameter a `DTensor`, of which a rank holds a part. What is computed of weights is computed of
whole tensors, which all ranks have: all of them must ask for these together.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import Tensor, nn


def is_sharded(value: Any) -> bool:
    """Say whether a tensor is a `DTensor`, without importing its package."""
    return hasattr(value, "full_tensor")


def whole(value: Any) -> Any:
    """Return a tensor as all ranks together hold it, on each of them; a plain tensor as it is.

    Example:
        >>> import torch
        >>> whole(torch.ones(2))
        tensor([1., 1.])
    """
    return value.full_tensor() if is_sharded(value) else value


def held(value: Any) -> Any:
    """Return the part of a tensor that this rank holds, sharing its memory; a plain tensor as it is."""
    return value.to_local() if is_sharded(value) else value


def part_of(value: Tensor, like: Any) -> Tensor:
    """Return the part of a whole tensor that this rank holds of another one; nothing is sent.

    Args:
        value: whole, or sharded as the other one.
        like: sharded or not.
    """
    if is_sharded(value) or not is_sharded(like):
        return held(value)
    from torch.distributed.tensor import DTensor, Replicate

    mesh: Any = like.device_mesh
    replicated = DTensor.from_local(value, mesh, [Replicate()] * mesh.ndim, run_check=False)
    return held(replicated.redistribute(mesh, like.placements))


def sharding_modules(module: nn.Module) -> list[Any]:
    """List the modules that `fully_shard` was called on."""
    return [layer for layer in module.modules() if any(cls.__name__ == "FSDPModule" for cls in type(layer).__mro__)]


def settle(module: nn.Module) -> None:
    """Let modules hold their parts again, where a forward pass has left whole weights in them.

    Without this the next pass would use these, whatever has been written to the parts.
    """
    for layer in sharding_modules(module):
        layer.reshard()


def require_served(module: nn.Module) -> None:
    """Check that sharded weights are those of `fully_shard`, on the whole module.

    Raises:
        ValueError: they are not.
    """
    named: dict[str, Any] = dict(module.named_parameters())
    sharded = {name: value for name, value in named.items() if is_sharded(value)}
    if not sharded:
        return
    managed = {id(value) for layer in sharding_modules(module) for value in layer.parameters()}
    for name, value in named.items():
        if name not in sharded:
            raise ValueError(
                f"{name} is not sharded, and {next(iter(sharded))} is: the gradients of one rank are not those of a "
                "step; call fully_shard on the whole model, too"
            )
        split = [placement for placement in value.placements if not placement.is_replicate()]
        if id(value) not in managed or len(split) > 1:
            raise ValueError(
                f"{name} is a DTensor of tensor parallelism: of a step's minibatch no rank computes a gradient of its "
                "own; measure a copy with fully_shard or DistributedDataParallel alone"
            )


def mesh_of(module: nn.Module) -> Any:
    """Return the mesh of ranks over which a module is sharded; None without one."""
    parameters: Iterator[Any] = module.parameters()
    return next((value.device_mesh for value in parameters if is_sharded(value)), None)
