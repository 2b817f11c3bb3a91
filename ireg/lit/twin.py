"""A copy of a LightningModule that leaves no trace."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from typing import Any

from lightning.pytorch import LightningModule
from lightning.pytorch.loggers.logger import DummyLogger
from torch import Tensor, nn

from ireg.errors import UserError


def muted_twin(module: LightningModule) -> LightningModule:
    """Copy a module that shares its parameters, and mute its logging.

    What the copy's methods record, as in lists, counters and metrics, is the copy's.

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
    cls = type(module)
    twin.__class__ = type(cls.__name__, (_Muted, cls), {"__module__": cls.__module__})
    return twin


class _Muted(LightningModule):
    """A module whose logging does nothing."""

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
