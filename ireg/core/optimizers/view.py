"""The base of the update rules, and their registry."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, TypeVar

import torch
from torch import Tensor
from torch.optim import Optimizer

from ireg.core.drawing import EPOCH
from ireg.core.optimizers.memory import Memory, MomentumBuffer, SecondMoment, reciprocal_root
from ireg.core.params import add_scaled, as_reals, sum_type, summable
from ireg.core.types import Params

Group = dict[str, Any]
"""One of torch's parameter groups."""
State = Mapping[str, Mapping[str, Any]]
"""torch's state of each parameter, by name."""

LONG_AGO = 1e20
"""A step count past all bias correction."""


@dataclass(frozen=True, kw_only=True)
class OptimizerView(ABC):
    """What an optimizer holds, in the words of its update rule.

    A subclass is a rule. It says how torch's state is read, what the rule remembers, how it divides, how its steps are
    made smaller, and how its state looks past the transient of the first steps.

    Attributes:
        lr: learning rate η of the last step (Adagrad's falls with `lr_decay`), the largest where groups differ, and
            the mean of `rates` where these are given.
        moving: names of the parameters that it steps, see `ireg.core.moving`; what is held by name is held of these.
        weight_decay: λ; λω is added to the gradient, or, decoupled, to what is taken off the weights. The largest where
            groups differ.
        decoupled: which of the two (`adamw`).
        eps: ε; torch adds it *outside* the root, √v + ε. None where there is none.
        first_moment: torch's momentum buffer or `exp_avg`, by name; zeros before the first step; None without one.
        second_moment: the running mean of squared gradients s_t, without bias correction, by name; zeros before the
            first step; None for `sgd`. For `rmsprop` and `adam` torch's `square_avg` and `exp_avg_sq`. Adagrad keeps
            the sum: here divided by the number of steps.
        corrected_second_moment: v̂, whose root the last step took: the second moment bias corrected, or its maximum, or
            centered, or Adagrad's sum. torch corrects each parameter's by its own number of steps. None for `sgd`, and
            as long as a moving parameter has not been stepped.
        shares: the rate of each parameter over `lr`, by name, in its shape; None where groups do not differ.
        decays: λ by name; None where groups do not differ.
        rates: η_1 … η_m of the epoch's steps where they differ, of the group with the largest.
    """

    kind: ClassVar[str]
    """The rule's name."""

    lr: float
    moving: tuple[str, ...]
    weight_decay: float
    decoupled: bool = False
    eps: float | None = None
    first_moment: Params | None = None
    second_moment: Params | None = None
    corrected_second_moment: Params | None = None
    shares: Params | None = None
    decays: Mapping[str, float] | None = None
    rates: tuple[float, ...] | None = None

    @property
    def has_rule(self) -> bool:
        """Whether its memory and second moment are known.

        Without them there is no `own` term.
        """
        return True

    @property
    def uniform(self) -> bool:
        """Whether all weights have one rate and one decay, at all steps."""
        return self.shares is None and self.decays is None and self.rates is None

    def step_factors(self, num_batches: int, sampling: str = EPOCH) -> tuple[float, float]:
        """Return the factors of SGD's two parts for changing rates.

        The rates change within an epoch.

        With T = Σ η_t and S = Σ η_t² over the m steps, the mean over all orders follows

            C + S/(4T) ‖ḡ‖² + (T² − S)/(4(m−1)T) · (1/m) Σ_k ‖g_k − ḡ‖².

        The factors are these coefficients over η/4, η = T/m; (1, 1) for equal rates.

        With independent minibatches the mean over the draws follows C + S/(4T) ‖∇C‖², C the population's loss. The
        whole is what it was: the window's two parts are on the mean S/(4T) ‖∇C‖² + (η/4) E ‖g − ∇C‖². So the variance
        has the factor 1.

        Sources: docs/theory.md, sections 8 and 15.

        Raises:
            ValueError: there are other rates than minibatches.
        """
        if self.rates is None:
            return 1.0, 1.0
        total, squares = sum(self.rates), sum(rate * rate for rate in self.rates)
        if num_batches != len(self.rates):
            raise ValueError(f"{len(self.rates)} rates for {num_batches} minibatches; each minibatch needs its step's")
        if sampling != EPOCH:
            return squares / (total * self.lr), 1.0
        variance = (total * total - squares) / ((num_batches - 1) * total) if num_batches > 1 else self.lr
        return squares / (total * self.lr), variance / self.lr

    @classmethod
    @abstractmethod
    def read(cls, group: Group, state: State, moving: Mapping[str, Tensor]) -> dict[str, Any]:
        """Read the rule's own fields, and common ones that differ."""

    @property
    @abstractmethod
    def memory(self) -> Memory:
        """What the optimizer remembers of past gradients.

        Raises:
            ValueError: it remembers for ever (β = 1).
        """

    @property
    def edge(self) -> float:
        """The curvature h* at which steps begin to oscillate.

        Along an eigenvector of P^½HP^½ with eigenvalue h the steps of fixed P are a linear recursion. One of its roots
        is −1 at

            h* = (2 − ηw) / (η Σ_n (−1)ⁿ a_n),

        w the decoupled weight decay; from there on the steps grow from one side to the other. L2 decay is part of H.

        Raises:
            ValueError: the memory has none, or groups differ in their decoupled decay.

        Source: Cohen et al. 2021, arXiv:2103.00065, for momentum, and 2022, arXiv:2207.14484, for Adam; docs/theory.md,
        section 12, for all.

        Example:
            >>> from ireg.core.optimizers.adam import AdamView
            >>> rule = AdamView(lr=0.1, moving=("weight",), weight_decay=0.0, betas=(0.9, 0.999), eps=1e-8)
            >>> round(rule.edge, 6)  # 38/η
            380.0
        """
        if self.decays is not None and self.decoupled:
            raise ValueError("parameter groups differ in their decoupled weight decay, and there is no common edge")
        return (2 - self.lr * self.decoupled_decay) / self.memory.alternating_rate

    @property
    @abstractmethod
    def buffer(self) -> MomentumBuffer | None:
        """The momentum buffer; None where the rule keeps none."""

    def buffer_rate(self, steps: int) -> float | None:
        """Return the rate r of a step that is r P b.

        None where a step has more than that, decoupled decay aside. Only for rules that keep a buffer.

        Args:
            steps: how many have been taken, the step included.
        """
        return self.lr

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

    @property
    def divides_by(self) -> SecondMoment | None:
        """How the optimizer divides; None if it does not.

        Raises:
            ValueError: its second moment is no fading mean (Adagrad, AMSGrad, centered RMSProp, ρ = 1).
        """
        return None

    @property
    def filtered_by(self) -> SecondMoment | None:
        """How the optimizer divides, also where no mean flow is known (centered RMSProp); None if it does not.

        Raises:
            ValueError: its second moment never settles (Adagrad, AMSGrad, ρ = 1).
        """
        return self.divides_by

    @property
    def preconditioner(self) -> Params | None:
        """P of the update, by name; None for the identity.

        P = 1/(√v̂ + ε) with v̂ as the last step had it. Where groups have rates of their own, P includes each one's
        share of the largest.

        v̂ is the optimizer's second moment with all that torch does to it: bias correction (Adam), the running maximum
        (AMSGrad), the square of the mean taken off (centered RMSProp), the sum (Adagrad).
        """
        if self.corrected_second_moment is None:
            return None if self.second_moment is not None else self.shares
        assert self.eps is not None
        roots = {name: reciprocal_root(value.sqrt(), self.eps) for name, value in self.corrected_second_moment.items()}
        return roots if self.shares is None else {name: root * self.shares[name] for name, root in roots.items()}

    @property
    def loss_decay(self) -> float:
        """λ where weight decay is part of the loss, else 0.

        That loss is C + (λ/2) ‖ω‖².
        """
        return 0.0 if self.decoupled else self.weight_decay

    @property
    def decoupled_decay(self) -> float:
        """λ where weight decay is decoupled, else 0.

        ω then loses ηλω a step, beside the gradient.
        """
        return self.weight_decay if self.decoupled else 0.0

    @property
    def l2_decay(self) -> dict[str, float] | None:
        """λ by name, where weight decay is part of the loss.

        None where there is none.
        """
        if self.decoupled or not self.weight_decay:
            return None
        return dict(self.decays) if self.decays is not None else dict.fromkeys(self.moving, self.weight_decay)

    def decayed(self, gradient: Params, params: Params, scale: Params | None) -> Params:
        """Add weight decay to the gradient.

        The result is the gradient of C + (λ/2) ‖ω‖², or, where weight decay is decoupled, of C + (λ/2) ωᵀP⁻¹ω.

        Args:
            gradient: ∇C.
            params: ω.
            scale: P; None for the identity.
        """
        if self.decoupled_decay and scale is not None:
            shares = self.shares
            # P and the decay both include a group's share of the rate. A share of 0 leaves nothing of either.
            params = {
                name: value / scale[name]
                if shares is None
                else torch.where(scale[name] > 0, value * shares[name] / scale[name], 0.0)
                for name, value in params.items()
            }
        if self.decays is None:
            return add_scaled(gradient, params, self.weight_decay)
        decays = self.decays
        return {name: torch.add(value, params[name], alpha=decays[name]) for name, value in gradient.items()}

    @classmethod
    @abstractmethod
    def refine(cls, group: Group, states: list[dict[str, Any]], refinement: int) -> None:
        """Make r steps take the time of one, in place.

        The memory is kept, see `ireg.drift.small_steps`.
        """

    @classmethod
    def remembers(cls, group: Group) -> bool:
        """Whether a step depends on earlier gradients."""
        return True

    @classmethod
    def fades(cls, group: Group) -> bool:
        """Say whether memory fades; a sum and a maximum never do."""
        return True

    @classmethod
    @abstractmethod
    def state(cls, first: Tensor, second: Tensor) -> dict[str, Tensor]:
        """Torch's state of one parameter past all bias correction.

        Args:
            first: the momentum buffer, if the rule keeps one.
            second: the running mean of squares, if the rule keeps one.
        """


RULES: dict[type[Optimizer], type[OptimizerView]] = {}
"""The rules by torch's class."""

Rule = TypeVar("Rule", bound=type[OptimizerView])


def rule(kind: str, optimizer: type[Optimizer]) -> Callable[[Rule], Rule]:
    """Register a class as the rule of one of torch's optimizers."""

    def register(cls: Rule) -> Rule:
        cls.kind = kind
        RULES[optimizer] = cls
        return cls

    return register


def acting(optimizer: Optimizer) -> Optimizer:
    """Return the optimizer that takes the steps.

    It is the one at work where an optimizer switches between several, and has it as `acting`.
    """
    return getattr(optimizer, "acting", optimizer)


def rule_of(optimizer: type[Optimizer]) -> type[OptimizerView]:
    """Find the rule of an optimizer's class.

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
        name: as_reals(torch.zeros_like(names[name].detach(), dtype=sum_type(names[name])))
        if slot is None
        else as_reals(summable(slot.detach()))
        for name, slot in slots.items()
    }


def steps_of(state: State) -> dict[str, int]:
    """Return how often each parameter has been stepped.

    torch counts separately, as some parameters are unfrozen later than others.
    """
    return {name: int(slots.get("step", 0)) for name, slots in state.items()}
