"""All random streams that a loss may draw from, and what else it may change."""

from __future__ import annotations

import random
import sys
import weakref
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from types import FunctionType, MethodType, ModuleType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from ireg.core.params import same_values

DEPTH = 4
"""How deep a generator is looked for in what a function or a layer holds."""
ITEMS = 1000
"""A container of more items is taken for data, and not looked through."""

LIBRARIES = {"builtins", "ireg", "lightning", "lightning_fabric", "numpy", "pytorch_lightning", "torch", "torchmetrics"}
"""Packages whose objects hold no generator of a loss; modules are looked at wherever they come from."""


class Streams:
    """The states of all random streams that some functions and modules may draw from.

    They are torch's global streams (of the CPU, and of the accelerators that hold parameters), Python's, numpy's, and
    generators that the functions and modules hold: in attributes, closures, defaults, containers or global names.

    Args:
        module: its parameters say which accelerators.
        functions: what else may hold a generator.

    Example:
        >>> generator = torch.Generator()
        >>> streams = Streams(nn.Linear(1, 1), lambda: torch.rand(1, generator=generator))
        >>> state = streams.state()
        >>> first = torch.rand(1), torch.rand(1, generator=generator)
        >>> streams.restore(state)
        >>> first == (torch.rand(1), torch.rand(1, generator=generator))
        True
    """

    def __init__(self, module: nn.Module, *functions: Any) -> None:
        self._devices = sorted({value.device.index or 0 for value in module.parameters() if value.is_cuda})
        self._doors: list[tuple[Callable[[], Any], Callable[[Any], Any]]] = [
            (torch.get_rng_state, torch.set_rng_state),
            (random.getstate, random.setstate),
            *(_of_device(number) for number in self._devices),
            *_of_apple(module),
            *_of_numpy(),
        ]
        self._shared = len(self._doors)  # with every process-wide stream; what follows is held by somebody
        self._doors += [_door(held) for held in _held(module, *functions) if not isinstance(held, nn.Module)]

    def state(self) -> list[Any]:
        """Return the present states."""
        return [read() for read, _ in self._doors]

    def restore(self, state: list[Any]) -> None:
        """Set the streams to states that `state` returned.

        Where these are of another number of generators, only the global streams are set.
        """
        doors = self._doors if len(state) == len(self._doors) else self._doors[: self._shared]
        for (_, write), value in zip(doors, state, strict=False):
            write(value)

    def seed(self, seed: int) -> None:
        """Seed torch's, Python's and numpy's global streams."""
        torch.manual_seed(seed)
        random.seed(seed)
        numpy = sys.modules.get("numpy")
        if numpy is not None:
            numpy.random.seed(seed % 2**32)

    @contextmanager
    def kept(self) -> Iterator[None]:
        """Keep all states for the block."""
        state = self.state()
        try:
            yield
        finally:
            self.restore(state)


@contextmanager
def attributes_kept(module: nn.Module, *functions: Any) -> Iterator[None]:
    """Keep what forward passes may change: attributes of layers, and modules that functions hold.

    Numbers, names and references are as before at the end, and so are the items of lists, dictionaries and sets. Of
    other modules that the functions hold, as of a teacher's, parameters and buffers are as before, too.
    """
    inside = {id(value) for value in (*module.modules(), *module.parameters(), *module.buffers())}
    others = [held for held in _held(*functions) if isinstance(held, nn.Module) and id(held) not in inside]
    values = [
        (value, value.clone())
        for other in others
        for value in (*other.parameters(), *other.buffers())
        if id(value) not in inside and not is_lazy(value)
    ]
    layers = [layer for owner in (module, *others) for layer in owner.modules()]
    before = [(vars(layer), {name: (value, _copy(value)) for name, value in vars(layer).items()}) for layer in layers]
    try:
        yield
    finally:
        for attributes, kept in before:
            for name in attributes.keys() - kept.keys():
                del attributes[name]
            for name, (value, items) in kept.items():
                _refill(value, items)
                attributes[name] = value
        with torch.no_grad():
            for value, saved in values:
                if not same_values(value, saved):
                    value.copy_(saved)


def _copy(value: Any) -> Any:
    """Copy the items of a container; None for all else."""
    return value.copy() if type(value) in (list, dict, set, OrderedDict) else None


def _refill(value: Any, items: Any) -> None:
    """Give a container its items back, if it has others."""
    if items is None or (len(items) == len(value) and all(map(_is, items, value)) and _same_values(items, value)):
        return
    value.clear()
    value.extend(items) if isinstance(value, list) else value.update(items)


def _is(one: Any, other: Any) -> bool:
    return one is other


def _same_values(one: Any, other: Any) -> bool:
    return not isinstance(one, dict) or all(map(_is, one.values(), other.values()))


def _of_apple(module: nn.Module) -> list[tuple[Callable[[], Any], Callable[[Any], Any]]]:
    """Return what reads and writes the stream of Apple's GPU, if a parameter is there."""
    there = any(parameter.is_mps for parameter in module.parameters())
    return [(torch.mps.get_rng_state, torch.mps.set_rng_state)] if there else []


def _of_numpy() -> list[tuple[Callable[[], Any], Callable[[Any], Any]]]:
    """Return what reads and writes numpy's global stream; nothing where numpy is not imported."""
    numpy = sys.modules.get("numpy")
    return [] if numpy is None else [(numpy.random.get_state, numpy.random.set_state)]


def _of_device(number: int) -> tuple[Callable[[], Any], Callable[[Any], Any]]:
    """Return what reads and what writes the stream of an accelerator."""
    return partial(torch.cuda.get_rng_state, number), lambda state: torch.cuda.set_rng_state(state, number)


def _door(generator: Any) -> tuple[Callable[[], Any], Callable[[Any], Any]]:
    """Return what reads and what writes the state of a generator.

    Raises:
        TypeError: it is of no known kind.
    """
    if isinstance(generator, torch.Generator):
        return generator.get_state, generator.set_state
    if isinstance(generator, random.Random):
        return generator.getstate, generator.setstate
    if hasattr(generator, "bit_generator"):  # numpy.random.Generator
        bits = generator.bit_generator
        return lambda: bits.state, lambda state: setattr(bits, "state", state)
    if hasattr(generator, "get_state"):  # numpy.random.RandomState
        return generator.get_state, generator.set_state
    raise TypeError(f"{type(generator).__name__} is no kind of generator whose state can be kept")


def _is_generator(value: Any) -> bool:
    numpy = sys.modules.get("numpy")
    kinds: tuple[type, ...] = (torch.Generator, random.Random)
    if numpy is not None:
        kinds = (*kinds, numpy.random.Generator, numpy.random.RandomState)
    return isinstance(value, kinds)


def _held(*owners: Any) -> list[Any]:
    """Find the generators and modules that functions and modules hold, each once."""
    held: list[Any] = []
    seen: set[int] = set()
    waiting = [(owner, 0) for owner in owners]
    while waiting:
        value, depth = waiting.pop()
        if id(value) in seen or isinstance(value, (Tensor, *weakref.ProxyTypes)):
            continue
        seen.add(id(value))
        if _is_generator(value):
            held.append(value)
            continue
        if isinstance(value, nn.Module):
            held.append(value)
            depth = 0  # of a layer, wherever it is
        if depth < DEPTH:
            waiting += [(inner, depth + 1) for inner in _inside(value)]
    return held


def _inside(value: Any) -> list[Any]:
    """List what a value holds, as far as it may hold generators."""
    if isinstance(value, FunctionType):
        if value.__module__ is not None and value.__module__.partition(".")[0] in LIBRARIES - {"ireg"}:
            return []
        cells = [content for cell in value.__closure__ or () for content in _contents(cell)]
        named = [value.__globals__[name] for name in value.__code__.co_names if name in value.__globals__]
        return [*cells, *(value.__defaults__ or ()), *(value.__kwdefaults__ or {}).values(), *named]
    if isinstance(value, MethodType):
        return [value.__self__, value.__func__]
    if isinstance(value, partial):
        return [value.func, *value.args, *value.keywords.values()]
    if isinstance(value, nn.Module):
        forward = type(value).forward
        return [*vars(value).values(), *([forward] if isinstance(forward, FunctionType) else [])]
    if isinstance(value, dict | list | tuple | set | frozenset):
        items = value.values() if isinstance(value, dict) else value
        return list(items) if len(items) <= ITEMS else []
    package = type(value).__module__.partition(".")[0]
    plain = package not in LIBRARIES and not isinstance(value, type | ModuleType) and hasattr(value, "__dict__")
    return list(vars(value).values()) if plain else []


def _contents(cell: Any) -> list[Any]:
    """List what a closure holds under a name; nothing where that has no value yet."""
    try:
        return [cell.cell_contents]
    except ValueError:
        return []
