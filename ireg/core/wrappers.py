"""Networks and optimizers within what libraries wrap them in."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DataParallel, DistributedDataParallel
from torch.nn.parameter import is_lazy
from torch.optim import Optimizer
from torch.optim.swa_utils import AveragedModel

from ireg.core.several import SeveralOptimizers
from ireg.core.sharded import is_sharded, require_served, settle

PURE = {
    "accelerate.optimizer.AcceleratedOptimizer",
    "lightning.fabric.wrappers._FabricOptimizer",
    "lightning.pytorch.core.optimizer.LightningOptimizer",
    "lightning_fabric.wrappers._FabricOptimizer",
    "pytorch_lightning.core.optimizer.LightningOptimizer",
}
"""Wrappers whose step is that of the optimizer within, or none. All others take steps of their own."""


def unwrapped(optimizer: Any) -> Optimizer:
    """Return torch's optimizer, also where a known pure wrapper holds it as `optimizer`.

    Of a list of several, which step together, it is one view of all.

    Raises:
        ValueError: there is none, its groups have no learning rate, or two hold the same parameter.

    Example:
        >>> optimizer = torch.optim.SGD(nn.Linear(1, 1).parameters(), lr=0.1)
        >>> unwrapped(optimizer) is optimizer
        True
    """
    if isinstance(optimizer, list | tuple) and optimizer:
        parts = [unwrapped(part) for part in optimizer]
        return parts[0] if len(parts) == 1 else SeveralOptimizers(parts)
    while any(f"{cls.__module__}.{cls.__qualname__}" in PURE for cls in type(optimizer).__mro__):
        optimizer = optimizer.optimizer
    if not isinstance(optimizer, Optimizer):
        raise ValueError(
            f"optimizer is a {type(optimizer).__name__}; must be one of torch.optim, or a subclass of its: of a "
            "wrapper whose steps are those of the optimizer within, give that"
        )
    require_rates(optimizer)
    return optimizer


def require_rates(optimizer: Optimizer) -> None:
    """Refuse an optimizer whose groups name no learning rate.

    Raises:
        ValueError: one has none.
    """
    for number, group in enumerate(optimizer.param_groups):
        if not isinstance(group.get("lr"), int | float | Tensor):
            raise ValueError(
                f"{type(optimizer).__name__}: group {number} of its parameters has lr={group.get('lr')}; must be a "
                "number, as the terms take the learning rate from there: put it into the group under that name"
            )


def require_hooks(optimizer: Optimizer) -> None:
    """Let an optimizer call hooks at its steps.

    torch wraps the method `step` of a class when its first object is made. A class that does not call torch's own
    constructor is wrapped here.
    """
    for name in ("_optimizer_step_pre_hooks", "_optimizer_step_post_hooks"):
        if not hasattr(optimizer, name):
            setattr(optimizer, name, OrderedDict())
    if not getattr(type(optimizer).step, "hooked", False):
        optimizer._patch_step_function()


def rate_of(group: Any) -> float:
    """Return the learning rate of a parameter group's steps.

    It is `lr`; for optimizers that estimate a distance d and keep it in the group, like D-Adaptation and Prodigy,
    d · `lr`.

    Example:
        >>> rate_of({"lr": 1.0, "d": 0.25, "d0": 1e-6}), rate_of({"lr": 0.1})
        (0.25, 0.1)
    """
    distance = group.get("d")
    return float(group["lr"]) * (float(distance) if isinstance(distance, int | float | Tensor) else 1.0)


def bare_module(model: Any, *, sharded: bool = False) -> nn.Module:
    """Return the network within the wrappers of `torch.compile` and `DistributedDataParallel`.

    Args:
        model: any module.
        sharded: whether its weights may be those of `fully_shard`, which the model's own passes serve alone.

    Example:
        >>> module = nn.Linear(1, 1)
        >>> bare_module(module) is module
        True

    Raises:
        ValueError: it is no module, or one whose weights cannot be replaced for a forward pass: its gradients would be
            wrong, or it would be left broken.
    """
    while True:
        if isinstance(model, DistributedDataParallel):
            model = model.module
        elif isinstance(getattr(model, "_orig_mod", None), nn.Module):
            model = model._orig_mod
        else:
            break
    if isinstance(model, AveragedModel):
        raise ValueError(
            "AveragedModel holds an average of weights, which no optimizer moves: P, rate and memory belong to the "
            "trained weights; measure the trained model, or the average by ireg.gradient_moments(averaged.module, …)"
        )
    if not isinstance(model, nn.Module):
        raise ValueError(f"model is a {type(model).__name__}; must be a torch.nn.Module")
    if isinstance(model, torch.jit.ScriptModule):
        raise ValueError(
            f"{model.original_name} is a ScriptModule, whose weights cannot be replaced; give the module that it was "
            "made of"
        )
    if sharded:
        settle(model)
    _require_whole(model, sharded=sharded)
    return model


def _require_whole(model: nn.Module, *, sharded: bool) -> None:
    """Check that a module's weights lie in it as they are, or are sharded in a known manner.

    Raises:
        ValueError: they are split, sharded, or not there yet.
    """
    for layer in model.modules():
        if isinstance(layer, DataParallel):
            raise ValueError("DataParallel splits minibatches over devices; give its .module, or use one device")
        if type(layer).__name__ == "FullyShardedDataParallel":
            raise ValueError(_sharded("FullyShardedDataParallel"))
    if sharded:
        require_served(model)
    for name, parameter in model.named_parameters():
        if is_sharded(parameter) and not sharded:
            raise ValueError(_sharded(f"{name} is a DTensor: fully_shard or tensor parallelism"))
        if hasattr(parameter, "ds_id"):
            raise ValueError(_sharded(f"DeepSpeed's ZeRO-3, which holds {name},"))
        if is_lazy(parameter):
            raise ValueError(f"{name} of a lazy layer has no shape yet; run one forward pass first")


def called_module(model: nn.Module) -> nn.Module:
    """Return what training calls: the compiled wrapper where there is one, else the bare module."""
    return model if hasattr(model, "_orig_mod") else bare_module(model, sharded=True)


def _sharded(what: str) -> str:
    return (
        f"{what} shards the weights, and gradients at given weights cannot be taken of shards; use fully_shard with "
        "ireg.measure or ireg.Monitor, or DistributedDataParallel"
    )
