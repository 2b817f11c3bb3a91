"""A copy of a LightningModule that leaves no trace."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

from lightning.pytorch import LightningModule
from lightning.pytorch.loggers.logger import DummyLogger
from torch import Tensor, nn

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


COMPILED = ("forward", "training_step", "validation_step", "test_step", "predict_step", "_compiler_ctx")
"""What Lightning keeps in a compiled module's own dictionary."""

SILENT = ("save_checkpoint", "print", "fit", "validate", "test", "predict")
"""Methods of a trainer that do something."""


class QuietTrainer:
    """A trainer as it is, to be read: what is done to it has no effect on the trainer.

    Attributes that are set are set here. Loggers take everything, optimizers and schedulers are copies whose steps do
    nothing, and metrics are copies.
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
    """Copy an optimizer that can be read, and whose steps do nothing."""
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
    """Do nothing."""


def _one_or_all(found: list[Any]) -> Any:
    return found[0] if len(found) == 1 else found or None


class _Muted(LightningModule):
    """A module whose logging does nothing, and whose optimizers do not move."""

    def optimizers(self, use_pl_optimizer: bool = True) -> Any:
        """Copies of the trainer's optimizers, to be read."""
        return _one_or_all(self.trainer.optimizers)

    def lr_schedulers(self) -> Any:
        """Copies of the trainer's schedulers, to be read."""
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
    """Tensors with a history in containers and modules: torch copies only leaves."""
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
