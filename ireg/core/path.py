"""How the squared norm of the weights grows, step by step.

With s_t = ω_t − ω_{t+1}, whatever the optimizer,

    ‖ω_T‖² − ‖ω_0‖² = Σ_t −2⟨ω_t, s_t⟩ + Σ_t ‖s_t‖²:

a *radial* part, of steps along the weights, and a *diffusive* part, which only grows; a random walk has the second part
alone. Consecutive steps of an optimizer with memory are much alike, and the sum of their squares is not what diffuses.
The same two parts are therefore also taken of the settled weights, those once the optimizer's buffer has run out,

    y_t = ω_t − c P_t b_t,

b and c (`ahead`) of `MomentumBuffer`, P of the last step. For fixed P each step moves y by −η_e P g_k. Without memory
y = ω.

Steps may still cancel: an epoch that takes each minibatch once has no noise left at its end, to first order. The
squared length of the whole step says how much is left: of a random walk it is the diffusive part on average.
"""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from ireg.core.moments.needs import needs_path
from ireg.core.norms import is_ordinary
from ireg.core.optimizers import RULES, Rule, acting
from ireg.core.optimizers.rule import Group
from ireg.core.params import as_reals, dense, summable
from ireg.core.wide import WideSum, wide
from ireg.core.wrappers import require_hooks

CHUNK = 2**16
"""Weights that are looked at together: what is made of them stays in a processor's cache."""


@dataclass(frozen=True)
class Growth:
    """How a squared norm has grown, in two parts.

    Attributes:
        radial: Σ −2⟨ω_t, s_t⟩.
        diffusive: Σ ‖s_t‖².
        whole: ‖Σ s_t‖², the squared length of all steps together.
    """

    radial: float
    diffusive: float
    whole: float


@dataclass(frozen=True, kw_only=True)
class Path:
    """What the steps of an epoch have made of the squared norm.

    Attributes:
        weights: of ω.
        settled: of y; None for an optimizer without a rule, or whose memory does not fade.
    """

    weights: Growth
    settled: Growth | None


class PathRecorder:
    """Sum over an optimizer's steps, as they are taken.

    The optimizer calls it after each step. It reads weights and state, and changes neither. Where something else
    changes weights between two steps, that is part of the next step. A learning rate that changes moves y, too.

    Args:
        optimizer: any of torch's.

    Example:
        >>> weight = torch.nn.Parameter(torch.tensor([2.0]))
        >>> optimizer = torch.optim.SGD([weight], lr=0.5)
        >>> recorder = PathRecorder(optimizer)
        >>> recorder.start()
        >>> weight.grad = torch.tensor([1.0])
        >>> optimizer.step()  # from 2 to 3/2: −2 · 2 · 1/2 and (1/2)²
        >>> recorder.path().weights
        Growth(radial=-2.0, diffusive=0.25, whole=0.25)
    """

    def __init__(self, optimizer: Optimizer) -> None:
        self.optimizer = optimizer
        self._parts: list[list[_Part]] | None = None  # by parameter group
        self._class: type[Optimizer] | None = None  # of which the rule is
        self._rule: type[Rule] | None = None  # None, too, where what it remembers does not fade
        require_hooks(optimizer)
        # Held weakly: an optimizer should not keep alive what nobody else does.
        handle = optimizer.register_step_post_hook(partial(_after_step, weakref.ref(self)))
        weakref.finalize(self, handle.remove)

    @torch.no_grad()
    def start(self) -> None:
        """Begin with the present weights."""
        self._follow()
        self._parts = [
            [_Part(parameter, first) for parameter in group["params"] for first in _firsts(parameter)]
            for group in self.optimizer.param_groups
        ]
        for buffer, part, slots in self._followed():
            part.begin(buffer, slots)

    def stop(self) -> None:
        """Look at no further steps."""
        self._parts = None

    @torch.no_grad()
    def add_step(self) -> None:
        """Add the step that has just been taken."""
        for buffer, part, slots in self._followed():
            part.add_step(buffer, slots)

    def path(self) -> Path | None:
        """Return the sums of all steps since `start`; None if nothing is recorded."""
        if self._parts is None:
            return None
        parts = [part for group in self._parts for part in group]
        return Path(
            weights=_growth(part.weights for part in parts),
            settled=None if self._rule is None else _growth(part.settled for part in parts),
        )

    def _followed(self) -> Iterator[tuple[_Buffer | None, _Part, Mapping[str, Any]]]:
        """Yield the parts, each with its group's buffer and torch's state of its parameter."""
        if type(acting(self.optimizer)) is not self._class:  # it has switched
            self._follow()
        # The optimizer's groups as they are now: loading a state makes new ones.
        for group, parts in zip(self.optimizer.param_groups, self._parts or [], strict=False):
            known: dict[int, _Buffer | None] = {}  # by the number of steps, on which bias corrections depend
            for part in parts:
                slots = self.optimizer.state.get(part.parameter, {})
                steps = int(slots.get("step", 0))
                if steps not in known:
                    known[steps] = self._buffer(group, steps)
                yield known[steps], part, slots

    def _follow(self) -> None:
        """Take the rule of the optimizer at work."""
        self._class = type(acting(self.optimizer))
        self._rule = RULES.get(self._class)

    def _buffer(self, group: Group, steps: int) -> _Buffer | None:
        """Return what is known of a group's buffer; None where nothing is.

        No error is raised: training should not end because it is observed.
        """
        try:
            return None if self._rule is None else _constants(self._rule, group, steps)
        except ValueError:  # a momentum of 1, from the start or set meanwhile
            self._rule = None
            return None


@dataclass(frozen=True)
class _Buffer:
    """What turns a step, or torch's state, into c P b.

    Attributes:
        ahead: c.
        rate: r of steps r P b; None where a step has more than that.
        scaled: P b of torch's state of a parameter, or of some of its weights.
    """

    ahead: float
    rate: float | None
    scaled: Callable[[Mapping[str, Any]], Tensor]

    def owed(self, slots: Mapping[str, Any]) -> Tensor:
        """Compute −c P b from torch's state."""
        return -self.ahead * self.scaled(slots)


class _Part:
    """Some weights of a parameter, as they were after the last step."""

    def __init__(self, parameter: Tensor, first: int) -> None:
        self.parameter = parameter
        self._place = slice(first, first + CHUNK)
        self._last = self._weights().clone()
        self._owed: Tensor | None = None  # −c P b
        self._first = self._first_settled = self._last
        self._walked, self._settled_walked = (WideSum(self._last.device) for _ in range(2))

    def begin(self, buffer: _Buffer | None, slots: Mapping[str, Any]) -> None:
        """Note where the sums begin."""
        if buffer is not None and slots:
            self._owed = buffer.owed(self._of(slots))
        self._first = self._last.clone()
        self._first_settled = self._settled()

    def add_step(self, buffer: _Buffer | None, slots: Mapping[str, Any]) -> None:
        """Add the step that has just been taken."""
        now = self._weights()
        step = self._last.sub_(now)  # s
        square = _square(step)
        self._walked.add(square)
        if buffer is None and self._owed is not None:  # an optimizer that has switched has dropped what was owed
            settled = self._owed.add_(step)
            self._settled_walked.add(_square(settled))
            self._owed = None
        elif buffer is None or self.parameter.grad is None:  # torch leaves the buffer of such a parameter alone
            self._settled_walked.add(square)
        else:
            if self._owed is None:
                self._owed = torch.zeros_like(step)
            # The settled weights' step, s + c P b − c P b before it, in place: memory's speed is what this takes.
            if buffer.rate is None:
                after = buffer.owed(self._of(slots))
                settled = self._owed.add_(step).sub_(after)
                self._settled_walked.add(_square(settled))
                self._owed = after
            else:
                share = buffer.ahead / buffer.rate  # a step is r P b, so that c P b = (c/r) s: no state is read
                settled = self._owed.add_(step, alpha=1 + share)
                self._settled_walked.add(_square(settled))
                torch.mul(step, -share, out=self._owed)
        self._last.copy_(now)

    @property
    def weights(self) -> tuple[float, float, float]:
        """Growth of Σω², sum of squared steps, square of the whole step."""
        return _of(self._first, self._last, self._walked)

    @property
    def settled(self) -> tuple[float, float, float]:
        """The same of y."""
        return _of(self._first_settled, self._settled(), self._settled_walked)

    def _weights(self) -> Tensor:
        return summable(as_reals(dense(self.parameter.detach())).reshape(-1)[self._place])

    def _of(self, slots: Mapping[str, Any]) -> dict[str, Any]:
        """Cut what has the parameter's shape to these weights."""
        return {
            key: as_reals(value).reshape(-1)[self._place]
            if isinstance(value, Tensor) and value.shape == self.parameter.shape
            else value
            for key, value in slots.items()
        }

    def _settled(self) -> Tensor:
        weights = wide(self._last)
        return weights.clone() if self._owed is None else weights + wide(self._owed)


def _of(first: Tensor, last: Tensor, walked: WideSum) -> tuple[float, float, float]:
    """Return the growth of Σω², the sum of squared steps, and the square of the whole step."""
    # ‖b‖² − ‖a‖² = ⟨b − a, b + a⟩ keeps the digits that a difference of two large squares would lose.
    before, after = wide(first), wide(last)
    step = after - before
    return float(torch.dot(step, after + before)), float(walked), float(torch.dot(step, step))


def _square(step: Tensor) -> Tensor:
    """Compute ‖s‖², 0-d.

    On a CPU it is in double precision where single precision's range does not hold the squares. Elsewhere to look would
    make each step wait for the device.
    """
    plain = torch.dot(step, step)
    if step.device.type != "cpu" or is_ordinary(plain, len(step)):
        return plain
    numbers = wide(step)
    return torch.dot(numbers, numbers)


def _firsts(parameter: Tensor) -> range:
    """Return the first weights of a parameter's parts.

    There is none of integers: they have no gradient, and no step moves them.
    """
    if not parameter.is_floating_point() and not parameter.is_complex():
        return range(0)
    return range(0, parameter.numel() * (2 if parameter.is_complex() else 1), CHUNK)


def _after_step(recorder: weakref.ref[PathRecorder], *_: Any) -> None:
    """Let a recorder that is still alive add the step; the optimizer calls this, and holds it weakly."""
    living = recorder()
    if living is not None:
        living.add_step()


def _constants(rule: type[Rule], group: Group, steps: int) -> _Buffer | None:
    """Return the constants of a group's buffer; None without one.

    Raises:
        ValueError: what it remembers does not fade.
    """
    known, lr = rule.read(group, {"": steps}), float(group["lr"])
    held = known.buffer(lr) if known.memory(lr).decay else None  # `memory` refuses what does not fade
    if held is None or not held.ahead:
        return None
    decays = bool(group.get("weight_decay", 0.0)) and rule.decouples(group)
    return _Buffer(
        ahead=held.ahead,
        rate=None if decays else known.buffer_rate(lr, steps),
        scaled=partial(rule.scaled_buffer, group),
    )


def _growth(parts: Iterable[tuple[float, float, float]]) -> Growth:
    """Sum up the parts, and give to the radial growth what the diffusive one leaves."""
    grown, walked, whole = (math.fsum(column) for column in zip((0.0, 0.0, 0.0), *parts, strict=True))
    return Growth(radial=grown - walked, diffusive=walked, whole=whole)


def recorder_for(terms: Iterable[Callable[..., Any]], optimizer: Optimizer) -> PathRecorder | None:
    """Return a recorder of an optimizer's steps, where a term needs one; None where none does.

    Args:
        terms: marked by `along_path` where they need one.
        optimizer: any of torch's.
    """
    return PathRecorder(optimizer) if any(needs_path(term) for term in terms) else None
