"""The base of the update rules, and their registry.

A rule is one file of this folder. It knows its own constants (β, ρ), and says how torch's state is read, what the rule
remembers, how it divides, how its steps are made smaller, and how its state looks past the transient of the first
steps. Rates, weight decay and parameter groups are none of its business: they are those of `OptimizerState`.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Self, TypeVar

import torch
from torch import Tensor
from torch.optim import Optimizer

from ireg.core.optimizers.memory import Memory, MomentumBuffer, SecondMoment
from ireg.core.optimizers.schedule import Filter
from ireg.core.params import as_reals, sum_type, summable
from ireg.core.types import Params

Group = dict[str, Any]
"""One of torch's parameter groups."""
State = Mapping[str, Mapping[str, Any]]
"""torch's state of each parameter, by name."""

LONG_AGO = 1e20
"""A step count past all bias correction."""


@dataclass(frozen=True, kw_only=True)
class Held:
    """What a rule reads from torch's state, by name.

    Attributes:
        eps: ε; torch adds it *outside* the root, √v + ε. None where nothing is divided.
        first_moment: torch's momentum buffer or `exp_avg`; zeros before the first step; None without one.
        second_moment: the running mean of squared gradients s_t, without bias correction; zeros before the first step;
            None where nothing is divided. For `rmsprop` and `adam` torch's `square_avg` and `exp_avg_sq`. Adagrad keeps
            the sum: here divided by the number of steps.
        corrected_second_moment: v̂, whose root the last step took: the second moment bias corrected, or its maximum, or
            centered, or Adagrad's sum. torch corrects each parameter's by its own number of steps. None where nothing
            is divided, and as long as a moving parameter has not been stepped.

    Raises:
        ValueError: a second moment without ε, which would count as one that nothing is divided by.
    """

    eps: float | None = None
    first_moment: Params | None = None
    second_moment: Params | None = None
    corrected_second_moment: Params | None = None

    def __post_init__(self) -> None:
        if self.second_moment is not None and self.eps is None:
            raise ValueError("a rule that holds a second moment gives its eps, too; give eps=0.0 where it has none")


@dataclass(frozen=True, kw_only=True)
class Rule(ABC):
    """What an update rule remembers of past gradients, and how it divides.

    Its attributes are its constants.
    """

    kind: ClassVar[str]
    """The rule's name."""

    @classmethod
    @abstractmethod
    def read(cls, group: Group, steps: Mapping[str, int]) -> Self:
        """Read the constants of torch's group.

        Args:
            group: of the parameters.
            steps: how often each parameter has been stepped, by name.
        """

    @classmethod
    def rate(cls, group: Group, steps: Mapping[str, int]) -> float:
        """Return the learning rate η of the last step.

        Raises:
            ValueError: parameters have different ones.
        """
        return float(group["lr"])

    @classmethod
    def decouples(cls, group: Group) -> bool:
        """Return whether weight decay is taken off the weights, and not added to the gradient."""
        return False

    @abstractmethod
    def held(self, group: Group, state: State, moving: Mapping[str, Tensor]) -> Held:
        """Read what torch's state holds of the parameters that move; `slot` reads one tensor of each."""

    @abstractmethod
    def memory(self, lr: float) -> Memory:
        """Return what a rule at the rate η remembers of past gradients.

        Raises:
            ValueError: it remembers for ever (β = 1).
        """

    def step_filter(self, lr: float) -> Filter:
        """Return what a step at the rate η makes of its gradient and of the buffer.

        By default the buffer is a mean, m ← rm + (1 − r)g, with which the step is η_e((1 − c)g + cm): that has the tail
        shares c rᵈ of `memory`. A buffer that is a sum is the same thing as long as β stays.

        Raises:
            ValueError: as `memory`.
        """
        memory = self.memory(lr)
        rate, share = memory.effective_rate, memory.tail_scale
        return Filter(bare=rate * (1 - share), held=rate * share, gain=1 - memory.decay, decay=memory.decay)

    @abstractmethod
    def buffer(self, lr: float) -> MomentumBuffer | None:
        """Return the momentum buffer of a rule at the rate η; None where it keeps none."""

    def buffer_rate(self, lr: float, steps: int) -> float | None:
        """Return the rate r of a step that is r P b.

        None where a step has more than that, decoupled decay aside. Only for rules that keep a buffer.

        Args:
            lr: η.
            steps: how many have been taken, the step included.
        """
        return lr

    @classmethod
    def scaled_buffer(cls, group: Group, slots: Mapping[str, Any]) -> Tensor:
        """Return P b of one parameter, as its last step had it.

        Only for rules that keep a buffer, see `buffer`.

        Args:
            group: of the parameter.
            slots: torch's state of it, whole or of some of its weights.
        """
        buffer: Tensor = slots["momentum_buffer"]  # not divided, or divided already
        return buffer

    def divides_by(self, eps: float) -> SecondMoment | None:
        """Return how the rule divides with this ε; None if it does not.

        Raises:
            ValueError: its second moment is no fading mean (Adagrad, AMSGrad, centered RMSProp, ρ = 1).
        """
        return None

    def filtered_by(self, eps: float) -> SecondMoment | None:
        """Return how the rule divides, also without a known mean flow (centered RMSProp); None if it does not.

        Raises:
            ValueError: its second moment never settles (Adagrad, AMSGrad, ρ = 1).
        """
        return self.divides_by(eps)

    @classmethod
    @abstractmethod
    def refine(cls, group: Group, states: list[dict[str, Any]], refinement: int) -> None:
        """Make r steps take the time of one, in place, with the same memory in time.

        See `ireg.drift.small_steps`.

        Args:
            group: of the parameters.
            states: torch's state of each parameter.
            refinement: r.
        """

    @classmethod
    def remembers(cls, group: Group) -> bool:
        """Return whether a step depends on earlier gradients."""
        return True

    @classmethod
    def fades(cls, group: Group) -> bool:
        """Return whether the memory fades; a sum and a maximum never do."""
        return True

    @classmethod
    @abstractmethod
    def state(cls, first: Tensor, second: Tensor) -> dict[str, Tensor]:
        """Return torch's state of one parameter past all bias correction.

        Args:
            first: the momentum buffer, if the rule keeps one.
            second: the running mean of squares, if the rule keeps one.
        """


RULES: dict[type[Optimizer], type[Rule]] = {}
"""The rules by torch's class."""

RuleClass = TypeVar("RuleClass", bound=type[Rule])


def register(kind: str, optimizer: type[Optimizer]) -> Callable[[RuleClass], RuleClass]:
    """Register a class as the rule of an optimizer's class, torch's or another.

    Args:
        kind: the rule's name.
        optimizer: its class; subclasses are other optimizers.
    """

    def registered(cls: RuleClass) -> RuleClass:
        cls.kind = kind
        RULES[optimizer] = cls
        return cls

    return registered


def rule_of(optimizer: type[Optimizer]) -> type[Rule]:
    """Return the rule of an optimizer's class.

    Raises:
        ValueError: there is none.
    """
    if optimizer not in RULES:
        known = ", ".join(sorted(cls.__name__ for cls in RULES))
        raise ValueError(
            f"{optimizer.__name__}: unknown optimizer; known are {known}; add a rule for it to ireg/core/optimizers"
        )
    return RULES[optimizer]


def slot(state: State, names: Mapping[str, Tensor], key: str) -> Params:
    """Return the state tensors under `key` by name, detached.

    They are zeros where the optimizer has not stepped yet. Those of complex parameters are their real and imaginary
    parts, as torch's own steps take them.
    """
    slots = {name: state[name].get(key) for name in names}
    return {
        name: as_reals(torch.zeros_like(names[name], dtype=sum_type(names[name])))
        if slot is None
        else as_reals(summable(slot.detach()))
        for name, slot in slots.items()
    }


def steps_of(state: State) -> dict[str, int]:
    """Return how often each parameter has been stepped, by name.

    torch counts each one separately, as some parameters are unfrozen later than others.
    """
    return {name: int(slots.get("step", 0)) for name, slots in state.items()}
