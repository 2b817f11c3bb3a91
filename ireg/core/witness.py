"""What the optimizer's steps were made of, noted as they are taken."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from ireg.core.params import dense
from ireg.core.sharded import whole
from ireg.core.streams import Streams
from ireg.core.types import Params
from ireg.core.wrappers import require_hooks

Settings = tuple[Mapping[str, Any], ...]
"""Of each parameter group, what the step used: rate, momentum, betas, decay and so on."""


@dataclass(kw_only=True)
class StepRecord:
    """All that one step of training was made of, as far as it can be seen.

    Attributes:
        weights: all parameters by name, before the step.
        gradient: what the optimizer got, by name; a parameter without a gradient is left out.
        arrived: the gradients as the backward pass left them, before anything changed them.
        modes: whether each submodule was in training mode, by name.
        buffers: the buffers by name, before the forward pass.
        begin: the states of the random streams some time before the forward pass.
        forwards: these states at each forward pass of the step.
        autocast: kind of device and type, where the forward pass was within `torch.autocast`.
    """

    weights: Params = field(default_factory=dict)
    gradient: Params = field(default_factory=dict)
    arrived: Params = field(default_factory=dict)
    modes: dict[str, bool] = field(default_factory=dict)
    buffers: Params = field(default_factory=dict)
    begin: list[Any]
    forwards: list[list[Any]] = field(default_factory=list)
    autocast: tuple[str, torch.dtype] | None = None

    def whole(self) -> StepRecord:
        """Return the same step with sharded tensors put together; all ranks must ask for it."""
        parts: dict[str, Any] = {
            name: {key: whole(value) for key, value in getattr(self, name).items()}
            for name in ("weights", "gradient", "arrived")
        }
        return replace(self, **parts)

    def without_streams(self) -> StepRecord:
        """Return the same step, whose passes draw whatever random numbers come next."""
        return replace(self, begin=[], forwards=[])


class Witness:
    """Note what each step of an optimizer uses; keep everything of a step that is asked for.

    It is called by the optimizer before and after a step. A call that finds no gradient at all is no step, and one that
    a gradient scaler skips is never made.

    Args:
        optimizer: any of torch's; held weakly, and it does not hold the witness.
        module: the optimizer's.
        functions: what else may hold a random generator, as the loss.
        called: what training calls in place of the module, where it is compiled: within its passes nothing is seen.

    Attributes:
        steps: how many have been taken.
        settings: of the last one.
        stepped: identities of the parameters that had a gradient in one of the steps since `begin`.

    Example:
        >>> weight = nn.Parameter(torch.tensor([2.0]))
        >>> module = nn.Module()
        >>> module.weight = weight
        >>> optimizer = torch.optim.SGD([weight], lr=0.5)
        >>> witness = Witness(optimizer, module)
        >>> optimizer.step()  # without a gradient
        >>> witness.steps
        0
        >>> weight.grad = torch.tensor([1.0])
        >>> optimizer.step()
        >>> optimizer.param_groups[0]["lr"] = 0.1
        >>> witness.steps, witness.settings[0]["lr"]
        (1, 0.5)
    """

    def __init__(
        self, optimizer: Optimizer, module: nn.Module, *functions: Any, called: nn.Module | None = None
    ) -> None:
        self.steps = 0
        self.settings: Settings | None = None
        self.stepped: set[int] = set()
        self.record: StepRecord | None = None
        self._optimizer = optimizer
        self._module = module
        self._functions = functions
        self._called = module if called is None else called
        self._asked: StepRecord | None = None  # while the step that is asked for has not been taken
        self._before: Settings = ()
        self._with_gradient: set[int] = set()
        self._streams: Streams | None = None
        self._handles: list[Any] = []
        require_hooks(optimizer)
        me = weakref.ref(self)
        self._first = optimizer.register_step_pre_hook(partial(_call, me, "_before_step"))
        for handle in (self._first, optimizer.register_step_post_hook(partial(_call, me, "_after_step"))):
            weakref.finalize(self, handle.remove)

    def begin(self) -> None:
        """Begin a window of steps."""
        self.stepped = set()

    def ask(self) -> None:
        """Keep everything of the next step, as `record`."""
        self.forget()
        if any(nn.parameter.is_lazy(value) for value in self._module.parameters()):
            return  # before the first forward pass there is nothing to keep
        self._streams = Streams(self._module, *self._functions)
        self._asked = StepRecord(begin=self._streams.state())
        me = weakref.ref(self)
        self._handles = [self._called.register_forward_pre_hook(partial(_call, me, "_before_forward"))]
        for name, parameter in self._module.named_parameters():
            if parameter.requires_grad and parameter.is_leaf:
                hook = partial(_call, me, "_after_backward", name)
                self._handles.append(parameter.register_post_accumulate_grad_hook(hook))

    @property
    def asked(self) -> bool:
        """Whether the next step is kept."""
        return self._asked is not None

    def forget(self) -> None:
        """Keep nothing of the next step, and drop what is kept."""
        for handle in self._handles:
            handle.remove()
        self._handles, self._asked, self.record = [], None, None

    def note_gradient(self) -> None:
        """Keep weights and gradients as they are now, if they are asked for.

        The optimizer calls it before a step. Who sees the gradients before they are clipped calls it then.
        """
        if self._asked is not None and not self._asked.gradient:
            self._note_weights(self._asked)
            self._asked.gradient = {
                name: dense(value.grad).detach().clone()
                for name, value in self._module.named_parameters()
                if value.grad is not None
            }

    def _note_weights(self, asked: StepRecord) -> None:
        if not asked.weights:
            asked.weights = {name: value.detach().clone() for name, value in self._module.named_parameters()}

    def _before_forward(self, module: nn.Module, *_: Any) -> None:
        # Within a compiled forward pass nothing can be noted; a pass without gradients is none of the step.
        if self._asked is None or torch.compiler.is_compiling() or not torch.is_grad_enabled():
            return
        assert self._streams is not None
        if not self._asked.forwards:
            self._note_pass(self._asked)
        self._asked.forwards.append(self._streams.state())

    def note_begin(self) -> None:
        """Note that the step's passes begin now."""
        if self._asked is not None and self._streams is not None:
            self._asked.begin = self._streams.state()
            self._note_pass(self._asked)

    def _note_pass(self, asked: StepRecord) -> None:
        asked.modes = modes_of(self._module)
        asked.buffers = {name: value.detach().clone() for name, value in self._module.named_buffers()}
        asked.autocast = _autocast_of(self._module)

    def _after_backward(self, name: str, parameter: Tensor) -> None:
        # After all other hooks: what they do to the gradients is what the optimizer gets.
        hooks: Any = self._optimizer._optimizer_step_pre_hooks
        hooks.move_to_end(self._first.id)
        if self._asked is not None and parameter.grad is not None:
            self._asked.arrived[name] = dense(parameter.grad).detach().clone()

    def _before_step(self, optimizer: Optimizer, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> None:
        self._before = settings_of(optimizer)
        self._with_gradient = _with_gradient(optimizer)
        closure = arguments[1] if len(arguments) > 1 else keywords.get("closure")  # accelerate gives None by position
        if closure is None:
            self.note_gradient()
        elif self._asked is not None:  # a closure has the gradients still to compute
            self._note_weights(self._asked)

    def _after_step(self, optimizer: Optimizer, *_: Any) -> None:
        # Of several optimizers, some may have cleared their gradients before the others step.
        with_gradient = self._with_gradient | _with_gradient(optimizer)
        if not with_gradient and not (self._asked is not None and self._asked.arrived):
            return
        self.steps += 1
        self.settings = self._before
        self.stepped |= with_gradient
        if self._asked is not None and self._asked.weights:
            asked = self._asked
            self.forget()
            asked.gradient = asked.gradient or asked.arrived
            self.record = asked


def _with_gradient(optimizer: Optimizer) -> set[int]:
    """Return the identities of the parameters that have a gradient."""
    return {
        id(parameter) for group in optimizer.param_groups for parameter in group["params"] if parameter.grad is not None
    }


def settings_of(optimizer: Optimizer) -> Settings:
    """Return what the parameter groups say of a step: all but the parameters.

    Example:
        >>> weight = nn.Parameter(torch.zeros(1))
        >>> settings_of(torch.optim.SGD([weight], lr=0.1, momentum=0.9))[0]["momentum"]
        0.9
    """
    return tuple(_said(group) for group in optimizer.param_groups)


def _said(group: Mapping[str, Any]) -> dict[str, Any]:
    """Copy what a group says, its numbers as Python's: it is called at each step."""
    said = dict(group)
    del said["params"]
    for key, value in said.items():
        if isinstance(value, Tensor) and value.numel() == 1:
            said[key] = float(value)
    return said


@contextmanager
def as_recorded(
    module: nn.Module, record: StepRecord, streams: Streams, called: nn.Module | None = None
) -> Iterator[None]:
    """Let a module compute what it computed in a step.

    Random streams, buffers and autocast are those of the step. Random streams stay where they are at the end.

    Args:
        module: its buffers take the values of the step; the caller restores them, and sets the modes.
        record: of the step.
        streams: what the module's passes may draw from.
        called: what calls the module; by default it is called itself.
    """
    forwards = iter(record.forwards)

    def restore(*_: Any) -> None:
        state = next(forwards, None)
        if state is not None:
            streams.restore(state)

    handle = (module if called is None else called).register_forward_pre_hook(restore)
    try:
        with torch.no_grad():
            for name, value in module.named_buffers():
                if name in record.buffers:
                    value.copy_(record.buffers[name])
        if record.begin:
            streams.restore(record.begin)
        with autocast(record.autocast):
            yield
    finally:
        handle.remove()


def autocast(kind: tuple[str, torch.dtype] | None) -> Any:
    """Make the context of `torch.autocast` for a kind of device and a type; None is no autocast."""
    return nullcontext() if kind is None else torch.autocast(kind[0], kind[1])


def modes_of(module: nn.Module) -> dict[str, bool]:
    """Return whether each submodule is in training mode, by name."""
    return {name: layer.training for name, layer in module.named_modules()}


@contextmanager
def in_modes(module: nn.Module, modes: Mapping[str, bool]) -> Iterator[None]:
    """Put submodules into modes for the block; those without a name in `modes` stay in theirs."""
    layers = {name: layer for name, layer in module.named_modules() if name in modes}
    before = {name: layer.training for name, layer in layers.items()}
    try:
        for name, layer in layers.items():
            layer.training = modes[name]
        yield
    finally:
        for name, layer in layers.items():
            layer.training = before[name]


def set_aside(module: nn.Module) -> None:
    """Remove a witness's hook from a module, within a block that restores the module's hooks."""
    for hooks in (module._forward_pre_hooks, module._forward_pre_hooks_with_kwargs):
        for key in [key for key, hook in module._forward_pre_hooks.items() if getattr(hook, "func", None) is _call]:
            hooks.pop(key, None)


def _autocast_of(module: nn.Module) -> tuple[str, torch.dtype] | None:
    parameter = next(module.parameters(), None)
    kind = "cpu" if parameter is None else parameter.device.type
    return (kind, torch.get_autocast_dtype(kind)) if torch.is_autocast_enabled(kind) else None


def _call(witness: weakref.ref[Witness], method: str, *arguments: Any) -> None:
    """Call a method of a witness that is still alive: optimizer, module and parameters hold it weakly."""
    bound: Callable[..., Any] | None = getattr(witness(), method, None)
    if bound is not None:
        bound(*arguments)
