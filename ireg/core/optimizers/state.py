"""What an optimizer holds, whatever its update rule is."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ireg.core.drawing import EPOCH
from ireg.core.large import computed
from ireg.core.optimizers.memory import Memory, MomentumBuffer, SecondMoment, reciprocal_root
from ireg.core.optimizers.rule import Rule
from ireg.core.optimizers.schedule import Filter, pair_coefficients
from ireg.core.optimizers.steepest import Steepest
from ireg.core.params import add_scaled
from ireg.core.ramp import Make
from ireg.core.types import Params


@dataclass(frozen=True, kw_only=True)
class OptimizerState:
    """What an optimizer holds, in the words of update rules.

    Attributes:
        lr: learning rate η of the last step (Adagrad's falls with `lr_decay`), the largest where groups differ, and
            the mean of `rates` where these are given.
        moving: names of the parameters that it steps, see `ireg.core.moving`; what is held by name is held of these.
        weight_decay: λ; λω is added to the gradient, or, decoupled, to what is taken off the weights. The largest where
            groups differ.
        rule: what it remembers and how it divides; None where that is not known: there is no `own` term then.
        reason: why there is no rule, in half a sentence.
        decoupled: which of the two kinds of weight decay (`adamw`).
        eps: ε, see `ireg.core.optimizers.rule.Held`, as for the next three.
        first_moment: torch's momentum buffer or `exp_avg`, by name.
        second_moment: the running mean of squared gradients s_t, by name.
        corrected_second_moment: v̂, whose root the last step took, by name.
        shares: the rate of each parameter over `lr`, by name, in its shape; None where groups do not differ.
        decays: λ by name; None where groups do not differ.
        rates: η_1 … η_m of the epoch's steps where they differ, of the group with the largest.
        rules: the rule at each of the epoch's steps, where momentum or another constant of it changes.
        steps: how often each parameter has been stepped, by name, where torch counts it; empty without a rule.
        steepest: of an optimizer without a rule, in which norm it descends steepest, where that is known.
        make: makes another one with its settings, of as many parameters, see `ireg.core.optimizers.twin`; None for
            several together.

    Example:
        >>> from ireg.core.optimizers.sgd import SGDRule
        >>> OptimizerState(lr=0.1, moving=("weight",), weight_decay=0.0, rule=SGDRule(momentum=0.5)).memory
        Memory(effective_rate=0.2, lag=1.0, decay=0.5, tail_scale=1.0)
    """

    lr: float
    moving: tuple[str, ...]
    weight_decay: float
    rule: Rule | None
    reason: str = "no rule is known for the optimizer"
    decoupled: bool = False
    eps: float | None = None
    first_moment: Params | None = None
    second_moment: Params | None = None
    corrected_second_moment: Params | None = None
    shares: Params | None = None
    decays: Mapping[str, float] | None = None
    rates: tuple[float, ...] | None = None
    rules: tuple[Rule, ...] | None = None
    steps: Mapping[str, int] = field(default_factory=dict)
    steepest: Steepest | None = None
    make: Make | None = field(default=None, repr=False, compare=False)

    @property
    def has_rule(self) -> bool:
        """Whether the optimizer's memory and second moment are known."""
        return self.rule is not None

    def known_rule(self) -> Rule:
        """Return the rule of an optimizer that must have one.

        Raises:
            ValueError: there is none; the message gives the reason.
        """
        if self.rule is None:
            raise ValueError(self.reason)
        return self.rule

    @property
    def kind(self) -> str:
        """The rule's name, `unknown` where there is none."""
        return "unknown" if self.rule is None else self.rule.kind

    @property
    def memory(self) -> Memory:
        """What the optimizer remembers of past gradients.

        Raises:
            ValueError: it remembers for ever (β = 1), or has no rule and is not known to descend steepest in a norm.
        """
        if self.rule is None and self.steepest is not None:
            return self.steepest.memory
        return self.known_rule().memory(self.lr)

    @property
    def buffer(self) -> MomentumBuffer | None:
        """The momentum buffer; None where the rule keeps none.

        Raises:
            ValueError: there is no rule.
        """
        return self.known_rule().buffer(self.lr)

    @property
    def divides_by(self) -> SecondMoment | None:
        """How the optimizer divides by a fading mean of squares; None if it does not divide.

        Raises:
            ValueError: its second moment is no fading mean (Adagrad, AMSGrad, centered RMSProp, ρ = 1), or there is no
                rule.
        """
        rule = self.known_rule()
        return None if self.eps is None else rule.divides_by(self.eps)

    @property
    def filtered_by(self) -> SecondMoment | None:
        """How the optimizer divides, centered RMSProp included; None if it does not divide.

        With centered RMSProp no mean flow is known.

        Raises:
            ValueError: its second moment never settles (Adagrad, AMSGrad, ρ = 1), or there is no rule.
        """
        rule = self.known_rule()
        return None if self.eps is None else rule.filtered_by(self.eps)

    @property
    def uniform(self) -> bool:
        """Whether all weights have one rate and one decay, at all steps."""
        return self.shares is None and self.decays is None and self.rates is None

    def step_factors(
        self, num_batches: int, sampling: str = EPOCH, *, of_some_steps: bool = False
    ) -> tuple[float, float]:
        """Return the factors of SGD's two parts for rates that change within an epoch.

        With T = Σ η_t and S = Σ η_t² over the m steps, the mean over all orders follows

            C + S/(4T) ‖ḡ‖² + (T² − S)/(4(m−1)T) · (1/m) Σ_k ‖g_k − ḡ‖².

        The factors are these coefficients over η/4, η = T/m; (1, 1) for equal rates. Of some of the epoch's steps, T
        and S are the sums that m steps with such rates have.

        With independent minibatches the mean over the draws follows C + S/(4T) ‖∇C‖², C the population's loss. The
        whole is what it was: the window's two parts are on the mean S/(4T) ‖∇C‖² + (η/4) E ‖g − ∇C‖². So the variance
        has the factor 1.

        Sources: docs/theory.md, sections 8 and 15.

        Args:
            num_batches: the number m of the epoch's minibatches.
            sampling: how they are drawn.
            of_some_steps: whether the rates may be those of some of the steps.

        Raises:
            ValueError: there are other rates than minibatches.
        """
        if self.rates is None:
            return 1.0, 1.0
        steps = [Filter(bare=rate, held=0.0, gain=0.0, decay=0.0) for rate in self._step_rates]
        self._require_steps(num_batches, of_some_steps)
        of_mean, of_variance = (4 / self.lr * value for value in pair_coefficients(steps, num_batches))
        return of_mean, of_variance if sampling == EPOCH else 1.0

    def own_coefficients(self, num_batches: int, *, of_some_steps: bool = False) -> tuple[float, float]:
        """Return the coefficients of the own regularizer's two parts, ‖ḡ‖²_P and the variance.

        They are (η_e/4)(1 + 2L) and (η_e/4)(1 − τ), and those of `ireg.core.optimizers.schedule` where rates or momenta
        change within the epoch. With independent minibatches there is no second part.

        Args:
            num_batches: the number m of the epoch's minibatches.
            of_some_steps: whether rates and momenta may be those of some of the epoch's steps.

        Raises:
            ValueError: there are other rates than minibatches, a memory that never fades, or no rule.

        Example:
            >>> from ireg.core.optimizers.sgd import SGDRule
            >>> rule, moving = SGDRule(momentum=0.5), ("weight",)
            >>> OptimizerState(lr=0.1, moving=moving, weight_decay=0.0, rule=rule).own_coefficients(2)
            (0.15000000000000002, 0.025)
            >>> falling = OptimizerState(lr=0.1, moving=moving, weight_decay=0.0, rule=rule, rates=(0.15, 0.05))
            >>> [round(value, 6) for value in falling.own_coefficients(2)]  # c: 0.2, 0.1; 3S/(4T), (T² − S − 0.01)/(4T)
            [0.125, 0.025]
        """
        rule = self.known_rule()
        if self.rates is None and self.rules is None:
            memory = rule.memory(self.lr)
            quarter = memory.effective_rate / 4
            return quarter * (1 + 2 * memory.lag), quarter * (1 - memory.overlap(num_batches))
        self._require_steps(num_batches, of_some_steps)
        count = len(self.rates or self.rules or ())
        rates = self._step_rates or (self.lr,) * count
        steps = zip(self.rules or (rule,) * count, rates, strict=True)
        return pair_coefficients([one.step_filter(rate) for one, rate in steps], num_batches)

    @property
    def _step_rates(self) -> tuple[float, ...]:
        """The rates of the steps, of mean `lr` also where Adagrad's has fallen; empty for one rate."""
        rates = self.rates or ()
        return tuple(rate * self.lr * len(rates) / sum(rates) for rate in rates)

    def _require_steps(self, num_batches: int, of_some_steps: bool) -> None:
        """Check that each minibatch has its step.

        Raises:
            ValueError: there are other rates than minibatches.
        """
        count = len(self.rates or self.rules or ())
        if count != num_batches and not of_some_steps:
            raise ValueError(f"{count} rates for {num_batches} minibatches; each minibatch needs its step's")

    @property
    def edge(self) -> float:
        """The curvature h* at which steps begin to oscillate.

        Along an eigenvector of P^½HP^½ with eigenvalue h the steps of fixed P are a linear recursion. One of its roots
        is −1 at

            h* = (2 − ηw) / (η Σ_n (−1)ⁿ a_n),

        w the decoupled weight decay; from there on the steps grow from one side to the other. L2 decay is part of H.

        A step that is the sign, the polar factor or the direction of a gradient is no linear one near 0, and has none.

        Raises:
            ValueError: the memory has none, groups differ in their decoupled decay, or there is no rule.

        Source: Cohen et al. 2021, arXiv:2103.00065, for momentum, and 2022, arXiv:2207.14484, for Adam; docs/theory.md,
        section 12, for all.

        Example:
            >>> from ireg.core.optimizers.adam import AdamRule
            >>> adam = AdamRule(betas=(0.9, 0.999))
            >>> round(OptimizerState(lr=0.1, moving=("weight",), weight_decay=0.0, eps=1e-8, rule=adam).edge, 6)  # 38/η
            380.0
        """
        if self.decays is not None and self.decoupled:
            raise ValueError("parameter groups differ in their decoupled weight decay, and there is no common edge")
        return (2 - self.lr * self.decoupled_decay) / self.known_rule().memory(self.lr).alternating_rate

    @property
    def preconditioner(self) -> Params | None:
        """The preconditioner P of the update, by name; None for the identity.

        P = 1/(√v̂ + ε) with v̂ as the last step had it. Where groups have rates of their own, P includes each one's
        share of the largest.

        v̂ is the optimizer's second moment with all that torch does to it: bias correction (Adam), the running maximum
        (AMSGrad), the square of the mean taken off (centered RMSProp), the sum (Adagrad).
        """
        if self.corrected_second_moment is None:
            return None if self.second_moment is not None else self.shares
        squares, eps, shares = self.corrected_second_moment, self.eps, self.shares
        assert eps is not None

        def scale(name: str) -> Tensor:
            root = reciprocal_root(squares[name].sqrt(), eps)
            return root if shares is None else root * shares[name]

        return computed(squares, scale)

    def last_step(self, names: Collection[str], scale: Params | None) -> Params | None:
        """Return what the last step took off some parameters, r P b, without decoupled weight decay.

        Args:
            names: of the parameters.
            scale: P.

        Returns:
            By name; None where torch's state does not hold it: without a buffer, for Nesterov's steps and NAdam's, and
            before the first step.

        Raises:
            ValueError: the buffer never fades.
        """
        buffers = self.first_moment
        if self.rule is None or buffers is None or not any(bool(buffers[name].any()) for name in names):
            return None
        _ = self.memory  # refuses what does not fade
        lr = self.rates[-1] if self.rates else self.lr
        rates = {name: self.rule.buffer_rate(lr, self.steps.get(name, 0)) for name in names}
        buffer = self.buffer
        by = self.shares if buffer is not None and buffer.divided else scale
        step: Params = {}
        for name, rate in rates.items():
            if not bool(buffers[name].any()):  # it has not moved, or has no entries
                step[name] = torch.zeros_like(buffers[name])
                continue
            if rate is None:
                return None
            step[name] = buffers[name] * rate if by is None else buffers[name] * by[name] * rate
        return step

    @property
    def loss_decay(self) -> float:
        """λ where weight decay is part of the loss, C + (λ/2) ‖ω‖², and 0 elsewhere."""
        return 0.0 if self.decoupled else self.weight_decay

    @property
    def decoupled_decay(self) -> float:
        """λ where weight decay is decoupled and takes ηλω off the weights a step, and 0 elsewhere."""
        return self.weight_decay if self.decoupled else 0.0

    @property
    def l2_decay(self) -> dict[str, float] | None:
        """λ by name where weight decay is part of the loss; None where there is none."""
        if self.decoupled or not self.weight_decay:
            return None
        return dict(self.decays) if self.decays is not None else dict.fromkeys(self.moving, self.weight_decay)

    def decayed(self, gradient: Params, params: Params, scale: Params | None) -> Params:
        """Add weight decay to the gradient.

        The result is the gradient of C + (λ/2) ‖ω‖², or, where weight decay is decoupled, of C + (λ/2) ωᵀP⁻¹ω.

        Args:
            gradient: ∇C, of all parameters or of some.
            params: ω.
            scale: P; None for the identity.
        """
        if self.decoupled_decay and scale is not None:
            shares = self.shares
            # P multiplies the result, and the step takes off ηλω: so λω is divided by P here. P and the decay both
            # include a group's share of the rate, which is put back. A share of 0 leaves nothing of either.
            weights = params

            def divided(name: str) -> Tensor:
                value = weights[name]
                if shares is None:
                    return value / scale[name]
                return torch.where(scale[name] > 0, value * shares[name] / scale[name], 0.0)

            params = computed(gradient, divided)
        if self.decays is None:
            return add_scaled(gradient, params, self.weight_decay)
        decays = self.decays
        return {name: torch.add(value, params[name], alpha=decays[name]) for name, value in gradient.items()}
