"""A copy of a LightningModule that leaves no trace."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.loggers.logger import DummyLogger
from torch import Tensor, nn

from ireg.core.batches import copied
from ireg.core.functional import measuring
from ireg.core.moments.linear import PASSES_TO
from ireg.core.sharded import sharding_modules
from ireg.core.streams import Streams
from ireg.system.errors import UserError


def muted_twin(module: LightningModule, global_step: int | None = None) -> LightningModule:
    """Copy a module that shares its parameters, and mute its logging.

    What the copy's methods record, as in lists, counters and metrics, is the copy's.

    Args:
        module: the module.
        global_step: what its trainer says of the steps taken; by default the present number.

    Raises:
        UserError: the module cannot be copied.
    """
    memo: dict[int, Any] = {id(parameter): parameter for parameter in module.parameters()}
    # Sharded modules cannot be copied; their own passes leave them as they were.
    memo |= {id(part): part for part in sharding_modules(module)}
    for shared in (module.__dict__.get("_trainer"), module.__dict__.get("_fabric")):
        memo[id(shared)] = shared
    for kept in _non_leaves(module.__dict__, set()):
        memo[id(kept)] = kept.detach()
    try:
        twin = copy.deepcopy(module, memo)
    except Exception as error:
        raise UserError(
            f"ImplicitRegularizationMonitor: {type(module).__name__} cannot be copied: {' '.join(str(error).split())}; "
            "keep what cannot be copied outside of the module"
        ) from error
    for name in COMPILED:  # methods that `torch.compile` has bound to the original
        twin.__dict__.pop(name, None)
    trainer = module.__dict__.get("_trainer")
    if trainer is not None:
        for part in twin.modules():
            if isinstance(part, LightningModule):
                part.__dict__["_trainer"] = QuietTrainer(trainer)
                if global_step is not None:
                    part.__dict__["_trainer"].global_step = global_step
    cls = type(module)
    twin.__class__ = type(cls.__name__, (_Muted, cls), {"__module__": cls.__module__})
    return twin


def note_passing(module: nn.Module, inputs: Any) -> None:
    """Mark a module, and those within it, whose `forward` does no more than call one child.

    A stack of layers within a module is then as fast as the stack alone, see `PASSES_TO`.

    Args:
        module: a copy, which is written to.
        inputs: of a minibatch, on which it is tried.
    """
    while not isinstance(module, nn.Sequential) and (name := _passes_to(module, inputs)) is not None:
        module.__dict__[PASSES_TO] = name
        module = module.get_submodule(name)


def _passes_to(module: nn.Module, inputs: Any) -> str | None:
    """Return the child that gets the inputs and whose outputs are returned, unchanged; None without one."""
    calls: list[tuple[str, bool, Any, int]] = []
    own = {id(parameter) for parameter in module.parameters()}
    if not isinstance(inputs, Tensor):
        return None

    def note(name: str, child: nn.Module, arguments: tuple[Any, ...], keywords: dict[str, Any], outputs: Any) -> None:
        as_they_are = len(arguments) == 1 and arguments[0] is given and given._version == 0 and not keywords
        plain = torch.is_grad_enabled() and not torch.is_autocast_enabled(given.device.type)
        whole = own == {id(parameter) for parameter in child.parameters()}
        calls.append((name, as_they_are and plain and whole, outputs, getattr(outputs, "_version", 0)))

    with torch.inference_mode(False), torch.enable_grad(), Streams(module).kept(), measuring(module, dropout=True):
        given = copied(inputs)
        handles = [
            child.register_forward_hook(partial(note, name), with_kwargs=True)
            for name, child in module.named_children()
        ]
        try:
            returned = module(given)
        finally:
            for handle in handles:
                handle.remove()
    if len(calls) != 1:
        return None
    name, fits, outputs, version = calls[0]
    return name if fits and returned is outputs and getattr(outputs, "_version", 0) == version else None


COMPILED = ("forward", "training_step", "validation_step", "test_step", "predict_step", "_compiler_ctx")
"""What Lightning keeps in a compiled module's own dictionary."""

SILENT = ("save_checkpoint", "print", "fit", "validate", "test", "predict")
"""Methods of a trainer that do something."""


class QuietTrainer:
    """A view of a trainer: what is done to it has no effect on the trainer.

    Attributes that are set are set on the view. Loggers take everything. Optimizers and schedulers are copies whose
    steps do nothing, and metrics are copies.
    """

    def __init__(self, trainer: Any) -> None:
        self.__dict__["_trainer"] = trainer

    def __getattr__(self, name: str) -> Any:
        trainer = self.__dict__["_trainer"]
        if name in ("logger", "loggers"):
            return DummyLogger() if name == "logger" else [DummyLogger()]
        if name in ("callback_metrics", "logged_metrics", "progress_bar_metrics"):
            return dict(getattr(trainer, name))
        if name == "optimizers":
            return [still_optimizer(optimizer) for optimizer in trainer.optimizers]
        if name == "lr_scheduler_configs":
            return [
                dataclasses.replace(config, scheduler=_still_scheduler(config.scheduler))
                for config in trainer.lr_scheduler_configs
            ]
        return _nothing if name in SILENT else getattr(trainer, name)


def still_optimizer(optimizer: Any) -> Any:
    """Return a copy of an optimizer that can be read, and whose steps do nothing."""
    still = copy.copy(optimizer)
    still.param_groups = [dict(group) for group in optimizer.param_groups]
    still.step = still.zero_grad = _nothing
    return still


def _still_scheduler(scheduler: Any) -> Any:
    still = copy.copy(scheduler)
    if hasattr(scheduler, "optimizer"):
        still.optimizer = still_optimizer(scheduler.optimizer)
    still.step = _nothing
    return still


def _nothing(*arguments: Any, **keywords: Any) -> None:
    """Do nothing, whatever the arguments."""


def _one_or_all(items: list[Any]) -> Any:
    return items[0] if len(items) == 1 else items or None


class _Muted(LightningModule):
    """A module whose logging does nothing, and whose optimizers do not move."""

    def optimizers(self, use_pl_optimizer: bool = True) -> Any:
        """Return copies of the trainer's optimizers, which can be read."""
        return _one_or_all(self.trainer.optimizers)

    def lr_schedulers(self) -> Any:
        """Return copies of the trainer's schedulers, which can be read."""
        return _one_or_all([config.scheduler for config in self.trainer.lr_scheduler_configs])

    manual_backward = clip_gradients = toggle_optimizer = untoggle_optimizer = _nothing

    def log(self, *arguments: Any, **keywords: Any) -> None:
        """Log nothing."""

    def log_dict(self, *arguments: Any, **keywords: Any) -> None:
        """Log nothing."""

    def print(self, *arguments: Any, **keywords: Any) -> None:
        """Print nothing."""

    @property
    def logger(self) -> Any:
        """A logger that takes everything."""
        return DummyLogger()

    @property
    def loggers(self) -> list[Any]:
        """One logger that takes everything."""
        return [DummyLogger()]


def _non_leaves(value: Any, seen: set[int]) -> Iterator[Tensor]:
    """Yield the tensors with a history in containers and modules, since torch copies only leaves."""
    if id(value) in seen:
        return
    seen.add(id(value))
    if isinstance(value, Tensor):
        if not value.is_leaf:
            yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from _non_leaves(item, seen)
    elif isinstance(value, list | tuple | set | frozenset):
        for item in value:
            yield from _non_leaves(item, seen)
    elif isinstance(value, nn.Module):
        yield from _non_leaves(value.__dict__, seen)
